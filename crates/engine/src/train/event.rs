//! What a run tells while it goes on.

use model::FileError;
use model::checkpoint::{Quarantined, Saved};

use super::EvalStats;

/// One training step.
#[derive(Clone, Debug, PartialEq)]
pub struct StepStats {
    /// Which step of the run, from 1.
    pub step: u64,
    /// Steps of the run; `None` while a time budget is being measured.
    pub total: Option<u64>,
    /// Mean cross-entropy, nats per token.
    pub loss: f32,
    /// Moving average of the loss.
    pub ema: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f32,
    /// Learning rate of AdamW.
    pub lr: f32,
    /// Tokens of the run so far.
    pub tokens: u64,
    /// Duration of the step.
    pub seconds: f64,
    /// Tokens of this step.
    pub step_tokens: u64,
}

/// Something worth telling.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The run continues from a checkpoint.
    Resumed {
        /// Steps that it had done.
        step: u64,
    },
    /// The checkpoint was trained on another device: the run goes on, but not bit for bit.
    OtherDevice {
        /// That device.
        saved: &'a str,
        /// The device now.
        now: &'a str,
    },
    /// A damaged checkpoint was put aside.
    Quarantined(&'a Quarantined),
    /// The time budget was turned into steps.
    Planned {
        /// Steps of the run.
        total: u64,
    },
    /// A step is done.
    Step(&'a StepStats),
    /// A validation is done.
    Eval {
        /// Steps done.
        step: u64,
        /// Its result.
        stats: &'a EvalStats,
        /// Whether it is the best of the run.
        best: bool,
    },
    /// The model wrote something.
    Sample {
        /// Steps done.
        step: u64,
        /// Prompt and continuation.
        text: &'a str,
    },
    /// A checkpoint is safe.
    Saved(&'a Saved),
    /// A checkpoint could not be written; the run goes on and earlier ones are as they were.
    SaveFailed(&'a FileError),
    /// A batch whose loss or gradient was not finite was left out.
    Skipped {
        /// Step at which it happened.
        step: u64,
        /// Loss or gradient norm.
        what: &'static str,
        /// How many in a row.
        in_a_row: u32,
    },
    /// The run went back to a checkpoint.
    RolledBack {
        /// Step at which it happened.
        from: u64,
        /// Step of the checkpoint.
        to: u64,
    },
}
