//! The flags of `rustane train`, and how they become settings.

use std::path::PathBuf;

use clap::ArgMatches;
use clap::parser::ValueSource;
use engine::config::{
    Classifier, OnNan, OptimizerDevice, OptimizerKind, OptimizerState, Precision, WeightFormat,
};
use engine::data::Format;
use engine::optim::Schedule;
use model::SplitPattern;

use super::text::{DESCRIPTION, TOKENIZER};
use crate::commands::presets;
use crate::device::DeviceArgs;
use crate::failure::Failure;
use crate::settings::{Layers, Origin};

/// Flags of `rustane train`. All settings can be given in a file or by --set as well.
#[derive(clap::Args)]
pub struct Args {
    /// Built-in settings to start from; `rustane presets ls` lists them
    #[arg(long, env = "RUSTANE_PRESET", default_value = "tiny")]
    pub(super) preset: String,
    /// File with settings (TOML)
    #[arg(long, env = "RUSTANE_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// One setting, such as model.dim=256; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,

    /// File or folder of .txt, .jsonl, .parquet or tokens; repeatable [default: built-in stories]
    #[arg(long, env = "RUSTANE_DATA", value_name = "PATH", help_heading = "Data")]
    pub(super) data: Vec<PathBuf>,
    /// File or folder for validation [default: one part in 50 of the data]
    #[arg(long, value_name = "PATH", help_heading = "Data")]
    pub(super) val_data: Vec<PathBuf>,
    /// Format of files whose names do not tell: text, jsonl, parquet, tokens, u16
    #[arg(long, value_parser = parse_format, value_name = "FORMAT", help_heading = "Data")]
    pub(super) format: Option<Format>,
    /// Column of parquet files that holds the text
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    pub(super) text_column: Option<String>,
    /// Replace bytes that are no UTF-8 instead of stopping
    #[arg(long, help_heading = "Data")]
    pub(super) lossy: bool,
    /// Bad lines of .jsonl files to pass over
    #[arg(long, value_name = "N", help_heading = "Data")]
    pub(super) skip_bad: Option<u64>,
    /// An existing tokenizer.json [default: one is trained on the data]
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub(super) tokenizer: Option<PathBuf>,
    /// Tokens in the vocabulary
    #[arg(long, value_name = "N", help_heading = "Data")]
    pub(super) vocab: Option<usize>,

    /// Tokens of one sequence
    #[arg(long, env = "RUSTANE_SEQ", value_name = "N", help_heading = "Length and size")]
    pub(super) seq: Option<usize>,
    /// Sequences of one micro-batch
    #[arg(long, env = "RUSTANE_BATCH", value_name = "N", help_heading = "Length and size")]
    pub(super) batch: Option<usize>,
    /// Micro-batches of one update
    #[arg(long, value_name = "N", help_heading = "Length and size")]
    pub(super) accum: Option<usize>,
    /// Updates of the run
    #[arg(long, alias = "iters", env = "RUSTANE_STEPS", value_name = "N", help_heading = "Length and size")]
    pub(super) steps: Option<u64>,
    /// Tokens of the run
    #[arg(long, value_name = "N", help_heading = "Length and size")]
    pub(super) tokens: Option<u64>,
    /// Time of the run, such as 90s, 30m or 8h; the number of steps is measured
    #[arg(long, value_parser = parse_budget, value_name = "TIME", help_heading = "Length and size")]
    pub(super) budget: Option<u64>,
    /// Recompute activations in the backward pass: less memory, a third more work
    #[arg(long, help_heading = "Length and size")]
    pub(super) recompute: bool,
    /// Move the weights of each layer in the backward pass: memory for the gradients of one layer only
    #[arg(long, help_heading = "Length and size")]
    pub(super) update_in_backward: bool,
    /// How the CPU keeps weights: f32, or bf16 (half the memory; rounded by chance after every update)
    #[arg(long, value_parser = parse_weights, value_name = "FORMAT", help_heading = "Length and size")]
    pub(super) weights: Option<WeightFormat>,
    /// Matrix products on the CPU: f32, bf16 (twice as fast where the processor has it), or auto
    #[arg(long, value_parser = parse_precision, env = "RUSTANE_PRECISION", value_name = "NUMBERS", help_heading = "Length and size")]
    pub(super) precision: Option<Precision>,
    /// Where the logits are computed with --device ane: cpu or device
    #[arg(long, value_parser = parse_classifier, value_name = "WHERE", help_heading = "Length and size")]
    pub(super) classifier: Option<Classifier>,

