//! What the caller chooses.

use model::quant::Format;

use crate::{Isa, MomentFormat, WeightFormat};

/// How a CPU backend is to run a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// Most tokens of one micro-batch (training), or of one pass (prefill); buffers are this large.
    pub max_tokens: usize,
    /// Threads that compute, the calling one among them; at least 1. No result depends on it.
    pub threads: usize,
    /// Whether the backward pass computes the inside of each block again, instead of keeping it
    /// from the forward pass: about a third more work for a fraction of the activation memory. In
    /// bf16, weights are then packed again for every block too, where a copy of all of them is 2 bytes
    /// per weight.
    pub recompute: bool,
    /// Whether the backward pass moves the weights of a layer as soon as it has left it, so that the
    /// gradients of one layer are there at a time. Wants [`backend::Train::announce`] before every
    /// micro-batch.
    pub update_in_backward: bool,
    /// Vector instructions.
    pub isa: Isa,
    /// Of the matrix products of training.
    pub precision: Precision,
    /// How the weights are kept.
    pub weights: WeightFormat,
    /// How the moments of the optimizer are kept.
    pub moments: MomentFormat,
    /// Whether all matrices lie row by row, for a device that reads them where they are, or reads and writes them in
    /// every step; else some of them lie as products read them best, and an update may [leave some](crate::update) to the
    /// next forward pass. Tensors that are read and written are rows, and moved, in either case.
    pub by_rows: bool,
    /// How a model that writes holds its matrices; f32 where nothing is said.
    pub format: Option<Format>,
}

/// Numbers that matrix products multiply. Weights, gradients, sums and all between the products are
/// f32 in either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 24 bits.
    F32,
    /// Operands rounded to 8 bits: twice as fast with [`Precision::in_hardware`], and slower than
    /// f32 without.
    Bf16,
}

impl Precision {
    /// Whether these instructions multiply in it.
    pub fn in_hardware(self, isa: Isa) -> bool {
        self == Precision::F32 || crate::gemm::bf16::in_hardware(isa)
    }

    /// What multiplies the matrices of training in it, in a word or two for reports.
    pub fn kernel(self, isa: Isa) -> &'static str {
        crate::gemm::kernel(isa, self)
    }

    /// Its name in settings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
        }
    }
}

impl Plan {
    /// A plan for micro-batches of at most `max_tokens` tokens on every core, keeping activations.
    pub fn new(max_tokens: usize) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            max_tokens,
            threads,
            recompute: false,
            update_in_backward: false,
            isa: Isa::detect(),
            precision: Precision::F32,
            weights: WeightFormat::F32,
            moments: MomentFormat::F32,
            by_rows: false,
            format: None,
        }
    }

    /// The same with another number of threads.
    pub fn with_threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// The same with or without recomputation.
    pub fn with_recompute(self, recompute: bool) -> Self {
        Self { recompute, ..self }
    }

    /// The same with updates in the backward pass or after it.
    pub fn with_update_in_backward(self, update_in_backward: bool) -> Self {
        Self { update_in_backward, ..self }
    }

    /// The same in another precision.
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The same with weights kept otherwise.
    pub fn with_weights(self, weights: WeightFormat) -> Self {
        Self { weights, ..self }
    }

    /// The same with matrices held otherwise, for writing.
    pub fn with_format(self, format: Option<Format>) -> Self {
        Self { format, ..self }
    }

    /// The same with moments kept otherwise.
    pub fn with_moments(self, moments: MomentFormat) -> Self {
        Self { moments, ..self }
    }
}
