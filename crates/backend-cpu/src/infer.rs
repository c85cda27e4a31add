//! Reading prompts and writing text.

use std::collections::BTreeMap;

use backend::{Decode, Error, Feed, KvBlock, Logits, Prefill, Result, SeqId, Tokens};
use model::{ModelConfig, Role, TokenId, Weights};

use crate::kernels::attention::{self, Heads};
use crate::kernels::{rms_norm, rope, swiglu};
use crate::memory::CpuResult;
use crate::params::Layout;
use crate::{Buffer, CpuError, Exec, Into, Mat, MatMut, Plan, Rows, RowsMut};

/// A model that writes on the CPU: prompts in one pass, then token by token for several sequences
/// at once.
pub struct CpuInfer {
    model: Model,
    caches: BTreeMap<SeqId, Cache>,
}

struct Model {
    config: ModelConfig,
    max_tokens: usize,
    exec: Exec,
    layout: Layout,
    weights: Buffer,
    rope: rope::Table,
    buffers: Buffers,
}

/// One pass of at most `max_tokens` rows.
struct Buffers {
    x: Buffer,
    norm: Buffer,
    qkv: Buffer,
    o: Buffer,
    lse: Buffer,
    gate_up: Buffer,
    gated: Buffer,
}

/// Keys and values of a sequence: per layer and key head `[position, head_dim]`.
#[derive(Default)]
struct Cache {
    len: usize,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

/// A token to read: the number of its cache, its place in the sequence.
#[derive(Clone, Copy)]
struct Row {
    cache: usize,
    position: usize,
    token: TokenId,
}

/// Which rows give logits.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    All,
    Last,
}

impl Cache {
    fn new(c: &ModelConfig) -> Self {
        let heads = c.layers * c.kv_heads;
        Self { len: 0, keys: vec![Vec::new(); heads], values: vec![Vec::new(); heads] }
    }

    fn truncate(&mut self, len: usize, head_dim: usize) {
        self.len = self.len.min(len);
        let numbers = self.len * head_dim;
        self.keys.iter_mut().chain(&mut self.values).for_each(|rows| rows.truncate(numbers));
    }

    fn reserve(&mut self, positions: usize, head_dim: usize) -> CpuResult<()> {
        let more = positions.saturating_sub(self.len) * head_dim;
        for rows in self.keys.iter_mut().chain(&mut self.values) {
            rows.try_reserve(more)
                .map_err(|_| CpuError::OutOfMemory { what: "keys and values", bytes: more as u128 * 4 })?;
        }
        Ok(())
    }
}

impl CpuInfer {
    /// A model of these weights. `plan.max_tokens` is how many tokens go through in one pass: longer
    /// prompts take several.
    pub fn new(config: &ModelConfig, weights: Weights, plan: Plan) -> Result<Self> {
        Ok(Self { model: Model::new(config, weights, plan)?, caches: BTreeMap::new() })
    }

    /// Bytes of keys and values that are held.
    pub fn cache_bytes(&self) -> usize {
        let bytes = |c: &Cache| c.keys.iter().chain(&c.values).map(|k| 4 * k.capacity()).sum::<usize>();
        self.caches.values().map(bytes).sum()
    }
}

impl Model {
    fn new(c: &ModelConfig, weights: Weights, plan: Plan) -> CpuResult<Self> {
        c.validate()?;
        let layout = Layout::new(c);
        let mut memory = Buffer::zeros("weights", layout.len())?;
        for p in layout.table() {
            memory[layout.range(p.id)].copy_from_slice(weights.get(p.id));
        }
        drop(weights);
        let max_tokens = plan.max_tokens.clamp(1, c.max_seq);
        let mut exec = Exec::new(&plan)?;
        exec.pool.reserve_scratch(Heads::new(c, max_tokens).scratch())?;
        let buffer = |width| Buffer::zeros_2d("activations", max_tokens, width);
        let buffers = Buffers {
            x: buffer(c.dim)?,
            norm: buffer(c.dim)?,
            qkv: buffer(c.q_dim() + 2 * c.kv_dim())?,
            o: buffer(c.q_dim())?,
            lse: buffer(c.heads)?,
            gate_up: buffer(2 * c.hidden)?,
            gated: buffer(c.hidden)?,
        };
        let rope = rope::Table::new(c);
        Ok(Self { config: c.clone(), max_tokens, exec, layout, weights: memory, rope, buffers })
    }

