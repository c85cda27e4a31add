//! Training and prefill through ten MIL programs on an Apple Neural Engine, real or virtual.
//!
//! [`Ane`] implements [`backend::Train`] and [`backend::Prefill`] on any [`ane_bridge::Device`];
//! [`AneInfer`] adds decoding on the CPU. [`kernels`] holds the programs, [`Packing`] says where each
//! matrix lies in their surfaces, [`Plan`] holds every choice. docs/kernels.md explains the programs.
#![forbid(unsafe_code)]

mod ane;
mod backward;
mod care;
mod classifier;
mod dims;
mod error;
mod footprint;
mod forward;
pub mod kernels;
mod packing;
mod plan;
mod programs;
mod staging;
mod train;
mod worker;

pub use ane::Ane;
pub use care::{Health, Monitor};
pub use dims::{Dims, Extra, SeqLen};
pub use error::AneError;
pub use footprint::{evaluator_bytes, footprint};
pub use packing::{Block, Packing, Part, Place, Port};
pub use plan::{Care, Choices, Classifier, Ffn, Inputs, Linear, Plan, PlanError, Scaling};
pub use programs::AneDevice;
pub use train::AneInfer;
