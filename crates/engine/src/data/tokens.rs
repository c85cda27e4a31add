//! Token files, one behind the other, read as one long row.

use std::ops::Range;
use std::sync::Arc;

use model::TokenId;

use super::error::Result;
use super::shard::Shard;

/// A range of the tokens of some files. Copies share the files.
#[derive(Clone, Debug)]
pub struct Tokens {
    shards: Arc<[Shard]>,
    /// Tokens in each file and those before it.
    ends: Arc<[u64]>,
    range: Range<u64>,
}

impl Tokens {
    /// All tokens of `shards`, in this order.
    pub fn new(shards: Vec<Shard>) -> Tokens {
        let mut total = 0;
        let ends: Arc<[u64]> = shards
            .iter()
            .map(|shard| {
                total += shard.len();
                total
            })
            .collect();
        Tokens { shards: shards.into(), ends, range: 0..total }
    }

    /// The part of these tokens from `range.start` up to `range.end`; what is past the end is left out.
    pub fn slice(&self, range: Range<u64>) -> Tokens {
        let at = |i: u64| self.range.end.min(self.range.start.saturating_add(i));
        Tokens { range: at(range.start)..at(range.end), ..self.clone() }
    }

    /// Number of tokens.
    pub fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The files.
    pub fn shards(&self) -> &[Shard] {
        &self.shards
    }

    /// Reads `into.len()` tokens from `at` on.
    ///
    /// # Panics
    /// When fewer are left.
    pub fn read(&self, at: u64, mut into: &mut [TokenId]) -> Result<()> {
        assert!(at + into.len() as u64 <= self.len(), "{} tokens from {at} of {}", into.len(), self.len());
        let mut at = self.range.start + at;
        let mut shard = self.ends.partition_point(|end| *end <= at);
        while !into.is_empty() {
            let start = self.ends[shard] - self.shards[shard].len();
            let here = (self.ends[shard] - at).min(into.len() as u64);
            let (head, tail) = into.split_at_mut(here as usize);
            self.shards[shard].read(at - start, head)?;
            (into, at, shard) = (tail, at + here, shard + 1);
        }
        Ok(())
    }
}
