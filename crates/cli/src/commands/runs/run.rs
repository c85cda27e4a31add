//! A run as its directory tells it.

use std::fs::{self, File, TryLockError};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use engine::RunConfig;
use engine::train::{METRICS, Record, TrainState};
use model::checkpoint::newest_model;
use model::{FileError, RunLock};

use crate::commands::train::CONFIG;
use crate::failure::Failure;
use crate::settings;

/// Where runs lie when nothing else is said.
pub const RUNS: &str = "runs";
/// Longest line of a metrics file, in bytes; a sample is the longest there is.
const MAX_LINE: u64 = 4 << 20;
/// Longest settings or state that is read, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// What a run directory holds.
#[derive(Debug)]
pub struct Run {
    /// Last part of the path.
    pub name: String,
    /// Where it is.
    pub dir: PathBuf,
    /// What the newest checkpoint counts.
    pub state: Option<TrainState>,
    /// The settings: those of the checkpoint, or of the directory while there is none.
    pub config: Option<RunConfig>,
    /// What was measured.
    pub metrics: Metrics,
    /// Oldest first.
    pub checkpoints: Vec<Checkpoint>,
    /// Whether it goes on.
    pub activity: Activity,
    /// Since it last wrote something.
    pub age: Duration,
}

/// Whether a run goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Activity {
    /// A process holds its lock.
    Running,
    /// All steps are done.
    Finished,
    /// Steps are left, and nobody makes them.
    Stopped,
}

impl Activity {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Activity::Running => "running",
            Activity::Finished => "finished",
            Activity::Stopped => "stopped",
        }
    }
}

/// A checkpoint of a run.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Checkpoint {
    /// Updates done.
    pub step: u64,
    /// Where it is.
    pub dir: PathBuf,
    /// All its files.
    pub bytes: u64,
}

/// The lines of `metrics.jsonl`, by kind.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Training steps.
    pub steps: Vec<Step>,
    /// Validations.
    pub evals: Vec<Eval>,
    /// The newest sample: steps done, and its text.
    pub sample: Option<(u64, String)>,
    /// Batches left out, and returns to a checkpoint.
    pub mishaps: u64,
}

/// A training step; see [`Record::Step`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Which, from 1.
    pub step: u64,
    /// Tokens so far.
    pub tokens: u64,
    /// Seconds of training so far, as far as the file tells.
    pub seconds: f64,
    /// Nats per token.
    pub loss: f64,
    /// Moving average of the loss.
    pub ema: f64,
    /// Norm of the gradient.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f64,
    /// Speed of this step.
    pub tok_per_s: f64,
}

/// A validation.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Eval {
    /// Steps done.
    pub step: u64,
    /// Nats per token.
    pub val_loss: f64,
    /// Bits per byte.
    pub val_bpb: f64,
}

