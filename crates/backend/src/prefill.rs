//! Reading a prompt in one pass.

use model::TokenId;

use crate::{Logits, Result};

/// Keys and values of one sequence on the host: what prefill hands to decode.
#[derive(Clone, Debug, PartialEq)]
pub struct KvBlock {
    /// Transformer blocks.
    pub layers: usize,
    /// Key heads.
    pub kv_heads: usize,
    /// Positions.
    pub len: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Rotated keys, `[layer, kv_head, position, head_dim]`.
    pub keys: Vec<f32>,
    /// Values, `[layer, kv_head, position, head_dim]`.
    pub values: Vec<f32>,
}

impl KvBlock {
    /// Keys and values of one head, each `[position, head_dim]`.
    pub fn head(&self, layer: usize, kv_head: usize) -> (&[f32], &[f32]) {
        let n = self.len * self.head_dim;
        let start = (layer * self.kv_heads + kv_head) * n;
        (&self.keys[start..start + n], &self.values[start..start + n])
    }
}

/// A device that reads a prompt in one pass.
pub trait Prefill {
    /// Keys and values of every position, and the logits after the last.
    fn prefill(&mut self, tokens: &[TokenId]) -> Result<(KvBlock, Logits)>;
}
