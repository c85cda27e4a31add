//! `rustane eval`: loss, perplexity and bits per byte on text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use backend::{Feed, SeqId, Slot, Train};
use engine::RunConfig;
use engine::data::Validation;
use engine::train::evaluate;
use model::safetensors::{self, Entry, Float};
use model::{Params, TokenId, from_fn, hf};
use serde_json::json;

use super::generate::{load, resolve};
use super::train::{CONFIG, prepare};
use crate::device::DeviceArgs;
use crate::failure::{self, Failure, unboxed};
use crate::progress::Progress;

/// Flags of `rustane eval`.
#[derive(clap::Args)]
pub struct Args {
    /// A run, a checkpoint or a Hugging Face directory [default: the newest run]
    model: Option<PathBuf>,
    /// File or folder of text [default: the validation data of the run]
    #[arg(long, value_name = "PATH")]
    data: Vec<PathBuf>,
    /// Tokens to measure, at most
    #[arg(long, default_value_t = 1 << 20, value_name = "N")]
    tokens: u64,
    /// Tokens of one sequence [default: as in training, or 512]
    #[arg(long, value_name = "N")]
    seq: Option<usize>,
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// Write the first sequence and its logits to a safetensors file, to compare with other programs
    #[arg(long, value_name = "FILE")]
    logits: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Measures.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(file) = &args.logits {
        failure::absent("logits", file)?;
    }
    let dir = resolve(args.model.as_deref())?;
    let (loaded, tokenizer) = load(&dir)?;
    let mut config = settings(&dir, &args)?;
    config.model = loaded.config.clone();
    config.train.seq = args.seq.unwrap_or(config.train.seq).min(config.model.max_seq);
    config.validate().map_err(|e| Failure::Usage(e.to_string()))?;
    let data = prepare(&config, &tokenizer, args.device.threads(), &Progress::new(true))?;
    let validation = Validation::new(data.val, tokenizer.byte_lens(), config.train.seq, config.train.batch)?;
    if let Some(file) = &args.logits {
        let batch = validation.batch(0)?.batch;
        let first = &batch.tokens[..batch.seq];
        write_logits(file, first, &args.device, &loaded)?;
    }
    let mut backend = args.device.trainer(&config)?.backend;
    for p in &Params::new(&config.model) {
        backend.write(p.id, Slot::Weight, loaded.weights.get(p.id))?;
    }
    let stats = evaluate(&mut backend, &validation, args.tokens)?;
    if args.json {
        let object = json!({
            "model": dir, "loss": stats.loss, "perplexity": stats.perplexity(), "bpb": stats.bpb,
            "tokens": stats.tokens, "bytes": stats.bytes, "seq": config.train.seq, "device": args.device.label(),
        });
        println!("{object}");
    } else {
        println!("model       {}", dir.display());
        println!(
            "text        {} tokens, {} bytes, in sequences of {}",
            stats.tokens, stats.bytes, config.train.seq
        );
        println!("loss        {:.4} nats per token", stats.loss);
        println!("perplexity  {:.3}", stats.perplexity());
        println!("bpb         {:.4} bits per byte", stats.bpb);
    }
    Ok(ExitCode::SUCCESS)
}

/// The settings of the run that the model belongs to, or defaults with the text that is given.
fn settings(dir: &Path, args: &Args) -> anyhow::Result<RunConfig> {
    let run = dir.parent().map(|run| run.join(CONFIG)).filter(|file| file.exists());
    let mut config = match run {
        Some(file) => {
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            toml::from_str(&text).with_context(|| format!("{} is damaged", file.display()))?
        }
        None if args.data.is_empty() => {
            let text = format!("{} belongs to no run; name a text with --data", dir.display());
            return Err(Failure::Usage(text).into());
        }
        None => {
            let mut config = RunConfig::default();
            config.train.seq = 512;
            config.train.batch = 4;
            config
        }
    };
    if !args.data.is_empty() {
        // Text that is given is measured as a whole, not only the part that validation would take.
        config.data.path = args.data.clone();
        config.data.val = args.data.clone();
        config.data.val_every = 2;
    }
    Ok(config)
}

/// Tokens and the logits after each of them, through prefill and decode.
fn write_logits(
    file: &Path,
    tokens: &[TokenId],
    device: &DeviceArgs,
    loaded: &hf::Model,
) -> anyhow::Result<()> {
    let mut writer = device.writer(&loaded.config, loaded.weights.clone()).map_err(unboxed)?;
    let (kv, first) = writer.prefill(&tokens[..1])?;
    let mut logits = first.values;
    if tokens.len() > 1 {
        writer.seed(SeqId(0), &kv)?;
        logits.extend(writer.extend(&[Feed { seq: SeqId(0), tokens: &tokens[1..] }])?.values);
    }
    let entry = |name: &str, shape: Vec<usize>| Entry { name: name.into(), float: Float::F32, shape };
    let entries = [
        entry("logits", vec![tokens.len(), loaded.config.vocab]),
        // Whole numbers below 2^24 are exact in f32.
        entry("tokens", vec![1, tokens.len()]),
    ];
    let ids: Vec<f32> = tokens.iter().map(|t| t.0 as f32).collect();
    let mut source =
        from_fn(|i: usize| Ok(if i == 0 { logits.as_slice().into() } else { ids.as_slice().into() }));
    safetensors::write(file, &BTreeMap::new(), &entries, &mut source)?;
    Ok(())
}
