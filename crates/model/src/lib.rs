//! What a language model is, on the host: its shape, parameters, weights, tokenizer and files.
//!
//! Knows no device. Serialised forms of a model (safetensors, Hugging Face directories) live here.

#![forbid(unsafe_code)]

pub mod checkpoint;
mod config;
mod durable;
mod error;
pub mod hf;
mod init;
mod params;
pub mod quant;
mod run_lock;
pub mod safetensors;
mod source;
mod tokenizer;
mod weights;

pub use config::{ConfigError, Llama3Scaling, ModelConfig, Rope};
pub use durable::Written;
pub use error::{BoxError, FileError};
pub use params::{Group, Param, ParamId, Params, Role, Slot};
pub use run_lock::RunLock;
pub use source::{FromFn, Source, from_fn};
pub use tokenizer::{
    END_OF_TEXT, Encoder, IM_END, IM_START, SplitPattern, StreamDecoder, Tokenizer, TokenizerError, cut,
};
pub use weights::Weights;

/// Index of a token in the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct TokenId(pub u32);

impl TokenId {
    /// As a target: this position counts neither in the loss nor in the gradient.
    pub const IGNORE: TokenId = TokenId(u32::MAX);
}
