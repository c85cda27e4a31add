//! Parquet: one column of text, page by page.
//!
//! The `parquet` crate decodes; it may panic or allocate without bound on damaged files, so the
//! footer and every page header are walked first (`thrift.rs`), sizes are capped, and what still
//! panics becomes an error. Rows without a value are passed over.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::block::{Block, Part, ReadBlocks, Tally, split_document};
use super::error::{DataError, Result};
use super::source::ReadOptions;
use super::thrift::Walker;

/// Longest footer that is read: a file of 100,000 row groups stays below.
const MAX_FOOTER_BYTES: u64 = 64 << 20;
/// Largest page, packed or not. Writers aim at 1 MiB.
const MAX_PAGE_BYTES: i64 = 64 << 20;
/// Longest page header; statistics in it can take a while.
const MAX_HEADER_BYTES: u64 = 1 << 20;
/// Rows decoded at a time.
const ROWS: usize = 64;

/// The blocks of the text column of a Parquet file.
pub(super) struct ParquetBlocks {
    path: PathBuf,
    raw: File,
    file: SerializedFileReader<File>,
    /// Index of the text column.
    column: usize,
    /// Whether rows may lack a value.
    nullable: bool,
    next_group: usize,
    /// The row group that is being read, its rows still to come.
    group: Option<(ColumnReaderImpl<ByteArrayType>, i64)>,
    row: u64,
    options: ReadOptions,
    block_bytes: usize,
    rows: VecDeque<(u64, ByteArray)>,
    waiting: VecDeque<Block>,
}

fn bad(path: &Path, problem: impl Into<String>) -> DataError {
    DataError::Parquet { path: path.to_path_buf(), problem: problem.into() }
}

/// Runs `decode` of the `parquet` crate; a panic is an error of the file.
fn guarded<T>(path: &Path, decode: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(bad(path, format!("damaged Parquet: {error}"))),
        Err(_) => {
            Err(bad(path, "damaged Parquet: the decoder gave up; convert it to .jsonl with another program"))
        }
    }
}

impl ParquetBlocks {
    pub(super) fn open(path: &Path, options: ReadOptions, block_bytes: usize) -> Result<ParquetBlocks> {
        let raw = File::open(path).map_err(DataError::read(path))?;
        check_footer(path, &raw)?;
        let again = raw.try_clone().map_err(DataError::read(path))?;
        let file = guarded(path, || SerializedFileReader::new(again))?;
        let schema = file.metadata().file_metadata().schema_descr_ptr();
        let wanted = &options.text_column;
        let names: Vec<String> = schema.columns().iter().map(|c| c.path().string()).collect();
        let Some(column) = names.iter().position(|name| name == wanted) else {
            let nested = names.iter().any(|n| n.split('.').next() == Some(wanted));
            let problem = if nested {
                format!("column `{wanted}` holds nested values, wanted text")
            } else {
                let some = names.iter().take(20).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
                format!("no column `{wanted}`; there are {some}; name one with --text-column")
            };
            return Err(bad(path, problem));
        };
        let descriptor = schema.column(column);
        if descriptor.physical_type() != Type::BYTE_ARRAY {
            let found = descriptor.physical_type();
            return Err(bad(path, format!("column `{wanted}` holds {found}, wanted text (BYTE_ARRAY)")));
        }
        if descriptor.max_rep_level() > 0 || descriptor.max_def_level() > 1 {
            return Err(bad(path, format!("column `{wanted}` holds nested values, wanted text")));
        }
        Ok(ParquetBlocks {
            path: path.to_path_buf(),
            raw,
            column,
            nullable: descriptor.max_def_level() > 0,
            file,
            next_group: 0,
            group: None,
            row: 0,
            options,
            block_bytes,
            rows: VecDeque::new(),
            waiting: VecDeque::new(),
        })
    }

    /// Opens the next row group; `false` behind the last.
    fn open_group(&mut self) -> Result<bool> {
        let index = self.next_group;
        if index >= self.file.metadata().num_row_groups() {
            return Ok(false);
        }
        self.next_group += 1;
        let meta = self.file.metadata().row_group(index);
        let rows = meta.num_rows();
        if self.column >= meta.num_columns() || rows < 0 {
            return Err(bad(
                &self.path,
                format!("row group {index} has {rows} rows and lacks the text column"),
            ));
        }
        let chunk = meta.column(self.column);
        let start = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
        let (Ok(start), Ok(length)) = (u64::try_from(start), u64::try_from(chunk.compressed_size())) else {
            return Err(bad(&self.path, format!("row group {index} lies at a negative place")));
        };
        check_pages(&self.path, &self.raw, (start, length), index)?;
        let reader = guarded(&self.path, || self.file.get_row_group(index)?.get_column_reader(self.column))?;
        let ColumnReader::ByteArrayColumnReader(reader) = reader else {
            return Err(bad(&self.path, "the text column changes its type"));
        };
        self.group = Some((reader, rows));
        Ok(true)
    }

    /// Decodes some rows; `false` when the file is done.
    fn read_rows(&mut self) -> Result<bool> {
        let Some((reader, left)) = &mut self.group else { return self.open_group() };
        if *left == 0 {
            self.group = None;
            return Ok(true);
        }
        let mut levels = Vec::new();
        let mut values = Vec::new();
        let most = usize::try_from(*left).unwrap_or(ROWS).min(ROWS);
        let path = &self.path;
        let nullable = self.nullable;
        let (read, _, _) =
            guarded(path, || reader.read_records(most, nullable.then_some(&mut levels), None, &mut values))?;
        if read == 0 {
            let group = self.next_group - 1;
            return Err(bad(path, format!("row group {group} ends {left} rows early; the file is damaged")));
        }
        *left -= read as i64;
        let mut values = values.into_iter();
        for i in 0..read {
            let row = self.row;
            self.row += 1;
            if nullable && levels.get(i) != Some(&1) {
                continue;
            }
            let Some(value) = values.next() else { return Err(bad(path, format!("row {row} has no value"))) };
            self.rows.push_back((row, value));
        }
        Ok(true)
    }

