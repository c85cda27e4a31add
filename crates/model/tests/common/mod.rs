//! A small model, for the tests of files.

use model::{ModelConfig, Rope};

/// A model of some kilobytes.
pub fn config() -> ModelConfig {
    ModelConfig {
        dim: 16,
        hidden: 24,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 4,
        vocab: 50,
        max_seq: 32,
        norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, scaling: None },
        tied: true,
        qk_norm: false,
        qkv_bias: false,
        residual_scale: 1.0,
    }
}
