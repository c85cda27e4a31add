//! Extents that a program is built for.

use model::{ModelConfig, Rope};

/// Tokens in a padded sequence: a multiple of [`SeqLen::STEP`], so that a row of fp16 is a whole
/// number of 64-byte lines. Source: docs/ane-rules.md, `pitch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeqLen(usize);

impl SeqLen {
    /// 64 bytes of fp16.
    pub const STEP: usize = 32;

    /// The shortest legal length that holds `tokens`.
    pub fn padded(tokens: usize) -> Self {
        Self(tokens.max(1).next_multiple_of(Self::STEP))
    }

    /// Tokens, padding included.
    pub fn get(self) -> usize {
        self.0
    }
}

/// What happens to queries and keys between projection and rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// Nothing.
    None,
    /// An RMS norm of each head, with gains `[head_dim]`.
    QkNorm,
    /// Biases on queries, keys and values.
    QkvBias,
}

/// Extents of a transformer block, or of a shard of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Dims {
    /// Channels of the residual stream.
    pub dim: usize,
    /// Channels inside the feed-forward.
    pub hidden: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Query heads.
    pub heads: usize,
    /// Key heads; divides `heads`.
    pub kv_heads: usize,
    /// Channels of a head, even.
    pub head_dim: usize,
    /// Tokens of a sequence.
    pub seq: SeqLen,
    /// Added to the mean square in the norms of [`Extra::QkNorm`].
    pub norm_eps: f32,
    /// Rotary positions.
    pub rope: Rope,
    /// Options of the block.
    pub extra: Extra,
}

impl Dims {
    /// A block of a model, for sequences of up to `tokens` tokens.
    pub fn new(config: &ModelConfig, tokens: usize) -> Self {
        Self {
            dim: config.dim,
            hidden: config.hidden,
            vocab: config.vocab,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            seq: SeqLen::padded(tokens),
            norm_eps: config.norm_eps,
            rope: config.rope,
            extra: match (config.qk_norm, config.qkv_bias) {
                (true, _) => Extra::QkNorm,
                (_, true) => Extra::QkvBias,
                _ => Extra::None,
            },
        }
    }

    /// Channels of all query heads.
    pub fn q_dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Channels of all key heads.
    pub fn kv_dim(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Query heads per key head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Tokens, padding included.
    pub fn s(&self) -> usize {
        self.seq.get()
    }

    /// One of `shards` equal parts of the heads.
    pub fn head_shard(&self, shards: usize) -> Self {
        Self { heads: self.heads / shards, kv_heads: self.kv_heads / shards, ..self.clone() }
    }

    /// One of `shards` equal parts of the feed-forward channels.
    pub fn ffn_shard(&self, shards: usize) -> Self {
        Self { hidden: self.hidden / shards, ..self.clone() }
    }

    /// One of `shards` parts of the vocabulary; the last one may have room to spare.
    pub fn vocab_shard(&self, shards: usize) -> Self {
        Self { vocab: self.vocab.div_ceil(shards), ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_to_whole_lines() {
        let padded: Vec<_> = [0, 1, 32, 33, 500].map(|n| SeqLen::padded(n).get()).into();
        assert_eq!(padded, [32, 32, 32, 64, 512]);
    }
}
