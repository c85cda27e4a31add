//! Files of tokens: our own, those of llm.c, and bare 16-bit numbers.
//!
//! ```text
//! our file, little endian
//!   0  magic "RSTNTOK\0"          8
//!   8  version 1                   u32
//!  12  bytes of a token, 2 or 4    u32
//!  16  hash of the tokenizer      32
//!  48  vocabulary                  u32
//!  52  token that ends a document  u32
//!  56  tokens                      u64
//!  64  documents                   u64
//!  72  bytes of text               u64
//!  80  bytes of a checked block    u32   1 MiB
//!  84  zero                      140
//! 224  BLAKE3 of bytes 0..224 and of the table  32
//! 256  tokens
//!      table: first 16 bytes of the BLAKE3 of each block of tokens
//!
//! llm.c: 256 × i32 header, then tokens; magic 20240520 version 1: u16, magic 20240801 version 7: u32
//! u16:   tokens alone
//! ```
//!
//! A document starts at 0 and behind every end-of-document token. Each block is checked when it is
//! first touched: its checksum (our files) and that every token is in the vocabulary (all files).
//! Source of the llm.c layout: its `dev/data/data_common.py`.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use model::TokenId;

use super::error::{DataError, Result};
use super::source::Format;

const MAGIC: [u8; 8] = *b"RSTNTOK\0";
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 256;
const HASHED_BYTES: usize = 224;
const BLOCK_BYTES: u64 = 1 << 20;
const SUM_BYTES: u64 = 16;
const LLM_C_HEADER_BYTES: u64 = 1024;
const LLM_C_U16: (i32, i32) = (20240520, 1);
const LLM_C_U32: (i32, i32) = (20240801, 7);

/// Size of a stored token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// Two bytes, for vocabularies up to 65,536.
    U16,
    /// Four bytes.
    U32,
}

impl Width {
    /// The smaller one that holds every id below `vocab`.
    pub fn for_vocab(vocab: usize) -> Width {
        if vocab <= 1 << 16 { Width::U16 } else { Width::U32 }
    }

    fn bytes(self) -> u64 {
        match self {
            Width::U16 => 2,
            Width::U32 => 4,
        }
    }

    fn token(self, bytes: &[u8]) -> u32 {
        match self {
            Width::U16 => u32::from(u16::from_le_bytes([bytes[0], bytes[1]])),
            Width::U32 => u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
        }
    }
}

/// The tokenizer that a token file has to agree with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    /// [`model::Tokenizer::hash`]; `None` accepts every file.
    pub hash: Option<[u8; 32]>,
    /// First id that is no token.
    pub vocab: usize,
}

impl Vocabulary {
    /// That of `tokenizer`.
    pub fn of(tokenizer: &model::Tokenizer) -> Vocabulary {
        Vocabulary { hash: Some(tokenizer.hash()), vocab: tokenizer.vocab() }
    }
}

/// What our header adds to the tokens; other files do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Documents.
    pub documents: u64,
    /// Bytes of text that the tokens stand for.
    pub text_bytes: u64,
}

/// An open file of tokens. Any number of threads may read it.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    file: File,
    width: Width,
    vocab: u32,
    /// Bytes before the first token.
    start: u64,
    tokens: u64,
    counts: Option<Counts>,
    eod: Option<TokenId>,
    /// Checksums of the blocks; empty where the file has none.
    sums: Vec<[u8; SUM_BYTES as usize]>,
    /// Blocks that have been found good.
    checked: Vec<AtomicBool>,
}

