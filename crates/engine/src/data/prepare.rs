//! From text to a folder of token files, once; then from the folder.
//!
//! ```text
//! files ─▶ Blocks (constant memory) ─▶ encode on all threads ─▶ in order ─▶ train-….tok, val-….tok
//!                                                                           dataset.json, last
//! ```
//!
//! Every `val_every`-th block goes to validation; a block is a document, or a piece of a long one.
//! The folder is used again while the files, the tokenizer and the options are the same. It is whole
//! at every moment: new files get new names and `dataset.json` is replaced at the end.

use std::fs;
use std::path::{Path, PathBuf};

use model::{END_OF_TEXT, Encoder, IM_END, IM_START, SplitPattern, TokenId, Tokenizer, TokenizerError};

use super::block::{Block, Blocks, Part, Tally};
use super::dataset::{
    DESCRIPTION, Dataset, DatasetInfo, PartWriter, VERSION, read_description, remove_others,
    write_description,
};
use super::error::{DataError, Result};
use super::shard::{Shard, Vocabulary, hex};
use super::source::{ReadOptions, SourceFile, find};
use super::stories::Stories;
use super::tokens::Tokens;

/// Largest block of a long document, in bytes.
pub const BLOCK_BYTES: usize = 64 << 10;
/// Smallest block of a text file that is cut for validation.
const LEAST_BLOCK_BYTES: u64 = 256;
/// Text that is encoded at a time, in bytes.
const CHUNK_BYTES: usize = 4 << 20;
/// The file of the ClimbMix corpus that everybody validates on; results on other files do not compare.
/// Source: the repackaging of ClimbMix that nanochat trains on.
const CLIMBMIX_VAL: &str = "shard_06542.parquet";

/// Where training data comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sources {
    /// The built-in corpus.
    Stories {
        /// Which stories.
        seed: u64,
        /// How much text, in bytes.
        bytes: u64,
    },
    /// Files and folders.
    Files {
        /// To train on.
        train: Vec<PathBuf>,
        /// To validate on; a part of the training data when empty.
        val: Vec<PathBuf>,
    },
}

/// How data is prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepareOptions {
    /// How files are read.
    pub read: ReadOptions,
    /// One block in this many goes to validation, unless validation data is given.
    pub val_every: u64,
    /// Threads that encode; the result is the same for any number.
    pub threads: usize,
}

impl Default for PrepareOptions {
    fn default() -> Self {
        Self { read: ReadOptions::default(), val_every: 50, threads: 1 }
    }
}

/// How far preparing has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of text so far.
    pub bytes: u64,
    /// Bytes on disk in all; of text, unless files are packed.
    pub total_bytes: u64,
    /// Tokens so far.
    pub tokens: u64,
}

