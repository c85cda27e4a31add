//! `rustane bench step`: whole training steps.

use std::path::PathBuf;
use std::process::ExitCode;

use backend_cpu::Isa;
use bench::profile::{MOST_SPANS, Profile};
use bench::results::{Case, Quantity};
use bench::{Meter, Power, PowerError, StepSettings};
use engine::config::{OptimizerState, Precision, WeightFormat};
use serde_json::json;

use super::output::OutputArgs;
use super::{peak, peak_memory};
use crate::commands::train::{parse_precision, parse_state, parse_weights};
use crate::commands::{presets, profile};
use crate::device::{DeviceArgs, bytes};
use crate::failure::Failure;
use crate::settings::Layers;

/// Flags of `rustane bench step`.
#[derive(clap::Args)]
pub struct Args {
    /// Shape of the model; `rustane presets ls` lists them
    #[arg(long, default_value = "110m")]
    preset: String,
    /// One setting of that shape, such as model.layers=8; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Tokens of one sequence
    #[arg(long, default_value_t = 256, value_name = "N")]
    seq: usize,
    /// Sequences of one step
    #[arg(long, default_value_t = 1, value_name = "N")]
    batch: usize,
    /// Measured steps
    #[arg(long, default_value_t = 5, value_name = "N")]
    steps: usize,
    /// Steps before them
    #[arg(long, default_value_t = 2, value_name = "N")]
    warmup: usize,
    /// Recompute activations in the backward pass
    #[arg(long)]
    recompute: bool,
    /// Move the weights of each layer in the backward pass
    #[arg(long)]
    update_in_backward: bool,
    /// Measure power too, where this system lets us read it
    #[arg(long)]
    power: bool,
    /// Write a trace of the measured steps, for https://ui.perfetto.dev (or, as .svg, a picture of one), and print where a step's time goes
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Matrix products: f32, bf16 or auto
    #[arg(long, default_value = "f32", value_parser = parse_precision, value_name = "NUMBERS")]
    precision: Precision,
    /// Weights: f32, or bf16 with --precision bf16
    #[arg(long, default_value = "f32", value_parser = parse_weights, value_name = "FORMAT")]
    weights: WeightFormat,
    /// Moments of the optimizer: f32, bf16 or q8
    #[arg(long, default_value = "f32", value_parser = parse_state, value_name = "FORMAT")]
    optimizer_state: OptimizerState,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Measures.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut settings = Layers::new();
    settings.preset(presets::find(&args.preset)?);
    for assignment in &args.set {
        settings.assign(assignment)?;
    }
    let mut config = settings.finish()?;
    config.train.seq = args.seq;
    config.train.batch = args.batch;
    config.train.recompute = args.recompute;
    config.train.update_in_backward = args.update_in_backward;
    config.train.weights = args.weights;
    config.train.precision = args.device.settle(args.precision);
    config.optimizer.state = args.optimizer_state;
    config.model.max_seq = config.model.max_seq.max(args.seq);
    config.validate().map_err(|e| Failure::Usage(e.to_string()))?;
    if args.steps == 0 {
        return Err(Failure::Usage("--steps is 0, wanted at least 1".into()).into());
    }
    let precision = config.train.precision;
    let peak = peak(precision, args.device.threads())?;
    let mut measurement = args.output.begin("whole training steps with AdamW", &args.device)?;
    peak_memory::reset();
    let trainer = args.device.trainer(&config)?;
    let (memory, counts) = (trainer.memory(), trainer.later_counts());
    let protocol = StepSettings { seq: args.seq, batch: args.batch, warmup: args.warmup, steps: args.steps };
    let meter = args.power.then(Meter::start);
    let most = if args.profile.is_some() { MOST_SPANS } else { 0 };
    let (report, spans) = bench::step_recorded(trainer.backend, &protocol, most)?;
    // Over the steps before the measured ones too: they do the same work.
    let power = meter.map(|meter| meter.and_then(Meter::stop));
    let share = report.gflop_per_s / peak;
    if let Some(file) = &args.profile {
        let label = args.device.label();
        let (tokens, seq) = (args.batch * args.seq, args.seq);
        let profile = Profile { spans: &spans, model: &config.model, tokens, seq, device: &label };
        let text = profile::write(file, &profile, &profile::machine(precision, args.device.threads())?)?;
        // Standard output belongs to the one object of --json.
        if args.output.json { eprintln!("{text}") } else { println!("{text}") }
    }
    let mut details = serde_json::to_value(&report)?;
    let extra = json!({
        "preset": args.preset, "set": args.set, "precision": precision, "optimizer_state": args.optimizer_state,
        "recompute": args.recompute, "update_in_backward": args.update_in_backward, "weights": args.weights,
        "kernel": kernel(precision), "memory_bytes": memory, "peak_gflop_per_s": peak, "peak_share": share,
    });
    if let (Some(details), serde_json::Value::Object(extra)) = (details.as_object_mut(), extra) {
        details.extend(extra);
        if let Some(power) = &power {
            details.insert("power".into(), json!(power.as_ref().ok()));
            let why = power.as_ref().err().map(ToString::to_string);
            details.insert("power_not_measured".into(), json!(why));
        }
    }
    let shape = std::iter::once(&args.preset).chain(&args.set).cloned().collect::<Vec<_>>().join("+");
    let mut name = format!("step/{shape}/seq{}/batch{}/{}", args.seq, args.batch, word(&precision));
    if args.optimizer_state != OptimizerState::F32 {
        name += &format!("/moments-{}", word(&args.optimizer_state));
    }
    if args.recompute {
        name += "/recompute";
    }
    if args.update_in_backward {
        name += "/update-in-backward";
    }
    if args.weights != WeightFormat::F32 {
        name += &format!("/weights-{}", word(&args.weights));
    }
    let mut case = Case::new(name, args.device.label(), Quantity::ms("training step"), report.ms.clone());
    case.dispatches = counts();
    case.memory_peak_bytes = peak_memory::read();
    case.details = details;
    measurement.add([case])?;
    if args.output.json {
        measurement.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    let fastest = report.ms.iter().copied().fold(f64::INFINITY, f64::min);
    let slowest = report.ms.iter().copied().fold(0.0, f64::max);
    println!(
        "{shape}: {:.1}M parameters, {} × {} tokens, {}, {}; products on the CPU: {}",
        report.params as f64 / 1e6,
        args.batch,
        args.seq,
        if precision == Precision::Bf16 { "bf16" } else { "f32" },
        args.device.label(),
        kernel(precision)
    );
    for phase in &report.phases {
        println!(
            "  {:<20} {:>9.1} ms  {:>4.1} %",
            phase.phase,
            phase.ms,
            100.0 * phase.ms / report.ms_per_step
        );
    }
    println!(
        "  {:<20} {:>9.1} ms  (median of {}, {fastest:.1} to {slowest:.1})",
        "step",
        report.ms_per_step,
        report.ms.len()
    );
    println!(
        "{:.1} tok/s, {:.1} GFLOP/s = {:.0} % of the {peak:.0} GFLOP/s peak measured now",
        report.tok_per_s,
        report.gflop_per_s,
        100.0 * share
    );
    if let Some(power) = &power {
        println!("power {}", told(power, report.tok_per_s));
    }
    let memory = memory.map_or(String::new(), |n| format!("memory {}, ", bytes(n)));
    println!("{memory}loss {:.4} → {:.4}", report.loss_first, report.loss_last);
    Ok(ExitCode::SUCCESS)
}

/// A setting as files write it, such as `bf16`.
fn word(setting: &impl serde::Serialize) -> String {
    serde_json::to_value(setting).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Power as a line, with the energy of a token over all parts.
fn told(power: &Result<Power, PowerError>, tok_per_s: f64) -> String {
    match power {
        Ok(power) => {
            let parts: Vec<_> =
                power.watts.iter().map(|(part, watts)| format!("{part} {watts:.1} W")).collect();
            let total: f64 = power.watts.iter().map(|(_, watts)| watts).sum();
            format!("{} = {:.3} J per token ({})", parts.join(" + "), total / tok_per_s, power.source)
        }
        Err(error) => format!("not measured: {error}"),
    }
}

/// What multiplies matrices in a precision on this processor.
fn kernel(precision: Precision) -> &'static str {
    let precision =
        if precision == Precision::Bf16 { backend_cpu::Precision::Bf16 } else { backend_cpu::Precision::F32 };
    precision.kernel(Isa::detect())
}
