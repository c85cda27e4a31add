//! The shape of a decoder-only transformer of the Llama family.

use serde::{Deserialize, Serialize};

/// The shape of a Llama-style model: pre-norm blocks of grouped-query attention with rotary
/// positions and a SwiGLU feed-forward, RMS norms, no dropout.
///
/// The options `qk_norm` and `qkv_bias` give the Qwen3 and the Qwen2 block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelConfig {
    /// Channels of the residual stream.
    pub dim: usize,
    /// Channels inside the feed-forward block.
    pub hidden: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Channels of one head; even, because rotary positions turn pairs.
    pub head_dim: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Longest sequence, in tokens.
    pub max_seq: usize,
    /// Added to the mean square in every RMS norm.
    pub norm_eps: f32,
    /// Rotary positions.
    pub rope: Rope,
    /// Whether the output head is the embedding matrix.
    pub tied: bool,
    /// RMS norm over each head of queries and keys, before the rotation (Qwen3).
    pub qk_norm: bool,
    /// Biases on the query, key and value projections (Qwen2).
    pub qkv_bias: bool,
    /// Factor on what attention and feed-forward add to the residual stream: 1, or `1/√(2·layers)` to
    /// keep its variance whatever the depth (Granite's `residual_multiplier`).
    pub residual_scale: f32,
}

/// Rotary position embedding in the half-split layout: channel `i` turns with channel
/// `i + head_dim/2`. Source: Su et al. 2021, arXiv:2104.09864; layout as in Hugging Face's Llama.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    /// Base of the wavelengths: pair `i` turns `theta^(-2i/head_dim)` radians per token.
    pub theta: f64,
    /// Stretching of the long wavelengths for contexts beyond the trained one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaling: Option<Llama3Scaling>,
}

/// The frequency scaling of Llama 3.1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Llama3Scaling {
    /// Division of the lowest frequencies.
    pub factor: f64,
    /// Wavelengths over `original_max_seq / low_freq_factor` are divided in full.
    pub low_freq_factor: f64,
    /// Wavelengths under `original_max_seq / high_freq_factor` are left alone.
    pub high_freq_factor: f64,
    /// Sequence length of the first training.
    pub original_max_seq: usize,
}

impl Default for ModelConfig {
    /// About 3M parameters: the shape that a run has when nothing else is said.
    fn default() -> Self {
        Self {
            dim: 192,
            hidden: 512,
            layers: 6,
            heads: 6,
            kv_heads: 3,
            head_dim: 32,
            vocab: 2048,
            max_seq: 256,
            norm_eps: 1e-5,
            rope: Rope { theta: 10_000.0, scaling: None },
            tied: true,
            qk_norm: false,
            qkv_bias: false,
            residual_scale: 1.0,
        }
    }
}

impl Rope {
    /// Radians per token of each of the `head_dim / 2` pairs.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f64> {
        (0..head_dim / 2)
            .map(|i| self.theta.powf(-2.0 * i as f64 / head_dim as f64))
            .map(|f| self.scaling.map_or(f, |s| s.scale(f)))
            .collect()
    }
}

impl Llama3Scaling {
    fn scale(&self, frequency: f64) -> f64 {
        let wavelength = std::f64::consts::TAU / frequency;
        let original = self.original_max_seq as f64;
        if wavelength < original / self.high_freq_factor {
            return frequency;
        }
        if wavelength > original / self.low_freq_factor {
            return frequency / self.factor;
        }
        let smooth =
            (original / wavelength - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
        (1.0 - smooth) * frequency / self.factor + smooth * frequency
    }
}

/// A shape that is no model.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("`{field}` is {got}, wanted {wanted}")]
pub struct ConfigError {
    /// The field at fault, under our name.
    pub field: &'static str,
    /// What it holds.
    pub got: String,
    /// What it may hold.
    pub wanted: String,
}

impl ModelConfig {
    /// Largest value of any extent: keeps every product of two of them, and of a matrix with its
    /// bytes, far from overflow, and refuses nonsense before anything is allocated.
    const MAX_EXTENT: usize = 1 << 24;

