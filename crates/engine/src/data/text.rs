//! Plain text: a file is one document, or several with `<|endoftext|>` between them.
//!
//! Line ends become `\n`. A byte order mark of UTF-8 is dropped; UTF-16, NUL and bytes that are no
//! UTF-8 are refused with their place, or replaced when the options say so.

use std::io::{BufRead, ErrorKind};
use std::path::PathBuf;

use model::{END_OF_TEXT, cut};

use super::block::{Block, Part, ReadBlocks, Tally};
use super::error::{DataError, Result};
use super::source::ReadOptions;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// The blocks of a text file.
pub(super) struct TextBlocks<R> {
    reader: R,
    path: PathBuf,
    options: ReadOptions,
    block_bytes: usize,
    /// Bytes read and not yet decoded: the start of a character, or a `\r` whose `\n` may follow.
    tail: Vec<u8>,
    /// Bytes of the file before `tail`.
    offset: u64,
    text: String,
    /// Bytes of `text` that have been given away.
    given: usize,
    at_end: bool,
    in_document: bool,
    behind_mark: bool,
}

impl<R: BufRead> TextBlocks<R> {
    pub(super) fn new(reader: R, path: PathBuf, options: ReadOptions, block_bytes: usize) -> Self {
        Self {
            reader,
            path,
            options,
            block_bytes,
            tail: Vec::new(),
            offset: 0,
            text: String::new(),
            given: 0,
            at_end: false,
            in_document: false,
            behind_mark: false,
        }
    }

    fn bad(&self, at: usize, problem: &str) -> DataError {
        DataError::Text { path: self.path.clone(), offset: self.offset + at as u64, problem: problem.into() }
    }

    /// Reads and decodes until `wanted` bytes of text wait or the file ends.
    fn fill(&mut self, wanted: usize, tally: &mut Tally) -> Result<()> {
        if self.text.len() - self.given >= wanted || self.at_end {
            return Ok(());
        }
        self.text.drain(..self.given);
        self.given = 0;
        while self.text.len() < wanted && !self.at_end {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(source) => return Err(DataError::Read { path: self.path.clone(), source }),
            };
            let read = chunk.len();
            self.tail.extend_from_slice(chunk);
            self.reader.consume(read);
            self.at_end = read == 0;
            if self.offset == 0 && !self.at_end && self.tail.len() < BOM.len() {
                continue;
            }
            self.decode(tally)?;
        }
        Ok(())
    }

    /// Moves what is certain from `tail` to `text`.
    fn decode(&mut self, tally: &mut Tally) -> Result<()> {
        let mut done = 0;
        if self.offset == 0 {
            if self.tail.starts_with(b"\xFF\xFE") || self.tail.starts_with(b"\xFE\xFF") {
                return Err(self.bad(
                    0,
                    "UTF-16 (byte order mark), wanted UTF-8; convert it with `iconv -f UTF-16 -t UTF-8`",
                ));
            }
            if self.tail.starts_with(BOM) {
                done = BOM.len();
            }
        }
        // A line end may be cut in two.
        let certain = self.tail.len() - usize::from(!self.at_end && self.tail.ends_with(b"\r"));
        while done < certain {
            let (valid, skip, problem) = match std::str::from_utf8(&self.tail[done..certain]) {
                Ok(text) => (text.len(), 0, ""),
                Err(e) if e.error_len().is_none() && !self.at_end => {
                    // A character that goes on in the next chunk.
                    let valid = e.valid_up_to();
                    if valid == 0 {
                        break;
                    }
                    (valid, 0, "")
                }
                Err(e) => {
                    let skip = e.error_len().unwrap_or(certain - done - e.valid_up_to());
                    (e.valid_up_to(), skip, "not UTF-8; convert the file, or replace bad bytes with --lossy")
                }
            };
            let text = std::str::from_utf8(&self.tail[done..done + valid]).expect("checked above");
            let nul = text.bytes().position(|b| b == 0);
            if let Some(nul) = nul
                && !self.options.lossy
            {
                return Err(
                    self.bad(done + nul, "a NUL byte; this is no text, or replace such bytes with --lossy")
                );
            }
            let mut lines = text.split("\r\n");
            let first = lines.next().unwrap_or_default();
            let start = self.text.len();
            self.text.push_str(first);
            for line in lines {
                self.text.push('\n');
                self.text.push_str(line);
            }
            if nul.is_some() {
                tally.replaced += self.text[start..].matches('\0').count() as u64;
                let clean = self.text[start..].replace('\0', "\u{FFFD}");
                self.text.truncate(start);
                self.text.push_str(&clean);
            }
            done += valid;
            if skip > 0 {
                if !self.options.lossy {
                    return Err(self.bad(done, problem));
                }
                tally.replaced += 1;
                self.text.push('\u{FFFD}');
                done += skip;
            }
        }
        self.tail.drain(..done);
        self.offset += done as u64;
        Ok(())
    }

    fn give(&mut self, bytes: usize) -> String {
        let text = self.text[self.given..self.given + bytes].to_string();
        self.given += bytes;
        text
    }
}

impl<R: BufRead> ReadBlocks for TextBlocks<R> {
    fn next_block(&mut self, tally: &mut Tally) -> Result<Option<Block>> {
        loop {
            self.fill(self.block_bytes.saturating_add(END_OF_TEXT.len()), tally)?;
            if self.behind_mark {
                let rest = &self.text[self.given..];
                self.given += rest.len() - rest.trim_start_matches('\n').len();
                self.behind_mark = self.given == self.text.len() && !self.at_end;
                if self.behind_mark {
                    continue;
                }
                self.fill(self.block_bytes.saturating_add(END_OF_TEXT.len()), tally)?;
            }
            let rest = &self.text[self.given..];
            if rest.is_empty() {
                let ends = std::mem::take(&mut self.in_document);
                return Ok(ends.then(|| Block { parts: Vec::new(), ends_document: true }));
            }
            let end = cut(rest, self.block_bytes);
            let mark = rest.find(END_OF_TEXT).filter(|at| *at <= end);
            let Some(mark) = mark else {
                self.in_document = true;
                let ends_document = self.at_end && end == rest.len();
                self.in_document = !ends_document;
                return Ok(Some(Block { parts: vec![Part::Text(self.give(end))], ends_document }));
            };
            let mut text = self.give(mark);
            text.truncate(text.trim_end_matches('\n').len());
            self.given += END_OF_TEXT.len();
            self.behind_mark = true;
            let part = (!text.is_empty()).then_some(Part::Text(text));
            if part.is_some() || std::mem::take(&mut self.in_document) {
                self.in_document = false;
                return Ok(Some(Block { parts: part.into_iter().collect(), ends_document: true }));
            }
        }
    }
}
