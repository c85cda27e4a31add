//! Training data: from files to batches, in constant memory.
//!
//! ```text
//! source ─▶ text | jsonl | parquet | stories ─▶ block ─▶ prepare ─▶ dataset ─▶ shard ─▶ tokens ─▶ loader
//! ```

mod block;
mod dataset;
mod error;
mod jsonl;
mod loader;
mod parquet;
mod prepare;
mod shard;
mod shuffle;
mod source;
mod stories;
mod text;
mod thrift;
mod tokens;

pub use block::{Block, Blocks, Part, Tally};
pub use dataset::{Dataset, DatasetInfo, PartInfo};
pub use error::{DataError, Result};
pub use loader::{Batch, Loader, ValBatch, Validation};
pub use prepare::{BLOCK_BYTES, PrepareOptions, Progress, Sources, prepare, train_tokenizer};
pub use shard::{Counts, Shard, ShardWriter, Vocabulary, Width};
pub use shuffle::place;
pub use source::{Format, Packing, ReadOptions, SourceFile, find};
pub use stories::Stories;
pub use tokens::Tokens;
