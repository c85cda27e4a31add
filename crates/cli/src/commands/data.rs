//! `rustane data`: fetches, prepares and inspects training data.

mod info;
mod pull;

use std::fs::File;
use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use engine::data::{DatasetInfo, PrepareOptions, Progress, Sources, Stories, find, prepare, train_tokenizer};
use indicatif::{ProgressBar, ProgressStyle};
use model::{END_OF_TEXT, SplitPattern, Tokenizer, hf};

use super::tokenizer::{ReadArgs, load, save};
use super::train::parse_split;
use crate::device::bytes;
use crate::failure::Failure;

/// Text that a tokenizer is trained on, at most.
const TOKENIZER_BYTES: u64 = 64 << 20;
/// Text between two plain lines of progress.
const LINE_EVERY: u64 = 256 << 20;

/// Flags of `rustane data`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Download a data set from the Hugging Face hub into its cache
    Pull(pull::Args),
    /// Turn text into a folder of tokens with their tokenizer
    Prepare(PrepareArgs),
    /// Print the built-in corpus
    Stories {
        /// Text, in bytes, at least; 500k, 12M and 1G are understood
        #[arg(long, value_parser = parse_bytes, value_name = "N")]
        bytes: u64,
        /// Which stories; training reads those of 1
        #[arg(long, default_value_t = 1, value_name = "N")]
        seed: u64,
        /// The new file [default: standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Say what data files hold
    Info(info::Args),
}

#[derive(clap::Args)]
struct PrepareArgs {
    /// File or folder of .txt, .jsonl or .parquet; repeatable
    #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
    data: Vec<PathBuf>,
    /// File or folder for validation; repeatable [default: one part in 50 of the data]
    #[arg(long, num_args = 1.., value_name = "PATH")]
    val: Vec<PathBuf>,
    /// An existing tokenizer.json, or a run that has one
    #[arg(long, value_name = "FILE", required_unless_present = "vocab", conflicts_with = "vocab")]
    tokenizer: Option<PathBuf>,
    /// Train a tokenizer of so many tokens on the data
    #[arg(long, value_name = "N")]
    vocab: Option<usize>,
    /// How a trained tokenizer cuts text into words: gpt2, llama-bpe or qwen2
    #[arg(long, default_value = "gpt2", value_parser = parse_split, value_name = "PATTERN")]
    split: SplitPattern,
    /// One block in this many goes to validation
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    val_every: u64,
    /// The folder
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    read: ReadArgs,
}

