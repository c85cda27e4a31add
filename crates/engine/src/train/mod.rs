//! A training run, from its first or its last checkpoint to its end.

mod budget;
mod error;
mod eval;
mod event;
mod metrics;
mod presence;
mod run;
mod state;

pub use self::error::TrainError;
pub use self::eval::{EvalStats, evaluate};
pub use self::event::{Event, StepStats};
pub use self::metrics::{METRICS, Record, read_metrics};
pub use self::presence::check_gradients;
pub use self::run::{Job, NewInfer, Outcome, Start, snapshot, start, train};
pub use self::state::{Drift, TrainState};