impl Shard {
    /// Opens a file and checks its header, its length and that it belongs to `vocabulary`.
    pub fn open(path: &Path, format: Format, vocabulary: &Vocabulary) -> Result<Shard> {
        let file = File::open(path).map_err(DataError::read(path))?;
        let length = file.metadata().map_err(DataError::read(path))?.len();
        let mut shard = Shard {
            path: path.to_path_buf(),
            file,
            width: Width::U16,
            vocab: u32::try_from(vocabulary.vocab).unwrap_or(u32::MAX),
            start: 0,
            tokens: 0,
            counts: None,
            eod: None,
            sums: Vec::new(),
            checked: Vec::new(),
        };
        let mut head = [0u8; HEADER_BYTES as usize];
        let have = length.min(HEADER_BYTES) as usize;
        shard.read_bytes(&mut head[..have], 0)?;
        match format {
            Format::U16 => {
                if !length.is_multiple_of(2) {
                    return Err(
                        shard.bad(format!("{length} bytes, wanted an even number of them for --format u16"))
                    );
                }
                shard.tokens = length / 2;
            }
            _ if have >= 8 && head[..8] == MAGIC => shard.read_header(&head[..have], length, vocabulary)?,
            _ => shard.read_llm_c(&head[..have], length)?,
        }
        if shard.tokens == 0 {
            return Err(shard.bad("no tokens".into()));
        }
        let blocks = (shard.tokens * shard.width.bytes()).div_ceil(BLOCK_BYTES);
        shard.checked = (0..blocks).map(|_| AtomicBool::new(false)).collect();
        Ok(shard)
    }

    fn bad(&self, problem: String) -> DataError {
        DataError::Shard { path: self.path.clone(), problem }
    }

    fn read_bytes(&self, into: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(into, at).map_err(DataError::read(&self.path))
    }

    fn read_header(&mut self, head: &[u8], length: u64, vocabulary: &Vocabulary) -> Result<()> {
        if length < HEADER_BYTES {
            return Err(self.bad(format!("{length} bytes, the header alone has {HEADER_BYTES}")));
        }
        let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        if u32_at(8) != VERSION {
            return Err(self.bad(format!("version {}, wanted {VERSION}; prepare the text again", u32_at(8))));
        }
        self.width = match u32_at(12) {
            2 => Width::U16,
            4 => Width::U32,
            other => return Err(self.bad(format!("tokens of {other} bytes, wanted 2 or 4"))),
        };
        self.start = HEADER_BYTES;
        self.tokens = u64_at(56);
        let wanted = self.tokens.checked_mul(self.width.bytes()).and_then(|bytes| {
            let table = bytes.div_ceil(BLOCK_BYTES).checked_mul(SUM_BYTES)?;
            HEADER_BYTES.checked_add(bytes)?.checked_add(table)
        });
        if wanted != Some(length) {
            let wanted = wanted.map_or("more than a file can have".into(), |w| w.to_string());
            return Err(self.bad(format!(
                "{length} bytes, {} tokens need {wanted}; the file is cut off or damaged",
                self.tokens
            )));
        }
        if u64::from(u32_at(80)) != BLOCK_BYTES {
            return Err(self.bad(format!("checked blocks of {} bytes, wanted {BLOCK_BYTES}", u32_at(80))));
        }
        let bytes = self.tokens * self.width.bytes();
        let mut table = vec![0; (bytes.div_ceil(BLOCK_BYTES) * SUM_BYTES) as usize];
        self.read_bytes(&mut table, HEADER_BYTES + bytes)?;
        let hash = blake3::Hasher::new().update(&head[..HASHED_BYTES]).update(&table).finalize();
        if hash.as_bytes() != &head[HASHED_BYTES..] {
            return Err(self.bad("the checksum of the header is wrong; the file is damaged".into()));
        }
        self.sums =
            table.chunks_exact(SUM_BYTES as usize).map(|s| s.try_into().expect("chunks of it")).collect();
        self.counts = Some(Counts { documents: u64_at(64), text_bytes: u64_at(72) });
        self.eod = (u32_at(52) != u32::MAX).then(|| TokenId(u32_at(52)));
        let found: [u8; 32] = head[16..48].try_into().expect("32 bytes");
        if let Some(wanted) = vocabulary.hash
            && wanted != found
        {
            return Err(DataError::OtherTokenizer {
                path: self.path.clone(),
                found: hex(&found[..8]),
                wanted: hex(&wanted[..8]),
            });
        }
        if u32_at(48) as usize > vocabulary.vocab {
            return Err(self.bad(format!(
                "a vocabulary of {}, the model has {}",
                u32_at(48),
                vocabulary.vocab
            )));
        }
        Ok(())
    }

