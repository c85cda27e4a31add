//! Text to tokens and back: byte-level BPE of our own training, or any `tokenizer.json`.
//!
//! ```text
//! text ─▶ cut at safe places (bounded time) ─▶ words (SplitPattern) ─▶ bytes ─▶ merges ─▶ TokenId
//! ```
//!
//! The merging itself, its training and the file format are those of the `tokenizers` crate. ASCII
//! text of a known [`SplitPattern`] takes a short way: words are cut by hand and each distinct word
//! is merged once. The tokens are the same either way.

mod split;
mod stream;

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

pub use split::{SplitPattern, cut};
pub use stream::StreamDecoder;

use crate::TokenId;

/// Ends a document and begins the next; also the first token of a generation.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Begins a chat message, in ChatML.
pub const IM_START: &str = "<|im_start|>";
/// Ends a chat message, in ChatML.
pub const IM_END: &str = "<|im_end|>";

/// Names under which public tokenizers hold their end-of-text token, most telling first.
const END_NAMES: [&str; 6] = [END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", IM_END];

/// Why a tokenizer was refused. The code is `E3020`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file cannot be read.
    #[error("cannot read the tokenizer `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than any tokenizer.
    #[error("the tokenizer has {bytes} bytes, at most {max} are read; is this a tokenizer.json?")]
    TooLarge {
        /// Length of the file.
        bytes: u64,
        /// Longest that is read.
        max: u64,
    },
    /// The text is no `tokenizer.json`.
    #[error("not a tokenizer.json: {reason}")]
    Malformed {
        /// What is wrong, and where.
        reason: String,
    },
    /// A token has an identifier that no table should have to hold.
    #[error("token `{token}` has id {id}, wanted less than {max} for a vocabulary of {tokens} tokens")]
    IdOutOfRange {
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// First id refused.
        max: usize,
        /// Distinct tokens in the file.
        tokens: usize,
    },
    /// Two tokens share an id.
    #[error("tokens `{first}` and `{second}` share id {id}; every id may have one token")]
    DuplicateId {
        /// One token.
        first: String,
        /// The other.
        second: String,
        /// Their id.
        id: u32,
    },
    /// A special token that was asked for does not exist.
    #[error("the tokenizer has no token `{token}`")]
    NoSuchToken {
        /// The token.
        token: String,
    },
    /// The wanted vocabulary cannot hold the bytes and the special tokens.
    #[error(
        "a vocabulary of {got} is too small, wanted at least {least}: 256 bytes and {specials} special tokens"
    )]
    VocabTooSmall {
        /// What was asked for.
        got: usize,
        /// The least.
        least: usize,
        /// Special tokens.
        specials: usize,
    },
    /// The tokenizer cannot express a text.
    #[error("the tokenizer cannot encode this text: {reason}")]
    Encode {
        /// What it said.
        reason: String,
    },
}

impl TokenizerError {
    /// The code that is printed in front of the message.
    pub fn code(&self) -> &'static str {
        "E3020"
    }
}

/// A vocabulary with its rules. Reading it is cheap; share it by reference.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    json: Vec<u8>,
    hash: [u8; 32],
    /// Text bytes of each token, one after the other; token `i` has `starts[i]..starts[i + 1]`.
    bytes: Vec<u8>,
    starts: Vec<u32>,
    specials: BTreeMap<String, TokenId>,
    bos: Option<TokenId>,
    eos: Option<TokenId>,
    byte_level: bool,
    split: Option<SplitPattern>,
    /// The pattern, where words may be cut by hand.
    by_hand: Option<SplitPattern>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab", &self.vocab()).field("split", &self.split).finish()
    }
}

