//! `rustane data info`: what data files hold.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context;
use engine::data::{
    BLOCK_BYTES, Blocks, Dataset, DatasetInfo, Format, Packing, ReadOptions, Shard, SourceFile, Tally,
    Tokens, Vocabulary, find,
};
use model::hf;
use serde::Serialize;

use crate::commands::generate::load_tokenizer;
use crate::commands::tokenizer::{ReadArgs, print};
use crate::device::bytes;

/// Flags of `rustane data info`.
#[derive(clap::Args)]
pub struct Args {
    /// File, or folder of text, tokens or prepared data
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Check every checksum and token of token files; text is checked in any case
    #[arg(long)]
    verify: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    read: ReadArgs,
}

/// What one file holds; what it does not say is absent.
#[derive(Debug, Serialize)]
struct FileInfo {
    path: PathBuf,
    format: Format,
    packing: &'static str,
    bytes: u64,
    documents: Option<u64>,
    text_bytes: Option<u64>,
    tokens: Option<u64>,
    skipped: u64,
    replaced: u64,
    verified: bool,
    blake3: String,
}

/// A folder that was prepared.
#[derive(Debug, Serialize)]
struct Prepared {
    path: PathBuf,
    info: DatasetInfo,
    verified: bool,
}

/// Looks.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let options = args.read.options();
    let (folders, paths): (Vec<PathBuf>, Vec<PathBuf>) =
        args.paths.iter().cloned().partition(|path| path.join("dataset.json").is_file());
    let prepared = folders.into_iter().map(|folder| look_into(folder, args.verify));
    let prepared = prepared.collect::<anyhow::Result<Vec<_>>>()?;
    let files = if paths.is_empty() { Vec::new() } else { find(&paths, &options)? };
    let files = files.into_iter().map(|file| look_at(file, &options, args.verify));
    let files = files.collect::<anyhow::Result<Vec<_>>>()?;
    if args.json {
        let object = serde_json::json!({"folders": prepared, "files": files});
        return print(&format!("{}\n", serde_json::to_string_pretty(&object).expect("a JSON value is JSON")));
    }
    let text: String = prepared.iter().map(describe_folder).chain(files.iter().map(describe_file)).collect();
    print(&format!("{text}{}", total(&files)))
}

/// Opens a prepared folder with the tokenizer that lies in it, if one does.
fn look_into(path: PathBuf, verify: bool) -> anyhow::Result<Prepared> {
    let dataset = Dataset::open(&path, &vocabulary(&path.join(hf::TOKENIZER))?)?;
    if verify {
        let shards = [&dataset.train, &dataset.val].into_iter().flat_map(Tokens::shards);
        shards.into_iter().try_for_each(Shard::verify)?;
    }
    let info = dataset.info.context("the folder has no description")?;
    Ok(Prepared { path, info, verified: verify })
}

/// The vocabulary that tokens have to be of: any, where no tokenizer lies beside them.
fn vocabulary(tokenizer: &Path) -> anyhow::Result<Vocabulary> {
    if !tokenizer.is_file() {
        return Ok(Vocabulary { hash: None, vocab: u32::MAX as usize });
    }
    Ok(Vocabulary::of(&load_tokenizer(tokenizer)?))
}

fn look_at(file: SourceFile, options: &ReadOptions, verify: bool) -> anyhow::Result<FileInfo> {
    let mut info = FileInfo {
        path: file.path.clone(),
        format: file.format,
        packing: match file.packing {
            Packing::None => "none",
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
        },
        bytes: file.bytes,
        documents: None,
        text_bytes: None,
        tokens: None,
        skipped: 0,
        replaced: 0,
        verified: true,
        blake3: hash(&file.path)?,
    };
    if file.format.is_tokens() {
        let shard =
            Shard::open(&file.path, file.format, &vocabulary(&file.path.with_file_name(hf::TOKENIZER))?)?;
        if verify {
            shard.verify()?;
        }
        info.verified = verify;
        info.tokens = Some(shard.len());
        info.documents = shard.counts().map(|counts| counts.documents);
        info.text_bytes = shard.counts().map(|counts| counts.text_bytes);
        return Ok(info);
    }
    let (mut documents, mut text) = (0, 0);
    let mut blocks = Blocks::new(vec![file], options.clone(), BLOCK_BYTES);
    for block in &mut blocks {
        let block = block?;
        documents += u64::from(block.ends_document);
        text += block.text_bytes() as u64;
    }
    let Tally { skipped, replaced } = blocks.tally();
    Ok(FileInfo { documents: Some(documents), text_bytes: Some(text), skipped, replaced, ..info })
}

fn hash(path: &Path) -> anyhow::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    hasher.update_reader(&mut file).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn describe_folder(folder: &Prepared) -> String {
    let mut text = format!("{}\n  format     prepared tokens\n", folder.path.display());
    for (name, part) in [("train", &folder.info.train), ("val", &folder.info.val)] {
        text += &format!(
            "  {name:<9}  {} tokens, {} documents, {} bytes of text, {} files\n",
            part.tokens,
            part.documents,
            part.text_bytes,
            part.files.len()
        );
    }
    text += &format!("  tokenizer  {}\n  content    {}\n", folder.info.tokenizer, folder.info.fingerprint);
    text + verdict(folder.verified)
}

fn describe_file(file: &FileInfo) -> String {
    let format = serde_json::to_value(file.format).expect("a format is JSON");
    let packing = if file.packing == "none" { String::new() } else { format!(", {}", file.packing) };
    let mut text =
        format!("{}\n  format     {}{packing}\n", file.path.display(), format.as_str().unwrap_or("?"));
    text += &format!("  size       {} bytes\n", file.bytes);
    for (name, count) in [("documents", file.documents), ("text", file.text_bytes), ("tokens", file.tokens)] {
        let unit = if name == "text" { " bytes" } else { "" };
        text += &count.map_or(String::new(), |count| format!("  {name:<9}  {count}{unit}\n"));
    }
    if file.skipped + file.replaced > 0 {
        text +=
            &format!("  faults     {} lines passed over, {} places replaced\n", file.skipped, file.replaced);
    }
    text += &format!("  blake3     {}\n", file.blake3);
    text + verdict(file.verified)
}

fn verdict(verified: bool) -> &'static str {
    if verified {
        "  checked    all of it is sound\n"
    } else {
        "  checked    its header; --verify checks all of it\n"
    }
}

/// Sums over several files.
fn total(files: &[FileInfo]) -> String {
    if files.len() < 2 {
        return String::new();
    }
    let sum = |count: fn(&FileInfo) -> Option<u64>| files.iter().filter_map(count).sum::<u64>();
    format!(
        "{} files, {}: {} documents, {} bytes of text, {} tokens\n",
        files.len(),
        bytes(sum(|f| Some(f.bytes))),
        sum(|f| f.documents),
        sum(|f| f.text_bytes),
        sum(|f| f.tokens)
    )
}
