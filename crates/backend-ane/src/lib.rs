//! Training and prefill through ten MIL programs on an Apple Neural Engine, real or virtual.
#![forbid(unsafe_code)]

mod dims;
pub mod kernels;
mod packing;
mod plan;

pub use dims::{Dims, Extra, SeqLen};
pub use packing::{Block, Packing, Part, Place, Port};
pub use plan::{Care, Choices, Ffn, Inputs, Linear, Plan, PlanError, Scaling};
