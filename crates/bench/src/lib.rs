//! Measures backends through the seam, so that every device is measured alike.

#![forbid(unsafe_code)]

mod step;

pub use step::{PhaseTime, StepReport, StepSettings, step};
