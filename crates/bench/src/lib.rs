//! Measures backends through the seam, so that every device is measured alike.

#![forbid(unsafe_code)]

pub mod chips;
mod compare;
mod decode;
pub mod exp;
mod forward;
mod mil_kernels;
pub mod plan;
mod power;
pub mod profile;
pub mod protocol;
pub mod results;
pub mod shapes;
pub mod statistics;
mod step;
mod sweep;

pub use compare::{Comparison, Row, Verdict, compare};
pub use decode::{DecodeReport, DecodeSettings, decode, decode_between};
pub use forward::{Draw, ForwardProgress, ForwardReport, ForwardSettings, OneBlock, TrainsForward, forward};
pub use mil_kernels::{KernelTime, KernelsError, KernelsReport, mil_kernels};
pub use power::{Meter, Power, PowerError};
pub use step::{PhaseTime, StepReport, StepSettings, step, step_recorded};
pub use sweep::{SweepProgress, SweepReport, SweepSettings, sweep};