/// Runs the action.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Pull(args) => return pull::run(&args),
        Action::Prepare(args) => prepare_folder(args)?,
        Action::Stories { bytes, seed, out } => stories(bytes, seed, out.as_deref())?,
        Action::Info(args) => info::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn prepare_folder(args: PrepareArgs) -> anyhow::Result<()> {
    let read = args.read.options();
    if let Some(path) = args.data.iter().chain(&args.val).find(|path| path.join("dataset.json").is_file()) {
        return Err(prepared_already(path));
    }
    if let Some(file) = find(&args.data, &read)?.iter().find(|file| file.format.is_tokens()) {
        return Err(prepared_already(&file.path));
    }
    let sources = Sources::Files { train: args.data, val: args.val };
    let tokenizer = match (&args.tokenizer, args.vocab) {
        (Some(file), _) => load(file)?,
        (None, vocab) => {
            let vocab = vocab.unwrap_or_default();
            eprintln!("training a tokenizer of {vocab} tokens");
            train_tokenizer(&sources, &read, vocab, args.split, TOKENIZER_BYTES)?
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let options = PrepareOptions { read, val_every: args.val_every, threads };
    let mut meter = Meter::new();
    let dataset = prepare(&sources, &tokenizer, &options, &args.out, &mut |p| meter.show(&p))?;
    meter.finish();
    // After the tokens: a folder whose preparation was cut short has no new tokenizer over old tokens.
    save_beside(&tokenizer, &args.out)?;
    let info = dataset.info.context("the folder has no description")?;
    report(&args.out, &info, dataset.reused);
    println!("train with: rustane train --data {}", args.out.display());
    Ok(())
}

fn prepared_already(path: &Path) -> anyhow::Error {
    let path = path.display();
    Failure::Usage(format!("{path} holds tokens already; train on it with `rustane train --data {path}`"))
        .into()
}

fn save_beside(tokenizer: &Tokenizer, folder: &Path) -> anyhow::Result<()> {
    let file = folder.join(hf::TOKENIZER);
    if !std::fs::read(&file).is_ok_and(|text| text == tokenizer.json()) {
        save(tokenizer, &file)?;
    }
    Ok(())
}

fn report(folder: &Path, info: &DatasetInfo, reused: bool) {
    let what = if reused { "is up to date" } else { "is ready" };
    println!("{} {what}", folder.display());
    for (name, part) in [("train", &info.train), ("val", &info.val)] {
        println!(
            "{name:<6} {} tokens, {} documents, {} of text, {} files",
            part.tokens,
            part.documents,
            bytes(part.text_bytes),
            part.files.len()
        );
    }
    if info.tally.skipped + info.tally.replaced > 0 {
        println!("passed over {} bad lines, replaced {} bytes", info.tally.skipped, info.tally.replaced);
    }
}

/// A bar on a terminal, a line now and then elsewhere.
struct Meter {
    bar: Option<ProgressBar>,
    next_line: u64,
}

impl Meter {
    fn new() -> Self {
        Self { bar: terminal_bar("{bar:28.green/dim} {bytes}/{total_bytes} {msg}"), next_line: LINE_EVERY }
    }

    fn show(&mut self, p: &Progress) {
        if let Some(bar) = &self.bar {
            // Packed text is longer than its files.
            bar.set_length(p.total_bytes.max(p.bytes));
            bar.set_position(p.bytes);
            bar.set_message(format!("{} tokens", p.tokens));
        } else if p.bytes >= self.next_line {
            self.next_line = p.bytes + LINE_EVERY;
            eprintln!("encoding: {} of {}, {} tokens", bytes(p.bytes), bytes(p.total_bytes), p.tokens);
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A bar where standard error is a terminal and nobody asked for plain text.
fn terminal_bar(template: &str) -> Option<ProgressBar> {
    let terminal = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let style = ProgressStyle::with_template(template).expect("the template is valid").progress_chars("━╸─");
    terminal.then(|| ProgressBar::new(0).with_style(style))
}

fn stories(bytes: u64, seed: u64, out: Option<&Path>) -> anyhow::Result<()> {
    let Some(path) = out else {
        return match tell(bytes, seed, &mut std::io::stdout().lock()) {
            // A closed pipe is no fault: the reader has enough.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
            told => told.map(|_| ()).context("cannot write to standard output"),
        };
    };
    let context = || format!("cannot write {}", path.display());
    let file = match File::create_new(path) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            let text = format!("{} is there already; name another file", path.display());
            return Err(Failure::Usage(text).into());
        }
        file => file.with_context(context)?,
    };
    let told = tell(bytes, seed, &mut BufWriter::new(file)).with_context(context)?;
    println!("wrote {}: {told} stories", path.display());
    Ok(())
}

/// Writes stories until there are `bytes` of text, and returns how many they are.
fn tell(bytes: u64, seed: u64, out: &mut dyn Write) -> std::io::Result<u64> {
    let (mut left, mut told) = (bytes, 0);
    for story in Stories::new(seed) {
        if left == 0 {
            break;
        }
        left = left.saturating_sub(story.len() as u64);
        told += 1;
        writeln!(out, "{story}\n{END_OF_TEXT}")?;
    }
    out.flush()?;
    Ok(told)
}

/// A number of bytes such as 4096, 500k, 12M or 1G.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => Some(1u64),
        "k" | "kb" => Some(1_000),
        "m" | "mb" => Some(1_000_000),
        "g" | "gb" => Some(1_000_000_000),
        _ => None,
    };
    let number = digits.parse::<u64>().ok();
    let product = number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    product.ok_or_else(|| "wanted a number of bytes, such as 4096, 500k, 12M or 1G".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes() {
        for (text, wanted) in
            [("0", 0), ("4096", 4096), ("500k", 500_000), ("12M", 12_000_000), ("1GB", 1_000_000_000)]
        {
            assert_eq!(parse_bytes(text), Ok(wanted), "{text}");
        }
        for text in ["", "M", "-1", "1.5M", "12 M", "1X", "99999999999G", "é"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
