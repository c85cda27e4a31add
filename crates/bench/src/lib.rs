//! Measures backends through the seam, so that every device is measured alike.

#![forbid(unsafe_code)]

mod power;
mod step;

pub use power::{Meter, Power, PowerError};
pub use step::{PhaseTime, StepReport, StepSettings, step};
