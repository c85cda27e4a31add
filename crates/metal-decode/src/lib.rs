//! Decoding on the GPU: native on Metal, proven on Vulkan.
//!
//! One source of kernels, WGSL templates, through wgpu. [`GpuInfer`] reads prompts and writes; a token is
//! one pass and one submission over a list of dispatches that was made when the model was loaded.

#![deny(unsafe_code)]

mod error;
mod gpu;
mod infer;
pub mod kernels;
pub mod layout;
mod matrix;
pub mod measure;
mod optimizer;
mod plan;
mod self_test;
mod settings;
mod stream;
mod trusted;
mod tuning;
mod weights;

pub use error::{GpuError, GpuResult};
pub use gpu::{Api, Gpu};
pub use infer::GpuInfer;
pub use optimizer::GpuOptimizer;
pub use self_test::self_test;
pub use settings::{Memory, Settings};
pub use tuning::{Entry, Tuning};