    fn read_llm_c(&mut self, head: &[u8], length: u64) -> Result<()> {
        let i32_at = |i: usize| {
            head.get(4 * i..4 * i + 4).map(|b| i32::from_le_bytes(b.try_into().expect("four bytes")))
        };
        let found = (i32_at(0).unwrap_or(0), i32_at(1).unwrap_or(0));
        self.width = match found {
            LLM_C_U16 => Width::U16,
            LLM_C_U32 => Width::U32,
            (magic, version) if magic == LLM_C_U16.0 || magic == LLM_C_U32.0 => {
                return Err(
                    self.bad(format!("llm.c version {version}, wanted {} or {}", LLM_C_U16.1, LLM_C_U32.1))
                );
            }
            _ => {
                return Err(self.bad(
                    "neither our magic number nor one of llm.c; for tokens of two bytes without a header give --format u16"
                        .into(),
                ));
            }
        };
        self.start = LLM_C_HEADER_BYTES;
        self.tokens = u64::try_from(i32_at(2).unwrap_or(-1))
            .map_err(|_| self.bad("a negative number of tokens in the header".into()))?;
        let wanted = LLM_C_HEADER_BYTES + self.tokens * self.width.bytes();
        if wanted != length {
            return Err(self.bad(format!(
                "{length} bytes, {} tokens need {wanted}; the file is cut off or damaged",
                self.tokens
            )));
        }
        Ok(())
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tokens in the file.
    pub fn len(&self) -> u64 {
        self.tokens
    }

    /// Never: a file without tokens is refused.
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }

    /// Documents and bytes, where the file says so.
    pub fn counts(&self) -> Option<Counts> {
        self.counts
    }

    /// The token that ends a document, where the file says so.
    pub fn end_of_document(&self) -> Option<TokenId> {
        self.eod
    }

    /// Reads `into.len()` tokens from position `at` on, and checks blocks that nobody has touched.
    pub fn read(&self, at: u64, into: &mut [TokenId]) -> Result<()> {
        let width = self.width.bytes();
        let end = at.checked_add(into.len() as u64).filter(|end| *end <= self.tokens).ok_or_else(|| {
            self.bad(format!("{} tokens from {at} on were asked for, there are {}", into.len(), self.tokens))
        })?;
        if into.is_empty() {
            return Ok(());
        }
        for block in at * width / BLOCK_BYTES..=(end * width - 1) / BLOCK_BYTES {
            self.check(block)?;
        }
        let mut bytes = vec![0; into.len() * width as usize];
        self.read_bytes(&mut bytes, self.start + at * width)?;
        for (token, bytes) in into.iter_mut().zip(bytes.chunks_exact(width as usize)) {
            *token = TokenId(self.width.token(bytes));
        }
        Ok(())
    }

    /// Checks every block.
    pub fn verify(&self) -> Result<()> {
        (0..self.checked.len() as u64).try_for_each(|block| self.check(block))
    }

    fn check(&self, block: u64) -> Result<()> {
        let done = &self.checked[block as usize];
        if done.load(Ordering::Relaxed) {
            return Ok(());
        }
        let width = self.width.bytes();
        let from = block * BLOCK_BYTES;
        let length = BLOCK_BYTES.min(self.tokens * width - from);
        let mut bytes = vec![0; length as usize];
        self.read_bytes(&mut bytes, self.start + from)?;
        if let Some(sum) = self.sums.get(block as usize)
            && blake3::hash(&bytes).as_bytes()[..SUM_BYTES as usize] != sum[..]
        {
            let at = self.start + from;
            return Err(self
                .bad(format!("the checksum of {length} bytes from {at} on is wrong; the file is damaged")));
        }
        for (i, bytes) in bytes.chunks_exact(width as usize).enumerate() {
            let token = self.width.token(bytes);
            if token >= self.vocab {
                return Err(DataError::TokenOutOfRange {
                    path: self.path.clone(),
                    position: from / width + i as u64,
                    token,
                    vocab: self.vocab,
                });
            }
        }
        done.store(true, Ordering::Relaxed);
        Ok(())
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes one of our files. It gets its name when it is whole; before, and after an error, there is
/// only a temporary file, which goes away with the writer.
pub struct ShardWriter {
    path: PathBuf,
    temporary: PathBuf,
    out: Option<BufWriter<File>>,
    width: Width,
    vocabulary: Vocabulary,
    eod: TokenId,
    tokens: u64,
    documents: u64,
    text_bytes: u64,
    block: Vec<u8>,
    table: Vec<u8>,
}

impl ShardWriter {
    /// Begins the file `path`. Documents are ended by the token `eod`.
    pub fn create(path: &Path, vocabulary: Vocabulary, eod: TokenId) -> Result<ShardWriter> {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".{}.partial", std::process::id()));
        let temporary = path.with_file_name(name);
        let file = File::create(&temporary).map_err(DataError::write(&temporary))?;
        let mut writer = ShardWriter {
            path: path.to_path_buf(),
            temporary,
            out: Some(BufWriter::with_capacity(1 << 18, file)),
            width: Width::for_vocab(vocabulary.vocab),
            vocabulary,
            eod,
            tokens: 0,
            documents: 0,
            text_bytes: 0,
            block: Vec::new(),
            table: Vec::new(),
        };
        writer.put(&[0; HEADER_BYTES as usize])?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let out = self.out.as_mut().expect("open until it is finished");
        out.write_all(bytes).map_err(DataError::write(&self.temporary))
    }

