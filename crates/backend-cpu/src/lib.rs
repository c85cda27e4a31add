//! Training and decoding on any CPU, in f32 or with products in bf16.
//!
//! [`Cpu`] trains, [`CpuInfer`] writes. Both run on a fixed number of threads that the caller
//! chooses, and their results do not depend on that number: sums are cut by the shapes
//! alone, and their parts are added in order.
//!
//! Activations are `[tokens, channels]`, row-major. Vector code is chosen at run time, see [`Isa`].

mod apart;
mod cells;
mod exec;
mod footprint;
mod gemm;
mod gemv;
mod head;
mod host;
mod infer;
mod isa;
pub mod kernels;
pub mod measure;
mod memory;
mod moments;
mod packed;
mod params;
mod plan;
mod pool;
pub mod probe;
#[cfg(target_arch = "x86_64")]
mod spin;
mod stream;
mod stretches;
mod train;
mod update;
mod weights;

pub use cells::Order;
pub use exec::Exec;
pub use footprint::count;
pub use gemm::{Into, Left, Mat, MatMut, Packed, Right};
pub use host::Host;
pub use infer::{CpuInfer, FillRow, OneBlock, Timed};
pub use isa::Isa;
pub use memory::{Buffer, CpuError};
pub use moments::{Chance, MomentFormat};
pub use packed::Weight;
pub use params::Storage;
pub use plan::{Plan, Precision};
pub use pool::{Pool, Rows, RowsMut, Split};
pub use train::{Act, Cpu};
pub use weights::WeightFormat;