impl Tokenizer {
    /// Longest `tokenizer.json` that is read. The largest public ones have about 35 MB.
    pub const MAX_FILE_BYTES: u64 = 128 << 20;
    /// Text, in bytes, after which training stops reading: the counts of pairs stay inside 31 bits.
    pub const MAX_TRAIN_BYTES: usize = 1 << 30;
    /// Special tokens of a trained vocabulary, with ids 0, 1, 2.
    pub const TRAINED_SPECIALS: [&'static str; 3] = [END_OF_TEXT, IM_START, IM_END];
    /// Words longer than this, in bytes, teach the training nothing and are left out of it.
    const MAX_WORD_BYTES: usize = 256;

    /// Reads a `tokenizer.json`, and from a `tokenizer_config.json` beside it which tokens begin and
    /// end a text.
    pub fn load(path: &Path) -> Result<Tokenizer, TokenizerError> {
        let read_error = |source| TokenizerError::Read { path: path.to_path_buf(), source };
        let bytes = std::fs::metadata(path).map_err(read_error)?.len();
        if bytes > Self::MAX_FILE_BYTES {
            return Err(TokenizerError::TooLarge { bytes, max: Self::MAX_FILE_BYTES });
        }
        let mut tokenizer = Self::from_bytes(&std::fs::read(path).map_err(read_error)?)?;
        let config = path.with_file_name("tokenizer_config.json");
        if config.metadata().is_ok_and(|m| m.len() <= Self::MAX_FILE_BYTES) {
            let text =
                std::fs::read(&config).map_err(|source| TokenizerError::Read { path: config, source })?;
            let config: Value = serde_json::from_slice(&text)
                .map_err(|e| TokenizerError::Malformed { reason: format!("tokenizer_config.json: {e}") })?;
            let name =
                |key: &str| config[key].as_str().or(config[key]["content"].as_str()).map(str::to_string);
            if let Some(eos) = name("eos_token") {
                tokenizer = tokenizer.with_eos(&eos)?;
            }
            if let Some(bos) = name("bos_token") {
                tokenizer = tokenizer.with_bos(&bos)?;
            }
        }
        Ok(tokenizer)
    }

    /// Reads the text of a `tokenizer.json`.
    pub fn from_bytes(json: &[u8]) -> Result<Tokenizer, TokenizerError> {
        if json.len() as u64 > Self::MAX_FILE_BYTES {
            return Err(TokenizerError::TooLarge { bytes: json.len() as u64, max: Self::MAX_FILE_BYTES });
        }
        let malformed = |reason: String| TokenizerError::Malformed { reason };
        let value: Value = serde_json::from_slice(json).map_err(|e| malformed(e.to_string()))?;
        if !value["model"].is_object() {
            return Err(malformed("the field `model` is not an object".into()));
        }
        check_ids(&value)?;
        let parsed = catch_unwind(AssertUnwindSafe(|| tokenizers::Tokenizer::from_bytes(json)));
        let mut inner = parsed
            .map_err(|_| malformed("the reader gave up on it".into()))?
            .map_err(|e| malformed(e.to_string()))?;
        inner
            .with_truncation(None)
            .map_err(|e| malformed(e.to_string()))?
            .with_padding(None)
            .set_encode_special_tokens(true);

        let byte_level =
            mentions(&value["pre_tokenizer"], "ByteLevel") || mentions(&value["decoder"], "ByteLevel");
        let added = inner.get_added_tokens_decoder();
        let vocab = inner.get_vocab(true);
        let size = vocab.values().max().map_or(0, |id| *id as usize + 1);
        let mut names: Vec<Option<&str>> = vec![None; size];
        for (name, id) in &vocab {
            if let Some(first) = names[*id as usize].replace(name) {
                let (first, second) =
                    if first < name.as_str() { (first, name.as_str()) } else { (name.as_str(), first) };
                return Err(TokenizerError::DuplicateId {
                    first: first.into(),
                    second: second.into(),
                    id: *id,
                });
            }
        }
        let (mut bytes, mut starts) = (Vec::new(), vec![0]);
        let alphabet = byte_alphabet();
        for (id, name) in names.iter().enumerate() {
            match (name, added.get(&(id as u32))) {
                (None, _) => {}
                (Some(_), Some(token)) if token.special => {}
                (Some(name), Some(_)) => bytes.extend_from_slice(name.as_bytes()),
                (Some(name), None) if byte_level => {
                    bytes.extend(name.chars().filter_map(|c| alphabet.get(&c)))
                }
                (Some(name), None) => bytes.extend(sentence_piece_bytes(name)),
            }
            starts.push(bytes.len() as u32);
        }
        let specials: BTreeMap<_, _> = added
            .iter()
            .filter(|(_, t)| t.special)
            .map(|(id, t)| (t.content.clone(), TokenId(*id)))
            .collect();
        let eos = END_NAMES.iter().find_map(|name| specials.get(*name).copied());
        let split = SplitPattern::of(&value["pre_tokenizer"]);
        // What the short way leaves out must change nothing on ASCII.
        let normalizer = &value["normalizer"];
        let model = &value["model"];
        let simple = (normalizer.is_null() || normalizer["type"] == "NFC")
            && model["type"] == "BPE"
            && model["dropout"].is_null()
            && ["continuing_subword_prefix", "end_of_word_suffix"]
                .iter()
                .all(|key| model[key].as_str().unwrap_or_default().is_empty())
            && added.values().all(|t| t.special);
        Ok(Tokenizer {
            json: json.to_vec(),
            hash: canonical_hash(&value),
            bytes,
            starts,
            specials,
            bos: eos,
            eos,
            byte_level,
            split,
            by_hand: split.filter(|_| simple),
            inner,
        })
    }

    /// Trains byte-level BPE on `texts`; the same texts in the same order give the same bytes.
    ///
    /// Ids: [`Tokenizer::TRAINED_SPECIALS`], the 256 bytes, then merges, most frequent first. A
    /// pair seen once is not merged, so little text gives fewer than `vocab` tokens.
    pub fn train<S: AsRef<str>>(
        texts: impl IntoIterator<Item = S>,
        vocab: usize,
        split: SplitPattern,
    ) -> Result<Tokenizer, TokenizerError> {
        let specials = Self::TRAINED_SPECIALS.len();
        if vocab < 256 + specials {
            return Err(TokenizerError::VocabTooSmall { got: vocab, least: 256 + specials, specials });
        }
        let file = |model: Value| {
            let special = |(id, content): (usize, &&str)| {
                json!({
                    "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true,
                })
            };
            let byte_level = |trim_offsets: bool| {
                json!({
                    "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": trim_offsets,
                    "use_regex": true,
                })
            };
            json!({
                "version": "1.0", "truncation": null, "padding": null,
                "added_tokens": Self::TRAINED_SPECIALS.iter().enumerate().map(special).collect::<Vec<_>>(),
                "normalizer": null,
                "pre_tokenizer": split.pre_tokenizer(),
                "post_processor": byte_level(false),
                "decoder": byte_level(true),
                "model": model,
            })
        };
        let failed = |e: tokenizers::Error| TokenizerError::Malformed { reason: e.to_string() };

        // The words of the texts, counted, in the alphabet of bytes.
        let empty = serde_json::to_value(BPE::default()).expect("a model is JSON");
        let cutter = parse(&file(empty)).map_err(failed)?;
        let mut counts: HashMap<String, u64> = HashMap::new();
        let mut left = Self::MAX_TRAIN_BYTES;
        for text in texts {
            let mut text = text.as_ref();
            while !text.is_empty() && left > 0 {
                let (piece, rest) = text.split_at(cut(text, split::PIECE_BYTES));
                left = left.saturating_sub(piece.len());
                count_words(&cutter, split, piece, &mut counts)?;
                text = rest;
            }
        }
        let byte_chars = byte_chars();
        let counts = counts
            .into_iter()
            .filter(|(word, _)| word.len() <= Self::MAX_WORD_BYTES)
            .map(|(word, n)| (word.bytes().map(|b| byte_chars[usize::from(b)]).collect::<String>().into(), n))
            .collect();

        let mut model = BPE::default();
        BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(vocab)
            .min_frequency(2)
            .special_tokens(
                Self::TRAINED_SPECIALS
                    .iter()
                    .map(|s| tokenizers::AddedToken::from((*s).to_string(), true))
                    .collect(),
            )
            .initial_alphabet(byte_chars.into_iter().collect())
            .build()
            .do_train(&counts, &mut model)
            .map_err(failed)?;
        let model = serde_json::to_value(model).expect("a model is JSON");
        let text = parse(&file(model)).and_then(|t| t.to_string(true)).map_err(failed)?;
        Self::from_bytes(text.as_bytes())
    }

    /// Replaces the token that ends a text.
    pub fn with_eos(mut self, token: &str) -> Result<Tokenizer, TokenizerError> {
        self.eos = Some(self.named(token)?);
        Ok(self)
    }

    /// Replaces the token that begins a text.
    pub fn with_bos(mut self, token: &str) -> Result<Tokenizer, TokenizerError> {
        self.bos = Some(self.named(token)?);
        Ok(self)
    }

    fn named(&self, token: &str) -> Result<TokenId, TokenizerError> {
        self.token(token).ok_or_else(|| TokenizerError::NoSuchToken { token: token.into() })
    }

    /// One more than the largest id: the least vocabulary of a model.
    pub fn vocab(&self) -> usize {
        self.starts.len() - 1
    }

    /// The token that ends a document, if the tokenizer has one.
    pub fn eos(&self) -> Option<TokenId> {
        self.eos
    }

    /// The token that begins a text, if the tokenizer has one. Trained ones use [`Tokenizer::eos`].
    pub fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    /// The token with this name.
    pub fn token(&self, name: &str) -> Option<TokenId> {
        self.inner.token_to_id(name).map(TokenId)
    }

    /// The name of a token as the file writes it.
    pub fn name(&self, token: TokenId) -> Option<String> {
        self.inner.id_to_token(token.0)
    }

    /// Special tokens by name; they have no text.
    pub fn specials(&self) -> impl Iterator<Item = (&str, TokenId)> {
        self.specials.iter().map(|(name, id)| (name.as_str(), *id))
    }

    /// Whether `token` is special.
    pub fn is_special(&self, token: TokenId) -> bool {
        self.specials.values().any(|id| *id == token)
    }

    /// How text is cut into words, if it is a way that llama.cpp knows.
    pub fn split_pattern(&self) -> Option<SplitPattern> {
        self.split
    }

    /// BLAKE3 of the file's JSON with sorted keys and without white space: equal files up to
    /// formatting have equal hashes.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// The `tokenizer.json`.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// Bytes of text that a token stands for; 0 for special tokens and ids without a token. Exact
    /// for byte-level vocabularies; others count their word mark as one space.
    pub fn byte_len(&self, token: TokenId) -> usize {
        self.bytes_of(token).len()
    }

    /// [`Tokenizer::byte_len`] of every token, for bits per byte.
    pub fn byte_lens(&self) -> Vec<u32> {
        self.starts.windows(2).map(|w| w[1] - w[0]).collect()
    }

    fn bytes_of(&self, token: TokenId) -> &[u8] {
        let id = token.0 as usize;
        match (self.starts.get(id), self.starts.get(id.wrapping_add(1))) {
            (Some(start), Some(end)) => &self.bytes[*start as usize..*end as usize],
            _ => &[],
        }
    }

    /// Tokens of `text`. Names of special tokens inside it are ordinary text, so that data cannot
    /// forge them. Long texts are encoded part by part, see [`cut`].
    pub fn encode(&self, text: &str) -> Result<Vec<TokenId>, TokenizerError> {
        let mut out = Vec::new();
        self.encoder().encode(text, &mut out)?;
        Ok(out)
    }

    /// Tokens of `text` where names of special tokens stand for these tokens: for prompts that their
    /// author writes by hand.
    pub fn encode_with_specials(&self, text: &str) -> Result<Vec<TokenId>, TokenizerError> {
        let mut encoder = self.encoder();
        let mut out = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let next = self
                .specials
                .iter()
                .filter(|(name, _)| !name.is_empty())
                .filter_map(|(name, id)| {
                    rest.find(name.as_str()).map(|at| (at, std::cmp::Reverse(name.len()), *id))
                })
                .min();
            let Some((at, length, id)) = next else { break };
            encoder.encode(&rest[..at], &mut out)?;
            out.push(id);
            rest = &rest[at + length.0..];
        }
        encoder.encode(rest, &mut out)?;
        Ok(out)
    }

