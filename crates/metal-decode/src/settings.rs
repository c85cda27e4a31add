//! What a model is loaded with, and the memory that this takes.

use std::num::NonZeroUsize;

use model::ModelConfig;
use model::quant::Format;

use crate::kernels::attention::TILE;
use crate::kernels::{gemm, rows};
use crate::{GpuError, GpuResult, Tuning, layout, matrix};

/// How a model is held on the device.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Of the matrices.
    pub format: Format,
    /// Sequences at a time.
    pub sequences: usize,
    /// Positions of each; 0: those of the model.
    pub context: usize,
    /// Positions that a token sees, itself included: the cache is then a ring of little more than these, and a
    /// text may be longer. `None`: all.
    pub window: Option<NonZeroUsize>,
    /// Tokens of a prompt that go through in one pass.
    pub prefill: usize,
    /// Tilings.
    pub tuning: Tuning,
    /// Most bytes of a binding; for tests, and to leave room.
    pub max_binding: u64,
    /// GPU memory that may be used, where that is known.
    pub memory: Option<u64>,
}

impl Settings {
    /// One sequence over the model's whole context.
    pub fn new(format: Format) -> Self {
        Self {
            format,
            sequences: 1,
            context: 0,
            window: None,
            prefill: 128,
            tuning: Tuning::builtin(),
            max_binding: u64::MAX,
            memory: None,
        }
    }

    /// Positions of a sequence.
    pub fn positions(&self, c: &ModelConfig) -> usize {
        if self.context == 0 { c.max_seq } else { self.context.min(c.max_seq) }
    }

    /// Positions that the cache has room for.
    pub fn capacity(&self, c: &ModelConfig) -> usize {
        // Rows of one pass are all written before the first of them reads.
        let pass = self.rows(c).max(rows::MOST);
        let kept = self.window.map_or(usize::MAX, |window| window.get().saturating_add(pass));
        self.positions(c).min(kept).next_multiple_of(TILE as usize)
    }

    /// Rows of activations: those of a pass through a prompt, and never fewer than decoding takes.
    pub fn rows(&self, c: &ModelConfig) -> usize {
        self.prefill.min(c.max_seq).next_multiple_of(gemm::VECTORS as usize)
    }

    /// Bytes of keys, or of values, of one layer.
    pub fn cache_bytes(&self, c: &ModelConfig) -> u64 {
        let chunks = c.head_dim.div_ceil(8);
        (self.sequences * c.kv_heads * chunks * self.capacity(c)) as u64 * 16
    }
}

/// Bytes of GPU memory that a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Matrices.
    pub weights: u64,
    /// Keys and values.
    pub cache: u64,
    /// Activations, logits and vectors, roughly.
    pub activations: u64,
}

impl Memory {
    /// Of a model with these settings.
    pub fn plan(c: &ModelConfig, s: &Settings) -> Self {
        let matrix = |rows, columns| matrix::bytes(s.format, rows, columns);
        let layer = matrix(c.q_dim() + 2 * c.kv_dim(), c.dim)
            + matrix(c.dim, c.q_dim())
            + matrix(2 * c.hidden, c.dim)
            + matrix(c.dim, c.hidden);
        let tables = if c.tied { 1 } else { 2 } * matrix(c.vocab, c.dim);
        let row = 2 * c.dim + c.q_dim() + c.q_dim() + 2 * c.kv_dim() + c.hidden;
        let padding = 4 * 64 * layout::BLOCK;
        Self {
            weights: c.layers as u64 * layer + tables,
            cache: 2 * c.layers as u64 * s.cache_bytes(c),
            activations: 4 * (s.rows(c) * (row + padding) + 8 * c.vocab) as u64,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.cache + self.activations
    }

    /// Refuses what does not fit, before anything is loaded.
    ///
    /// # Errors
    /// [`GpuError::Memory`], with what it was for.
    pub fn check(c: &ModelConfig, s: &Settings, adapter: &str, max_binding: u64) -> GpuResult<Self> {
        let error = |what: &str, needed, available| GpuError::Memory {
            what: what.to_owned(),
            needed,
            available,
            adapter: adapter.to_owned(),
        };
        if s.cache_bytes(c) > max_binding {
            return Err(error("a layer's keys", s.cache_bytes(c), max_binding));
        }
        let plan = Self::plan(c, s);
        match s.memory {
            Some(available) if plan.total() > available => Err(error("the model", plan.total(), available)),
            _ => Ok(plan),
        }
    }
}
