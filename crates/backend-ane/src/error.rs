//! What can go wrong between the schedule and the device.

use ane_bridge::{BindError, CompileError, RunError, SurfaceError};

use crate::PlanError;

/// Why the ANE backend did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum AneError {
    #[error("the plan does not go with the model")]
    Plan(#[from] PlanError),
    #[error("`{kernel}` breaks rules of the chip: {faults}; `rustane mil check` explains them")]
    Rules { kernel: &'static str, faults: String },
    #[error("a program was not compiled")]
    Compile(#[from] CompileError),
    #[error("a program was not bound to its surfaces")]
    Bind(#[from] BindError),
    #[error("a surface was not used")]
    Surface(#[from] SurfaceError),
    #[error("`{kernel}` failed, and failed again when compiled anew")]
    Run {
        kernel: &'static str,
        #[source]
        source: Box<RunError>,
    },
    #[error("`{kernel}` failed, and no compile is left to make it anew; save a checkpoint and restart")]
    Spent {
        kernel: &'static str,
        #[source]
        source: Box<RunError>,
    },
    #[error("the thread that drives the device could not be started")]
    Thread(#[source] std::io::Error),
    #[error("the thread that drives the device ended in a panic")]
    Panic,
    #[error("{block} {layer} goes backward without its forward; run forward first")]
    NoForward { block: &'static str, layer: usize },
    #[error("this backend was made for inference and keeps nothing for a backward pass; use `Ane::new`")]
    Inference,
}

impl AneError {
    /// The rules that a program breaks.
    pub(crate) fn rules(kernel: &'static str, faults: &[mil::Diagnostic]) -> Self {
        let faults = faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Self::Rules { kernel, faults }
    }

    /// Whether a fresh process would go on from the last update: this one has no compile left.
    pub fn needs_restart(&self) -> bool {
        matches!(self, AneError::Spent { .. } | AneError::Compile(CompileError::Budget { .. }))
    }
}

impl From<AneError> for backend::Error {
    fn from(error: AneError) -> Self {
        backend::Error::Device { device: "ane", source: Box::new(error) }
    }
}

/// Result inside the backend.
pub(crate) type AneResult<T> = Result<T, AneError>;
