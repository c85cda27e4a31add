//! `rustane generate`: continues a text.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use engine::infer::{self, Finish, Generated};
use model::checkpoint::newest_model;
use model::{Tokenizer, TokenizerError, hf};

use super::sampling::SamplingArgs;
use crate::device::{DeviceArgs, WriterArgs};
use crate::failure::{Failure, unboxed};

/// Flags of `rustane generate`.
#[derive(clap::Args)]
pub struct Args {
    /// A run, a checkpoint or a Hugging Face directory [default: the newest run]
    model: Option<PathBuf>,
    /// Text to continue
    #[arg(long, short, default_value = "")]
    prompt: String,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Say how fast it was
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    writing: WriterArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Writes.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let dir = resolve(args.model.as_deref())?;
    let (loaded, tokenizer) = load(&dir)?;
    let mut prompt: Vec<_> = tokenizer.bos().into_iter().collect();
    prompt.extend(tokenizer.encode_with_specials(&args.prompt)?);
    if prompt.is_empty() {
        return Err(
            Failure::Usage("this tokenizer has no token to begin with; give a --prompt".into()).into()
        );
    }
    if prompt.len() > loaded.config.max_seq {
        let (got, most) = (prompt.len(), loaded.config.max_seq);
        let text = format!("the prompt has {got} tokens, the model reads at most {most}; shorten it");
        return Err(Failure::Usage(text).into());
    }
    let sampling = args.sampling.sampling(loaded.tokens.eos);
    let (mut writer, label) =
        args.device.writer_in(&loaded.config, loaded.weights, &args.writing).map_err(unboxed)?;
    let mut out = std::io::stdout();
    let mut show = |text: &str| out.write_all(text.as_bytes()).and_then(|()| out.flush());
    // A closed pipe is no fault: the reader has enough.
    let mut open = show(&args.prompt).is_ok();
    let done = infer::generate(&mut *writer, &tokenizer, &prompt, &sampling, &mut |piece| {
        open = open && show(piece).is_ok();
        open
    })
    .context("cannot write this text")?;
    if open {
        println!();
    }
    if args.stats {
        eprintln!("{}", told(&done, prompt.len(), &label));
    }
    Ok(ExitCode::SUCCESS)
}

/// How fast a text was written, and why it ended.
pub fn told(done: &Generated, prompt: usize, label: &str) -> String {
    let rate = |n: usize, d: std::time::Duration| n as f64 / d.as_secs_f64().max(1e-9);
    format!(
        "prompt {prompt} tokens at {:.0} tok/s, text {} tokens at {:.0} tok/s, on {label}; ended by {}",
        rate(prompt, done.prefill),
        done.tokens.len(),
        rate(done.tokens.len(), done.decode),
        match done.finish {
            Finish::Eos => "the model",
            Finish::Stop => "a stop text",
            Finish::Length => "its length",
            Finish::Cancelled => "the reader",
        }
    )
}

/// A model and the tokenizer beside it, which may not know tokens that the model does not.
pub fn load(dir: &Path) -> anyhow::Result<(hf::Model, Tokenizer)> {
    let weights = ["model.safetensors", "model.safetensors.index.json"];
    if dir.join(hf::CONFIG).exists() && !weights.iter().any(|name| dir.join(name).symlink_metadata().is_ok())
    {
        let text = format!(
            "{}: neither {} nor {} is there; pickle files such as pytorch_model.bin are never read, convert \
             them to safetensors",
            dir.display(),
            weights[0],
            weights[1]
        );
        return Err(Failure::Data { code: "E3006", text }.into());
    }
    let loaded = hf::load(dir)?;
    let file = dir.join(hf::TOKENIZER);
    let tokenizer = load_tokenizer(&file)?;
    if tokenizer.vocab() > loaded.config.vocab {
        let text = format!(
            "{}: the tokenizer has {} tokens, the model of {} {}; wanted at most as many",
            file.display(),
            tokenizer.vocab(),
            dir.display(),
            loaded.config.vocab
        );
        return Err(Failure::Data { code: "E3020", text }.into());
    }
    Ok((loaded, tokenizer))
}

/// Reads a tokenizer; every error names the file.
pub fn load_tokenizer(file: &Path) -> anyhow::Result<Tokenizer> {
    Tokenizer::load(file).map_err(|error| match error {
        TokenizerError::Read { .. } => error.into(),
        other => anyhow::Error::new(other).context(file.display().to_string()),
    })
}

/// The directory of a model: a path, a name under `runs/`, or the newest run.
pub fn resolve(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let dir = match given {
        Some(path) if path.exists() => path.to_owned(),
        Some(path) => {
            let run = Path::new("runs").join(path);
            if !run.exists() {
                let text = format!("there is no {} and no {}", path.display(), run.display());
                return Err(Failure::Usage(text).into());
            }
            run
        }
        None => newest_run()?,
    };
    Ok(newest_model(&dir)?)
}

fn newest_run() -> Result<PathBuf, Failure> {
    let runs = std::fs::read_dir("runs").into_iter().flatten().flatten().filter_map(|entry| {
        let changed = entry.metadata().ok()?.modified().ok()?;
        newest_model(&entry.path()).ok().map(|_| (changed, entry.path()))
    });
    let newest = runs.max().map(|(_, path)| path);
    newest.ok_or_else(|| Failure::Usage("there is no run in runs/; train one, or name a model".into()))
}