    /// Reads rows, each behind what its cache holds by then; returns logits.
    fn run(&mut self, caches: &mut [Cache], rows: &[Row], wanted: Wanted) -> Result<Logits> {
        let c = self.config.clone();
        let positions = rows.iter().map(|r| r.position + 1).max().unwrap_or(0);
        self.rope.reserve(positions)?;
        self.exec.pool.reserve_scratch(positions)?;
        for (number, cache) in caches.iter_mut().enumerate() {
            let end = rows.iter().filter(|r| r.cache == number).map(|r| r.position + 1).max();
            cache.reserve(end.unwrap_or(0), c.head_dim)?;
        }
        let count = if wanted == Wanted::All { rows.len() } else { 1 };
        let len = count * c.vocab;
        let mut values = Vec::new();
        values
            .try_reserve_exact(len)
            .map_err(|_| CpuError::OutOfMemory { what: "logits", bytes: len as u128 * 4 })?;
        for rows in rows.chunks(self.max_tokens) {
            for (row, x) in rows.iter().zip(self.buffers.x.chunks_exact_mut(c.dim)) {
                let start = self.layout.place(Role::Embed, Role::Embed, None).start;
                x.copy_from_slice(&self.weights[start + row.token.0 as usize * c.dim..][..c.dim]);
            }
            for layer in 0..c.layers {
                self.attention(&c, layer, caches, rows);
                self.ffn(&c, layer, rows.len());
            }
            for row in rows {
                let cache = &mut caches[row.cache];
                cache.len = cache.len.max(row.position + 1);
            }
            if wanted == Wanted::All {
                self.head(&c, 0, rows.len(), &mut values);
            }
        }
        if wanted == Wanted::Last {
            let last = (rows.len() - 1) % self.max_tokens;
            self.head(&c, last, 1, &mut values);
        }
        Ok(Logits { vocab: c.vocab, values })
    }

    fn attention(&mut self, c: &ModelConfig, layer: usize, caches: &mut [Cache], rows: &[Row]) {
        let (n, isa, l, d) = (rows.len(), self.exec.isa, Some(layer), c.head_dim);
        let (q, qk, row) = (c.q_dim(), c.q_dim() + c.kv_dim(), c.q_dim() + 2 * c.kv_dim());
        let weights = &self.weights;
        let weight = |first, last| &weights[self.layout.place(first, last, l)];
        let b = &mut self.buffers;
        normalise(&self.exec, &b.x, weight(Role::AttnNorm, Role::AttnNorm), c, &mut b.norm[..n * c.dim]);
        let mut into = Into::Set;
        if c.qkv_bias {
            let bias = weight(Role::QBias, Role::VBias);
            b.qkv[..n * row].chunks_exact_mut(row).for_each(|y| y.copy_from_slice(bias));
            into = Into::Add;
        }
        let w = Mat::new(weight(Role::Q, Role::V), row, c.dim);
        self.exec.matmul(1.0, Mat::new(&b.norm, n, c.dim), w.t(), into, MatMut::new(&mut b.qkv, n, row));
        let gains = c.qk_norm.then(|| [Role::QNorm, Role::KNorm].map(|r| weight(r, r)));
        let rope = &self.rope;
        let parts = (Rows::new(rows, 1), RowsMut::new(&mut b.qkv[..n * row], row));
        self.exec.pool.each(parts, |_, (token, qkv)| {
            if let Some([q_gain, k_gain]) = gains {
                rms_norm::in_place(isa, q_gain, c.norm_eps, &mut qkv[..q]);
                rms_norm::in_place(isa, k_gain, c.norm_eps, &mut qkv[q..qk]);
            }
            rope.forward(isa, token[0].position, &mut qkv[..qk]);
        });
        for (token, qkv) in rows.iter().zip(b.qkv.chunks_exact(row)) {
            let cache = &mut caches[token.cache];
            for head in 0..c.kv_heads {
                let at = layer * c.kv_heads + head;
                cache.keys[at].extend_from_slice(&qkv[q + head * d..][..d]);
                cache.values[at].extend_from_slice(&qkv[qk + head * d..][..d]);
            }
        }
        // A prompt from its beginning goes in blocks; everything else query by query.
        let prompt = rows.iter().enumerate().all(|(i, r)| r.position == i && r.cache == rows[0].cache);
        if prompt && n > 1 {
            let (qkv, o, lse) = (&b.qkv[..n * row], &mut b.o[..n * q], &mut b.lse[..n * c.heads]);
            attention::forward(&self.exec, Heads::new(c, n), qkv, o, lse);
        } else {
            let (qkv, caches) = (&b.qkv, &*caches);
            let o = RowsMut::new(&mut b.o[..n * q], d);
            self.exec.pool.each_with_scratch(o, |task, o, scratch| {
                let (token, head) = (rows[task / c.heads], task % c.heads);
                let at = layer * c.kv_heads + head / c.group_size();
                let seen = (token.position + 1) * d;
                let cache = &caches[token.cache];
                let query = &qkv[task / c.heads * row + head * d..][..d];
                attention::one_query(
                    isa,
                    query,
                    &cache.keys[at][..seen],
                    &cache.values[at][..seen],
                    scratch,
                    o,
                );
            });
        }
        let w = Mat::new(weight(Role::O, Role::O), c.dim, q);
        let x = MatMut::new(&mut b.x, n, c.dim);
        self.exec.matmul(c.residual_scale, Mat::new(&b.o, n, q), w.t(), Into::Add, x);
    }

