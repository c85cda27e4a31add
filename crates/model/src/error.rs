//! What can be wrong with the files of a model.

use std::io;
use std::path::{Path, PathBuf};

/// Any error of a caller's closure.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why files of a model could not be read or written.
///
/// The message names the file; [`FileError::code`] is the number to look up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {doing} {path}: {source}", path = path.display())]
    Io {
        /// A verb: read, write, open.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// A tensor's numbers could not be had from the caller while writing.
    #[error("cannot write `{tensor}` to {path}: {source}", path = path.display())]
    Source {
        /// The file being written.
        path: PathBuf,
        /// The tensor wanted.
        tensor: String,
        /// The caller's answer.
        source: BoxError,
    },
    /// Shorter than the header's length field.
    #[error("{path}: {bytes} bytes, header needs 8", path = path.display())]
    TooShort {
        /// The file.
        path: PathBuf,
        /// Bytes it has.
        bytes: u64,
    },
    /// The header says it is longer than it can be.
    #[error("{path}: header length {length} exceeds {what} of {limit} bytes", path = path.display())]
    HeaderLength {
        /// The file.
        path: PathBuf,
        /// Bytes claimed.
        length: u64,
        /// Whose limit: the file or ours.
        what: &'static str,
        /// Bytes possible.
        limit: u64,
    },
    /// JSON that is not what it should be.
    #[error("{path}: byte {offset}: {reason}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Place of the fault, from the start of the file.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A tensor's shape and place do not fit together.
    #[error("{path}: `{tensor}` {reason}", path = path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The numbers.
        reason: String,
    },
    /// A number format that is not read.
    #[error("{path}: `{tensor}` has dtype {dtype}, wanted {wanted}", path = path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What the file says.
        dtype: String,
        /// What can be read.
        wanted: &'static str,
    },
    /// The file is shorter or longer than its header says, or tensors are missing or unexpected.
    #[error("{path}: {reason}", path = path.display())]
    Contents {
        /// The file or directory.
        path: PathBuf,
        /// What is missing or left over.
        reason: String,
    },
    /// A file name that points out of its directory.
    #[error("{path}: unsafe path `{name}`: {reason}", path = path.display())]
    UnsafePath {
        /// The file that holds the name, or the directory.
        path: PathBuf,
        /// The name.
        name: String,
        /// Why it is refused.
        reason: String,
    },
    /// A field of `config.json` that is no model, or a model not supported.
    #[error("{path}: `{field}` is {got}, wanted {wanted}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The field, as the file names it.
        field: String,
        /// What it holds.
        got: String,
        /// What it may hold.
        wanted: String,
    },
    /// No checkpoint could be loaded although there were some.
    #[error("{dir}: no usable checkpoint: {reason}", dir = dir.display())]
    NoCheckpoint {
        /// Where the checkpoints are.
        dir: PathBuf,
        /// What was found, and what to do.
        reason: String,
    },
    /// A checkpoint does not match its manifest.
    #[error("{dir}: damaged checkpoint: {reason}", dir = dir.display())]
    Damaged {
        /// The checkpoint.
        dir: PathBuf,
        /// Which file, and how.
        reason: String,
    },
    /// A sound checkpoint of another program or version.
    #[error("{path}: {reason}", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What does not match.
        reason: String,
    },
    /// Not enough room to write.
    #[error("{dir}: {needed} bytes needed, {free} free; free some space or keep fewer checkpoints", dir = dir.display())]
    Space {
        /// Where to write.
        dir: PathBuf,
        /// Bytes to be written.
        needed: u64,
        /// Bytes available.
        free: u64,
    },
    /// Another process holds the run directory.
    #[error("{dir} is in use by {holder}; wait until it ends, stop it, or choose another directory", dir = dir.display())]
    Locked {
        /// The run directory.
        dir: PathBuf,
        /// The process, as far as known.
        holder: String,
    },
    /// The place to write to is taken.
    #[error("{path} {found}, wanted {wanted}", path = path.display())]
    Occupied {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
        /// What may be there.
        wanted: &'static str,
    },
}

impl FileError {
    /// The number under which the documentation explains the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } | Self::Source { .. } => "E3000",
            Self::TooShort { .. } => "E3001",
            Self::HeaderLength { .. } => "E3002",
            Self::Json { .. } => "E3003",
            Self::Layout { .. } => "E3004",
            Self::Dtype { .. } => "E3005",
            Self::Contents { .. } => "E3006",
            Self::UnsafePath { .. } => "E3007",
            Self::Config { .. } => "E3010",
            Self::NoCheckpoint { .. } => "E3080",
            Self::Damaged { .. } => "E3081",
            Self::Foreign { .. } => "E3082",
            Self::Space { .. } => "E3083",
            Self::Locked { .. } => "E3084",
            Self::Occupied { .. } => "E3085",
        }
    }

    /// For `map_err`: an I/O error with the path and what was tried.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            let path = path.to_owned();
            if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                return Self::UnsafePath { path, name, reason: "a loop of symbolic links".into() };
            }
            Self::Io { doing, path, source }
        }
    }

    /// For `map_err`: a JSON error in `text`, which starts at byte `base` of the file.
    pub(crate) fn json(path: &Path, base: u64, text: &[u8], error: &serde_json::Error) -> Self {
        let before = text.split_inclusive(|&b| b == b'\n').take(error.line().saturating_sub(1));
        let line_start: usize = before.map(<[u8]>::len).sum();
        let offset = base + (line_start + error.column().saturating_sub(1)).min(text.len()) as u64;
        let full = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let reason = shorten(full.strip_suffix(&place).unwrap_or(&full));
        Self::Json { path: path.to_owned(), offset, reason }
    }
}

/// A name from a file, cut so that a message stays readable whatever the file holds.
pub(crate) fn shorten(name: &str) -> String {
    const MAX: usize = 160;
    let clean: String = name.chars().take(MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if clean.len() < name.len() { format!("{clean}…") } else { clean }
}