    /// Tokens written.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Appends tokens that stand for `text_bytes` bytes of text.
    pub fn push(&mut self, tokens: &[TokenId], text_bytes: u64) -> Result<()> {
        for (i, token) in tokens.iter().enumerate() {
            if token.0 as usize >= self.vocabulary.vocab {
                return Err(DataError::TokenOutOfRange {
                    path: self.path.clone(),
                    position: self.tokens + i as u64,
                    token: token.0,
                    vocab: u32::try_from(self.vocabulary.vocab).unwrap_or(u32::MAX),
                });
            }
            self.documents += u64::from(*token == self.eod);
            match self.width {
                Width::U16 => self.block.extend_from_slice(&(token.0 as u16).to_le_bytes()),
                Width::U32 => self.block.extend_from_slice(&token.0.to_le_bytes()),
            }
            if self.block.len() as u64 == BLOCK_BYTES {
                self.end_block()?;
            }
        }
        self.tokens += tokens.len() as u64;
        self.text_bytes += text_bytes;
        Ok(())
    }

    fn end_block(&mut self) -> Result<()> {
        let block = std::mem::take(&mut self.block);
        self.put(&block)?;
        self.table.extend_from_slice(&blake3::hash(&block).as_bytes()[..SUM_BYTES as usize]);
        self.block = block;
        self.block.clear();
        Ok(())
    }

    /// Writes the header, waits for the disk, and gives the file its name.
    pub fn finish(mut self) -> Result<Counts> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let table = std::mem::take(&mut self.table);
        self.put(&table)?;
        let mut head = Vec::with_capacity(HEADER_BYTES as usize);
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&(self.width.bytes() as u32).to_le_bytes());
        head.extend_from_slice(&self.vocabulary.hash.unwrap_or_default());
        head.extend_from_slice(&(self.vocabulary.vocab as u32).to_le_bytes());
        head.extend_from_slice(&self.eod.0.to_le_bytes());
        for count in [self.tokens, self.documents, self.text_bytes] {
            head.extend_from_slice(&count.to_le_bytes());
        }
        head.extend_from_slice(&(BLOCK_BYTES as u32).to_le_bytes());
        head.resize(HASHED_BYTES, 0);
        let hash = blake3::Hasher::new().update(&head).update(&table).finalize();
        head.extend_from_slice(hash.as_bytes());

        let out = self.out.take().expect("open until it is finished");
        let write_error = || DataError::write(&self.temporary);
        let file = out.into_inner().map_err(|e| write_error()(e.into_error()))?;
        file.write_all_at(&head, 0).map_err(write_error())?;
        file.sync_all().map_err(write_error())?;
        fs::rename(&self.temporary, &self.path).map_err(DataError::write(&self.path))?;
        Ok(Counts { documents: self.documents, text_bytes: self.text_bytes })
    }
}

impl Drop for ShardWriter {
    fn drop(&mut self) {
        // Gone after `finish`, where this fails, which does not matter.
        let _ = fs::remove_file(&self.temporary);
    }
}
