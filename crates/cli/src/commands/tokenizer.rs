//! `rustane tokenizer`: trains and tries tokenizers.

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use engine::data::{BLOCK_BYTES, Blocks, Format, ReadOptions, Sources, Stories, find, train_tokenizer};
use model::{SplitPattern, TokenId, Tokenizer, hf};

use super::generate::{load_tokenizer, resolve};
use super::train::parse_split;
use crate::device::bytes;
use crate::failure::Failure;

/// Text that is encoded to measure bytes per token, at most.
const MEASURED_BYTES: u64 = 4 << 20;
/// Built-in stories that are encoded when no text is given.
const STORIES: usize = 200;

/// Flags of `rustane tokenizer`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Train a byte-level BPE tokenizer on text
    Train {
        /// File or folder of .txt, .jsonl or .parquet; repeatable
        #[arg(long, required = true, num_args = 1.., value_name = "PATH")]
        data: Vec<PathBuf>,
        /// Tokens in the vocabulary
        #[arg(long, value_name = "N")]
        vocab: usize,
        /// How text is cut into words: gpt2, llama-bpe or qwen2
        #[arg(long, default_value = "gpt2", value_parser = parse_split, value_name = "PATTERN")]
        split: SplitPattern,
        /// The new file, or a folder for it
        #[arg(long, value_name = "FILE|DIR")]
        out: PathBuf,
        /// Text to train on, at most, in bytes
        #[arg(long, default_value_t = 64 << 20, value_name = "N")]
        sample_bytes: u64,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Print the tokens of a text
    Encode {
        /// A tokenizer.json, or a run, checkpoint or folder that holds one
        tokenizer: PathBuf,
        /// The text [default: standard input]
        text: Option<String>,
        /// One line per token, with its piece of the text
        #[arg(long)]
        show: bool,
        /// Names of special tokens in the text stand for these tokens
        #[arg(long)]
        specials: bool,
    },
    /// Print the text of tokens
    Decode {
        /// A tokenizer.json, or a run, checkpoint or folder that holds one
        tokenizer: PathBuf,
        /// Token ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<u32>,
    },
    /// Describe a tokenizer
    Info {
        /// A tokenizer.json, or a run, checkpoint or folder that holds one
        tokenizer: PathBuf,
        /// Text on which bytes per token are measured; repeatable [default: built-in stories]
        #[arg(long, num_args = 1.., value_name = "PATH")]
        data: Vec<PathBuf>,
        #[command(flatten)]
        read: ReadArgs,
    },
}

/// Flags of every command that reads text of any kind.
#[derive(Clone, Debug, clap::Args)]
pub struct ReadArgs {
    /// Format of files whose names do not tell: text, jsonl, parquet, tokens, u16
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Column of parquet files that holds the text
    #[arg(long, default_value = "text", value_name = "NAME")]
    text_column: String,
    /// Replace bytes that are no UTF-8 instead of stopping
    #[arg(long)]
    lossy: bool,
    /// Bad lines of .jsonl files to pass over
    #[arg(long, default_value_t = 0, value_name = "N")]
    skip_bad: u64,
}

impl ReadArgs {
    /// As the engine takes them.
    pub fn options(&self) -> ReadOptions {
        ReadOptions {
            format: self.format,
            text_column: self.text_column.clone(),
            lossy: self.lossy,
            skip_bad: self.skip_bad,
        }
    }
}

