//! A folder of token files and its description.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use model::TokenId;

use super::block::Tally;
use super::error::{DataError, Result};
use super::shard::{Shard, ShardWriter, Vocabulary};
use super::source::Format;
use super::tokens::Tokens;

/// Tokens of a file of ours, about.
const SHARD_TOKENS: u64 = 1 << 28;
/// The description of a folder.
pub(super) const DESCRIPTION: &str = "dataset.json";
pub(super) const VERSION: u32 = 1;

/// What a part of a data set holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartInfo {
    /// File names, in order.
    pub files: Vec<String>,
    /// Tokens, ends of documents among them.
    pub tokens: u64,
    /// Ends of documents.
    pub documents: u64,
    /// Bytes of text.
    pub text_bytes: u64,
}

/// `dataset.json`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetInfo {
    /// Version of the folder's layout.
    pub version: u32,
    /// Hash of everything that decides the content.
    pub fingerprint: String,
    /// Hash of the tokenizer.
    pub tokenizer: String,
    /// Training data.
    pub train: PartInfo,
    /// Validation data.
    pub val: PartInfo,
    /// What was passed over.
    pub tally: Tally,
}

/// Tokens to train and to validate on.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// To train on.
    pub train: Tokens,
    /// To validate on.
    pub val: Tokens,
    /// What is known of a prepared folder; token files given directly have none.
    pub info: Option<DatasetInfo>,
    /// Whether an earlier preparation was used again.
    pub reused: bool,
}

impl Dataset {
    /// Opens a prepared folder.
    pub fn open(folder: &Path, vocabulary: &Vocabulary) -> Result<Dataset> {
        let info = read_description(folder)?;
        let part = |part: &PartInfo| {
            let shards = part.files.iter().map(|name| {
                if name.contains(['/', '\\']) || name.starts_with('.') {
                    let problem = format!("the file name `{name}` leaves the folder");
                    return Err(DataError::Dataset { path: folder.join(DESCRIPTION), problem });
                }
                Shard::open(&folder.join(name), Format::Tokens, vocabulary)
            });
            shards.collect::<Result<Vec<_>>>().map(Tokens::new)
        };
        let (train, val) = (part(&info.train)?, part(&info.val)?);
        for (tokens, part) in [(&train, &info.train), (&val, &info.val)] {
            if tokens.len() != part.tokens {
                let problem = format!("{} tokens are listed, the files hold {}", part.tokens, tokens.len());
                return Err(DataError::Dataset { path: folder.join(DESCRIPTION), problem });
            }
        }
        Ok(Dataset { train, val, info: Some(info), reused: true })
    }
}

/// Writes a part of a data set as one or more files.
pub(super) struct PartWriter<'a> {
    folder: &'a Path,
    name: String,
    vocabulary: Vocabulary,
    eod: TokenId,
    writer: Option<ShardWriter>,
    info: PartInfo,
    in_document: bool,
}

impl<'a> PartWriter<'a> {
    pub fn new(folder: &'a Path, name: String, vocabulary: Vocabulary, eod: TokenId) -> Self {
        Self { folder, name, vocabulary, eod, writer: None, info: PartInfo::default(), in_document: false }
    }

    pub fn push(&mut self, tokens: &[TokenId], text_bytes: u64) -> Result<()> {
        if tokens.is_empty() {
            return Ok(());
        }
        if self.writer.as_ref().is_some_and(|w| w.tokens() >= SHARD_TOKENS) {
            self.end_file()?;
        }
        if self.writer.is_none() {
            let name = format!("{}-{:05}.tok", self.name, self.info.files.len());
            self.writer = Some(ShardWriter::create(&self.folder.join(&name), self.vocabulary, self.eod)?);
            self.info.files.push(name);
        }
        self.in_document = true;
        self.writer.as_mut().expect("opened above").push(tokens, text_bytes)
    }

    pub fn end_document(&mut self, eod: TokenId) -> Result<()> {
        if std::mem::take(&mut self.in_document) {
            self.push(&[eod], 0)?;
            self.in_document = false;
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<()> {
        if let Some(writer) = self.writer.take() {
            self.info.tokens += writer.tokens();
            let counts = writer.finish()?;
            self.info.documents += counts.documents;
            self.info.text_bytes += counts.text_bytes;
        }
        Ok(())
    }

    pub fn finish(mut self) -> Result<PartInfo> {
        self.end_file()?;
        Ok(self.info)
    }
}

pub(super) fn read_description(folder: &Path) -> Result<DatasetInfo> {
    let path = folder.join(DESCRIPTION);
    let text = fs::read(&path).map_err(DataError::read(&path))?;
    let info: DatasetInfo = serde_json::from_slice(&text)
        .map_err(|e| DataError::Dataset { path: path.clone(), problem: e.to_string() })?;
    if info.version != VERSION {
        let problem = format!("version {}, wanted {VERSION}", info.version);
        return Err(DataError::Dataset { path, problem });
    }
    Ok(info)
}

pub(super) fn write_description(folder: &Path, info: &DatasetInfo) -> Result<()> {
    let path = folder.join(DESCRIPTION);
    let temporary = folder.join(format!("{DESCRIPTION}.{}.partial", std::process::id()));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(serde_json::to_string_pretty(info).expect("plain data is JSON").as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(DataError::write(&path))
}

/// Removes the files of earlier preparations, finished or not. What cannot be removed only takes up
/// space.
pub(super) fn remove_others(folder: &Path, info: &DatasetInfo) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let part = (name.starts_with("train-") || name.starts_with("val-")) && name.contains(".tok");
        let description = name.starts_with(DESCRIPTION) && name != DESCRIPTION;
        if (part || description) && !info.train.files.contains(&name) && !info.val.files.contains(&name) {
            let _ = fs::remove_file(entry.path());
        }
    }
}
