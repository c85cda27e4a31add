//! The time of whole training steps: forward, backward, AdamW.

use std::time::Instant;

use backend::{
    AdamW, Phase, Result, Rule, Rules, Slot, Span, Timed, Tokens, Train, Update, forward_backward,
};
use model::{Params, TokenId, Weights};
use serde::Serialize;

use crate::statistics::median;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct StepSettings {
    /// Tokens of one sequence.
    pub seq: usize,
    /// Sequences of one step.
    pub batch: usize,
    /// Steps before the measured ones.
    pub warmup: usize,
    /// Measured steps.
    pub steps: usize,
}

/// Median time of one phase of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PhaseTime {
    /// Name of the phase, see [`Phase`].
    pub phase: &'static str,
    /// Milliseconds, over all layers.
    pub ms: f64,
}

/// The result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// Parameters of the model.
    pub params: u64,
    /// Tokens of one sequence.
    pub seq: usize,
    /// Sequences of one step.
    pub batch: usize,
    /// Tokens per second, from the median step.
    pub tok_per_s: f64,
    /// Median step.
    pub ms_per_step: f64,
    /// Every measured step, in order.
    pub ms: Vec<f64>,
    /// Median time per phase.
    pub phases: Vec<PhaseTime>,
    /// Floating-point operations of one step in matrix products.
    pub gflop_per_step: f64,
    /// Their rate.
    pub gflop_per_s: f64,
    /// Loss of the first step: random weights know nothing, so near ln(vocab).
    pub loss_first: f32,
    /// Loss of the last step; the batch repeats, so it is lower.
    pub loss_last: f32,
}

/// Runs steps on one batch of random tokens, from first weights.
pub fn step<B: Train>(backend: B, settings: &StepSettings) -> Result<StepReport> {
    Ok(step_recorded(backend, settings, 0)?.0)
}

/// [`step`], with at most so many calls of the measured steps one by one.
pub fn step_recorded<B: Train>(
    backend: B,
    settings: &StepSettings,
    most: usize,
) -> Result<(StepReport, Vec<Span>)> {
    let mut backend = Timed::new(backend);
    let config = backend.config().clone();
    let weights = Weights::init(&config, 1);
    for p in &Params::new(&config) {
        backend.write(p.id, Slot::Weight, weights.get(p.id))?;
    }
    drop(weights);
    let StepSettings { seq, batch, warmup, steps } = *settings;
    // A multiplicative sequence through the vocabulary: tokens that differ, without a random crate.
    let token = |i: usize| TokenId(((i as u64 * 2_654_435_761) >> 7) as u32 % config.vocab as u32);
    let ids: Vec<TokenId> = (0..batch * seq).map(token).collect();
    let targets: Vec<TokenId> = (1..=batch * seq).map(token).collect();
    let mut losses = Vec::new();
    let mut ms = Vec::new();
    let mut phases = vec![Vec::new(); Phase::ALL.len()];
    for n in 0..warmup + steps {
        backend.reset();
        if n == warmup {
            backend.record(most);
        }
        let begin = Instant::now();
        let update = update(n as u64 + 1);
        backend.announce(&update, 0.0)?;
        losses.push(forward_backward(&mut backend, Tokens { ids: &ids, seq }, &targets)?);
        backend.update(&update)?;
        let elapsed = begin.elapsed();
        if n >= warmup {
            ms.push(elapsed.as_secs_f64() * 1e3);
            for (times, phase) in phases.iter_mut().zip(Phase::ALL) {
                times.push(backend.spent(phase).as_secs_f64() * 1e3);
            }
        }
    }
    let ms_per_step = median(&ms);
    let tokens = (batch * seq) as f64;
    let gflop = config.train_flops_per_token(seq) * tokens / 1e9;
    let phases = Phase::ALL.iter().zip(&phases).filter(|(phase, _)| **phase != Phase::Loss);
    let report = StepReport {
        params: config.param_count(),
        seq,
        batch,
        tok_per_s: tokens / ms_per_step * 1e3,
        ms_per_step,
        phases: phases.map(|(phase, ms)| PhaseTime { phase: phase.name(), ms: median(ms) }).collect(),
        gflop_per_step: gflop,
        gflop_per_s: gflop / ms_per_step * 1e3,
        loss_first: losses[0],
        loss_last: losses[losses.len() - 1],
        ms,
    };
    Ok((report, backend.spans().to_vec()))
}

/// The yardstick's rule: AdamW with decay on everything but gains and biases, no clipping.
fn update(step: u64) -> Update {
    let adamw =
        |weight_decay| Rule::AdamW(AdamW { lr: 3e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay });
    let (decays, stays) = (adamw(0.1), adamw(0.0));
    let rules = Rules { embedding: decays, head: decays, matrix: decays, gain: stays, bias: stays };
    Update { step, grad_scale: 1.0, clip: None, rules }
}

#[cfg(test)]
mod tests {
    use super::*;
    use backend::conformance;
    use backend::reference::Reference;

    #[test]
    fn measures_steps_that_learn() {
        let (_, config) = conformance::configs().swap_remove(0);
        let settings = StepSettings { seq: 8, batch: 2, warmup: 1, steps: 3 };
        let report = step(Reference::new(&config), &settings).unwrap();
        assert_eq!(report.ms.len(), 3);
        assert!((report.loss_first - (config.vocab as f32).ln()).abs() < 0.3);
        assert!(report.loss_last < report.loss_first);
        let inside: f64 = report.phases.iter().map(|p| p.ms).sum();
        assert!(inside > 0.5 * report.ms_per_step && inside < 1.2 * report.ms_per_step);
        let json = serde_json::to_value(&report).unwrap();
        assert!(json["tok_per_s"].as_f64().unwrap() > 0.0);
    }
}