/// Runs the action.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Train { data, vocab, split, out, sample_bytes, read } => {
            let sources = Sources::Files { train: data, val: Vec::new() };
            let tokenizer = train_tokenizer(&sources, &read.options(), vocab, split, sample_bytes)?;
            let file = save(&tokenizer, &out)?;
            println!("wrote {}: {} tokens", file.display(), tokenizer.vocab());
            if tokenizer.vocab() < vocab {
                eprintln!("the text has pairs for {} tokens only; more text gives more", tokenizer.vocab());
            }
        }
        Action::Encode { tokenizer, text, show, specials } => {
            let tokenizer = load(&tokenizer)?;
            let text = text.map_or_else(read_stdin, Ok)?;
            let ids =
                if specials { tokenizer.encode_with_specials(&text)? } else { tokenizer.encode(&text)? };
            print(&if show { pieces(&tokenizer, &ids) } else { list(&ids) })?;
        }
        Action::Decode { tokenizer, ids } => {
            let tokenizer = load(&tokenizer)?;
            let ids: Vec<TokenId> = ids.into_iter().map(TokenId).collect();
            if let Some(id) = ids.iter().find(|id| id.0 as usize >= tokenizer.vocab()) {
                let text = format!("token {} is not below the vocabulary of {}", id.0, tokenizer.vocab());
                return Err(Failure::Usage(text).into());
            }
            print(&format!("{}\n", tokenizer.decode(&ids)))?;
        }
        Action::Info { tokenizer, data, read } => print(&info(&load(&tokenizer)?, &data, &read.options())?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Loads a tokenizer from a file, from a folder that holds one, or from a run by its name.
pub fn load(given: &Path) -> anyhow::Result<Tokenizer> {
    let inside = given.join(hf::TOKENIZER);
    let file = if given.is_file() {
        given.to_owned()
    } else if inside.is_file() {
        inside
    } else {
        resolve(Some(given))?.join(hf::TOKENIZER)
    };
    load_tokenizer(&file)
}

/// Writes a tokenizer to a `.json` file, or as `tokenizer.json` into a folder. The file is whole or
/// absent at every moment. Returns where it is.
pub fn save(tokenizer: &Tokenizer, out: &Path) -> anyhow::Result<PathBuf> {
    let is_file = out.is_file() || out.extension().is_some_and(|ending| ending == "json");
    let file = if is_file { out.to_owned() } else { out.join(hf::TOKENIZER) };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut name = file.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = file.with_file_name(name);
    folder
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(&partial, tokenizer.json()))
        .and_then(|()| std::fs::rename(&partial, &file))
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

/// Writes to standard output; a closed pipe is no fault, the reader has enough.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(e).context("cannot write to standard output"),
        _ => Ok(()),
    }
}

fn read_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read text from standard input")?;
    Ok(text)
}

fn list(ids: &[TokenId]) -> String {
    let ids: Vec<String> = ids.iter().map(|id| id.0.to_string()).collect();
    format!("{}\n", ids.join(" "))
}

/// Each token with its text; a token that is only a part of a character shows its name in the file.
fn pieces(tokenizer: &Tokenizer, ids: &[TokenId]) -> String {
    let line = |&id: &TokenId| {
        let text = tokenizer.decode(&[id]);
        let name = tokenizer.name(id).unwrap_or_default();
        let piece = match tokenizer.is_special(id) {
            true => name,
            false if text.contains('\u{fffd}') => format!("{name} (part of a character)"),
            false => format!("{text:?}"),
        };
        format!("{:>7}  {piece}\n", id.0)
    };
    ids.iter().map(line).collect()
}

fn info(tokenizer: &Tokenizer, data: &[PathBuf], read: &ReadOptions) -> anyhow::Result<String> {
    let name = |id: Option<TokenId>| id.and_then(|id| tokenizer.name(id)).unwrap_or_else(|| "none".into());
    let specials: Vec<String> = tokenizer.specials().map(|(name, id)| format!("{name} = {}", id.0)).collect();
    let split = tokenizer.split_pattern().map_or("of its own", SplitPattern::llama_cpp_name);
    let hash: String = tokenizer.hash().iter().map(|byte| format!("{byte:02x}")).collect();
    let (text, tokens, from) = measure(tokenizer, data, read)?;
    let per_token = text as f64 / tokens.max(1) as f64;
    Ok(format!(
        "vocabulary  {}\nspecial     {}\nbegin, end  {}, {}\nsplit       {split}\nhash        {hash}\n\
         text        {per_token:.3} bytes per token, on {} of {from}\n",
        tokenizer.vocab(),
        if specials.is_empty() { "none".into() } else { specials.join(", ") },
        name(tokenizer.bos()),
        name(tokenizer.eos()),
        bytes(text),
    ))
}

/// Bytes of text, the tokens that they make, and what text it was.
fn measure(
    tokenizer: &Tokenizer,
    data: &[PathBuf],
    read: &ReadOptions,
) -> anyhow::Result<(u64, u64, String)> {
    let mut encoder = tokenizer.encoder();
    let (mut bytes, mut tokens) = (0, 0);
    let mut ids = Vec::new();
    let mut add = |text: &str| -> anyhow::Result<u64> {
        ids.clear();
        encoder.encode(text, &mut ids)?;
        bytes += text.len() as u64;
        tokens += ids.len() as u64;
        Ok(bytes)
    };
    if data.is_empty() {
        for story in Stories::new(1).take(STORIES) {
            add(&story)?;
        }
        return Ok((bytes, tokens, "the built-in stories".into()));
    }
    for block in Blocks::new(find(data, read)?, read.clone(), BLOCK_BYTES) {
        if add(&block?.text())? >= MEASURED_BYTES {
            break;
        }
    }
    let names: Vec<String> = data.iter().map(|path| path.display().to_string()).collect();
    Ok((bytes, tokens, names.join(", ")))
}
