//! One pass through the model: rows of tokens, each behind what its sequence holds.

use backend::{Logits, Result};
use model::{ModelConfig, Role, TokenId, Weights};

use super::cache::{Cache, Precision};
use super::matrices::{Finish, Matrices, Part};
use crate::apart::Apart;
use crate::gemv;
use crate::kernels::attention::{self, Heads};
use crate::kernels::rms_norm::{self, normalise};
use crate::kernels::{cached_attention, rope};
use crate::memory::CpuResult;
use crate::{Buffer, CpuError, Exec, Plan, Rows, RowsMut};

/// A model and the memory of a pass.
pub struct Model {
    pub config: ModelConfig,
    pub max_tokens: usize,
    precision: Precision,
    pub exec: Exec,
    pub matrices: Matrices,
    pub rope: rope::Table,
    buffers: Buffers,
}

/// One pass of at most `max_tokens` rows.
struct Buffers {
    x: Buffer,
    norm: Buffer,
    qkv: Buffer,
    o: Buffer,
    lse: Buffer,
    gated: Buffer,
}

/// A token to read: the number of its cache, its place in the sequence.
#[derive(Clone, Copy)]
pub struct Row {
    pub cache: usize,
    pub position: usize,
    pub token: TokenId,
}

/// Which rows give logits.
#[derive(Clone, Copy, PartialEq)]
pub enum Wanted {
    All,
    Last,
}

impl Model {
    pub fn new(c: &ModelConfig, weights: &Weights, plan: Plan) -> CpuResult<Self> {
        let mut model = Self::reserve(c, plan)?;
        model.matrices.fill(c, weights, &model.exec.pool)?;
        Ok(model)
    }

    /// A model of zeros.
    pub fn reserve(c: &ModelConfig, plan: Plan) -> CpuResult<Self> {
        c.validate()?;
        let max_tokens = plan.max_tokens.clamp(1, c.max_seq);
        let mut exec = Exec::new(&plan)?;
        exec.pool.reserve_scratch(Heads::new(c, max_tokens).scratch())?;
        if plan.format.is_some() {
            exec.pool.reserve_scratch(gemv::scratch(plan.isa, max_tokens))?;
        }
        let matrices = Matrices::reserve(c, plan.format, max_tokens, plan.isa)?;
        let buffer = |width| Buffer::zeros_2d("activations", max_tokens, width);
        let buffers = Buffers {
            x: buffer(c.dim)?,
            norm: buffer(c.dim)?,
            qkv: buffer(c.q_dim() + 2 * c.kv_dim())?,
            o: buffer(c.q_dim())?,
            lse: buffer(c.heads)?,
            gated: buffer(c.hidden)?,
        };
        let precision = if plan.format.is_some() { Precision::F16 } else { Precision::F32 };
        let rope = rope::Table::new(c);
        Ok(Self { config: c.clone(), max_tokens, precision, exec, matrices, rope, buffers })
    }

    /// Bytes that the parameters take which are held as they are.
    pub fn plain_bytes(&self) -> u64 {
        self.matrices.plain_bytes()
    }

    /// How keys and values are held.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Keys and values of no position.
    pub fn cache(&self) -> Cache {
        Cache::new(&self.config, self.precision)
    }

    /// Bytes of the matrices of one kind in all layers.
    pub fn bytes_of(&self, part: Part) -> usize {
        self.matrices.bytes_of(&self.config, part)
    }

