//! Reading prompts and writing text.

mod cache;
mod matrices;
mod measure;
mod one_block;
mod pass;

use std::collections::BTreeMap;

use backend::{Decode, Error, Feed, Footprint, KvBlock, Logits, Prefill, Result, SeqId, Tokens};
use model::{ModelConfig, TokenId, Weights};

use crate::{Plan, count};
pub use matrices::FillRow;
pub use measure::Timed;
pub use one_block::OneBlock;

use cache::Cache;
use matrices::Part;
use pass::{Model, Row, Wanted};

/// A model that writes on the CPU: prompts in one pass, then token by token for several sequences
/// at once.
pub struct CpuInfer {
    model: Model,
    caches: BTreeMap<SeqId, Cache>,
}

impl CpuInfer {
    /// A model of these weights. `plan.max_tokens` is how many tokens go through in one pass: longer
    /// prompts take several. With a `plan.format` the matrices are rounded to it, and keys and values are
    /// held as f16.
    ///
    /// # Errors
    /// No memory, no thread, or a weight that the format cannot hold.
    pub fn new(config: &ModelConfig, weights: Weights, plan: Plan) -> Result<Self> {
        Ok(Self { model: Model::new(config, &weights, plan)?, caches: BTreeMap::new() })
    }

    /// Bytes that `sequences` of `context` positions each take beside the model; nothing is taken.
    ///
    /// # Errors
    /// As [`CpuInfer::new`], but for want of memory.
    pub fn footprint(
        config: &ModelConfig,
        plan: Plan,
        context: usize,
        sequences: usize,
    ) -> Result<Footprint> {
        let (model, mut found) = count(|| Model::reserve(config, plan));
        let model = model?;
        found.set("weights", model.plain_bytes());
        let keys = Cache::bytes_of(config, model.precision(), context);
        found.add("keys and values", keys * sequences as u64);
        found.add("logits", 4 * (config.vocab * sequences) as u64);
        Ok(found)
    }

    /// Bytes of keys and values that are held.
    pub fn cache_bytes(&self) -> usize {
        self.caches.values().map(Cache::bytes).sum()
    }

    /// Bytes of weights that writing a token reads.
    pub fn bytes_per_token(&self) -> usize {
        Part::ALL.into_iter().map(|part| self.model.bytes_of(part)).sum()
    }
}

impl Prefill for CpuInfer {
    fn prefill(&mut self, tokens: &[TokenId]) -> Result<(KvBlock, Logits)> {
        Tokens { ids: tokens, seq: tokens.len() }.check(&self.model.config)?;
        let mut cache = [self.model.cache()];
        let row = |(position, &token)| Row { cache: 0, position, token };
        let rows: Vec<_> = tokens.iter().enumerate().map(row).collect();
        let logits = self.model.run(&mut cache, &rows, Wanted::Last)?;
        let [cache] = cache;
        Ok((cache.block(&self.model.config), logits))
    }
}

impl Decode for CpuInfer {
    fn seed(&mut self, seq: SeqId, kv: &KvBlock) -> Result<()> {
        let c = &self.model.config;
        if kv.len > c.max_seq {
            return Err(Error::SequenceTooLong { got: kv.len, max: c.max_seq });
        }
        let wanted = c.layers * c.kv_heads * c.head_dim * kv.len;
        let shape = (kv.layers, kv.kv_heads, kv.head_dim) == (c.layers, c.kv_heads, c.head_dim);
        for got in [kv.keys.len(), kv.values.len()] {
            if !shape || got != wanted {
                return Err(Error::WrongLength { name: "keys and values".into(), wanted, got });
            }
        }
        let mut cache = self.model.cache();
        cache.seed(kv)?;
        self.caches.insert(seq, cache);
        Ok(())
    }

    fn extend(&mut self, feeds: &[Feed<'_>]) -> Result<Logits> {
        let c = &self.model.config;
        // Everything is checked before anything changes.
        let mut ends: BTreeMap<SeqId, usize> = BTreeMap::new();
        let mut order = Vec::new();
        let mut rows = Vec::new();
        for feed in feeds {
            let cache = self.caches.get(&feed.seq).ok_or(Error::UnknownSequence(feed.seq.0))?;
            let end = ends.entry(feed.seq).or_insert(cache.len);
            let start = *end;
            *end += feed.tokens.len();
            if *end > c.max_seq {
                return Err(Error::SequenceTooLong { got: *end, max: c.max_seq });
            }
            Tokens { ids: feed.tokens, seq: feed.tokens.len() }.check(c)?;
            let number = order.iter().position(|&s| s == feed.seq).unwrap_or_else(|| {
                order.push(feed.seq);
                order.len() - 1
            });
            let row = |(i, &token)| Row { cache: number, position: start + i, token };
            rows.extend(feed.tokens.iter().enumerate().map(row));
        }
        if rows.is_empty() {
            return Ok(Logits { vocab: c.vocab, values: Vec::new() });
        }
        let mut caches: Vec<_> =
            order.iter().map(|seq| self.caches.remove(seq).unwrap_or_default()).collect();
        let starts: Vec<_> = caches.iter().map(|c| c.len).collect();
        let logits = self.model.run(&mut caches, &rows, Wanted::All);
        let head_dim = self.model.config.head_dim;
        for ((seq, mut cache), start) in order.into_iter().zip(caches).zip(starts) {
            if logits.is_err() {
                cache.truncate(start, head_dim);
            }
            self.caches.insert(seq, cache);
        }
        logits
    }

    fn truncate(&mut self, seq: SeqId, len: usize) -> Result<()> {
        let cache = self.caches.get_mut(&seq).ok_or(Error::UnknownSequence(seq.0))?;
        cache.truncate(len, self.model.config.head_dim);
        Ok(())
    }

    fn release(&mut self, seq: SeqId) {
        self.caches.remove(&seq);
    }
}