    /// An encoder that remembers words; one per thread for much text.
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder { tokenizer: self, words: HashMap::new(), tokens: Vec::new() }
    }

    /// Text of `tokens`, without the special ones; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[TokenId]) -> String {
        if self.byte_level {
            let bytes: Vec<u8> = tokens.iter().flat_map(|t| self.bytes_of(*t)).copied().collect();
            return String::from_utf8_lossy(&bytes).into_owned();
        }
        let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
        self.inner.decode(&ids, true).unwrap_or_default()
    }

    /// A decoder for tokens that come one by one.
    pub fn stream(&self) -> StreamDecoder<'_> {
        StreamDecoder::new(self)
    }

    /// The `tokenizer_config.json` that transformers wants beside `tokenizer.json`.
    pub fn config_json(&self, max_seq: usize) -> String {
        let name = |token: Option<TokenId>| token.and_then(|t| self.name(t));
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_seq,
            "clean_up_tokenization_spaces": false,
            "add_prefix_space": false,
            "bos_token": name(self.bos),
            "eos_token": name(self.eos),
            "pad_token": name(self.eos),
            "unk_token": null,
        });
        if self.specials.contains_key(IM_START) && self.specials.contains_key(IM_END) {
            config["chat_template"] = CHATML_TEMPLATE.into();
        }
        serde_json::to_string_pretty(&config).expect("a JSON value is JSON") + "\n"
    }
}

