//! From an error to a message and an exit code.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed while running |
//! | 2 | wrong use: flags or settings |
//! | 3 | wrong data: a file that is not what it should be |
//! | 4 | does not fit into memory |
//! | 5 | the device is not there |
//! | 6 | diverged: the loss is no number any more |
//! | 129, 130, 143 | stopped by a signal; the same command continues |

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use engine::data::DataError;
use engine::train::TrainError;
use model::{BoxError, FileError, TokenizerError};

/// An error whose exit code is known where it is made.
#[derive(Debug)]
pub enum Failure {
    /// Wrong flags or settings.
    Usage(String),
    /// More memory than there is.
    DoesNotFit(String),
    /// The device is not there.
    NoDevice(String),
    /// Files that do not go together.
    Data {
        /// The number to look up.
        code: &'static str,
        /// What was found and wanted.
        text: String,
    },
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Usage(text)
            | Failure::DoesNotFit(text)
            | Failure::NoDevice(text)
            | Failure::Data { text, .. } => f.write_str(text),
        }
    }
}

impl std::error::Error for Failure {}

/// A boxed error as others are: `anyhow` does not look into the box, where the exit code may be.
pub fn unboxed(error: BoxError) -> anyhow::Error {
    match error.downcast::<Failure>() {
        Ok(failure) => (*failure).into(),
        Err(error) => anyhow::Error::from_boxed(error),
    }
}

/// The file that a flag names must not be there yet: nothing of the user's is written over.
pub fn absent(flag: &str, file: &Path) -> Result<(), Failure> {
    if file.symlink_metadata().is_err() {
        return Ok(());
    }
    let text = format!("--{flag} {} is there already; remove it or give another name", file.display());
    Err(Failure::Usage(text))
}

/// Prints the error with its causes and returns its exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let code = error.chain().find_map(file_code).map_or(String::new(), |code| format!("[{code}]"));
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // A transparent error repeats its source.
        if !text.ends_with(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
    }
    // Where nobody listens any more, the exit code has to do.
    let _ = writeln!(std::io::stderr(), "error{code}: {text}");
    ExitCode::from(exit_code(error))
}

fn exit_code(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if let Some(failure) = cause.downcast_ref::<Failure>() {
            return match failure {
                Failure::Usage(_) => 2,
                Failure::DoesNotFit(_) => 4,
                Failure::NoDevice(_) => 5,
                Failure::Data { .. } => 3,
            };
        }
        // The files are fine; another process is at work.
        if let Some(FileError::Locked { .. }) = cause.downcast_ref() {
            return 1;
        }
        match cause.downcast_ref::<TrainError>() {
            Some(TrainError::Diverged { .. }) => return 6,
            Some(TrainError::LastSave(_) | TrainError::Metrics { .. }) => return 1,
            Some(TrainError::DataChanged { .. }) => return 3,
            Some(TrainError::OtherModel { .. }) => return 2,
            _ => {}
        }
    }
    if error.chain().any(|cause| file_code(cause).is_some()) { 3 } else { 1 }
}

/// The number to look up, for errors about the content of a file.
fn file_code(cause: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    // A transparent error stands in the chain for the one inside.
    match cause.downcast_ref::<TrainError>() {
        Some(TrainError::File(error)) => return file_code(error),
        Some(TrainError::Data(error)) => return file_code(error),
        Some(TrainError::Tokenizer(error)) => return file_code(error),
        _ => {}
    }
    if let Some(error) = cause.downcast_ref::<FileError>() {
        return (!matches!(error, FileError::Io { .. } | FileError::Space { .. })).then(|| error.code());
    }
    if let Some(error) = cause.downcast_ref::<DataError>() {
        return Some(error.code());
    }
    if let Some(Failure::Data { code, .. }) = cause.downcast_ref() {
        return Some(code);
    }
    cause.downcast_ref::<TokenizerError>().map(TokenizerError::code)
}
