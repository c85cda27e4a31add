//! From settings and the progress of a run to [`backend::Update`].

mod schedule;

use backend::{AdamW, Muon, Rule, Rules, Update};

pub use self::schedule::Schedule;
use crate::config::{OptimizerConfig, OptimizerKind};

/// The update after `updates` earlier ones of a run of `total` updates, whose gradient is the sum
/// over `micro_batches`.
pub fn update(config: &OptimizerConfig, updates: u64, total: u64, micro_batches: usize) -> Update {
    let factor = config.schedule.factor(config, updates, total);
    Update {
        step: updates + 1,
        grad_scale: 1.0 / micro_batches as f32,
        clip: (config.clip > 0.0).then_some(config.clip),
        rules: rules(config, factor),
    }
}

/// The learning rate of AdamW for that update.
pub fn lr(config: &OptimizerConfig, updates: u64, total: u64) -> f32 {
    config.lr * config.schedule.factor(config, updates, total)
}

fn rules(config: &OptimizerConfig, factor: f32) -> Rules {
    let OptimizerConfig { beta1, beta2, eps, weight_decay, momentum, .. } = *config;
    let lr = config.lr * factor;
    let adamw = |weight_decay| Rule::AdamW(AdamW { lr, beta1, beta2, eps, weight_decay });
    let matrix = match config.kind {
        OptimizerKind::AdamW => adamw(weight_decay),
        OptimizerKind::Muon => Rule::Muon(Muon { lr: config.muon_lr * factor, momentum, weight_decay }),
    };
    Rules {
        embedding: adamw(weight_decay),
        head: adamw(weight_decay),
        matrix,
        gain: adamw(0.0),
        bias: adamw(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gains_and_biases_do_not_decay() {
        let update = update(&OptimizerConfig::default(), 500, 1000, 4);
        let decay = |rule| match rule {
            Rule::AdamW(rule) => rule.weight_decay,
            Rule::Muon(rule) => rule.weight_decay,
        };
        assert_eq!((update.step, update.grad_scale), (501, 0.25));
        let rules = update.rules;
        assert_eq!([rules.gain, rules.bias].map(decay), [0.0, 0.0]);
        assert_eq!([rules.matrix, rules.embedding, rules.head].map(decay), [0.1, 0.1, 0.1]);
    }

    #[test]
    fn muon_takes_the_matrices_alone() {
        let config = OptimizerConfig { kind: OptimizerKind::Muon, ..Default::default() };
        let rules = update(&config, 0, 1000, 1).rules;
        assert!(matches!(rules.matrix, Rule::Muon(_)));
        assert!(matches!(rules.embedding, Rule::AdamW(_)) && matches!(rules.head, Rule::AdamW(_)));
    }
}
