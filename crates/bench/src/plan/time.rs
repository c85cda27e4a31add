//! How long a training step takes on a CPU, from two measurements of it.
//!
//! ```text
//! step = FLOPs of products / (share · peak) + bytes that the update reads / (share · bandwidth)
//! ```
//!
//! The shares are those of 110M steps on a quiet 2-core Xeon, 256 tokens, AdamW. Vectors: 721 ms in f32 with AVX-512 for
//! 171.8 GFLOP at a peak of 426 GFLOP/s (results/xeon-2core-amx/2026-11-22-step-avx512.json). Tiles of AMX, which wait for
//! memory: results/xeon-2core-amx/2026-11-22-step-stretches.json, as is the update in bf16. Nothing else is fitted: other models and
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

/// What multiplies matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Vectors.
    Vectors,
    /// Tiles of AMX, of bf16.
    Tiles,
    /// Tiles of AMX, each f32 as three bf16 parts.
    TilesInParts,
}

impl Kernel {
    /// Share of the peak that forward and backward reach.
    fn share(self) -> f64 {
        match self {
            Kernel::Vectors => 0.56,
            Kernel::Tiles => 0.18,
            Kernel::TilesInParts => 0.37,
        }
    }
}

/// Share of the bandwidth that the update reads with; it writes meanwhile.
const UPDATE: f64 = 0.76;

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
    kernel: Kernel,
    machine: &Machine,
) -> StepTime {
    let tokens = seq * batch;
    let passes = if recompute { 4.0 / 3.0 } else { 1.0 };
    let flops = passes * model.train_flops_per_token(seq) * tokens as f64;
    // The gradient, the weight and both moments.
    let bytes = (8.0 + moments) * model.param_count() as f64;
    StepTime {
        products_ms: flops / (kernel.share() * machine.gflop_per_s * 1e6),
        update_ms: bytes / (UPDATE * machine.gb_per_s * 1e6),
        tokens,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows that the shares come from: peak, milliseconds of forward and backward, and of the update.
    #[test]
    fn the_measured_steps_come_back() {
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
        for (kernel, gflop_per_s, products, update) in [
            (Kernel::Vectors, 426.0, 721.0, None),
            (Kernel::Tiles, 6750.0, 141.1, Some(70.3)),
            (Kernel::TilesInParts, 1102.0, 423.4, None),
        ] {
            let machine = Machine { gflop_per_s, gb_per_s: 32.5 };
            let step = step_time(&model, (256, 1), false, 8.0, kernel, &machine);
            let off = |update: f64| (step.update_ms / update - 1.0).abs();
            assert!((step.products_ms / products - 1.0).abs() < 0.02, "{kernel:?}: {step:?}");
            assert!(update.is_none_or(|update| off(update) < 0.1), "{kernel:?}: {step:?}");
            let more = step_time(&model, (256, 2), true, 2.0, kernel, &machine);
            assert!(more.products_ms > 2.5 * step.products_ms && more.update_ms < step.update_ms);
        }
    }
}
