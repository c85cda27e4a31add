//! `metrics.jsonl`: one JSON object per line, for plots and other programs.
//!
//! Everything that depends on the clock is inside `wall`; the rest of an interrupted and resumed
//! run is byte for byte that of an uninterrupted one.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{EvalStats, StepStats, TrainError};

/// Name of the file in a run directory.
pub const METRICS: &str = "metrics.jsonl";

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Record {
    /// A training step.
    Step {
        /// Which, from 1.
        step: u64,
        /// Nats per token.
        loss: f32,
        /// Moving average of the loss.
        ema: f64,
        /// Norm of the gradient.
        grad_norm: f32,
        /// Learning rate of AdamW.
        lr: f32,
        /// Tokens so far.
        tokens: u64,
        /// What the clock said.
        wall: Wall,
    },
    /// A validation.
    Eval {
        /// Steps done.
        step: u64,
        /// Nats per token.
        val_loss: f64,
        /// Bits per byte.
        val_bpb: f64,
        /// Tokens that counted.
        tokens: u64,
    },
    /// Something the model wrote.
    Sample {
        /// Steps done.
        step: u64,
        /// Prompt and continuation.
        text: String,
    },
    /// A batch that was left out.
    Skip {
        /// Step at which it happened.
        step: u64,
        /// Loss or gradient norm.
        what: String,
    },
    /// A return to a checkpoint.
    Rollback {
        /// Step at which it happened.
        step: u64,
        /// Step of the checkpoint.
        to: u64,
    },
}

/// What the clock said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wall {
    /// Duration of the step.
    pub ms: f64,
    /// Tokens per second of the step.
    pub tok_per_s: f64,
}

impl Record {
    pub(super) fn step(s: &StepStats) -> Self {
        let wall = Wall { ms: s.seconds * 1e3, tok_per_s: s.step_tokens as f64 / s.seconds };
        let StepStats { step, loss, ema, grad_norm, lr, tokens, .. } = *s;
        Self::Step { step, loss, ema, grad_norm, lr, tokens, wall }
    }

    pub(super) fn eval(step: u64, stats: &EvalStats) -> Self {
        Self::Eval { step, val_loss: stats.loss, val_bpb: stats.bpb, tokens: stats.tokens }
    }
}

/// The file, open for appending.
#[derive(Debug)]
pub(super) struct Metrics {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Metrics {
    /// Opens the file of a run and cuts what came after its first `bytes`: lines of steps that a
    /// checkpoint does not hold will be written again.
    pub fn open(dir: &Path, bytes: u64) -> Result<Self, TrainError> {
        let path = dir.join(METRICS);
        let open = || -> std::io::Result<(File, u64)> {
            let mut file =
                OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
            let bytes = bytes.min(file.metadata()?.len());
            file.set_len(bytes)?;
            file.seek(SeekFrom::Start(bytes))?;
            Ok((file, bytes))
        };
        let (file, bytes) = open().map_err(|source| TrainError::Metrics { path: path.clone(), source })?;
        Ok(Self { path, file, bytes })
    }

    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends a line, whole, before it returns.
    pub fn write(&mut self, record: &Record) -> Result<(), TrainError> {
        let mut line = serde_json::to_vec(record).expect("a record is JSON");
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(|source| TrainError::Metrics { path: self.path.clone(), source })?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

/// The lines of a run's metrics; a half line at the end, as a kill leaves it, is passed over.
pub fn read_metrics(dir: &Path) -> std::io::Result<Vec<Record>> {
    let file = BufReader::new(File::open(dir.join(METRICS))?);
    let mut records = Vec::new();
    for line in file.lines() {
        if let Ok(record) = serde_json::from_str(&line?) {
            records.push(record);
        }
    }
    Ok(records)
}
