//! One JSON object per line: `{"text"}`, `{"prompt", "completion"}` or `{"messages"}`.
//!
//! Messages become ChatML, `<|im_start|>role\ncontent<|im_end|>\n`, with the two marks as special
//! tokens, so that content which spells a mark cannot end a message.

use std::collections::VecDeque;
use std::io::{BufRead, ErrorKind};
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::block::{Block, Part, ReadBlocks, Tally, split_document};
use super::error::{DataError, Result};
use super::source::ReadOptions;

/// Longest line that is read, in bytes.
const MAX_LINE_BYTES: usize = 100 << 20;

/// The blocks of a file of JSON lines.
pub(super) struct JsonlBlocks<R> {
    reader: R,
    path: PathBuf,
    options: ReadOptions,
    block_bytes: usize,
    line: u64,
    /// Blocks of the line that was read last.
    waiting: VecDeque<Block>,
}

/// How a line ended.
enum Line {
    Whole,
    TooLong,
    None,
}

impl<R: BufRead> JsonlBlocks<R> {
    pub(super) fn new(reader: R, path: PathBuf, options: ReadOptions, block_bytes: usize) -> Self {
        Self { reader, path, options, block_bytes, line: 0, waiting: VecDeque::new() }
    }

    /// Reads a line without its end; what is over the limit is read and dropped.
    fn read_line(&mut self, into: &mut Vec<u8>) -> Result<Line> {
        let mut dropped = false;
        let mut any = false;
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(source) => return Err(DataError::Read { path: self.path.clone(), source }),
            };
            let end = chunk.iter().position(|b| *b == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            any |= !chunk.is_empty();
            dropped |= into.len() + part.len() > MAX_LINE_BYTES;
            if !dropped {
                into.extend_from_slice(part);
            }
            let read = part.len() + usize::from(end.is_some());
            self.reader.consume(read);
            if end.is_some() || read == 0 {
                return Ok(match (any, dropped) {
                    (false, _) => Line::None,
                    (true, true) => Line::TooLong,
                    (true, false) => Line::Whole,
                });
            }
        }
    }

    /// The document of a line; `None` for a blank one.
    fn document(&self, line: &[u8], tally: &mut Tally) -> Result<Option<Vec<Part>>, String> {
        let line = if self.line == 1 { line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line) } else { line };
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        let text = match std::str::from_utf8(line) {
            Ok(text) => std::borrow::Cow::Borrowed(text),
            Err(_) if self.options.lossy => {
                tally.replaced += 1;
                String::from_utf8_lossy(line)
            }
            Err(e) => return Err(format!("not UTF-8 at byte {} of the line", e.valid_up_to())),
        };
        let value: Value = serde_json::from_str(&text).map_err(|e| {
            let reason = e.to_string();
            let reason = reason.split(" at line ").next().unwrap_or_default();
            let hint = if e.is_eof() { "; the line is cut off" } else { "" };
            format!("not JSON at column {}: {reason}{hint}", e.column())
        })?;
        let Value::Object(fields) = value else {
            return Err(format!("{} where an object was wanted", kind(&value)));
        };
        document(fields).map(Some)
    }
}

impl<R: BufRead> ReadBlocks for JsonlBlocks<R> {
    fn next_block(&mut self, tally: &mut Tally) -> Result<Option<Block>> {
        let mut bytes = Vec::new();
        loop {
            if let Some(block) = self.waiting.pop_front() {
                return Ok(Some(block));
            }
            bytes.clear();
            let ended = self.read_line(&mut bytes)?;
            self.line += 1;
            let problem = match ended {
                Line::None if self.line == 1 => {
                    "the file is empty, wanted one JSON object per line".to_string()
                }
                Line::None => return Ok(None),
                Line::TooLong => format!("longer than {} MiB", MAX_LINE_BYTES >> 20),
                Line::Whole => match self.document(&bytes, tally) {
                    Ok(document) => {
                        if let Some(parts) = document {
                            self.waiting = split_document(parts, self.block_bytes);
                        }
                        continue;
                    }
                    Err(problem) => problem,
                },
            };
            let error = DataError::Jsonl { path: self.path.clone(), line: self.line, problem };
            tally.pass_over(error, &self.options)?;
        }
    }
}

fn document(mut fields: Map<String, Value>) -> Result<Vec<Part>, String> {
    if let Some(text) = fields.remove("text") {
        return Ok(vec![Part::Text(string("text", text)?)]);
    }
    if let (Some(prompt), Some(completion)) = (fields.remove("prompt"), fields.remove("completion")) {
        let text = string("prompt", prompt)? + &string("completion", completion)?;
        return Ok(vec![Part::Text(text)]);
    }
    let Some(messages) = fields.remove("messages") else {
        return Err("no field `text`, `messages`, or `prompt` with `completion`".into());
    };
    let Value::Array(messages) = messages else {
        return Err(format!("`messages` is {}, wanted an array", kind(&messages)));
    };
    if messages.is_empty() {
        return Err("`messages` is empty".into());
    }
    let mut parts = Vec::new();
    for (i, mut message) in messages.into_iter().enumerate() {
        let at = |field: &str| format!("messages[{i}].{field}");
        if !message.is_object() {
            return Err(format!("`messages[{i}]` is {}, wanted an object", kind(&message)));
        }
        let role = string(&at("role"), message["role"].take())?;
        let content = match message["content"].take() {
            Value::Array(pieces) => {
                let texts = pieces.into_iter().map(|mut p| {
                    if p["type"] != "text" {
                        return Err(format!("`{}` holds a part that is no text", at("content")));
                    }
                    string(&at("content.text"), p["text"].take())
                });
                texts.collect::<Result<String, String>>()?
            }
            content => string(&at("content"), content)?,
        };
        parts.extend([
            Part::MessageStart,
            Part::Text(format!("{role}\n{content}")),
            Part::MessageEnd,
            Part::Text("\n".into()),
        ]);
    }
    Ok(parts)
}

fn string(name: &str, value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(format!("`{name}` is {}, wanted a string", kind(&other))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "missing or null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