    fn document(&self, row: u64, value: &ByteArray, tally: &mut Tally) -> Result<Option<String>> {
        if value.is_empty() {
            return Ok(None);
        }
        match std::str::from_utf8(value.data()) {
            Ok(text) => Ok(Some(text.to_string())),
            Err(_) if self.options.lossy => {
                tally.replaced += 1;
                Ok(Some(String::from_utf8_lossy(value.data()).into_owned()))
            }
            Err(e) => {
                let problem = format!("row {row} is not UTF-8 at its byte {}", e.valid_up_to());
                tally.pass_over(bad(&self.path, problem), &self.options)?;
                Ok(None)
            }
        }
    }
}

impl ReadBlocks for ParquetBlocks {
    fn next_block(&mut self, tally: &mut Tally) -> Result<Option<Block>> {
        loop {
            if let Some(block) = self.waiting.pop_front() {
                return Ok(Some(block));
            }
            if let Some((row, value)) = self.rows.pop_front() {
                if let Some(text) = self.document(row, &value, tally)? {
                    self.waiting = split_document(vec![Part::Text(text)], self.block_bytes);
                }
            } else if !self.read_rows()? {
                return Ok(None);
            }
        }
    }
}

/// Checks the two magics, the length of the footer, and its counts.
fn check_footer(path: &Path, raw: &File) -> Result<()> {
    let length = raw.metadata().map_err(DataError::read(path))?.len();
    if length < 12 {
        return Err(bad(path, format!("{length} bytes, a Parquet file has at least 12")));
    }
    let mut head = [0; 4];
    let mut tail = [0; 8];
    raw.read_exact_at(&mut head, 0).map_err(DataError::read(path))?;
    raw.read_exact_at(&mut tail, length - 8).map_err(DataError::read(path))?;
    let [a, b, c, d, magic @ ..] = tail;
    if &magic == b"PARE" {
        return Err(bad(path, "encrypted Parquet is not read"));
    }
    if &head != b"PAR1" || &magic != b"PAR1" {
        let which = if &head == b"PAR1" {
            "does not end with `PAR1`; the file is cut off"
        } else {
            "no Parquet file"
        };
        return Err(bad(path, which));
    }
    let footer = u64::from(u32::from_le_bytes([a, b, c, d]));
    if footer > length - 12 || footer > MAX_FOOTER_BYTES {
        let most = MAX_FOOTER_BYTES.min(length - 12);
        return Err(bad(path, format!("the footer claims {footer} bytes, at most {most} are possible")));
    }
    let mut bytes = vec![0; footer as usize];
    raw.read_exact_at(&mut bytes, length - 8 - footer).map_err(DataError::read(path))?;
    Walker::new(&bytes)
        .walk(&mut |_, _| {})
        .map_err(|problem| bad(path, format!("damaged footer: {problem}")))
}

/// Checks the headers of all pages of a column chunk: sizes inside the file and under the cap.
fn check_pages(path: &Path, raw: &File, (start, length): (u64, u64), group: usize) -> Result<()> {
    let file = raw.metadata().map_err(DataError::read(path))?.len();
    let end = start.checked_add(length).filter(|end| *end <= file).ok_or_else(|| {
        bad(path, format!("row group {group} claims {length} bytes at {start}, the file has {file}"))
    })?;
    let mut at = start;
    let mut bytes = Vec::new();
    while at < end {
        let mut window = 512;
        let (header, page) = loop {
            let length = (end - at).min(window);
            bytes.resize(length as usize, 0);
            raw.read_exact_at(&mut bytes, at).map_err(DataError::read(path))?;
            let mut page = Page::default();
            let mut walker = Walker::new(&bytes);
            match walker.walk(&mut |path, n| page.note(path, n)) {
                Ok(()) => break (walker.position() as u64, page),
                Err(_) if length == window && window < MAX_HEADER_BYTES => window *= 8,
                Err(problem) => {
                    return Err(bad(path, format!("damaged page header at byte {at}: {problem}")));
                }
            }
        };
        let sizes = [page.unpacked, page.packed];
        if sizes.iter().any(|size| !(0..=MAX_PAGE_BYTES).contains(size)) {
            let [unpacked, packed] = sizes;
            return Err(bad(
                path,
                format!(
                    "the page at byte {at} claims {unpacked} bytes, {packed} packed; at most {MAX_PAGE_BYTES} are read"
                ),
            ));
        }
        if page.packed as u64 > end - at - header {
            return Err(bad(path, format!("the page at byte {at} reaches past its row group")));
        }
        // A text takes four bytes of length at least.
        if page.dictionary > page.unpacked / 4 {
            let claims = page.dictionary;
            return Err(bad(
                path,
                format!("the dictionary at byte {at} claims {claims} values in {} bytes", page.unpacked),
            ));
        }
        at += header + page.packed as u64;
    }
    Ok(())
}

/// The numbers of a page header that decide what is allocated.
#[derive(Default)]
struct Page {
    unpacked: i64,
    packed: i64,
    dictionary: i64,
}

impl Page {
    fn note(&mut self, path: &[i64], value: i64) {
        match path {
            [2] => self.unpacked = value,
            [3] => self.packed = value,
            [7, 1] => self.dictionary = value,
            _ => {}
        }
    }
}
