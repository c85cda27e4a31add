//! What every backend must do, as a suite that each calls with its tolerance.
//!
//! A failed expectation panics with the case and the block that differs.

mod golden;
mod infer;
mod train;

use model::{Group, Llama3Scaling, ModelConfig, Rope, TokenId, Weights};

pub use crate::checked::relative_error;
pub use golden::Golden;
pub use infer::{infer, infer_of};
pub use train::train;

/// Largest allowed ‖result − reference‖ / ‖reference‖.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Of activations, losses, logits and gradients.
    pub block: f64,
    /// Of how far the weights moved in an update.
    pub update: f64,
}

/// Small models that between them use every option and awkward extents.
pub fn configs() -> Vec<(&'static str, ModelConfig)> {
    let base = ModelConfig {
        dim: 32,
        hidden: 48,
        layers: 2,
        heads: 4,
        kv_heads: 4,
        head_dim: 8,
        vocab: 67,
        max_seq: 40,
        norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, scaling: None },
        tied: true,
        qk_norm: false,
        qkv_bias: false,
        residual_scale: 1.0,
    };
    let scaling =
        Llama3Scaling { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_seq: 16 };
    let theta = 500_000.0;
    vec![
        ("multi-head, tied", base.clone()),
        ("grouped-query, untied", ModelConfig { kv_heads: 2, tied: false, vocab: 64, ..base.clone() }),
        ("wide heads, one key head", ModelConfig { kv_heads: 1, head_dim: 20, ..base.clone() }),
        ("llama3 rope", ModelConfig { rope: Rope { theta, scaling: Some(scaling) }, ..base.clone() }),
        ("residual scale", ModelConfig { residual_scale: 0.35, kv_heads: 2, ..base.clone() }),
        ("biases", ModelConfig { qkv_bias: true, kv_heads: 2, ..base.clone() }),
        ("query and key norms", ModelConfig { qk_norm: true, head_dim: 16, tied: false, ..base.clone() }),
        (
            "odd extents",
            ModelConfig { dim: 30, hidden: 37, heads: 3, kv_heads: 3, head_dim: 10, ..base.clone() },
        ),
        (
            "larger than a block",
            ModelConfig { dim: 96, hidden: 200, vocab: 301, max_seq: 200, ..base.clone() },
        ),
        ("whole vectors", ModelConfig { kv_heads: 2, vocab: 64, ..base }),
    ]
}

/// Weights far enough from zero that a wrong layout, epsilon or factor shows: matrices of
/// deviation 0.06, gains around 1, biases not zero.
pub fn weights(config: &ModelConfig, seed: u64) -> Weights {
    let mut weights = Weights::init(config, seed);
    let noise = numbers(seed ^ 0x5EED);
    let mut noise = noise.map(|n| (n % 2001) as f32 / 1000.0 - 1.0);
    for p in weights.params().clone().iter() {
        for w in weights.get_mut(p.id) {
            match p.group {
                Group::Gain => *w += 0.2 * noise.next().unwrap_or_default(),
                Group::Bias => *w = 0.1 * noise.next().unwrap_or_default(),
                _ => *w *= 3.0,
            }
        }
    }
    weights
}

/// `n` tokens of the vocabulary, with repeats.
pub fn tokens(config: &ModelConfig, n: usize, seed: u64) -> Vec<TokenId> {
    numbers(seed).take(n).map(|r| TokenId((r % config.vocab as u64) as u32)).collect()
}

/// An endless sequence of numbers (Steele et al. 2014, SplitMix64).
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) >> 16
    })
}
