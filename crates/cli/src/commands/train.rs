//! `rustane train`: a model from scratch, on the built-in stories or on your own text.

mod dry_run;
mod earlier;
mod flags;
mod restart;
mod text;

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use backend::{Span, Timed};
use bench::profile::{MOST_SPANS, Profile};
use clap::ArgMatches;
use engine::RunConfig;
use engine::data::Dataset;
use engine::train::{self, Event, Job, Start};
use model::checkpoint::newest_model;
use model::{RunLock, Weights, hf};

pub use self::flags::{
    Args, parse_budget, parse_optimizer, parse_precision, parse_split, parse_state, parse_weights,
};
pub use self::text::prepare;
use super::plan;
use crate::device::{DeviceArgs, Trainer, bytes};
use crate::failure::Failure;
use crate::paths;
use crate::progress::{Progress, duration, say};
use crate::stop::Stop;
use crate::tensorboard;

/// Name of the settings in a run directory.
pub const CONFIG: &str = "config.toml";

/// Trains.
pub fn run(args: &Args, given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let mut layers = flags::layers(args, given)?;
    let mut config = layers.finish()?;
    // A model that could not be saved is not worth training.
    hf::check(&config.model).map_err(|e| Failure::Usage(e.to_string()))?;
    args.device.check()?;
    args.device.check_classifier(config.train.classifier)?;
    args.device.check_optimizer(&config.optimizer)?;
    if args.print_config {
        // A closed pipe is no fault: the reader has enough.
        let _ = write!(std::io::stdout(), "{layers}");
        return Ok(ExitCode::SUCCESS);
    }
    if args.dry_run {
        return dry_run::dry_run(args, &mut layers);
    }
    let dir = args.out.clone().unwrap_or_else(|| paths::run(&args.preset));
    let lock = RunLock::acquire(&dir)?;
    if args.fresh {
        earlier::remove_run(&dir)?;
    }
    let progress = Progress::new(args.plain);
    let tokenizer = text::tokenizer(&dir, &config, &progress)?;
    config = text::fit_vocabulary(&mut layers, &tokenizer)?;
    if let Some(code) = earlier::check_earlier(&dir, &config, args.allow_drift)? {
        return Ok(code);
    }
    write_file(&dir.join(CONFIG), layers.to_string().as_bytes())?;

    plan::preflight(&args.device, &config)?;
    let data = prepare(&config, &tokenizer, args.device.threads(), &progress)?;
    let trainer = args.device.trainer(&config)?;
    progress.say(&describe(&config, &data, &args.device, &trainer));
    let (ledger, restart_wanted) = (trainer.later_ledger(), trainer.restart_wanted());
    let device = trainer.name(&args.device);
    let backend = trainer.backend;
    let stop = Stop::listen().context("cannot listen for signals")?;
    let infer = |model: &model::ModelConfig, weights: Weights| args.device.writer(model, weights);
    let job = Job {
        config: &config,
        tokenizer: &tokenizer,
        data: &data,
        dir: &dir,
        device: &device,
        stop: &|| stop.asked() || restart_wanted(),
        infer: &infer,
    };
    let board = args.tensorboard.then(|| tensorboard::Writer::create(&dir)).transpose();
    let mut observer = Observer { progress, board: board.context("cannot write TensorBoard files")? };
    let begin = Instant::now();
    let mut steps = 0;
    let mut backend = Timed::new(backend);
    if args.profile.is_some() {
        backend.record(MOST_SPANS);
    }
    let outcome =
        train::start(&mut backend, &job, &mut |event| observer.event(&event)).and_then(|start: Start| {
            train::train(&mut backend, &job, start, &mut |event| {
                steps += u64::from(matches!(event, Event::Step(_)));
                observer.event(&event);
            })
        });
    observer.progress.finish();
    if let Some(line) = ledger() {
        say(&line);
    }
    if let Some(file) = &args.profile {
        say(&profiled(file, backend.spans(), &config, &args.device)?);
    }
    if !stop.asked()
        && let Some(reason) = restart::wanted(restart_wanted(), &outcome)
    {
        drop(lock);
        return Err(restart::again(&dir, &reason, args.restarts, steps, outcome.err()));
    }
    let outcome = outcome?;
    let step = outcome.state.step;
    let newest = newest_model(&dir).unwrap_or_else(|_| dir.clone());
    if outcome.stopped {
        say(&format!("stopped at step {step}; the same command continues: --out {}", dir.display()));
        return Ok(stop.exit_code());
    }
    say(&format!("done: {step} steps in {}; the model is {}", duration(begin.elapsed()), newest.display()));
    say(&format!("try:  rustane generate {} --prompt \"Once\"", dir.display()));
    Ok(ExitCode::SUCCESS)
}

/// The trace of a run, and where a step of it goes.
fn profiled(file: &Path, spans: &[Span], config: &RunConfig, device: &DeviceArgs) -> anyhow::Result<String> {
    let (label, train) = (device.label(), &config.train);
    let (tokens, seq) = (train.batch * train.seq, train.seq);
    let profile = Profile { spans, model: &config.model, tokens, seq, device: &label };
    super::profile::write(file, &profile, &super::profile::machine(train.precision, device.threads())?)
}

/// Writes a file that is whole or absent at every moment, for a run may be killed at any.
fn write_file(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let mut name = OsString::from(".tmp-");
    name.push(path.file_name().unwrap_or_default());
    let temporary = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fail::fail_point!("run::rename");
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn describe(config: &RunConfig, data: &Dataset, device: &DeviceArgs, trainer: &Trainer) -> String {
    let RunConfig { model, train, .. } = config;
    let from = if config.data.path.is_empty() { " of built-in stories" } else { "" };
    format!(
        "model: {:.2}M parameters, {} layers of {} channels, vocabulary {}\n\
         data:  {} tokens{from} to train on, {} to validate on\n\
         run:   {} × {} tokens per step on {}{}{}",
        model.param_count() as f64 / 1e6,
        model.layers,
        model.dim,
        model.vocab,
        data.train.len(),
        data.val.len(),
        train.batch * train.accum,
        train.seq,
        device.label(),
        trainer.updates.as_ref().map_or(String::new(), |gpu| format!(", updates on {gpu}")),
        trainer.memory().map_or(String::new(), |n| format!(", {} of memory", bytes(n)))
    )
}

/// Shows and records what a run tells.
struct Observer {
    progress: Progress,
    board: Option<tensorboard::Writer>,
}

impl Observer {
    fn event(&mut self, event: &Event<'_>) {
        self.progress.event(event);
        let Some(board) = &mut self.board else { return };
        let scalars: Vec<(&str, u64, f64)> = match event {
            Event::Step(s) => vec![
                ("train/loss", s.step, f64::from(s.loss)),
                ("train/grad_norm", s.step, f64::from(s.grad_norm)),
                ("train/lr", s.step, f64::from(s.lr)),
                ("speed/tok_per_s", s.step, s.step_tokens as f64 / s.seconds),
            ],
            Event::Eval { step, stats, .. } => {
                vec![("val/loss", *step, stats.loss), ("val/bpb", *step, stats.bpb)]
            }
            _ => Vec::new(),
        };
        let written =
            scalars.into_iter().try_for_each(|(tag, step, value)| board.scalar(tag, step, value as f32));
        if let Err(error) = written {
            self.progress.say(&format!("warning: no more TensorBoard files: {error}"));
            self.board = None;
        }
    }
}