    fn ffn(&mut self, c: &ModelConfig, layer: usize, n: usize) {
        let (isa, l, hidden) = (self.exec.isa, Some(layer), c.hidden);
        let weights = &self.weights;
        let weight = |first, last| &weights[self.layout.place(first, last, l)];
        let b = &mut self.buffers;
        normalise(&self.exec, &b.x, weight(Role::FfnNorm, Role::FfnNorm), c, &mut b.norm[..n * c.dim]);
        let w = Mat::new(weight(Role::Gate, Role::Up), 2 * hidden, c.dim);
        let y = MatMut::new(&mut b.gate_up, n, 2 * hidden);
        self.exec.matmul(1.0, Mat::new(&b.norm, n, c.dim), w.t(), Into::Set, y);
        let gate_up = Rows::new(&b.gate_up[..n * 2 * hidden], 2 * hidden);
        self.exec.pool.each(
            (gate_up, RowsMut::new(&mut b.gated[..n * hidden], hidden)),
            |_, (gate_up, y)| {
                let (gate, up) = gate_up.split_at(hidden);
                swiglu::forward(isa, gate, up, y);
            },
        );
        let w = Mat::new(weight(Role::Down, Role::Down), c.dim, hidden);
        self.exec.matmul(
            c.residual_scale,
            Mat::new(&b.gated, n, hidden),
            w.t(),
            Into::Add,
            MatMut::new(&mut b.x, n, c.dim),
        );
    }

    /// Appends the logits of `n` rows from `first` on.
    fn head(&mut self, c: &ModelConfig, first: usize, n: usize, values: &mut Vec<f32>) {
        let head = if c.tied { Role::Embed } else { Role::Head };
        let (start, place) = (values.len(), self.layout.place(head, head, None));
        values.resize(start + n * c.vocab, 0.0);
        let norm = &mut self.buffers.norm[..n * c.dim];
        let gain = &self.weights[self.layout.place(Role::FinalNorm, Role::FinalNorm, None)];
        normalise(&self.exec, &self.buffers.x[first * c.dim..], gain, c, norm);
        let w = Mat::new(&self.weights[place], c.vocab, c.dim);
        let y = MatMut::new(&mut values[start..], n, c.vocab);
        self.exec.matmul(1.0, Mat::new(norm, n, c.dim), w.t(), Into::Set, y);
    }
}

impl Prefill for CpuInfer {
    fn prefill(&mut self, tokens: &[TokenId]) -> Result<(KvBlock, Logits)> {
        let c = &self.model.config;
        Tokens { ids: tokens, seq: tokens.len() }.check(c)?;
        let mut cache = [Cache::new(c)];
        let row = |(position, &token)| Row { cache: 0, position, token };
        let rows: Vec<_> = tokens.iter().enumerate().map(row).collect();
        let logits = self.model.run(&mut cache, &rows, Wanted::Last)?;
        let c = &self.model.config;
        let [cache] = cache;
        let kv = KvBlock {
            layers: c.layers,
            kv_heads: c.kv_heads,
            len: cache.len,
            head_dim: c.head_dim,
            keys: cache.keys.concat(),
            values: cache.values.concat(),
        };
        Ok((kv, logits))
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
        let mut cache = Cache::new(c);
        cache.reserve(kv.len, c.head_dim)?;
        cache.len = kv.len;
        for layer in 0..c.layers {
            for head in 0..c.kv_heads {
                let (keys, values) = kv.head(layer, head);
                cache.keys[layer * c.kv_heads + head].extend_from_slice(keys);
                cache.values[layer * c.kv_heads + head].extend_from_slice(values);
            }
        }
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

fn normalise(exec: &Exec, x: &[f32], gain: &[f32], c: &ModelConfig, norm: &mut [f32]) {
    const ROWS: usize = 32;
    let (isa, eps, len) = (exec.isa, c.norm_eps, ROWS * c.dim);
    exec.pool.each((Rows::new(&x[..norm.len()], len), RowsMut::new(norm, len)), |_, (x, norm)| {
        rms_norm::forward(isa, x, gain, eps, norm);
    });
}