/// Renders messages as ChatML, in the template language of Hugging Face.
const CHATML_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Encodes texts and remembers the tokens of each word.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// Tokens of a word: where they start in `tokens`, and how many they are.
    words: HashMap<Box<[u8]>, (u32, u32)>,
    tokens: Vec<TokenId>,
}

impl Encoder<'_> {
    /// Words that are remembered at most; then the memory starts afresh.
    const MAX_WORDS: usize = 1 << 18;

    /// Appends the tokens of `text` to `out`, as [`Tokenizer::encode`].
    pub fn encode(&mut self, text: &str, out: &mut Vec<TokenId>) -> Result<(), TokenizerError> {
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, tail) = rest.split_at(cut(rest, split::PIECE_BYTES));
            match self.tokenizer.by_hand {
                Some(pattern) => {
                    for (part, ascii) in stretches(piece) {
                        if ascii { self.by_hand(pattern, part, out)? } else { self.whole(part, out)? }
                    }
                }
                None => self.whole(piece, out)?,
            }
            rest = tail;
        }
        Ok(())
    }

    fn whole(&self, text: &str, out: &mut Vec<TokenId>) -> Result<(), TokenizerError> {
        let encoding = self
            .tokenizer
            .inner
            .encode_fast(text, false)
            .map_err(|e| TokenizerError::Encode { reason: e.to_string() })?;
        out.extend(encoding.get_ids().iter().map(|id| TokenId(*id)));
        Ok(())
    }

    fn by_hand(
        &mut self,
        pattern: SplitPattern,
        text: &str,
        out: &mut Vec<TokenId>,
    ) -> Result<(), TokenizerError> {
        let mut rest = text;
        while !rest.is_empty() {
            let (word, tail) = rest.split_at(pattern.ascii_word(rest.as_bytes()));
            rest = tail;
            if let Some((start, len)) = self.words.get(word.as_bytes()) {
                out.extend_from_slice(&self.tokens[*start as usize..(start + len) as usize]);
                continue;
            }
            let name: String = word.bytes().map(byte_char).collect();
            let tokens = self
                .tokenizer
                .inner
                .get_model()
                .tokenize(&name)
                .map_err(|e| TokenizerError::Encode { reason: e.to_string() })?;
            let start = out.len();
            out.extend(tokens.iter().map(|t| TokenId(t.id)));
            if word.len() <= Tokenizer::MAX_WORD_BYTES {
                if self.words.len() == Self::MAX_WORDS {
                    self.words.clear();
                    self.tokens.clear();
                }
                let at = self.tokens.len() as u32;
                self.tokens.extend_from_slice(&out[start..]);
                self.words.insert(word.as_bytes().into(), (at, (out.len() - start) as u32));
            }
        }
        Ok(())
    }
}