    /// Reads rows, each behind what its cache holds by then; returns logits.
    pub fn run(&mut self, caches: &mut [Cache], rows: &[Row], wanted: Wanted) -> Result<Logits> {
        let c = self.config.clone();
        let positions = rows.iter().map(|r| r.position + 1).max().unwrap_or(0);
        self.rope.reserve(positions)?;
        self.exec.pool.reserve_scratch(cached_attention::scratch(positions))?;
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
            self.embed(&c, rows);
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

    /// The embeddings of rows, where a pass begins.
    pub fn embed(&mut self, c: &ModelConfig, rows: &[Row]) {
        for (row, x) in rows.iter().zip(self.buffers.x.chunks_exact_mut(c.dim)) {
            self.matrices.embedding(c, row.token.0 as usize, x);
        }
    }

    /// The attention of a layer. Without caches, the rows are a whole sequence whose keys and values nobody keeps.
    pub fn attention(&mut self, c: &ModelConfig, layer: usize, caches: &mut [Cache], rows: &[Row]) {
        let (n, isa, l, d) = (rows.len(), self.exec.isa, Some(layer), c.head_dim);
        let (q, qk, row) = (c.q_dim(), c.q_dim() + c.kv_dim(), c.q_dim() + 2 * c.kv_dim());
        let (b, exec) = (&mut self.buffers, &mut self.exec);
        let gain = self.matrices.vector(Role::AttnNorm, Role::AttnNorm, l);
        normalise(exec, &b.x, gain, c.norm_eps, &mut b.norm[..n * c.dim]);
        let bias = c.qkv_bias.then(|| self.matrices.vector(Role::QBias, Role::VBias, l).to_vec());
        let finish = Finish::Set(bias.as_deref());
        self.matrices.product(exec, c, Part::Qkv, layer, n, &b.norm, &mut b.qkv, finish);
        let gains = c.qk_norm.then(|| [Role::QNorm, Role::KNorm].map(|r| self.matrices.vector(r, r, l)));
        let rope = &self.rope;
        let parts = (Rows::new(rows, 1), RowsMut::new(&mut b.qkv[..n * row], row));
        exec.pool.each(parts, |_, (token, qkv)| {
            if let Some([q_gain, k_gain]) = gains {
                rms_norm::in_place(isa, q_gain, c.norm_eps, &mut qkv[..q]);
                rms_norm::in_place(isa, k_gain, c.norm_eps, &mut qkv[q..qk]);
            }
            rope.forward(isa, token[0].position, &mut qkv[..qk]);
        });
        let qkv = &b.qkv[..n * row];
        if let [cache] = caches {
            let heads = layer * c.kv_heads..(layer + 1) * c.kv_heads;
            cache.push_many(&exec.pool, heads, d, n, |position, head| {
                let qkv = &qkv[position * row..][..row];
                (&qkv[q + head * d..][..d], &qkv[qk + head * d..][..d])
            });
        } else if !caches.is_empty() {
            for (token, qkv) in rows.iter().zip(qkv.chunks_exact(row)) {
                caches[token.cache].push(layer, d, &qkv[q..qk], &qkv[qk..]);
            }
        }
        // A prompt from its beginning goes in blocks; everything else query by query.
        let prompt = rows.iter().enumerate().all(|(i, r)| r.position == i && r.cache == rows[0].cache);
        if caches.is_empty() || prompt && n > 1 {
            let (o, lse) = (&mut b.o[..n * q], &mut b.lse[..n * c.heads]);
            attention::forward(exec, self.matrices.precision(exec.isa, n), Heads::new(c, n), qkv, o, lse);
        } else {
            attend(exec, c, layer, caches, rows, qkv, &mut b.o[..n * q]);
        }
        let finish = Finish::Add(c.residual_scale);
        self.matrices.product(exec, c, Part::O, layer, n, &b.o, &mut b.x, finish);
    }

    /// The product of one row with the matrices of as many layers, for measuring.
    pub fn products(&mut self, part: Part, finish: Finish<'_>, layers: usize) {
        let (c, b, exec) = (&self.config, &mut self.buffers, &mut self.exec);
        let mut logits = vec![0.0; if part == Part::Head { c.vocab } else { 0 }];
        let (x, y) = match part {
            Part::Qkv => (&b.norm, &mut b.qkv[..]),
            Part::O => (&b.o, &mut b.x[..]),
            Part::GateUp => (&b.norm, &mut b.gated[..]),
            Part::Down => (&b.gated, &mut b.x[..]),
            Part::Head => (&b.norm, &mut logits[..]),
        };
        for layer in 0..layers {
            self.matrices.product(exec, c, part, layer, 1, x, y, finish);
        }
    }

    /// Attention of one row in every layer to so many positions of a cache, for measuring.
    pub fn attend(&mut self, cache: &Cache, positions: usize) {
        let (c, b) = (&self.config, &mut self.buffers);
        let row = [Row { cache: 0, position: positions - 1, token: TokenId(0) }];
        for layer in 0..c.layers {
            let cache = std::slice::from_ref(cache);
            attend(&self.exec, c, layer, cache, &row, &b.qkv, &mut b.o[..c.q_dim()]);
        }
    }

    /// A cache of zeros, for measuring.
    pub fn filled(&mut self, positions: usize) -> Result<Cache> {
        let mut cache = self.cache();
        cache.reserve(positions, self.config.head_dim)?;
        self.exec.pool.reserve_scratch(cached_attention::scratch(positions))?;
        let zeros = vec![0.0; self.config.kv_dim()];
        for layer in 0..self.config.layers {
            (0..positions).for_each(|_| cache.push(layer, self.config.head_dim, &zeros, &zeros));
        }
        cache.len = positions;
        Ok(cache)
    }

    /// The feed-forward of a layer.
    pub fn ffn(&mut self, c: &ModelConfig, layer: usize, n: usize) {
        let (b, exec) = (&mut self.buffers, &mut self.exec);
        let gain = self.matrices.vector(Role::FfnNorm, Role::FfnNorm, Some(layer));
        normalise(exec, &b.x, gain, c.norm_eps, &mut b.norm[..n * c.dim]);
        self.matrices.product(exec, c, Part::GateUp, layer, n, &b.norm, &mut b.gated, Finish::Gated);
        let finish = Finish::Add(c.residual_scale);
        self.matrices.product(exec, c, Part::Down, layer, n, &b.gated, &mut b.x, finish);
    }

    /// Appends the logits of `n` rows from `first` on.
    pub fn head(&mut self, c: &ModelConfig, first: usize, n: usize, values: &mut Vec<f32>) {
        let start = values.len();
        values.resize(start + n * c.vocab, 0.0);
        let (b, exec) = (&mut self.buffers, &mut self.exec);
        let gain = self.matrices.vector(Role::FinalNorm, Role::FinalNorm, None);
        normalise(exec, &b.x[first * c.dim..], gain, c.norm_eps, &mut b.norm[..n * c.dim]);
        self.matrices.product(exec, c, Part::Head, 0, n, &b.norm, &mut values[start..], Finish::Set(None));
    }
}

/// Attention of rows, each to the positions of its cache up to its own. `qkv` and `o` have a row for each.
fn attend(
    exec: &Exec,
    c: &ModelConfig,
    layer: usize,
    caches: &[Cache],
    rows: &[Row],
    qkv: &[f32],
    o: &mut [f32],
) {
    let (isa, d, q, row) = (exec.isa, c.head_dim, c.q_dim(), c.q_dim() + 2 * c.kv_dim());
    // The query heads of a key head read the same keys and values: one task, or two where threads would end at
    // different times.
    let group = c.group_size();
    let even = (rows.len() * c.kv_heads).is_multiple_of(exec.pool.threads());
    let together = if even { group } else { group.div_ceil(2) };
    let tasks = group.div_ceil(together);
    let o = Apart::new(o);
    exec.pool.run_with_scratch(rows.len() * c.kv_heads * tasks, |task, scratch| {
        let (head, half) = (task / tasks, task % tasks);
        let (number, kv) = (head / c.kv_heads, head % c.kv_heads);
        let (token, first) = (&rows[number], kv * group + half * together);
        let heads = together.min((kv + 1) * group - first);
        let query = &qkv[number * row + first * d..][..heads * d];
        // SAFETY: this task alone has these heads of this token.
        let o = unsafe { o.part(number * q + first * d, heads * d) };
        let cache = &caches[token.cache];
        cache.attend(isa, layer * c.kv_heads + kv, d, token.position + 1, query, scratch, o);
    });
}