impl Metrics {
    /// Reads the file of the run in `dir`; a run that has not made a step has none, or an empty one.
    ///
    /// Half a line at the end is what a kill leaves, and is passed over. A damaged line before it is an
    /// error with its place.
    pub fn read(dir: &Path) -> anyhow::Result<Metrics> {
        let path = dir.join(METRICS);
        let context = || format!("cannot read {}", path.display());
        let mut file = match File::open(&path) {
            Ok(file) => BufReader::new(file),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Metrics::default()),
            Err(e) => return Err(e).with_context(context),
        };
        let mut metrics = Metrics::default();
        let (mut offset, mut number) = (0, 0u64);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = file.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).with_context(context)?;
            if read == 0 {
                return Ok(metrics);
            }
            number += 1;
            let whole = line.ends_with(b"\n");
            let parsed = if whole || (read as u64) < MAX_LINE {
                parse(&line)
            } else {
                Err(format!("a line of more than {MAX_LINE} bytes"))
            };
            match parsed {
                Ok(record) => record.into_iter().for_each(|record| metrics.push(record)),
                Err(_) if !whole && file.fill_buf().with_context(context)?.is_empty() => return Ok(metrics),
                Err(reason) => {
                    let reason = format!("line {number} is no record of a run: {reason}");
                    return Err(FileError::Json { path, offset, reason }.into());
                }
            }
            offset += read as u64;
        }
    }

    fn push(&mut self, record: Record) {
        match record {
            Record::Step { step, loss, ema, grad_norm, lr, tokens, wall } => {
                let before = self.steps.last().map_or(0.0, |s| s.seconds);
                self.steps.push(Step {
                    step,
                    tokens,
                    seconds: before + (wall.ms / 1e3).max(0.0),
                    loss: loss.into(),
                    ema,
                    grad_norm: grad_norm.into(),
                    lr: lr.into(),
                    tok_per_s: wall.tok_per_s,
                });
            }
            Record::Eval { step, val_loss, val_bpb, .. } => self.evals.push(Eval { step, val_loss, val_bpb }),
            Record::Sample { step, text } => self.sample = Some((step, text)),
            Record::Skip { .. } | Record::Rollback { .. } => self.mishaps += 1,
        }
    }

    /// The newest step that is not after `step`.
    pub fn at_step(&self, step: u64) -> Option<&Step> {
        let after = self.steps.partition_point(|s| s.step <= step);
        after.checked_sub(1).map(|i| &self.steps[i])
    }

    /// The newest step that had not more than `tokens`.
    pub fn at_tokens(&self, tokens: u64) -> Option<&Step> {
        let after = self.steps.partition_point(|s| s.tokens <= tokens);
        after.checked_sub(1).map(|i| &self.steps[i])
    }

    /// The newest validation that is not after `step`.
    pub fn eval_at(&self, step: u64) -> Option<&Eval> {
        let after = self.evals.partition_point(|e| e.step <= step);
        after.checked_sub(1).map(|i| &self.evals[i])
    }

    /// Lowest bits per byte.
    pub fn best_bpb(&self) -> Option<f64> {
        self.evals.iter().map(|e| e.val_bpb).filter(|bpb| bpb.is_finite()).reduce(f64::min)
    }

    /// Median tokens per second; the odd slow step does not count.
    pub fn median_tok_per_s(&self) -> Option<f64> {
        let mut speeds: Vec<f64> =
            self.steps.iter().map(|s| s.tok_per_s).filter(|speed| speed.is_finite()).collect();
        let middle = speeds.len() / 2;
        (!speeds.is_empty()).then(|| *speeds.select_nth_unstable_by(middle, f64::total_cmp).1)
    }
}

/// A line; nothing for a record with a number that is none, which JSON writes as `null`, and for a kind
/// of a later version.
fn parse(line: &[u8]) -> Result<Option<Record>, String> {
    let error = match serde_json::from_slice(line) {
        Ok(record) => return Ok(Some(record)),
        Err(error) => error,
    };
    let value: serde_json::Value = serde_json::from_slice(line).map_err(|e| plain(&e))?;
    let known = ["step", "eval", "sample", "skip", "rollback"];
    match (value.as_object(), value["kind"].as_str()) {
        (Some(_), Some(kind)) if !known.contains(&kind) => Ok(None),
        (Some(_), Some(_)) if has_null(&value) => Ok(None),
        _ => Err(plain(&error)),
    }
}

fn has_null(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Null => true,
        serde_json::Value::Object(fields) => fields.values().any(has_null),
        _ => false,
    }
}

/// A JSON error without its place, which is counted in one line.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}

impl Run {
    /// Whether a directory is one of a run.
    pub fn is_run(dir: &Path) -> bool {
        dir.join(METRICS).is_file() || dir.join(CONFIG).is_file() || dir.join(RunLock::FILE).is_file()
    }

    /// Finds a run by path or by name under [`RUNS`].
    pub fn find(given: &Path) -> anyhow::Result<Run> {
        let named = Path::new(RUNS).join(given);
        if let Some(dir) = [given, &named].into_iter().find(|dir| Run::is_run(dir)) {
            return Run::open(dir);
        }
        if given.is_dir() {
            let text = format!(
                "{} is no run: it has neither {METRICS} nor {CONFIG}; `rustane runs ls` lists runs",
                given.display()
            );
            return Err(Failure::Usage(text).into());
        }
        let names = names(Path::new(RUNS)).unwrap_or_default();
        let near = settings::nearest(&given.to_string_lossy(), names.iter().map(String::as_str));
        let hint =
            near.map_or("`rustane runs ls` lists all".into(), |name| format!("did you mean `{name}`?"));
        Err(Failure::Usage(format!("there is no run `{}`; {hint}", given.display())).into())
    }

    /// Reads a run directory. Changes nothing in it, so it may be one that is being written.
    pub fn open(dir: &Path) -> anyhow::Result<Run> {
        let state = read_state(dir)?;
        let config = match &state {
            Some(state) => Some(state.config.clone()),
            None => read_config(dir)?,
        };
        let metrics = Metrics::read(dir)?;
        let activity = if is_locked(dir) {
            Activity::Running
        } else if state.as_ref().is_some_and(TrainState::is_finished) {
            Activity::Finished
        } else {
            Activity::Stopped
        };
        Ok(Run {
            name: name_of(dir),
            dir: dir.to_owned(),
            checkpoints: checkpoints(dir)?,
            age: age(dir),
            state,
            config,
            metrics,
            activity,
        })
    }

