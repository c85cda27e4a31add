//! What can go wrong on the GPU.

use model::quant::QuantError;

/// Result of this crate's own calls.
pub type GpuResult<T> = std::result::Result<T, GpuError>;

/// Why the GPU does not decode.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// No adapter of the wanted kind.
    #[error("no {wanted} GPU; found: {found}. Install a driver, or use --device cpu")]
    NoAdapter {
        /// The kind that was asked for.
        wanted: &'static str,
        /// The adapters there are.
        found: String,
    },
    /// An adapter without what the kernels need.
    #[error("{adapter} lacks {missing}, which the kernels need; update its driver, or use --device cpu")]
    Unsupported {
        /// Its name.
        adapter: String,
        /// What it lacks.
        missing: String,
    },
    /// More memory than the device gives.
    #[error(
        "{what} needs {needed} bytes of GPU memory, {adapter} gives {available}; use a smaller weight \
         format, a shorter context or fewer sequences"
    )]
    Memory {
        /// For what.
        what: String,
        /// Bytes that it takes.
        needed: u64,
        /// Bytes that can be had.
        available: u64,
        /// Name of the adapter.
        adapter: String,
    },
    /// A weight that the format cannot hold.
    #[error("`{name}` does not fit the format; use another one")]
    Weight {
        /// Name of the parameter.
        name: String,
        /// The weight.
        #[source]
        source: QuantError,
    },
    /// A shape that no model has, or one the kernels do not take.
    #[error("{0}")]
    Shape(String),
    /// More sequences than were planned.
    #[error("all {planned} planned sequences are in use; release one, or plan more")]
    Sequences {
        /// Sequences planned.
        planned: usize,
    },
    /// A kernel that computes something else than the reference.
    #[error(
        "self-test on {adapter}: {what} differs from the reference by {error:.1e}, allowed {allowed:.0e}; \
         the driver is faulty or unknown, use --device cpu and report it"
    )]
    SelfTest {
        /// Name of the adapter.
        adapter: String,
        /// Which result.
        what: String,
        /// ‖result − reference‖ / ‖reference‖.
        error: f64,
        /// Tolerance.
        allowed: f64,
    },
    /// The driver gave up.
    #[error("{adapter}: {reason}")]
    Lost {
        /// Name of the adapter.
        adapter: String,
        /// What it said.
        reason: String,
    },
    /// A kernel's text that does not compile: a fault of ours.
    #[error("kernel does not compile: {0}")]
    Kernel(String),
}

impl From<GpuError> for backend::Error {
    fn from(error: GpuError) -> Self {
        backend::Error::Device { device: "the GPU", source: error.into() }
    }
}
