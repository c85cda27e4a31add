//! Text of generated tokens, as they come.

use super::Tokenizer;
use crate::TokenId;

/// Turns tokens into text one by one and never splits a character: bytes of an unfinished one wait
/// for the next token.
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    /// Byte-level vocabularies: bytes of the unfinished character.
    pending: Vec<u8>,
    /// Other vocabularies: tokens since the last place where the text was certain, and how many of
    /// them have been shown.
    window: Vec<TokenId>,
    shown: usize,
}

impl<'a> StreamDecoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, pending: Vec::new(), window: Vec::new(), shown: 0 }
    }

    /// The text that `token` completes; may be empty. Special tokens have none.
    pub fn push(&mut self, token: TokenId) -> String {
        if self.tokenizer.byte_level {
            self.pending.extend_from_slice(self.tokenizer.bytes_of(token));
            let (text, rest) = whole_characters(&self.pending);
            self.pending.drain(..self.pending.len() - rest);
            return text;
        }
        self.window.push(token);
        let before = self.tokenizer.decode(&self.window[..self.shown]);
        let now = self.tokenizer.decode(&self.window);
        // A replacement character at the end may become a letter with the next token; after a few
        // tokens it will not.
        let unfinished = now.ends_with('\u{FFFD}') && self.window.len() - self.shown < 8;
        if unfinished {
            return String::new();
        }
        let text = now.strip_prefix(before.as_str()).unwrap_or_default().to_string();
        if !text.is_empty() {
            self.window.drain(..self.shown);
            self.shown = self.window.len();
        }
        text
    }

    /// What is left at the end: a replacement character for bytes that never became a character.
    pub fn finish(mut self) -> String {
        if self.tokenizer.byte_level {
            return String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned();
        }
        let before = self.tokenizer.decode(&self.window[..self.shown]);
        let now = self.tokenizer.decode(&self.window);
        now.strip_prefix(before.as_str()).unwrap_or_default().to_string()
    }
}

/// The text of `bytes` without a character that is cut off at the end, and the bytes of that one.
fn whole_characters(bytes: &[u8]) -> (String, usize) {
    let mut text = String::new();
    let mut rest = bytes;
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                return (text, 0);
            }
            Err(error) => {
                let (valid, tail) = rest.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(valid));
                let Some(bad) = error.error_len() else { return (text, tail.len()) };
                text.push('\u{FFFD}');
                rest = &tail[bad..];
            }
        }
    }
}
