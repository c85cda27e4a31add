//! What can be wrong with data.

use std::path::PathBuf;

use model::TokenizerError;

/// Why data cannot be used. [`DataError::code`] is printed in front of the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or folder cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write `{path}`")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file or folder that holds nothing to train on, or things that do not go together.
    #[error("`{path}`: {problem}")]
    Input {
        /// The file or folder.
        path: PathBuf,
        /// What was found and what was wanted.
        problem: String,
    },
    /// A token file is damaged, or none.
    #[error("`{path}`: {problem}")]
    Shard {
        /// The file.
        path: PathBuf,
        /// What was found and what was wanted.
        problem: String,
    },
    /// A token is not in the vocabulary.
    #[error(
        "`{path}`: token {token} at position {position} is not below the vocabulary of {vocab}; the file was made with another tokenizer or is damaged"
    )]
    TokenOutOfRange {
        /// The file.
        path: PathBuf,
        /// Tokens before it in the file.
        position: u64,
        /// The token.
        token: u32,
        /// First id that is none.
        vocab: u32,
    },
    /// A token file was made with another tokenizer than the one in use.
    #[error(
        "`{path}` was made with tokenizer {found}, the model's is {wanted}; use the tokenizer that made it, or prepare the text again"
    )]
    OtherTokenizer {
        /// The file.
        path: PathBuf,
        /// Hash in the file, first 16 hexadecimal digits.
        found: String,
        /// Hash of the tokenizer in use.
        wanted: String,
    },
    /// A description of prepared data is damaged.
    #[error("`{path}`: {problem}; delete the folder and prepare the data again")]
    Dataset {
        /// The file.
        path: PathBuf,
        /// What was found and what was wanted.
        problem: String,
    },
    /// A text file holds something that is no text.
    #[error("`{path}`: {problem} at byte {offset}")]
    Text {
        /// The file.
        path: PathBuf,
        /// Bytes before it, after decompression.
        offset: u64,
        /// What was found, and what to do.
        problem: String,
    },
    /// A line of JSON does not hold a document.
    #[error("`{path}`:{line}: {problem}")]
    Jsonl {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What was found and what was wanted.
        problem: String,
    },
    /// A Parquet file is damaged, or of a kind that is not read.
    #[error("`{path}`: {problem}")]
    Parquet {
        /// The file.
        path: PathBuf,
        /// What was found and what was wanted.
        problem: String,
    },
    /// There is too little text.
    #[error(
        "the {split} data has {tokens} tokens, at least {needed} are needed; add text or shorten the sequence"
    )]
    TooShort {
        /// `training` or `validation`.
        split: &'static str,
        /// Tokens found.
        tokens: u64,
        /// Least number of tokens.
        needed: u64,
    },
    /// The tokenizer cannot be used for this data.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

impl DataError {
    /// The code that is printed in front of the message.
    pub fn code(&self) -> &'static str {
        match self {
            DataError::Shard { .. } | DataError::TokenOutOfRange { .. } => "E3040",
            DataError::OtherTokenizer { .. } => "E3041",
            DataError::Dataset { .. } => "E3042",
            DataError::Read { .. } => "E3045",
            DataError::Write { .. } => "E3046",
            DataError::Input { .. } => "E3047",
            DataError::Text { .. } => "E3050",
            DataError::Jsonl { .. } => "E3051",
            DataError::Parquet { .. } => "E3060",
            DataError::TooShort { .. } => "E3070",
            DataError::Tokenizer(error) => error.code(),
        }
    }

    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> DataError {
        let path = path.into();
        |source| DataError::Read { path, source }
    }

    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> DataError {
        let path = path.into();
        |source| DataError::Write { path, source }
    }
}

/// Result of this module.
pub type Result<T, E = DataError> = std::result::Result<T, E>;
