//! `rustane train`, `generate`, `chat`, `serve` and `eval` through the binary: what they do, what they refuse, and what
//! survives when they are interrupted.

mod ane;
mod bad_input;
mod chat;
mod eval;
mod generate;
mod gpu;
#[cfg(feature = "failpoints")]
mod kill;
mod lab;
mod published;
mod resume;
mod serve;
#[path = "../support/mod.rs"]
mod support;
mod train;
mod usage;
