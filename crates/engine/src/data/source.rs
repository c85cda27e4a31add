//! Which files a path stands for, and how each is read.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::error::{DataError, Result};

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Plain text, UTF-8.
    Text,
    /// One JSON object per line.
    Jsonl,
    /// Parquet with a column of text.
    Parquet,
    /// Tokens with a header: ours or that of llm.c, told apart by their first bytes.
    Tokens,
    /// Tokens of two bytes, little endian, and nothing else. Never guessed.
    U16,
}

impl Format {
    /// Whether the file holds tokens, which are used as they are.
    pub fn is_tokens(self) -> bool {
        matches!(self, Format::Tokens | Format::U16)
    }

    /// The format that a file name tells, below `.gz` or `.zst`.
    fn of(name: &str) -> Option<Format> {
        match name.rsplit_once('.')?.1 {
            "txt" | "text" => Some(Format::Text),
            "jsonl" => Some(Format::Jsonl),
            "parquet" => Some(Format::Parquet),
            "tok" | "bin" => Some(Format::Tokens),
            _ => None,
        }
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Format, String> {
        match name {
            "text" | "txt" => Ok(Format::Text),
            "jsonl" => Ok(Format::Jsonl),
            "parquet" => Ok(Format::Parquet),
            "tokens" => Ok(Format::Tokens),
            "u16" => Ok(Format::U16),
            _ => Err(format!("`{name}` is no format, wanted text, jsonl, parquet, tokens or u16")),
        }
    }
}

/// How a file is compressed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    None,
    /// `.gz`
    Gzip,
    /// `.zst`
    Zstd,
}

/// How files are read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReadOptions {
    /// What every file holds, whatever its name says.
    pub format: Option<Format>,
    /// The text column of Parquet files.
    pub text_column: String,
    /// Replace bytes that are no text by U+FFFD instead of refusing the file.
    pub lossy: bool,
    /// Lines and rows without a document that are passed over before one is an error.
    pub skip_bad: u64,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { format: None, text_column: "text".into(), lossy: false, skip_bad: 0 }
    }
}

/// A file of training data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it holds.
    pub format: Format,
    /// How it is compressed.
    pub packing: Packing,
    /// Length on disk.
    pub bytes: u64,
    /// Time of the last change, nanoseconds since 1970.
    pub modified_ns: u128,
}

/// Deepest nesting of folders that is searched.
const MAX_DEPTH: usize = 32;

/// The data files below `paths`, in the order of their names; folders are searched to the bottom.
///
/// In folders, names that begin with a dot, names of unknown endings and linked folders are passed
/// over; a path given by itself must be readable.
pub fn find(paths: &[PathBuf], options: &ReadOptions) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for path in paths {
        let meta = fs::metadata(path).map_err(DataError::read(path))?;
        if meta.is_dir() {
            let before = files.len();
            walk(path, options, MAX_DEPTH, &mut files)?;
            if files.len() == before {
                return Err(DataError::Input {
                    path: path.clone(),
                    problem: "no data in this folder, wanted .txt, .jsonl, .parquet, .tok or .bin files"
                        .into(),
                });
            }
            continue;
        }
        let file = describe(path, &meta, options)?.ok_or_else(|| DataError::Input {
            path: path.clone(),
            problem: "unknown kind of file, wanted .txt, .jsonl, .parquet, .tok or .bin; name the format with --format"
                .into(),
        })?;
        files.push(file);
    }
    let tokens = files.iter().filter(|f| f.format.is_tokens()).count();
    if tokens != 0 && tokens != files.len() {
        let text = files.iter().find(|f| !f.format.is_tokens()).expect("not all are tokens");
        return Err(DataError::Input {
            path: text.path.clone(),
            problem: "text beside token files; give one kind or the other".into(),
        });
    }
    Ok(files)
}

fn walk(folder: &Path, options: &ReadOptions, depth: usize, files: &mut Vec<SourceFile>) -> Result<()> {
    if depth == 0 {
        return Err(DataError::Input {
            path: folder.into(),
            problem: format!("folders nested more than {MAX_DEPTH} deep"),
        });
    }
    let mut entries = fs::read_dir(folder)
        .and_then(|entries| entries.collect::<std::io::Result<Vec<_>>>())
        .map_err(DataError::read(folder))?;
    entries.sort_by_key(|e| e.file_name());
    for entry in entries {
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        let path = entry.path();
        let kind = entry.file_type().map_err(DataError::read(&path))?;
        if kind.is_dir() {
            walk(&path, options, depth - 1, files)?;
            continue;
        }
        let meta = fs::metadata(&path).map_err(DataError::read(&path))?;
        if meta.is_file() {
            files.extend(describe(&path, &meta, options)?);
        }
    }
    Ok(())
}

fn describe(path: &Path, meta: &fs::Metadata, options: &ReadOptions) -> Result<Option<SourceFile>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let (stem, packing) = if let Some(stem) = name.strip_suffix(".gz") {
        (stem, Packing::Gzip)
    } else if let Some(stem) = name.strip_suffix(".zst") {
        (stem, Packing::Zstd)
    } else {
        (name.as_str(), Packing::None)
    };
    let Some(format) = options.format.or(Format::of(stem)) else { return Ok(None) };
    if packing != Packing::None && !matches!(format, Format::Text | Format::Jsonl) {
        return Err(DataError::Input {
            path: path.into(),
            problem: "only .txt and .jsonl are read compressed; unpack the file first".into(),
        });
    }
    let modified = meta.modified().map_err(DataError::read(path))?;
    Ok(Some(SourceFile {
        path: path.into(),
        format,
        packing,
        bytes: meta.len(),
        modified_ns: modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos(),
    }))
}

/// Opens a text file, unpacking it on the way.
pub(super) fn open(file: &SourceFile) -> Result<Box<dyn BufRead + Send>> {
    let raw = File::open(&file.path).map_err(DataError::read(&file.path))?;
    unpack(raw, file.packing).map_err(DataError::read(&file.path))
}

fn unpack(raw: impl Read + Send + 'static, packing: Packing) -> std::io::Result<Box<dyn BufRead + Send>> {
    const BUFFER: usize = 64 << 10;
    Ok(match packing {
        Packing::None => Box::new(BufReader::with_capacity(BUFFER, raw)),
        Packing::Gzip => Box::new(BufReader::with_capacity(BUFFER, flate2::read::MultiGzDecoder::new(raw))),
        Packing::Zstd => {
            let mut unpacked = zstd::stream::read::Decoder::new(raw)?;
            // 8 MiB is what every packer but `--ultra` and `--long` uses; a file may not ask for more
            // memory than this.
            unpacked.window_log_max(26)?;
            Box::new(BufReader::with_capacity(BUFFER, unpacked))
        }
    })
}
