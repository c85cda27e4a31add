//! What the caller chooses.

use crate::Isa;

/// How a CPU backend is to run a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Most tokens of one micro-batch (training), or of one pass (prefill); buffers are this large.
    pub max_tokens: usize,
    /// Threads that compute, the calling one among them; at least 1. No result depends on it.
    pub threads: usize,
    /// Whether the backward pass computes the inside of each block again, instead of keeping it
    /// from the forward pass: about a third more work for a fraction of the activation memory.
    pub recompute: bool,
    /// Vector instructions.
    pub isa: Isa,
}

impl Plan {
    /// A plan for micro-batches of at most `max_tokens` tokens on every core, keeping activations.
    pub fn new(max_tokens: usize) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { max_tokens, threads, recompute: false, isa: Isa::detect() }
    }

    /// The same with another number of threads.
    pub fn with_threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// The same with or without recomputation.
    pub fn with_recompute(self, recompute: bool) -> Self {
        Self { recompute, ..self }
    }
}