    /// Rule of the weight matrices: adamw or muon
    #[arg(long, value_parser = parse_optimizer, value_name = "RULE", help_heading = "Optimizer")]
    pub(super) optimizer: Option<OptimizerKind>,
    /// Where gradients become weights: cpu, metal or vulkan; the GPU keeps weights and moments a second time
    #[arg(long, value_parser = parse_optimizer_device, value_name = "WHERE", help_heading = "Optimizer")]
    pub(super) optimizer_device: Option<OptimizerDevice>,
    /// How the moments of the optimizer are kept: f32, bf16 or q8 (8, 4 or 2 bytes per weight)
    #[arg(long, value_parser = parse_state, value_name = "FORMAT", help_heading = "Optimizer")]
    pub(super) optimizer_state: Option<OptimizerState>,
    /// Peak learning rate of AdamW
    #[arg(
        long,
        env = "RUSTANE_LR",
        value_name = "RATE",
        help_heading = "Optimizer",
        allow_negative_numbers = true
    )]
    pub(super) lr: Option<f32>,
    /// Peak learning rate of Muon
    #[arg(long, value_name = "RATE", help_heading = "Optimizer", allow_negative_numbers = true)]
    pub(super) muon_lr: Option<f32>,
    /// Learning rate over the run: cosine, wsd or constant
    #[arg(long, value_parser = parse_schedule, value_name = "SHAPE", help_heading = "Optimizer")]
    pub(super) schedule: Option<Schedule>,
    /// Updates over which the learning rate rises
    #[arg(long, value_name = "N", help_heading = "Optimizer")]
    pub(super) warmup: Option<u64>,
    /// Weight decay of matrices
    #[arg(long, value_name = "X", help_heading = "Optimizer", allow_negative_numbers = true)]
    pub(super) weight_decay: Option<f32>,
    /// Largest norm of the gradient; 0: no limit
    #[arg(long, value_name = "X", help_heading = "Optimizer", allow_negative_numbers = true)]
    pub(super) clip: Option<f32>,
    /// When loss or gradient are not finite: stop, skip or rollback
    #[arg(long, value_parser = parse_on_nan, value_name = "POLICY", help_heading = "Optimizer")]
    pub(super) on_nan: Option<OnNan>,
    /// Decides first weights, order of the data and samples
    #[arg(long, env = "RUSTANE_SEED", value_name = "N", help_heading = "Optimizer")]
    pub(super) seed: Option<u64>,

    /// Steps between validations
    #[arg(long, value_name = "N", help_heading = "On the side")]
    pub(super) eval_every: Option<u64>,
    /// Steps between samples
    #[arg(long, value_name = "N", help_heading = "On the side")]
    pub(super) sample_every: Option<u64>,
    /// What a sample starts with
    #[arg(long, value_name = "TEXT", help_heading = "On the side")]
    pub(super) sample_prompt: Option<String>,
    /// Steps between checkpoints
    #[arg(long, value_name = "N", help_heading = "On the side")]
    pub(super) save_every: Option<u64>,
    /// Newest checkpoints to keep
    #[arg(long, value_name = "N", help_heading = "On the side")]
    pub(super) keep: Option<usize>,
    /// Also write TensorBoard event files
    #[arg(long, help_heading = "On the side")]
    pub(super) tensorboard: bool,

    /// Run directory [default: runs/<date>-<preset>]; an unfinished run in it is continued
    #[arg(long, env = "RUSTANE_OUT", value_name = "DIR", help_heading = "Run")]
    pub(super) out: Option<PathBuf>,
    /// Start over, and delete the run that is in the directory
    #[arg(long, help_heading = "Run")]
    pub(super) fresh: bool,
    /// Continue although settings changed
    #[arg(long, help_heading = "Run")]
    pub(super) allow_drift: bool,
    /// Plan memory, open the data, make one step, write no run
    #[arg(long, help_heading = "Run")]
    pub(super) dry_run: bool,
    /// Write a trace of the first steps, for https://ui.perfetto.dev (or, as .svg, a picture of one), and print where a step's time goes
    #[arg(long, value_name = "FILE", help_heading = "On the side")]
    pub(super) profile: Option<PathBuf>,
    /// Print all settings with their origins, and end
    #[arg(long, help_heading = "Run")]
    pub(super) print_config: bool,
    /// Processes in a row that the device ended before they got anywhere
    #[arg(long, hide = true, default_value_t = 0)]
    pub(super) restarts: u32,
    /// Lines instead of a progress bar
    #[arg(long, help_heading = "Run")]
    pub(super) plain: bool,
    #[command(flatten)]
    pub(super) device: DeviceArgs,
}

