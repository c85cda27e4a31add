//! Prefill and decode on the reference blocks.

use std::collections::BTreeMap;

use model::{ModelConfig, TokenId, Weights};

use super::Reference;
use super::attention;
use super::model::to_f32;
use crate::{Decode, Error, Feed, KvBlock, Logits, Prefill, Result, SeqId, Tokens};

/// The reference for writing text: recomputes each position from its cached keys and values.
pub struct ReferenceInfer {
    model: Reference,
    /// Positions that a token sees, itself included.
    window: usize,
    sequences: BTreeMap<SeqId, Cache>,
}

/// Keys and values, per layer `[position, kv_heads·head_dim]`.
#[derive(Clone)]
struct Cache {
    len: usize,
    keys: Vec<Vec<f64>>,
    values: Vec<Vec<f64>>,
}

impl Cache {
    fn new(layers: usize) -> Self {
        Self { len: 0, keys: vec![Vec::new(); layers], values: vec![Vec::new(); layers] }
    }
}

impl ReferenceInfer {
    /// A model of these weights.
    pub fn new(config: &ModelConfig, weights: Weights) -> Self {
        let model = Reference::from_weights(config, weights);
        Self { model, window: config.max_seq, sequences: BTreeMap::new() }
    }

    /// The same, where a token sees only the last `window` positions, itself included.
    pub fn with_window(self, window: usize) -> Self {
        Self { window, ..self }
    }

    /// Attention of the last rows, `q`, over `k` and `v`, all `[position, width]`.
    fn attend(&self, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
        let c = &self.model.config;
        let (wide, width) = (c.q_dim(), c.kv_dim());
        let (end, new) = (k.len() / width, q.len() / wide);
        // The queries, behind as many unused ones as there are other positions.
        let behind = |others: usize, q: &[f64], k: &[f64], v: &[f64]| {
            let mut queries = vec![0.0; others * wide];
            queries.extend(q);
            let o = attention::forward(self.model.heads(k.len() / width), &queries, k, v);
            o[others * wide..].to_vec()
        };
        if end <= self.window {
            return behind(end - new, q, k, v);
        }
        let row = |(row, q): (usize, &[f64])| {
            let last = end - new + row + 1;
            let first = last.saturating_sub(self.window);
            let seen = first * width..last * width;
            behind(last - first - 1, q, &k[seen.clone()], &v[seen])
        };
        q.chunks_exact(wide).enumerate().flat_map(row).collect()
    }

    /// Appends tokens to a cache; logits of every new row.
    fn run(&self, cache: &mut Cache, tokens: &[TokenId]) -> Result<Vec<f64>> {
        let c = &self.model.config;
        let end = cache.len + tokens.len();
        if end > c.max_seq {
            return Err(Error::SequenceTooLong { got: end, max: c.max_seq });
        }
        Tokens { ids: tokens, seq: tokens.len() }.check(c)?;
        let mut x = self.model.embed_rows(tokens);
        for layer in 0..c.layers {
            let parts = self.model.attention_parts(layer, &x, tokens.len(), cache.len);
            cache.keys[layer].extend(&parts.k);
            cache.values[layer].extend(&parts.v);
            let o = self.attend(&parts.q, &cache.keys[layer], &cache.values[layer]);
            x = self.model.attention_out(layer, &x, &o);
            x = self.model.ffn_rows(layer, &x);
        }
        cache.len = end;
        Ok(self.model.logits(&x))
    }
}

impl Prefill for ReferenceInfer {
    fn prefill(&mut self, tokens: &[TokenId]) -> Result<(KvBlock, Logits)> {
        let c = self.model.config.clone();
        let mut cache = Cache::new(c.layers);
        let logits = self.run(&mut cache, tokens)?;
        let by_head = |rows: &[Vec<f64>]| {
            let mut out = Vec::new();
            for rows in rows {
                for head in 0..c.kv_heads {
                    for row in rows.chunks_exact(c.kv_dim()) {
                        out.extend(to_f32(&row[head * c.head_dim..][..c.head_dim]));
                    }
                }
            }
            out
        };
        let kv = KvBlock {
            layers: c.layers,
            kv_heads: c.kv_heads,
            len: cache.len,
            head_dim: c.head_dim,
            keys: by_head(&cache.keys),
            values: by_head(&cache.values),
        };
        let last = to_f32(&logits[logits.len() - c.vocab..]);
        Ok((kv, Logits { vocab: c.vocab, values: last }))
    }
}

impl Decode for ReferenceInfer {
    fn seed(&mut self, seq: SeqId, kv: &KvBlock) -> Result<()> {
        let c = &self.model.config;
        let mut cache = Cache::new(c.layers);
        cache.len = kv.len;
        for layer in 0..c.layers {
            for position in 0..kv.len {
                for head in 0..c.kv_heads {
                    let (keys, values) = kv.head(layer, head);
                    let at = position * c.head_dim..(position + 1) * c.head_dim;
                    cache.keys[layer].extend(keys[at.clone()].iter().map(|&k| f64::from(k)));
                    cache.values[layer].extend(values[at].iter().map(|&v| f64::from(v)));
                }
            }
        }
        self.sequences.insert(seq, cache);
        Ok(())
    }

    fn extend(&mut self, feeds: &[Feed<'_>]) -> Result<Logits> {
        let mut values = Vec::new();
        for feed in feeds {
            let mut cache = self.sequences.get(&feed.seq).ok_or(Error::UnknownSequence(feed.seq.0))?.clone();
            values.extend(to_f32(&self.run(&mut cache, feed.tokens)?));
            self.sequences.insert(feed.seq, cache);
        }
        Ok(Logits { vocab: self.model.config.vocab, values })
    }

    fn truncate(&mut self, seq: SeqId, len: usize) -> Result<()> {
        let width = self.model.config.kv_dim();
        let cache = self.sequences.get_mut(&seq).ok_or(Error::UnknownSequence(seq.0))?;
        cache.len = cache.len.min(len);
        for rows in cache.keys.iter_mut().chain(&mut cache.values) {
            rows.truncate(cache.len * width);
        }
        Ok(())
    }

    fn release(&mut self, seq: SeqId) {
        self.sequences.remove(&seq);
    }
}
