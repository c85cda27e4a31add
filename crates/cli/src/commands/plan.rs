//! `rustane plan`: what a model takes before it runs.

mod check;
mod lora;
mod measure;
mod serve;
mod show;
mod table;
mod target;
mod train;

use std::process::ExitCode;

use engine::config::{OptimizerKind, OptimizerState, Precision, WeightFormat};

pub use self::train::preflight;
use super::train::{parse_optimizer, parse_precision, parse_state, parse_weights};
use crate::commands::doctor::machine;
use crate::device::{DeviceArgs, WhichChip};
use crate::format::{Held, held};

/// Flags of `rustane plan`.
#[derive(clap::Args)]
pub struct Args {
    /// A preset, a settings file (TOML), a run, or a Hugging Face directory
    #[arg(value_name = "MODEL", default_value = "tiny")]
    model: String,
    /// Plan training; this is what happens when nothing is said
    #[arg(long, group = "purpose")]
    train: bool,
    /// Plan writing: weights, keys and values
    #[arg(long, group = "purpose")]
    serve: bool,
    /// Plan fine-tuning by low-rank adapters (LoRA) on the CPU: an estimate, as nothing here trains them yet
    #[arg(long, group = "purpose")]
    lora: bool,
    /// Rank of the adapters
    #[arg(long, value_name = "N", default_value = "16", requires = "lora", help_heading = "LoRA")]
    rank: std::num::NonZeroUsize,
    /// Memory of the machine, such as 18G, a tenth of which (2 GiB at least) is left to its system
    /// [default: what is free here]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    ram: Option<u64>,
    /// One setting, such as model.dim=256; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Tokens of one sequence
    #[arg(long, value_name = "N", help_heading = "Training")]
    seq: Option<usize>,
    /// Sequences of one micro-batch
    #[arg(long, value_name = "N", help_heading = "Training")]
    batch: Option<usize>,
    /// Recompute activations in the backward pass
    #[arg(long, help_heading = "Training")]
    recompute: bool,
    /// Matrix products on the CPU: f32, bf16 or auto
    #[arg(long, value_parser = parse_precision, value_name = "NUMBERS", help_heading = "Training")]
    precision: Option<Precision>,
    /// Move the weights of each layer in the backward pass
    #[arg(long, help_heading = "Training")]
    update_in_backward: bool,
    /// Weights: f32, or bf16 with --precision bf16
    #[arg(long, value_parser = parse_weights, value_name = "FORMAT", help_heading = "Training")]
    weights: Option<WeightFormat>,
    /// Moments of the optimizer: f32, bf16 or q8
    #[arg(long, value_parser = parse_state, value_name = "FORMAT", help_heading = "Training")]
    optimizer_state: Option<OptimizerState>,
    /// Rule of the weight matrices: adamw or muon
    #[arg(long, value_parser = parse_optimizer, value_name = "RULE", help_heading = "Training")]
    optimizer: Option<OptimizerKind>,
    /// Take two steps on random tokens, and set the memory at the peak beside the prediction
    #[arg(long, help_heading = "Training")]
    measure: bool,
    /// Positions of each sequence [default: those of the model]
    #[arg(long, value_name = "N", help_heading = "Serving")]
    context: Option<usize>,
    /// Sequences at a time
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Serving")]
    sequences: usize,
    /// How weights are held: f32 (the CPU), f16 (a GPU), bf16, q8_0 or q4_0 [default: f32 on the CPU, f16 on a GPU]
    #[arg(long, value_name = "FORMAT", value_parser = held, help_heading = "Serving")]
    format: Option<Held>,
    /// Measure the first N of 30 configurations, each in a process of its own, beside their predictions
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "30", help_heading = "All models")]
    check: Option<usize>,
    /// What trains and what runs forward on Apple's machines, in Markdown
    #[arg(long, help_heading = "All models")]
    table: bool,
    /// One JSON object; of --check in the schema of results/ (docs/benchmarks.md)
    #[arg(long)]
    json: bool,
    /// Write what --check measures to a file too, after each configuration, in that schema; it must not be there yet
    #[arg(long, value_name = "FILE", requires = "check")]
    out: Option<std::path::PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Plans.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.table {
        print!("{}", table::markdown(&args.device)?);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(count) = args.check {
        return check::run(args, count);
    }
    let target = target::resolve(args)?;
    if args.lora {
        return lora::run(args, &target);
    }
    if args.serve {
        return serve::run(args, &target);
    }
    if args.measure {
        return measure::run(args, &target);
    }
    train::run(args, &target)
}

/// Bytes of a size such as 18G or 512M, in powers of 1024 as memory is sold.
fn size(text: &str) -> Result<u64, String> {
    let wanted = || format!("`{text}` is no size; wanted such as 18G or 512M");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "g" | "gb" | "gib" => 30,
        "m" | "mb" | "mib" => 20,
        "t" | "tb" | "tib" => 40,
        _ => return Err(wanted()),
    };
    let number: f64 = digits.parse().map_err(|_| wanted())?;
    if !(number > 0.0 && number < 1e6) {
        return Err(wanted());
    }
    Ok((number * (1u64 << unit) as f64) as u64)
}

/// Memory to fit into: of a machine, less what its system needs; or what is free here.
fn limit(args: &Args) -> Option<u64> {
    match args.ram {
        Some(ram) => Some(usable(ram)),
        // A Mac does not tell what is free.
        None if args.device.chip == Some(WhichChip::This) => {
            crate::device::available_memory().or_else(|| machine::apple_memory().map(usable))
        }
        None => crate::device::available_memory(),
    }
}

/// What a machine of so much memory has for a model: all but a tenth, and 2 GiB at least, for its system. A
/// rule of thumb, not a measurement.
fn usable(ram: u64) -> u64 {
    ram.saturating_sub((ram / 10).max(2 << 30))
}
