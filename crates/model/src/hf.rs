//! Models as Hugging Face directories: `config.json`, safetensors in one file or in shards with an
//! index, `generation_config.json`, and whatever belongs to the tokenizer.
//!
//! Families: `llama` (SmolLM2 too), `qwen2`, `qwen3`, `granite`. Anything in a configuration that would change
//! the mathematics and that we do not compute is refused, never skipped.

use std::path::Path;

use crate::safetensors::Float;
use crate::{FileError, ModelConfig, TokenId, Weights};

mod chat;
mod config_json;
mod index;
mod read;
mod write;

pub use chat::{ChatTemplate, Message, TemplateError};
pub use config_json::{Family, parse_config};
pub use read::Reader;
pub use write::save;
pub(crate) use write::{planned_bytes, save_into};

/// Name of the model's shape in a directory.
pub const CONFIG: &str = "config.json";
/// Name of the tokenizer in a directory.
pub const TOKENIZER: &str = "tokenizer.json";
/// Name of the defaults for sampling in a directory.
pub const GENERATION_CONFIG: &str = "generation_config.json";

/// Tokens with a meaning for generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Put before a text.
    pub bos: Option<TokenId>,
    /// Each of them ends a text. Read as the union of `config.json` and `generation_config.json`.
    pub eos: Vec<TokenId>,
}

/// What is written beside the weights, and how they are stored.
#[derive(Clone, Debug)]
pub struct Export {
    /// Goes into `config.json` and `generation_config.json`.
    pub tokens: SpecialTokens,
    /// Files copied as they are: name and content of `tokenizer.json` and the like.
    pub files: Vec<(String, Vec<u8>)>,
    /// Format of the numbers.
    pub float: Float,
    /// Most bytes of numbers in one file; a tensor that is larger has a file of its own.
    pub shard_bytes: u64,
}

impl Default for Export {
    fn default() -> Self {
        let tokens = SpecialTokens::default();
        Self { tokens, files: Vec::new(), float: Float::F32, shard_bytes: 5_000_000_000 }
    }
}

/// Whether [`save`] can write a model of this shape; worth knowing before it is trained.
pub fn check(config: &ModelConfig) -> Result<(), FileError> {
    config_json::check(Path::new(CONFIG), config)
}

/// A model read whole.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its shape.
    pub config: ModelConfig,
    /// Its numbers.
    pub weights: Weights,
    /// Tokens that begin and end a text.
    pub tokens: SpecialTokens,
}

/// Reads a directory whole. [`Reader`] gives the same one parameter at a time.
pub fn load(dir: &Path) -> Result<Model, FileError> {
    let reader = Reader::open(dir)?;
    let mut weights = Weights::zeros(reader.config());
    for param in reader.params() {
        reader.read_into(param.id, weights.get_mut(param.id))?;
    }
    Ok(Model { config: reader.config().clone(), weights, tokens: reader.tokens().clone() })
}
