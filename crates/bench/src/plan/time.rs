//! How long a training step takes on a CPU, from two measurements of it.
//!
//! ```text
//! step = FLOPs of products / (share · peak) + bytes of the update / (share · bandwidth)
//! ```
//!
//! The shares are those of the 110M step in f32 on a quiet 2-core Xeon, 256 tokens, AdamW: 650 ms for
//! 171.8 GFLOP at a peak of 380 GFLOP/s, and 82 ms for 3.07 GB at 47 GB/s
//! (results/xeon-2core/2026-11-20-step-110m.json). Nothing else is fitted: other models, precisions and
//! machines differ, and a busy machine is slower.

use model::ModelConfig;

/// What a machine was found to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// Most floating-point operations of products, 10⁹ a second, in the precision of the run.
    pub gflop_per_s: f64,
    /// Most bytes read from memory, 10⁹ a second.
    pub gb_per_s: f64,
}

/// Share of the peak that forward and backward reach.
const PRODUCTS: f64 = 0.70;
/// Share of the bandwidth that the update reaches.
const UPDATE: f64 = 0.80;

/// A predicted step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTime {
    /// Forward and backward, milliseconds.
    pub products_ms: f64,
    /// The optimizer, milliseconds.
    pub update_ms: f64,
    /// Tokens of the step.
    pub tokens: usize,
}

impl StepTime {
    /// The whole step, milliseconds.
    pub fn ms(&self) -> f64 {
        self.products_ms + self.update_ms
    }

    /// Tokens per second.
    pub fn tok_per_s(&self) -> f64 {
        self.tokens as f64 / self.ms() * 1e3
    }
}

/// A step of `batch` sequences of `seq` tokens. `moments` is the bytes of both moments of a weight;
/// recomputation runs the blocks forward once more.
pub fn step_time(
    model: &ModelConfig,
    (seq, batch): (usize, usize),
    recompute: bool,
    moments: f64,
    machine: &Machine,
) -> StepTime {
    let tokens = seq * batch;
    let passes = if recompute { 4.0 / 3.0 } else { 1.0 };
    let flops = passes * model.train_flops_per_token(seq) * tokens as f64;
    // The gradient and the weight are read, the weight and both moments are read and written.
    let bytes = (12.0 + 2.0 * moments) * model.param_count() as f64;
    StepTime {
        products_ms: flops / (PRODUCTS * machine.gflop_per_s * 1e6),
        update_ms: bytes / (UPDATE * machine.gb_per_s * 1e6),
        tokens,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The row that the shares come from.
    #[test]
    fn the_measured_step_comes_back() {
        let model = ModelConfig {
            dim: 768,
            hidden: 2048,
            layers: 12,
            heads: 12,
            kv_heads: 12,
            head_dim: 64,
            vocab: 32_000,
            max_seq: 1024,
            ..ModelConfig::default()
        };
        let machine = Machine { gflop_per_s: 380.3, gb_per_s: 47.0 };
        let step = step_time(&model, (256, 1), false, 8.0, &machine);
        assert!((step.ms() / 731.7 - 1.0).abs() < 0.02, "{step:?}");
        assert!((step.tok_per_s() / 349.9 - 1.0).abs() < 0.02);
        let more = step_time(&model, (256, 2), true, 2.0, &machine);
        assert!(more.products_ms > 2.5 * step.products_ms && more.update_ms < step.update_ms);
    }
}
