//! Batches of training and validation tokens.
//!
//! A sequence of `seq` inputs and its targets, one token further, take `seq + 1` tokens; sequences
//! lie one behind the other and share that last token, so every token but the first is a target once
//! per epoch.

use std::sync::Arc;

use model::TokenId;

use super::error::{DataError, Result};
use super::shuffle::place;
use super::tokens::Tokens;

/// Inputs and what should follow each of them, both `[batch, seq]`, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Inputs.
    pub tokens: Vec<TokenId>,
    /// Token behind each input; [`TokenId::IGNORE`] where there is nothing to learn.
    pub targets: Vec<TokenId>,
    /// Tokens in a row.
    pub seq: usize,
}

impl Batch {
    fn with_capacity(batch: usize, seq: usize) -> Batch {
        let room = batch.saturating_mul(seq).min(1 << 24);
        Batch { tokens: Vec::with_capacity(room), targets: Vec::with_capacity(room), seq }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.tokens.len() / self.seq
    }

    /// Targets that count.
    pub fn counted(&self) -> u64 {
        self.targets.iter().filter(|t| **t != TokenId::IGNORE).count() as u64
    }
}

/// Training batches: a pure function of the seed and of how many sequences have been consumed.
#[derive(Clone, Debug)]
pub struct Loader {
    tokens: Tokens,
    seq: usize,
    batch: usize,
    seed: u64,
    sequences: u64,
}

impl Loader {
    /// Batches of `batch` sequences of `seq` tokens. Fails with `E3070` when there is less than one
    /// sequence.
    ///
    /// # Panics
    /// When `seq` or `batch` is zero.
    pub fn new(tokens: Tokens, seq: usize, batch: usize, seed: u64) -> Result<Loader> {
        assert!(seq > 0 && batch > 0, "a batch of {batch} sequences of {seq} tokens");
        let needed = seq as u64 + 1;
        if tokens.len() < needed {
            return Err(DataError::TooShort { split: "training", tokens: tokens.len(), needed });
        }
        let sequences = (tokens.len() - 1) / seq as u64;
        Ok(Loader { tokens, seq, batch, seed, sequences })
    }

    /// Sequences in an epoch.
    pub fn sequences_per_epoch(&self) -> u64 {
        self.sequences
    }

    /// Epochs that are complete after `position` sequences.
    pub fn epoch(&self, position: u64) -> u64 {
        position / self.sequences
    }

    /// The batch that follows `position` consumed sequences; it may span two epochs.
    pub fn batch(&self, position: u64) -> Result<Batch> {
        let mut batch = Batch::with_capacity(self.batch, self.seq);
        let mut window = vec![TokenId(0); self.seq + 1];
        for position in position..position + self.batch as u64 {
            let place = place(self.seed, self.epoch(position), position % self.sequences, self.sequences);
            self.tokens.read(place * self.seq as u64, &mut window)?;
            batch.tokens.extend_from_slice(&window[..self.seq]);
            batch.targets.extend_from_slice(&window[1..]);
        }
        Ok(batch)
    }
}

/// Validation batches: every token once, in the order of the files.
///
/// Targets without text (special tokens) are ignored, so that
/// `bits per byte = Σ nats / (ln 2 · Σ bytes)` over all batches.
#[derive(Clone, Debug)]
pub struct Validation {
    tokens: Tokens,
    byte_lens: Arc<[u32]>,
    seq: usize,
    batch: usize,
}

/// A batch of validation tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValBatch {
    /// Always full; the end of the data is filled up with targets that are ignored.
    pub batch: Batch,
    /// Bytes of text that the counted targets stand for.
    pub bytes: u64,
}

impl Validation {
    /// Batches of `batch` sequences of `seq` tokens. `byte_lens` is [`model::Tokenizer::byte_lens`].
    /// Fails with `E3070` when there is nothing to predict.
    ///
    /// # Panics
    /// When `seq` or `batch` is zero.
    pub fn new(
        tokens: Tokens,
        byte_lens: impl Into<Arc<[u32]>>,
        seq: usize,
        batch: usize,
    ) -> Result<Validation> {
        assert!(seq > 0 && batch > 0, "a batch of {batch} sequences of {seq} tokens");
        if tokens.len() < 2 {
            return Err(DataError::TooShort { split: "validation", tokens: tokens.len(), needed: 2 });
        }
        Ok(Validation { tokens, byte_lens: byte_lens.into(), seq, batch })
    }

    /// Number of batches.
    pub fn len(&self) -> u64 {
        (self.tokens.len() - 1).div_ceil(self.seq as u64).div_ceil(self.batch as u64)
    }

    /// Never: there is at least one batch.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Batch `index` of [`Validation::len`].
    pub fn batch(&self, index: u64) -> Result<ValBatch> {
        let (seq, rows) = (self.seq as u64, self.batch as u64);
        let mut batch = Batch::with_capacity(self.batch, self.seq);
        let mut bytes = 0;
        let mut window = vec![TokenId(0); self.seq + 1];
        for row in index * rows..(index + 1) * rows {
            let start = (row * seq).min(self.tokens.len());
            let here = (self.tokens.len() - start).min(seq + 1) as usize;
            self.tokens.read(start, &mut window[..here])?;
            window[here..].fill(TokenId::IGNORE);
            for pair in window.windows(2) {
                let [token, target] = [pair[0], pair[1]];
                let length = self.byte_lens.get(target.0 as usize).copied().unwrap_or(0);
                let counts = length > 0 && token != TokenId::IGNORE;
                bytes += if counts { u64::from(length) } else { 0 };
                batch.tokens.push(if token == TokenId::IGNORE { TokenId(0) } else { token });
                batch.targets.push(if counts { target } else { TokenId::IGNORE });
            }
        }
        Ok(ValBatch { batch, bytes })
    }

    /// All batches, in order.
    pub fn batches(&self) -> impl Iterator<Item = Result<ValBatch>> {
        (0..self.len()).map(|index| self.batch(index))
    }
}
