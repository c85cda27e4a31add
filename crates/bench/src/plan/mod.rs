//! What a run takes before it runs: memory by purpose and phase, what fits, how long a step is.
//!
//! Bytes come from the backends, which count with the code that takes them ([`backend::Footprint`]); here they
//! are put together over the course of a run.

mod cases;
mod course;
mod search;
mod time;

pub use cases::{Case, cases};
pub use course::{Course, Phase};
pub use search::largest;
pub use time::{Kernel, Machine, StepTime, step_time};