/// Cuts `text` at seams into stretches that are ASCII and stretches that need not be.
fn stretches(text: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let bytes = rest.as_bytes();
        let ascii = bytes.iter().position(|b| !b.is_ascii()).unwrap_or(bytes.len());
        let (end, pure) = if ascii == bytes.len() {
            (ascii, true)
        } else if let Some(seam) = (1..=ascii).rev().find(|&at| split::is_seam(bytes, at)) {
            (seam, true)
        } else {
            let seam = (ascii + 1..bytes.len()).find(|&at| split::is_seam(bytes, at));
            (seam.unwrap_or(bytes.len()), false)
        };
        let (part, tail) = rest.split_at(end);
        rest = tail;
        Some((part, pure))
    })
}

/// Counts the words of `text`, as text.
fn count_words(
    cutter: &tokenizers::Tokenizer,
    pattern: SplitPattern,
    text: &str,
    counts: &mut HashMap<String, u64>,
) -> Result<(), TokenizerError> {
    let mut count = |word: &str| match counts.get_mut(word) {
        Some(n) => *n += 1,
        None => {
            counts.insert(word.to_string(), 1);
        }
    };
    for (part, ascii) in stretches(text) {
        if ascii {
            let mut rest = part;
            while !rest.is_empty() {
                let (word, tail) = rest.split_at(pattern.ascii_word(rest.as_bytes()));
                count(word);
                rest = tail;
            }
            continue;
        }
        let mut words = PreTokenizedString::from(part);
        let pre_tokenizer = cutter.get_pre_tokenizer().expect("a trained tokenizer cuts words");
        pre_tokenizer
            .pre_tokenize(&mut words)
            .map_err(|e| TokenizerError::Encode { reason: e.to_string() })?;
        for (_, (start, end), _) in words.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            count(&part[start..end]);
        }
    }
    Ok(())
}

