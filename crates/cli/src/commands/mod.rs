//! One file per command: its flags, and `run`.

pub mod ane;
pub mod bench;
pub mod chat;
pub mod completions;
pub mod data;
pub mod doctor;
pub mod eval;
pub mod exp;
pub mod generate;
pub mod mil;
pub mod plan;
pub mod presets;
pub mod profile;
pub mod results;
pub mod runs;
mod sampling;
pub mod serve;
pub mod sweep;
pub mod tokenizer;
pub mod train;
pub mod tune;
