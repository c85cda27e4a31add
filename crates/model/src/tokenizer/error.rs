//! What a tokenizer may be refused for.

use std::path::PathBuf;

/// Why a tokenizer was refused. The code is `E3020`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("cannot read the tokenizer `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than any tokenizer.
    #[error("the tokenizer has {bytes} bytes, at most {max} are read; is this a tokenizer.json?")]
    TooLarge {
        /// Length of the file.
        bytes: u64,
        /// Longest that is read.
        max: u64,
    },
    /// The text is no `tokenizer.json`.
    #[error("not a tokenizer.json: {reason}")]
    Malformed {
        /// What is wrong, and where.
        reason: String,
    },
    /// A token has an identifier that no table should have to hold.
    #[error("token `{token}` has id {id}, wanted less than {max} for a vocabulary of {tokens} tokens")]
    IdOutOfRange {
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// First id refused.
        max: usize,
        /// Distinct tokens in the file.
        tokens: usize,
    },
    /// Two tokens share an id.
    #[error("tokens `{first}` and `{second}` share id {id}; every id may have one token")]
    DuplicateId {
        /// One token.
        first: String,
        /// The other.
        second: String,
        /// Their id.
        id: u32,
    },
    /// A special token that was asked for does not exist.
    #[error("the tokenizer has no token `{token}`")]
    NoSuchToken {
        /// The token.
        token: String,
    },
    /// The wanted vocabulary cannot hold the bytes and the special tokens.
    #[error(
        "a vocabulary of {got} is too small, wanted at least {least}: 256 bytes and {specials} special tokens"
    )]
    VocabTooSmall {
        /// What was asked for.
        got: usize,
        /// The least.
        least: usize,
        /// Special tokens.
        specials: usize,
    },
    /// The tokenizer cannot express a text.
    #[error("the tokenizer cannot encode this text: {reason}")]
    Encode {
        /// What it said.
        reason: String,
    },
}

impl TokenizerError {
    /// The code that is printed in front of the message.
    pub fn code(&self) -> &'static str {
        "E3020"
    }
}
