//! One file per command: its flags, and `run`.

pub mod ane;
pub mod bench;
pub mod completions;
pub mod data;
pub mod doctor;
pub mod eval;
pub mod generate;
pub mod mil;
pub mod presets;
pub mod runs;
pub mod tokenizer;
pub mod train;
pub mod tune;
