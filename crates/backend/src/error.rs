//! What can go wrong behind the seam.

use model::TokenId;

/// Result of a call across the seam.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a backend did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// More tokens in a sequence than the model has positions for.
    #[error("a sequence of {got} tokens does not fit the {max} positions of this model; shorten it")]
    SequenceTooLong {
        /// Tokens asked for.
        got: usize,
        /// Positions there are.
        max: usize,
    },
    /// More tokens in a micro-batch than the backend was built for.
    #[error("a micro-batch of {got} tokens does not fit the {max} that were planned; use a smaller batch")]
    BatchTooLarge {
        /// Tokens in the micro-batch.
        got: usize,
        /// Tokens planned for.
        max: usize,
    },
    /// Tokens that are no whole number of sequences.
    #[error("{tokens} tokens are no whole number of sequences of {seq}")]
    RaggedBatch {
        /// Tokens given.
        tokens: usize,
        /// Tokens of one sequence.
        seq: usize,
    },
    /// A token outside the vocabulary.
    #[error(
        "token {} is outside the vocabulary of {vocab}; the text was encoded with another tokenizer",
        token.0
    )]
    TokenOutOfRange {
        /// The token.
        token: TokenId,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A tensor of another length than the parameter's.
    #[error("`{name}` has {wanted} numbers, got {got}")]
    WrongLength {
        /// Name of the parameter.
        name: String,
        /// Numbers that it has.
        wanted: usize,
        /// Numbers given.
        got: usize,
    },
    /// A sequence that was never seeded, or was released.
    #[error("sequence {0} is unknown; seed it first")]
    UnknownSequence(u32),
    /// A sequence that cannot go back so far: its cache is a ring, and what the window there needs was overwritten.
    #[error(
        "a sequence cannot go back to {len} tokens: the cache holds it from token {oldest} on; seed it again"
    )]
    Overwritten {
        /// Tokens to keep.
        len: usize,
        /// First position in the cache.
        oldest: usize,
    },
    /// [`crate::Checked`] found a difference from the reference.
    #[error("{what} differs from the reference: relative error {error:.2e}, allowed {allowed:.0e}")]
    Mismatch {
        /// Which result.
        what: String,
        /// ‖result − reference‖ / ‖reference‖.
        error: f64,
        /// Tolerance.
        allowed: f64,
    },
    /// The device failed.
    #[error("{device} failed")]
    Device {
        /// Name of the device.
        device: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