/// Default < preset < file < variable < flag.
pub(super) fn layers(args: &Args, given: &ArgMatches) -> anyhow::Result<Layers> {
    let mut layers = Layers::new();
    layers.preset(presets::find(&args.preset)?);
    if let Some(file) = &args.config {
        layers.file(file)?;
    }
    macro_rules! flags {
        ($($flag:ident => $key:literal),* $(,)?) => {$(
            if let Some(origin) = origin(given, stringify!($flag)) {
                layers.set($key, &args.$flag, origin);
            }
        )*};
    }
    let flags: Vec<_> = ["steps", "tokens", "budget"]
        .into_iter()
        .filter(|flag| given.value_source(flag) == Some(ValueSource::CommandLine))
        .collect();
    if let [first, second, ..] = flags[..] {
        let text = format!("--{first} and --{second} both say how long the run is; give one of them");
        return Err(Failure::Usage(text).into());
    }
    // A flag for the length of the run takes the place of every other.
    for (flag, keys) in [
        ("steps", ["train.tokens", "train.budget_s"]),
        ("tokens", ["train.budget_s", ""]),
        ("budget", ["train.tokens", ""]),
    ] {
        if origin(given, flag).is_some() {
            keys.into_iter().for_each(|key| layers.remove(key));
        }
    }
    flags! {
        data => "data.path", val_data => "data.val", format => "data.format", text_column => "data.text_column",
        lossy => "data.lossy", skip_bad => "data.skip_bad", tokenizer => "data.tokenizer", vocab => "model.vocab",
        seq => "train.seq", batch => "train.batch", accum => "train.accum", steps => "train.steps",
        tokens => "train.tokens", budget => "train.budget_s", recompute => "train.recompute",
        update_in_backward => "train.update_in_backward", weights => "train.weights",
        precision => "train.precision", optimizer_state => "optimizer.state",
        optimizer_device => "optimizer.device",
        classifier => "train.classifier",
        optimizer => "optimizer.kind", lr => "optimizer.lr", muon_lr => "optimizer.muon_lr",
        schedule => "optimizer.schedule", warmup => "optimizer.warmup", weight_decay => "optimizer.weight_decay",
        clip => "optimizer.clip", on_nan => "train.on_nan", seed => "train.seed", eval_every => "train.eval_every",
        sample_every => "train.sample_every", sample_prompt => "train.sample_prompt",
        save_every => "train.save_every", keep => "train.keep",
    }
    for assignment in &args.set {
        layers.assign(assignment)?;
    }
    let config = layers.finish()?;
    if config.train.precision == Precision::Auto {
        layers.set("train.precision", args.device.settle(Precision::Auto), Origin::Machine);
    }
    // A folder that was prepared holds the tokenizer that made its tokens.
    if let ([folder], None) = (config.data.path.as_slice(), &config.data.tokenizer)
        && folder.join(DESCRIPTION).is_file()
        && folder.join(TOKENIZER).is_file()
    {
        layers.set("data.tokenizer", folder.join(TOKENIZER), Origin::File(folder.clone()));
    }
    Ok(layers)
}

/// Where the value of a flag comes from; nothing when it was not given.
fn origin(given: &ArgMatches, flag: &str) -> Option<Origin> {
    let name = flag.replace('_', "-");
    match given.value_source(flag)? {
        ValueSource::CommandLine => Some(Origin::Flag(name)),
        ValueSource::EnvVariable => Some(Origin::Variable(format!("RUSTANE_{}", flag.to_uppercase()))),
        _ => None,
    }
}

/// Parses a word as the settings file would.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    let value = toml::Value::String(text.to_owned());
    value.try_into().map_err(|e: toml::de::Error| e.message().trim().to_owned())
}

fn parse_format(text: &str) -> Result<Format, String> {
    word(text)
}

/// Parses a value of `train.precision`.
pub fn parse_precision(text: &str) -> Result<Precision, String> {
    word(text)
}

/// Parses a value of `train.weights`.
pub fn parse_weights(text: &str) -> Result<WeightFormat, String> {
    word(text)
}

/// Parses a value of `optimizer.state`.
pub fn parse_state(text: &str) -> Result<OptimizerState, String> {
    word(text)
}

/// Parses a value of `optimizer.kind`.
pub fn parse_optimizer(text: &str) -> Result<OptimizerKind, String> {
    word(text)
}

fn parse_optimizer_device(text: &str) -> Result<OptimizerDevice, String> {
    word(text)
}

fn parse_schedule(text: &str) -> Result<Schedule, String> {
    word(text)
}

fn parse_classifier(text: &str) -> Result<Classifier, String> {
    word(text)
}

fn parse_on_nan(text: &str) -> Result<OnNan, String> {
    word(text)
}

/// Seconds of a time such as 90s, 30m or 8h.
pub fn parse_budget(text: &str) -> Result<u64, String> {
    let wanted = || format!("`{text}` is no time; wanted such as 90s, 30m or 8h");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        _ => return Err(wanted()),
    };
    let seconds: f64 = digits.parse::<f64>().map_err(|_| wanted())? * f64::from(factor);
    if !(1.0..=1e9).contains(&seconds) {
        return Err(wanted());
    }
    Ok(seconds as u64)
}

/// The split patterns by name, for other commands.
pub fn parse_split(text: &str) -> Result<SplitPattern, String> {
    word(text)
}
