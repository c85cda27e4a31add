//! The engine: data, training and text generation over any backend.
//!
//! Names no device: everything here is generic over the traits of [`backend`].

#![forbid(unsafe_code)]

pub mod config;
pub mod data;
pub mod infer;
pub mod optim;
pub mod presets;
pub mod train;

pub use config::RunConfig;
