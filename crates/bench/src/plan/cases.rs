//! Configurations whose peak memory is measured beside the prediction.

use engine::RunConfig;
use engine::config::{OptimizerKind, OptimizerState, Precision, WeightFormat};
use model::ModelConfig;

/// A configuration with a name that says how it differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// Its words.
    pub name: String,
    /// What runs.
    pub config: RunConfig,
}

/// `dim, hidden, layers, heads, kv_heads, vocab`, then tokens and sequences, then what else differs.
type Row = ([usize; 6], [usize; 2], &'static str);

/// From 100 MB to 3 GB. Every extent, precision, optimizer and form of state is there, alone and with others.
const ROWS: &[Row] = &[
    ([384, 1024, 6, 6, 2, 4096], [128, 2], ""),
    ([256, 704, 8, 4, 4, 8000], [128, 2], "bf16 state-q8"),
    ([256, 704, 8, 4, 4, 8000], [64, 2], "muon untied"),
    ([256, 704, 8, 4, 4, 8000], [256, 4], ""),
    ([256, 704, 8, 4, 4, 8000], [256, 8], "recompute"),
    ([512, 1376, 8, 8, 8, 8000], [256, 1], ""),
    ([512, 1376, 8, 8, 8, 8000], [256, 1], "bf16"),
    ([512, 1376, 8, 8, 8, 8000], [256, 1], "in-backward"),
    ([512, 1376, 8, 8, 8, 8000], [256, 1], "state-q8"),
    ([512, 1376, 8, 8, 8, 8000], [256, 1], "bf16 state-q8"),
    ([512, 1376, 8, 8, 8, 8000], [256, 4], ""),
    ([512, 1376, 8, 8, 8, 8000], [1024, 1], ""),
    ([512, 1376, 8, 8, 8, 8000], [64, 16], "bf16 bf16-weights"),
    ([512, 1376, 8, 8, 2, 8000], [256, 2], "qk-norm"),
    ([512, 1376, 8, 8, 4, 8000], [256, 2], "qkv-bias untied"),
    ([512, 1376, 8, 8, 8, 8000], [256, 1], "muon"),
    ([512, 1376, 8, 8, 8, 8000], [256, 1], "muon state-q8"),
    ([512, 1376, 8, 8, 8, 32_000], [128, 1], "untied"),
    ([512, 1376, 8, 8, 8, 32_000], [128, 2], "untied bf16"),
    ([384, 1024, 24, 6, 6, 8000], [128, 2], ""),
    ([384, 1024, 24, 6, 6, 8000], [512, 1], "recompute bf16"),
    ([1024, 2816, 2, 16, 4, 4096], [128, 1], ""),
    ([1024, 2816, 2, 16, 16, 4096], [128, 1], "state-bf16 bf16"),
    ([768, 2048, 6, 12, 4, 16_000], [256, 1], ""),
    ([768, 2048, 6, 12, 12, 16_000], [256, 1], "bf16 state-bf16"),
    ([768, 2048, 12, 12, 12, 32_000], [128, 1], ""),
    ([768, 2048, 12, 12, 12, 32_000], [128, 1], "in-backward state-q8"),
    ([768, 2048, 12, 12, 12, 32_000], [256, 1], "recompute state-q8 bf16 bf16-weights in-backward"),
    ([1280, 3456, 4, 20, 5, 16_000], [128, 1], "untied"),
    ([1536, 4096, 4, 12, 12, 8192], [128, 1], ""),
];

/// All thirty.
pub fn cases() -> Vec<Case> {
    ROWS.iter().map(case).collect()
}

fn case(&([dim, hidden, layers, heads, kv_heads, vocab], [seq, batch], words): &Row) -> Case {
    let says = |word| words.split(' ').any(|w| w == word);
    let mut config = RunConfig {
        model: ModelConfig {
            dim,
            hidden,
            layers,
            heads,
            kv_heads,
            head_dim: dim / heads,
            vocab,
            max_seq: seq,
            tied: !says("untied"),
            qk_norm: says("qk-norm"),
            qkv_bias: says("qkv-bias"),
            ..ModelConfig::default()
        },
        ..RunConfig::default()
    };
    config.train.seq = seq;
    config.train.batch = batch;
    config.train.recompute = says("recompute");
    config.train.update_in_backward = says("in-backward");
    config.train.weights = if says("bf16-weights") { WeightFormat::Bf16 } else { WeightFormat::F32 };
    config.train.precision = if says("bf16") { Precision::Bf16 } else { Precision::F32 };
    config.optimizer.state = match (says("state-bf16"), says("state-q8")) {
        (true, _) => OptimizerState::Bf16,
        (_, true) => OptimizerState::Q8,
        _ => OptimizerState::F32,
    };
    config.optimizer.kind = if says("muon") { OptimizerKind::Muon } else { OptimizerKind::AdamW };
    let extents = format!("{dim}/{hidden}/{layers}L {heads}:{kv_heads} v{vocab} {batch}x{seq}");
    Case { name: if words.is_empty() { extents } else { format!("{extents} {words}") }, config }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn thirty_different_configurations_that_can_be() {
        let all = cases();
        assert_eq!(all.len(), 30);
        assert_eq!(all.iter().map(|c| &c.name).collect::<BTreeSet<_>>().len(), 30);
        all.iter().for_each(|c| c.config.validate().unwrap_or_else(|e| panic!("{}: {e}", c.name)));
        assert!(all.iter().any(|c| c.config.optimizer.kind == OptimizerKind::Muon));
        let train = || all.iter().map(|c| &c.config.train);
        assert!(train().any(|t| t.update_in_backward && t.weights == WeightFormat::Bf16 && t.recompute));
        assert!(train().any(|t| t.update_in_backward && t.weights == WeightFormat::F32));
        assert!(train().any(|t| !t.update_in_backward && t.weights == WeightFormat::Bf16));
        assert!(all.iter().any(|c| c.config.model.qkv_bias && !c.config.model.tied));
    }
}