fn parse(file: &Value) -> tokenizers::Result<tokenizers::Tokenizer> {
    tokenizers::Tokenizer::from_bytes(file.to_string())
}

/// Refuses ids that would make a table far larger than the vocabulary, before anything is built.
fn check_ids(file: &Value) -> Result<(), TokenizerError> {
    let empty = Vec::new();
    let added = file["added_tokens"].as_array().unwrap_or(&empty);
    let listed = match &file["model"]["vocab"] {
        Value::Object(vocab) => vocab.len(),
        Value::Array(vocab) => vocab.len(),
        _ => 0,
    };
    let tokens = listed + added.len();
    let max = 2 * tokens + 1024;
    let check = |token: &str, id: &Value| match id.as_u64() {
        Some(id) if id < max as u64 => Ok(()),
        Some(id) => Err(TokenizerError::IdOutOfRange {
            token: token.into(),
            id: u32::try_from(id).unwrap_or(u32::MAX),
            max,
            tokens,
        }),
        None => Err(TokenizerError::Malformed {
            reason: format!("the id of token `{token}` is {id}, not a number"),
        }),
    };
    for (token, id) in file["model"]["vocab"].as_object().into_iter().flatten() {
        check(token, id)?;
    }
    for token in added {
        check(token["content"].as_str().unwrap_or("?"), &token["id"])?;
    }
    Ok(())
}

/// Whether `value`, or a part of it, is of this type.
fn mentions(value: &Value, kind: &str) -> bool {
    match value {
        Value::Object(map) => {
            map.get("type").is_some_and(|t| t == kind) || map.values().any(|v| mentions(v, kind))
        }
        Value::Array(items) => items.iter().any(|v| mentions(v, kind)),
        _ => false,
    }
}

/// BLAKE3 of `value` with sorted keys, whatever order the parser keeps.
fn canonical_hash(value: &Value) -> [u8; 32] {
    fn feed(value: &Value, to: &mut blake3::Hasher) {
        match value {
            Value::Object(map) => {
                to.update(b"{");
                for (key, value) in map.iter().collect::<BTreeMap<_, _>>() {
                    to.update(Value::from(key.as_str()).to_string().as_bytes()).update(b":");
                    feed(value, to);
                    to.update(b",");
                }
                to.update(b"}");
            }
            Value::Array(items) => {
                to.update(b"[");
                for item in items {
                    feed(item, to);
                    to.update(b",");
                }
                to.update(b"]");
            }
            leaf => {
                to.update(leaf.to_string().as_bytes());
            }
        }
    }
    let mut hasher = blake3::Hasher::new();
    feed(value, &mut hasher);
    hasher.finalize().into()
}

/// The printable character that stands for a byte in byte-level vocabularies. Source: GPT-2's
/// encoder; bytes that print as Latin-1 stand for themselves, the others for U+0100 and up.
fn byte_char(byte: u8) -> char {
    let code = match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => u32::from(byte),
        0..=b' ' => 0x100 + u32::from(byte),
        0x7F..=0xA0 => 0x100 + 33 + u32::from(byte - 0x7F),
        0xAD => 0x100 + 67,
    };
    char::from_u32(code).expect("below U+0200 every code is a character")
}

fn byte_chars() -> [char; 256] {
    std::array::from_fn(|b| byte_char(b as u8))
}

fn byte_alphabet() -> HashMap<char, u8> {
    (0..=255).map(|b| (byte_char(b), b)).collect()
}

/// Text of a SentencePiece token: `<0xAB>` is a byte and `▁` a space.
fn sentence_piece_bytes(name: &str) -> Vec<u8> {
    let byte = name.strip_prefix("<0x").and_then(|n| n.strip_suffix('>')).filter(|n| n.len() == 2);
    match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
        Some(byte) => vec![byte],
        None => name.replace('▁', " ").into_bytes(),
    }
}

#[cfg(test)]
mod tests;
