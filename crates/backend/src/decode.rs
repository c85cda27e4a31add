//! Writing token by token.

use model::TokenId;

use crate::{KvBlock, Result};

/// Names a sequence that a [`Decode`] device holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u32);

/// New tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct Feed<'a> {
    /// The sequence.
    pub seq: SeqId,
    /// Its next tokens; several at once when a draft is checked.
    pub tokens: &'a [TokenId],
}

/// Logits, one row per token that was fed, in the order of the feeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Logits {
    /// Columns.
    pub vocab: usize,
    /// `[rows, vocab]`, row-major.
    pub values: Vec<f32>,
}

impl Logits {
    /// The logits after one token.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.vocab..][..self.vocab]
    }

    /// The logits after the last token.
    pub fn last(&self) -> &[f32] {
        &self.values[self.values.len() - self.vocab..]
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.vocab
    }
}

/// A device that continues sequences from their keys and values.
pub trait Decode {
    /// Starts a sequence from its prompt's keys and values, in place of any of that name.
    fn seed(&mut self, seq: SeqId, kv: &KvBlock) -> Result<()>;

    /// Appends tokens to sequences and returns the logits after each of them.
    fn extend(&mut self, feeds: &[Feed<'_>]) -> Result<Logits>;

    /// Forgets all but the first `len` positions of a sequence.
    fn truncate(&mut self, seq: SeqId, len: usize) -> Result<()>;

    /// Frees a sequence.
    fn release(&mut self, seq: SeqId);

    /// The part that draws tokens on the device, where it has one.
    fn stream(&mut self) -> Option<&mut dyn Stream> {
        None
    }
}

/// How a device draws tokens; 0 for `top_k` and 1 for `top_p` cut nothing off.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// Division of the logits; 0: always the most likely token.
    pub temperature: f32,
    /// Among the so many most likely tokens.
    pub top_k: usize,
    /// Among the most likely tokens that together have this probability.
    pub top_p: f32,
    /// Among tokens at least this share as likely as the most likely one.
    pub min_p: f32,
    /// Decides the draws, on a device of one kind.
    pub seed: u64,
}

/// A device that draws tokens itself, so that none of them waits for the host.
pub trait Stream {
    /// Appends `token` to a sequence, draws the next, appends that, and so on. `emit` gets every token that
    /// was drawn, in order, and returns whether to go on; it ends also when the positions are used up. The
    /// sequence then holds `token` and all emitted tokens but the last.
    fn run(
        &mut self,
        seq: SeqId,
        token: TokenId,
        draw: &Draw,
        emit: &mut dyn FnMut(TokenId) -> bool,
    ) -> Result<()>;
}
