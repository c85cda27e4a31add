//! Measures backends through the seam, so that every device is measured alike.

#![forbid(unsafe_code)]

mod forward;
mod power;
pub mod protocol;
mod step;
mod sweep;

pub use forward::{ForwardProgress, ForwardReport, ForwardSettings, forward};
pub use power::{Meter, Power, PowerError};
pub use step::{PhaseTime, StepReport, StepSettings, step};
pub use sweep::{SweepProgress, SweepReport, SweepSettings, sweep};