    /// Checks every field; the first violation is returned.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let extents = [
            ("dim", self.dim, Self::MAX_EXTENT),
            ("hidden", self.hidden, Self::MAX_EXTENT),
            ("layers", self.layers, 10_000),
            ("heads", self.heads, 65_536),
            ("kv_heads", self.kv_heads, 65_536),
            ("head_dim", self.head_dim, 65_536),
            ("vocab", self.vocab, Self::MAX_EXTENT),
            ("max_seq", self.max_seq, Self::MAX_EXTENT),
        ];
        for (field, value, max) in extents {
            ensure((1..=max).contains(&value), field, value, || format!("1 to {max}"))?;
        }
        ensure(self.head_dim.is_multiple_of(2), "head_dim", self.head_dim, || {
            "an even number, because rotary positions turn pairs of channels".into()
        })?;
        ensure(
            self.kv_heads <= self.heads && self.heads.is_multiple_of(self.kv_heads),
            "kv_heads",
            self.kv_heads,
            || format!("a divisor of `heads` = {}", self.heads),
        )?;
        ensure(
            self.norm_eps.is_finite() && self.norm_eps > 0.0 && self.norm_eps < 1.0,
            "norm_eps",
            self.norm_eps,
            || "a number between 0 and 1, such as 1e-5".into(),
        )?;
        ensure(self.rope.theta.is_finite() && self.rope.theta > 1.0, "rope.theta", self.rope.theta, || {
            "a number above 1, such as 10000".into()
        })?;
        ensure(
            self.residual_scale.is_finite() && self.residual_scale > 0.0 && self.residual_scale <= 1e3,
            "residual_scale",
            self.residual_scale,
            || "a number above 0, such as 1".into(),
        )?;
        ensure(!(self.qk_norm && self.qkv_bias), "qk_norm", "true together with `qkv_bias`", || {
            "one of the two: no Hugging Face family has both".into()
        })?;
        if let Some(s) = self.rope.scaling {
            let positive = |v: f64| v.is_finite() && v > 0.0;
            ensure(positive(s.factor) && s.factor >= 1.0, "rope.scaling.factor", s.factor, || {
                "a number of at least 1".into()
            })?;
            ensure(positive(s.low_freq_factor), "rope.scaling.low_freq_factor", s.low_freq_factor, || {
                "a number above 0".into()
            })?;
            ensure(
                s.high_freq_factor.is_finite() && s.high_freq_factor > s.low_freq_factor,
                "rope.scaling.high_freq_factor",
                s.high_freq_factor,
                || format!("a number above `low_freq_factor` = {}", s.low_freq_factor),
            )?;
            ensure(s.original_max_seq > 0, "rope.scaling.original_max_seq", 0, || {
                "the sequence length of the first training".into()
            })?;
        }
        Ok(())
    }

    /// Channels of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Channels of all key heads together; values have as many.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Query heads that share one key head.
    pub fn group_size(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Trainable numbers.
    pub fn param_count(&self) -> u64 {
        let (dim, hidden) = (self.dim as u64, self.hidden as u64);
        let (q, kv) = (self.q_dim() as u64, self.kv_dim() as u64);
        let mut layer = 2 * dim * q + 2 * dim * kv + 3 * dim * hidden + 2 * dim;
        if self.qkv_bias {
            layer += q + 2 * kv;
        }
        if self.qk_norm {
            layer += 2 * self.head_dim as u64;
        }
        let embeddings = if self.tied { 1 } else { 2 } * self.vocab as u64 * dim;
        self.layers as u64 * layer + embeddings + dim
    }

    /// Floating-point operations of one training token in matrix products: forward once and
    /// backward twice over every weight, and attention's two products over the causal half.
    /// The embedding look-up multiplies nothing.
    pub fn train_flops_per_token(&self, seq: usize) -> f64 {
        3.0 * self.forward_flops_per_token(seq)
    }

    /// Floating-point operations of one token of a forward pass over `seq` tokens.
    pub fn forward_flops_per_token(&self, seq: usize) -> f64 {
        let layer = 2 * self.dim * (self.q_dim() + self.kv_dim()) + 3 * self.dim * self.hidden;
        let linear = self.layers * layer + self.dim * self.vocab;
        let attention = self.layers as f64 * self.q_dim() as f64 * (seq + 1) as f64;
        2.0 * linear as f64 + 2.0 * attention
    }
}

fn ensure(
    holds: bool,
    field: &'static str,
    got: impl ToString,
    wanted: impl FnOnce() -> String,
) -> Result<(), ConfigError> {
    if holds {
        return Ok(());
    }
    Err(ConfigError { field, got: got.to_string(), wanted: wanted() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stories110m() -> ModelConfig {
        ModelConfig {
            dim: 768,
            hidden: 2048,
            layers: 12,
            heads: 12,
            kv_heads: 12,
            head_dim: 64,
            vocab: 32000,
            max_seq: 1024,
            norm_eps: 1e-5,
            rope: Rope { theta: 10_000.0, scaling: None },
            tied: true,
            qk_norm: false,
            qkv_bias: false,
            residual_scale: 1.0,
        }
    }

    #[test]
    fn counts_parameters_and_flops_of_stories110m() {
        let c = stories110m();
        c.validate().unwrap();
        assert_eq!(c.param_count(), 109_529_856);
        // research figure for 256 tokens: 171.85 GFLOP
        let gflop = c.train_flops_per_token(256) * 256.0 / 1e9;
        assert!((gflop - 171.85).abs() < 0.01, "{gflop}");
    }

    #[test]
    fn names_the_field_at_fault() {
        type Break = fn(&mut ModelConfig);
        let broken: [(&str, Break); 11] = [
            ("dim", |c| c.dim = 0),
            ("layers", |c| c.layers = 1_000_000_000),
            ("kv_heads", |c| c.kv_heads = 5),
            ("kv_heads", |c| c.kv_heads = 24),
            ("head_dim", |c| c.head_dim = 63),
            ("norm_eps", |c| c.norm_eps = f32::NAN),
            ("rope.theta", |c| c.rope.theta = -1.0),
            ("vocab", |c| c.vocab = usize::MAX),
            ("qk_norm", |c| (c.qk_norm, c.qkv_bias) = (true, true)),
            ("residual_scale", |c| c.residual_scale = f32::NAN),
            ("residual_scale", |c| c.residual_scale = 0.0),
        ];
        for (field, break_it) in broken {
            let mut c = stories110m();
            break_it(&mut c);
            assert_eq!(c.validate().unwrap_err().field, field);
        }
    }

    #[test]
    fn llama3_scaling_keeps_short_and_divides_long_wavelengths() {
        let scaling = Llama3Scaling {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_seq: 8192,
        };
        let plain = Rope { theta: 500_000.0, scaling: None }.frequencies(128);
        let scaled = Rope { theta: 500_000.0, scaling: Some(scaling) }.frequencies(128);
        assert_eq!(plain[0], scaled[0]);
        assert_eq!(plain[63] / 8.0, scaled[63]);
        assert!(scaled.windows(2).all(|w| w[0] > w[1]));
    }
}
