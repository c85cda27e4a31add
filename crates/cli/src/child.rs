//! Training runs as child processes: each a real `rustane train`, whose directory tells what came of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use bench::exp::{Budget, Outcome, Record};
use clap::ValueEnum;
use serde_json::Value;

use crate::commands::runs::Run;
use crate::commands::{presets, train};
use crate::device::DeviceArgs;
use crate::settings::{Layers, flatten};
use crate::stop::Stop;

/// Most of what a failed child said last that is kept.
const LAST_WORDS: u64 = 4096;

/// What a child is told.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Built-in settings to start from.
    pub preset: String,
    /// File with settings.
    pub config: Option<PathBuf>,
    /// Settings, as `key=value`.
    pub set: Vec<String>,
    /// Seed.
    pub seed: u64,
    /// Length.
    pub budget: Budget,
    /// Run directory.
    pub dir: PathBuf,
}

impl Plan {
    /// Settings that differ from the preset, by key. Fails as `rustane train` would.
    pub fn settings(&self) -> anyhow::Result<BTreeMap<String, Value>> {
        let preset = presets::find(&self.preset)?;
        let mut layers = Layers::new();
        layers.preset(preset);
        let before = flatten(&layers.finish()?);
        if let Some(file) = &self.config {
            layers.file(file)?;
        }
        self.set.iter().try_for_each(|assignment| layers.assign(assignment))?;
        let after = flatten(&layers.finish()?);
        let changed = after.into_iter().filter(|(key, value)| before.get(key) != Some(value));
        changed.map(|(key, value)| Ok((key, serde_json::to_value(value)?))).collect()
    }

    /// Starts the child; what it says goes to a log beside the run directory.
    pub fn start(&self, device: &DeviceArgs, threads: usize) -> anyhow::Result<Running> {
        let log = self.log();
        let parent = log.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        let open = || -> std::io::Result<(File, File)> {
            let file = File::create(&log)?;
            let other = file.try_clone()?;
            Ok((file, other))
        };
        let (out, err) = open().with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(std::env::current_exe().context("this program's own path")?);
        command.args(["train", "--plain", "--preset", &self.preset]);
        if let Some(file) = &self.config {
            command.arg("--config").arg(file);
        }
        // Before what the experiment sets: it may want some of these otherwise.
        for side in ["eval_every=0", "sample_every=0", "sample_tokens=0", "save_every=0", "keep=1"] {
            command.args(["--set", &format!("train.{side}")]);
        }
        for assignment in &self.set {
            command.args(["--set", assignment]);
        }
        match self.budget {
            Budget::Tokens(n) => command.args(["--tokens", &n.to_string()]),
            Budget::Seconds(n) => command.args(["--budget", &format!("{n}s")]),
            Budget::Steps(n) => command.args(["--steps", &n.to_string()]),
        };
        command.args(["--seed", &self.seed.to_string(), "--threads", &threads.to_string()]);
        if let Some(name) = device.device.to_possible_value() {
            command.args(["--device", name.get_name()]);
        }
        if let Some(chip) = device.chip {
            command.args(["--chip", &chip.flag()]);
        }
        command.arg("--out").arg(&self.dir).stdin(Stdio::null()).stdout(out).stderr(err);
        // Ctrl-C in a terminal would reach it beside our own request, and the second one insists.
        command.process_group(0);
        let child = command.spawn().context("cannot start `rustane train`")?;
        Ok(Running { plan: self.clone(), child })
    }

    fn log(&self) -> PathBuf {
        let mut name = self.dir.file_name().unwrap_or_default().to_owned();
        name.push(".log");
        self.dir.with_file_name(name)
    }
}

/// A child at work.
pub struct Running {
    /// What it was told.
    pub plan: Plan,
    child: Child,
}

/// How a child ended.
pub enum Ended {
    /// With a result, or a failure that another try would repeat.
    Outcome(Outcome),
    /// A signal asked it to stop; the same command continues it.
    Stopped,
}

impl Running {
    /// What came of it, once it ended.
    pub fn poll(&mut self) -> anyhow::Result<Option<Ended>> {
        match self.child.try_wait().context("cannot wait for `rustane train`")? {
            Some(status) => self.ended(status).map(Some),
            None => Ok(None),
        }
    }

    /// Waits for it; asks it to save and stop when the user asks that of us.
    pub fn wait(&mut self, stop: &Stop) -> anyhow::Result<Ended> {
        let mut told = false;
        loop {
            if let Some(ended) = self.poll()? {
                return Ok(ended);
            }
            if stop.asked() && !std::mem::replace(&mut told, true) {
                self.ask_to_stop();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks it to save and stop.
    pub fn ask_to_stop(&self) {
        // A process that just ended is no fault.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }

    fn ended(&self, status: ExitStatus) -> anyhow::Result<Ended> {
        if status.success() {
            return Ok(Ended::Outcome(outcome(&self.plan.dir)?));
        }
        if matches!(status.code(), Some(129 | 130 | 143)) {
            return Ok(Ended::Stopped);
        }
        let error = last_words(&self.plan.log());
        Ok(Ended::Outcome(Outcome::Failed { code: status.code(), error }))
    }
}

/// What a finished run directory tells.
fn outcome(dir: &Path) -> anyhow::Result<Outcome> {
    let run = Run::open(dir)?;
    let (Some(step), Some(eval)) = (run.metrics.steps.last(), run.metrics.evals.last()) else {
        let error = format!("{} holds no validation", train::CONFIG);
        return Ok(Outcome::Failed { code: Some(0), error });
    };
    Ok(Outcome::Done {
        val_bpb: eval.val_bpb,
        val_loss: eval.val_loss,
        steps: step.step,
        tokens: step.tokens,
        seconds: step.seconds,
        params: run.config.as_ref().map_or(0, |config| config.model.param_count()),
    })
}

/// The last line of a log; the line with the error where there is one.
fn last_words(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS)))?;
        let mut text = Vec::new();
        file.take(LAST_WORDS).read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    let text = read().unwrap_or_default();
    let error = text.lines().rev().find(|line| line.starts_with("error"));
    error.or_else(|| text.lines().last()).unwrap_or("it said nothing").to_owned()
}

/// A record of what came of a run.
pub fn record(
    plan: &Plan,
    id: &str,
    desc: &str,
    settings: BTreeMap<String, Value>,
    device: &DeviceArgs,
    outcome: Outcome,
) -> Record {
    Record {
        v: 1,
        id: id.into(),
        desc: desc.into(),
        seed: plan.seed,
        budget: plan.budget,
        preset: plan.preset.clone(),
        settings,
        device: device.name(),
        ended: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        outcome,
    }
}

/// Removes weights and optimizer state of a run that is in the ledger; its metrics and settings stay.
pub fn remove_checkpoints(dir: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("step-") {
            let path = entry.path();
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}
