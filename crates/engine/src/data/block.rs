//! Documents as a stream of bounded pieces, whatever file they come from.

use std::collections::VecDeque;

use model::cut;

use super::error::{DataError, Result};
use super::jsonl::JsonlBlocks;
use super::parquet::ParquetBlocks;
use super::prepare::BLOCK_BYTES;
use super::source::{Format, ReadOptions, SourceFile, open};
use super::stories::Stories;
use super::text::TextBlocks;

/// A stretch of a document: text, or a mark that no text can forge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text.
    Text(String),
    /// Begins a chat message.
    MessageStart,
    /// Ends a chat message.
    MessageEnd,
}

/// A document, or a piece of a long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its content, in order.
    pub parts: Vec<Part>,
    /// Whether the document ends here.
    pub ends_document: bool,
}

impl Block {
    /// A whole document of text.
    pub fn document(text: impl Into<String>) -> Block {
        Block { parts: vec![Part::Text(text.into())], ends_document: true }
    }

    /// Bytes of text.
    pub fn text_bytes(&self) -> usize {
        self.parts.iter().map(|p| if let Part::Text(t) = p { t.len() } else { 0 }).sum()
    }

    /// The text alone, marks left out.
    pub fn text(&self) -> String {
        self.parts
            .iter()
            .filter_map(|p| if let Part::Text(t) = p { Some(t.as_str()) } else { None })
            .collect()
    }
}

/// What was passed over while reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// Lines and rows without a document.
    pub skipped: u64,
    /// Places where bytes that are no text were replaced.
    pub replaced: u64,
}

impl Tally {
    /// Counts a bad line, or returns its error when enough have been passed over.
    pub(super) fn pass_over(&mut self, error: DataError, options: &ReadOptions) -> Result<()> {
        if self.skipped >= options.skip_bad {
            return Err(error);
        }
        self.skipped += 1;
        Ok(())
    }
}

/// A file that gives its documents block by block.
pub(super) trait ReadBlocks {
    fn next_block(&mut self, tally: &mut Tally) -> Result<Option<Block>>;
}

/// The documents of some files, one file after the other, in constant memory.
///
/// Blocks of plain text are at most `block_bytes` long, those of other files at most
/// [`BLOCK_BYTES`] or that; documents never join. After an error the stream
/// ends.
pub struct Blocks {
    files: VecDeque<SourceFile>,
    options: ReadOptions,
    block_bytes: usize,
    current: Option<Box<dyn ReadBlocks + Send>>,
    tally: Tally,
}

impl Blocks {
    /// Reads `files`, which hold text of one kind or another.
    pub fn new(files: Vec<SourceFile>, options: ReadOptions, block_bytes: usize) -> Blocks {
        let block_bytes = block_bytes.max(1);
        Blocks { files: files.into(), options, block_bytes, current: None, tally: Tally::default() }
    }

    /// The built-in corpus: at least `bytes` of text of the stories of `seed`.
    pub fn stories(seed: u64, bytes: u64) -> Blocks {
        let mut blocks = Blocks::new(Vec::new(), ReadOptions::default(), usize::MAX);
        blocks.current = Some(Box::new(StoryBlocks { stories: Stories::new(seed), left: bytes }));
        blocks
    }

    /// What has been passed over so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    fn open(&self, file: SourceFile) -> Result<Box<dyn ReadBlocks + Send>> {
        // Documents of other files have ends of their own, and only very long ones are cut.
        let (options, block_bytes) = (self.options.clone(), self.block_bytes.max(BLOCK_BYTES));
        Ok(match file.format {
            Format::Text => Box::new(TextBlocks::new(open(&file)?, file.path, options, self.block_bytes)),
            Format::Jsonl => Box::new(JsonlBlocks::new(open(&file)?, file.path, options, block_bytes)),
            Format::Parquet => Box::new(ParquetBlocks::open(&file.path, options, block_bytes)?),
            Format::Tokens | Format::U16 => {
                return Err(DataError::Input {
                    path: file.path,
                    problem: "holds tokens, wanted text".into(),
                });
            }
        })
    }

    fn advance(&mut self) -> Result<Option<Block>> {
        loop {
            if let Some(current) = &mut self.current {
                if let Some(block) = current.next_block(&mut self.tally)? {
                    return Ok(Some(block));
                }
                self.current = None;
            }
            let Some(file) = self.files.pop_front() else { return Ok(None) };
            self.current = Some(self.open(file)?);
        }
    }
}

impl Iterator for Blocks {
    type Item = Result<Block>;

    fn next(&mut self) -> Option<Result<Block>> {
        let next = self.advance().transpose();
        if let Some(Err(_)) = next {
            self.files.clear();
            self.current = None;
        }
        next
    }
}

struct StoryBlocks {
    stories: Stories,
    left: u64,
}

impl ReadBlocks for StoryBlocks {
    fn next_block(&mut self, _: &mut Tally) -> Result<Option<Block>> {
        if self.left == 0 {
            return Ok(None);
        }
        let Some(story) = self.stories.next() else { return Ok(None) };
        self.left = self.left.saturating_sub(story.len() as u64);
        Ok(Some(Block::document(story)))
    }
}

/// Cuts a document whose text is at hand into blocks of at most `block_bytes` of text.
pub(super) fn split_document(parts: Vec<Part>, block_bytes: usize) -> VecDeque<Block> {
    let mut blocks = VecDeque::new();
    let mut block = Block { parts: Vec::new(), ends_document: false };
    let mut room = block_bytes;
    for part in parts {
        let Part::Text(text) = part else {
            block.parts.push(part);
            continue;
        };
        let mut rest = text.as_str();
        while rest.len() > room {
            // A cut never moves less than a character, which may be more than the room left.
            let at = if room == 0 { 0 } else { cut(rest, room) };
            let (head, tail) = rest.split_at(at);
            if at > 0 {
                block.parts.push(Part::Text(head.into()));
            }
            blocks
                .push_back(std::mem::replace(&mut block, Block { parts: Vec::new(), ends_document: false }));
            (rest, room) = (tail, block_bytes);
        }
        room -= rest.len();
        if !rest.is_empty() {
            block.parts.push(Part::Text(rest.into()));
        }
    }
    block.ends_document = true;
    blocks.push_back(block);
    blocks
}
