//! Training of byte-level BPE: count the words of the texts, then merge.

use std::collections::HashMap;

use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use super::bytes::byte_chars;
use super::encoder::stretches;
use super::{SplitPattern, Tokenizer, TokenizerError, cut, split};

impl Tokenizer {
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