/// Turns `sources` into a data set in the folder `out`, or opens what is there if it is the same.
///
/// Token files and folders that are prepared already are opened where they are; `out` is not touched.
/// `progress` is called now and then.
pub fn prepare(
    sources: &Sources,
    tokenizer: &Tokenizer,
    options: &PrepareOptions,
    out: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Dataset> {
    let vocabulary = Vocabulary::of(tokenizer);
    if let Some(folder) = prepared_folder(sources) {
        return Dataset::open(folder, &vocabulary);
    }
    let plan = Plan::new(sources, options)?;
    if let Plan::Tokens { train, val } = plan {
        return open_tokens(&train, &val, &vocabulary, options);
    }
    let eod = tokenizer.eos().ok_or_else(|| TokenizerError::NoSuchToken { token: END_OF_TEXT.into() })?;
    let fingerprint = plan.fingerprint(tokenizer, options);
    if read_description(out).is_ok_and(|info| info.fingerprint == fingerprint)
        && let Ok(dataset) = Dataset::open(out, &vocabulary)
    {
        return Ok(dataset);
    }
    fs::create_dir_all(out).map_err(DataError::write(out))?;
    let mut build = Build {
        tokenizer,
        options,
        encoders: (0..options.threads.max(1)).map(|_| tokenizer.encoder()).collect(),
        eod,
        progress: Progress { total_bytes: plan.bytes(), ..Progress::default() },
        report: progress,
    };
    let name = |split: &str| format!("{split}-{}", &fingerprint[..8]);
    let mut train = PartWriter::new(out, name("train"), vocabulary, eod);
    let mut val = PartWriter::new(out, name("val"), vocabulary, eod);
    let (blocks, val_files) = plan.blocks(options);
    let mut tally = build.run(blocks, &mut train, val_files.is_none().then_some(&mut val))?;
    if let Some(blocks) = val_files {
        let more = build.run(blocks, &mut val, None)?;
        tally.skipped += more.skipped;
        tally.replaced += more.replaced;
    }
    let info = DatasetInfo {
        version: VERSION,
        fingerprint,
        tokenizer: hex(&tokenizer.hash()),
        train: train.finish()?,
        val: val.finish()?,
        tally,
    };
    for (split, part) in [("training", &info.train), ("validation", &info.val)] {
        if part.tokens < 2 {
            return Err(DataError::TooShort { split, tokens: part.tokens, needed: 2 });
        }
    }
    write_description(out, &info)?;
    remove_others(out, &info);
    Ok(Dataset { reused: false, ..Dataset::open(out, &vocabulary)? })
}

/// Trains a tokenizer of `vocab` tokens on the first part of every training file, `sample_bytes` of
/// text in all.
pub fn train_tokenizer(
    sources: &Sources,
    read: &ReadOptions,
    vocab: usize,
    split: SplitPattern,
    sample_bytes: u64,
) -> Result<Tokenizer> {
    let options = PrepareOptions { read: read.clone(), ..PrepareOptions::default() };
    let streams: Vec<(Blocks, u64)> = match Plan::new(sources, &options)? {
        Plan::Stories { seed, bytes } => vec![(Blocks::stories(seed, bytes.min(sample_bytes)), sample_bytes)],
        Plan::Text { train, .. } => {
            let share = (sample_bytes / train.len() as u64).max(BLOCK_BYTES as u64);
            let stream = |file| (Blocks::new(vec![file], read.clone(), BLOCK_BYTES), share);
            train.into_iter().map(stream).collect()
        }
        Plan::Tokens { train, .. } => {
            let path = train[0].path.clone();
            let problem = "holds tokens; give the tokenizer.json that made them".into();
            return Err(DataError::Input { path, problem });
        }
    };
    let mut failed = None;
    let texts = streams.into_iter().flat_map(|(blocks, share)| {
        let mut left = share;
        blocks.take_while(move |block| {
            let begun = left > 0;
            left = left.saturating_sub(block.as_ref().map_or(0, |b| b.text_bytes() as u64));
            begun
        })
    });
    let texts = texts.map_while(|block| match block {
        Ok(block) => Some(block.text()),
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    let trained = Tokenizer::train(texts, vocab, split);
    match failed {
        Some(error) => Err(error),
        None => Ok(trained?),
    }
}

/// A folder that `prepare` has written, given as the training data.
fn prepared_folder(sources: &Sources) -> Option<&Path> {
    match sources {
        Sources::Files { train, val } if val.is_empty() => match train.as_slice() {
            [folder] if folder.join(DESCRIPTION).is_file() => Some(folder),
            _ => None,
        },
        _ => None,
    }
}

/// Sources, looked at.
enum Plan {
    Stories { seed: u64, bytes: u64 },
    Text { train: Vec<SourceFile>, val: Vec<SourceFile> },
    Tokens { train: Vec<SourceFile>, val: Vec<SourceFile> },
}

impl Plan {
    fn new(sources: &Sources, options: &PrepareOptions) -> Result<Plan> {
        let (train, val) = match sources {
            Sources::Stories { seed, bytes } => return Ok(Plan::Stories { seed: *seed, bytes: *bytes }),
            Sources::Files { train, val } => (train, val),
        };
        let mut train = find(train, &options.read)?;
        let mut val = find(val, &options.read)?;
        let (Some(first), last) = (train.first(), val.first()) else {
            return Err(DataError::Input {
                path: PathBuf::new(),
                problem: "no training data was given".into(),
            });
        };
        let tokens = first.format.is_tokens();
        if let Some(last) = last
            && last.format.is_tokens() != tokens
        {
            let problem = "text beside token files; give one kind or the other".into();
            return Err(DataError::Input { path: last.path.clone(), problem });
        }
        if val.is_empty() && train.len() > 1 {
            let pinned = |f: &SourceFile| f.path.file_name().is_some_and(|n| n == CLIMBMIX_VAL);
            (val, train) = train.into_iter().partition(pinned);
        }
        Ok(if tokens { Plan::Tokens { train, val } } else { Plan::Text { train, val } })
    }

    fn bytes(&self) -> u64 {
        match self {
            Plan::Stories { bytes, .. } => *bytes,
            Plan::Text { train, val } | Plan::Tokens { train, val } => {
                train.iter().chain(val).map(|f| f.bytes).sum()
            }
        }
    }

    /// Blocks to train on and, when they come from elsewhere, to validate on.
    fn blocks(self, options: &PrepareOptions) -> (Blocks, Option<Blocks>) {
        let block_bytes = self.block_bytes(options);
        match self {
            Plan::Stories { seed, bytes } => (Blocks::stories(seed, bytes), None),
            Plan::Text { train, val } | Plan::Tokens { train, val } => {
                let blocks = |files| Blocks::new(files, options.read.clone(), block_bytes);
                (blocks(train), (!val.is_empty()).then(|| blocks(val)))
            }
        }
    }

    /// Little text is cut finer, so that validation gets a few blocks of it.
    fn block_bytes(&self, options: &PrepareOptions) -> usize {
        let blocks = options.val_every.max(1).saturating_mul(4);
        (self.bytes() / blocks).clamp(LEAST_BLOCK_BYTES, BLOCK_BYTES as u64) as usize
    }

    fn fingerprint(&self, tokenizer: &Tokenizer, options: &PrepareOptions) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&tokenizer.hash());
        let mut add = |text: String| {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        add(format!("{VERSION} {:?} {:?} {}", tokenizer.eos(), options.read, options.val_every));
        match self {
            Plan::Stories { seed, bytes } => {
                add(format!("stories {seed} {bytes}"));
                // A change of the grammar changes what it tells.
                Stories::new(*seed).take(64).for_each(add);
            }
            Plan::Text { train, val } | Plan::Tokens { train, val } => {
                for (part, files) in [("train", train), ("val", val)] {
                    for file in files {
                        add(format!("{part} {file:?}"));
                    }
                }
            }
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// Opens token files where they are. Without validation files, the end of the row is for validation.
fn open_tokens(
    train: &[SourceFile],
    val: &[SourceFile],
    vocabulary: &Vocabulary,
    options: &PrepareOptions,
) -> Result<Dataset> {
    let open = |files: &[SourceFile]| {
        let shards = files.iter().map(|f| Shard::open(&f.path, f.format, vocabulary));
        shards.collect::<Result<Vec<_>>>().map(Tokens::new)
    };
    let all = open(train)?;
    if !val.is_empty() {
        return Ok(Dataset { train: all, val: open(val)?, info: None, reused: true });
    }
    let held = (all.len() / options.val_every.max(1)).max(1024).min(all.len() / 2);
    let cut = all.len() - held;
    Ok(Dataset { train: all.slice(0..cut), val: all.slice(cut..u64::MAX), info: None, reused: true })
}

struct Build<'a, 'b> {
    tokenizer: &'a Tokenizer,
    options: &'a PrepareOptions,
    encoders: Vec<Encoder<'a>>,
    eod: TokenId,
    progress: Progress,
    report: &'b mut dyn FnMut(Progress),
}

impl Build<'_, '_> {
    /// Encodes `blocks` into `train` and, one in `val_every`, into `val`.
    fn run<'p>(
        &mut self,
        mut blocks: Blocks,
        train: &mut PartWriter<'p>,
        mut val: Option<&mut PartWriter<'p>>,
    ) -> Result<Tally> {
        let every = if val.is_some() { self.options.val_every.max(2) } else { u64::MAX };
        let for_val = |index: u64| every < u64::MAX && index % every == 1;
        let mut index = 0u64;
        loop {
            let mut chunk = Vec::new();
            let mut bytes = 0;
            while bytes < CHUNK_BYTES {
                let Some(block) = blocks.next().transpose()? else { break };
                bytes += block.text_bytes();
                chunk.push(block);
            }
            if chunk.is_empty() {
                return Ok(blocks.tally());
            }
            for (block, tokens) in chunk.iter().zip(self.encode(&chunk)?) {
                let part = match &mut val {
                    Some(val) if for_val(index) => &mut **val,
                    _ => &mut *train,
                };
                part.push(&tokens, block.text_bytes() as u64)?;
                // A document that goes on in the other part ends in this one.
                if block.ends_document || for_val(index) != for_val(index + 1) {
                    part.end_document(self.eod)?;
                }
                if block.ends_document && tokens.is_empty() {
                    // The end of a document that is longer than a block, and no text left.
                    train.end_document(self.eod)?;
                    continue;
                }
                index += 1;
                self.progress.tokens += tokens.len() as u64;
            }
            self.progress.bytes += bytes as u64;
            (self.report)(self.progress);
        }
    }

    /// Tokens of each block, on all threads.
    fn encode(&mut self, blocks: &[Block]) -> Result<Vec<Vec<TokenId>>> {
        let tokenizer = self.tokenizer;
        let share = blocks.len().div_ceil(self.encoders.len());
        let work = |encoder: &mut Encoder<'_>, blocks: &[Block]| -> Result<Vec<Vec<TokenId>>> {
            blocks.iter().map(|block| encode_block(tokenizer, encoder, block)).collect()
        };
        if self.encoders.len() == 1 {
            return work(&mut self.encoders[0], blocks);
        }
        std::thread::scope(|scope| {
            let shares = self.encoders.iter_mut().zip(blocks.chunks(share));
            let threads: Vec<_> =
                shares.map(|(encoder, blocks)| scope.spawn(move || work(encoder, blocks))).collect();
            let mut all = Vec::with_capacity(blocks.len());
            for thread in threads {
                all.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(all)
        })
    }
}

fn encode_block(tokenizer: &Tokenizer, encoder: &mut Encoder<'_>, block: &Block) -> Result<Vec<TokenId>> {
    let mut tokens = Vec::new();
    for part in &block.parts {
        let mark = match part {
            Part::Text(text) => {
                encoder.encode(text, &mut tokens)?;
                continue;
            }
            Part::MessageStart => IM_START,
            Part::MessageEnd => IM_END,
        };
        match tokenizer.token(mark) {
            Some(token) => tokens.push(token),
            // A tokenizer without these marks spells them.
            None => encoder.encode(mark, &mut tokens)?,
        }
    }
    Ok(tokens)
}
