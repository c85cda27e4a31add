//! Why a run ends before its end.

use std::path::PathBuf;

use model::{FileError, TokenizerError};

use crate::data::DataError;

/// Why a run ends before its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The device.
    #[error(transparent)]
    Backend(#[from] backend::Error),
    /// A file of the model or of a checkpoint.
    #[error(transparent)]
    File(#[from] FileError),
    /// The training data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The metrics file.
    #[error("cannot write the metrics to {path}: {source}", path = path.display())]
    Metrics {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A parameter that would never learn.
    #[error(
        "`{name}` has {what} gradient in the first step, so it would not learn; this is a fault of the \
         device, or the model is too small for its task: try `--device cpu`, or another shape"
    )]
    Gradient {
        /// Name of the parameter.
        name: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Loss or gradient are no numbers any more.
    #[error("{what} is {value} at step {step}{tensor}; {advice}")]
    Diverged {
        /// Step at which it happened.
        step: u64,
        /// Loss or gradient norm.
        what: &'static str,
        /// Its value.
        value: f32,
        /// The first tensor at fault, as a phrase, or nothing.
        tensor: String,
        /// What to try.
        advice: String,
    },
    /// The data of the run are not those of its checkpoint.
    #[error(
        "the data changed since this run was saved ({what}); give the same data, or start over with \
         --fresh or another --out"
    )]
    DataChanged {
        /// What differs.
        what: String,
    },
    /// The checkpoint is of a model whose tensors are others.
    #[error(
        "`{key}` is {now}, the checkpoint of this run has {saved}; keep the shape of the model, or start over \
         with --fresh or another --out"
    )]
    OtherModel {
        /// The setting, such as `model.layers`.
        key: String,
        /// Its value in the checkpoint.
        saved: String,
        /// Its value now.
        now: String,
    },
    /// The last checkpoint could not be written.
    #[error("the last checkpoint could not be saved")]
    LastSave(#[source] FileError),
}