    /// Steps done, those after the newest checkpoint among them.
    pub fn step(&self) -> u64 {
        let last = self.metrics.steps.last().map_or(0, |s| s.step);
        last.max(self.state.as_ref().map_or(0, |s| s.step))
    }

    /// Steps of the whole run, where they are known.
    pub fn total(&self) -> Option<u64> {
        let planned = self.state.as_ref().and_then(TrainState::total);
        planned.or_else(|| self.config.as_ref().and_then(RunConfig::steps))
    }

    /// The metrics, when they hold a step; for what cannot do without.
    pub fn curve(&self) -> anyhow::Result<&Metrics> {
        if self.metrics.steps.is_empty() {
            let path = self.dir.join(METRICS);
            let what = if path.exists() { "holds no step yet" } else { "does not exist" };
            return Err(Failure::Usage(format!("{} {what}; train the run first", path.display())).into());
        }
        Ok(&self.metrics)
    }
}

/// Names of the runs in a folder, sorted.
pub fn names(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if Run::is_run(&entry.path()) {
            names.extend(entry.file_name().into_string());
        }
    }
    names.sort();
    Ok(names)
}

fn name_of(dir: &Path) -> String {
    let full = dir.canonicalize();
    let path = full.as_deref().unwrap_or(dir);
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// The text of a file that may be absent, unless it is far too long.
fn read_small(path: &Path) -> anyhow::Result<Option<String>> {
    let context = || format!("cannot read {}", path.display());
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(context),
    };
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).with_context(context)?;
    Ok(Some(text))
}

/// What the newest checkpoint counts. Its hashes are not verified: that is for those who continue it.
fn read_state(dir: &Path) -> anyhow::Result<Option<TrainState>> {
    let Ok(newest) = newest_model(dir) else { return Ok(None) };
    let path = newest.join("training").join("state.json");
    let Some(text) = read_small(&path)? else { return Ok(None) };
    let state: TrainState = serde_json::from_str(&text).map_err(|e| FileError::Foreign {
        path: path.clone(),
        reason: format!("not the state of a run, or that of another version of this program: {e}"),
    })?;
    checked(&path, &state.config)?;
    Ok(Some(state))
}

fn read_config(dir: &Path) -> anyhow::Result<Option<RunConfig>> {
    let path = dir.join(CONFIG);
    let Some(text) = read_small(&path)? else { return Ok(None) };
    let config = toml::from_str(&text).map_err(|e| not_settings(&path, e.message().trim()))?;
    checked(&path, &config)?;
    Ok(Some(config))
}

/// Settings from a file are counted with; those that no run can have would overflow.
fn checked(path: &Path, config: &RunConfig) -> Result<(), FileError> {
    config.validate().map_err(|e| not_settings(path, &e.to_string()))
}

fn not_settings(path: &Path, reason: &str) -> FileError {
    FileError::Foreign { path: path.to_owned(), reason: format!("not the settings of a run: {reason}") }
}

/// Whether a process trains here. The look lasts no longer than two system calls.
fn is_locked(dir: &Path) -> bool {
    let Ok(file) = File::open(dir.join(RunLock::FILE)) else { return false };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

fn checkpoints(dir: &Path) -> anyhow::Result<Vec<Checkpoint>> {
    let mut checkpoints = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let step = name.strip_prefix("step-").and_then(|digits| digits.parse().ok());
        // One that is being deleted may be gone by now.
        if let (Some(step), Ok(bytes)) = (step, folder_bytes(&entry.path(), 4)) {
            checkpoints.push(Checkpoint { step, dir: entry.path(), bytes });
        }
    }
    checkpoints.sort_by_key(|c| c.step);
    Ok(checkpoints)
}

fn folder_bytes(dir: &Path, depth: usize) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += match meta.is_dir() {
            true if depth > 0 => folder_bytes(&entry.path(), depth - 1)?,
            true => 0,
            false => meta.len(),
        };
    }
    Ok(bytes)
}

fn age(dir: &Path) -> Duration {
    let changed = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    let newest = [METRICS, CONFIG].iter().filter_map(|name| changed(&dir.join(name))).max();
    let newest = newest.or_else(|| changed(dir)).unwrap_or_else(SystemTime::now);
    newest.elapsed().unwrap_or_default()
}
