//! Text to tokens and back: byte-level BPE of our own training, or any `tokenizer.json`.
//!
//! ```text
//! text ─▶ cut at safe places (bounded time) ─▶ words (SplitPattern) ─▶ bytes ─▶ merges ─▶ TokenId
//! ```
//!
//! The merging itself, its training and the file format are those of the `tokenizers` crate. ASCII
//! text of a known [`SplitPattern`] takes a short way: words are cut by hand and each distinct word
//! is merged once. The tokens are the same either way.

mod bytes;
mod encoder;
mod error;
mod file;
mod split;
mod stream;
mod train;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::{Value, json};

pub use encoder::Encoder;
pub use error::TokenizerError;
pub use split::{SplitPattern, cut};
pub use stream::StreamDecoder;

use crate::TokenId;
use bytes::{byte_alphabet, sentence_piece_bytes};
use file::{canonical_hash, check_ids, mentions};

/// Ends a document and begins the next; also the first token of a generation.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Begins a chat message, in ChatML.
pub const IM_START: &str = "<|im_start|>";
/// Ends a chat message, in ChatML.
pub const IM_END: &str = "<|im_end|>";

/// Names under which public tokenizers hold their end-of-text token, most telling first.
const END_NAMES: [&str; 6] = [END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|eot_id|>", IM_END];

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
        Encoder::new(self)
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

#[cfg(test)]
mod tests;
