//! Text to tokens, word by word where the words can be cut by hand.

use std::collections::HashMap;

use tokenizers::Model;

use super::bytes::byte_char;
use super::{SplitPattern, Tokenizer, TokenizerError, cut, split};
use crate::TokenId;

/// Encodes texts and remembers the tokens of each word.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// Tokens of a word: where they start in `tokens`, and how many they are.
    words: HashMap<Box<[u8]>, (u32, u32)>,
    tokens: Vec<TokenId>,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Encoder<'a> {
        Encoder { tokenizer, words: HashMap::new(), tokens: Vec::new() }
    }

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
pub(super) fn stretches(text: &str) -> impl Iterator<Item = (&str, bool)> {
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
