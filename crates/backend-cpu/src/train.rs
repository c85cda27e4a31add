//! Training.

use std::borrow::Cow;

use backend::{Error, Result, Tokens, Train, Update};
use model::{ModelConfig, ParamId, Role, Slot, TokenId};

use crate::head::head_tokens;
use crate::kernels::attention::{self, Heads};
use crate::kernels::rms_norm::{self, norm_of, normalise};
use crate::kernels::{embedding, muon, rope, swiglu};
use crate::memory::CpuResult;
use crate::params::Storage;
use crate::update::{CHUNK, Moving, Pending};
use crate::{
    Buffer, CpuError, Exec, Into, Left, Mat, MatMut, Plan, Precision, Right, Rows, RowsMut, WeightFormat,
};

/// An activation, `[tokens, dim]`.
#[derive(Debug)]
pub struct Act(pub(crate) Buffer);

/// A model that trains on the CPU.
pub struct Cpu {
    pub(crate) config: ModelConfig,
    pub(crate) plan: Plan,
    pub(crate) exec: Exec,
    pub(crate) storage: Storage,
    rope: rope::Table,
    /// Activations that nobody holds.
    pub(crate) free: Vec<Act>,
    /// Inputs of attention and feed-forward of each layer, for the way back.
    inputs: Vec<[Option<Act>; 2]>,
    /// What each layer computed inside; one for all when recomputing.
    pub(crate) layers: Vec<Inside>,
    pub(crate) scratch: Scratch,
    pub(crate) muon: muon::Scratch,
    pub(crate) moving: Moving,
    pub(crate) pending: Option<Pending>,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) seq: usize,
}

/// What the blocks of a layer keep for the way back, per token.
pub(crate) struct Inside {
    /// Rotated queries and keys, and values: `[q_dim + 2·kv_dim]`.
    qkv: Buffer,
    /// Queries and keys before their norms, `[q_dim + kv_dim]`; empty without such norms.
    pub(crate) raw: Buffer,
    /// Output of the heads, `[q_dim]`.
    o: Buffer,
    /// Log of the sum of each softmax, `[heads]`.
    lse: Buffer,
    /// `[2·hidden]`.
    gate_up: Buffer,
}

impl Inside {
    fn new(c: &ModelConfig, tokens: usize) -> CpuResult<Self> {
        let buffer = |width| Buffer::zeros_2d("activations", tokens, width);
        Ok(Self {
            qkv: buffer(c.q_dim() + 2 * c.kv_dim())?,
            raw: buffer(if c.qk_norm { c.q_dim() + c.kv_dim() } else { 0 })?,
            o: buffer(c.q_dim())?,
            lse: buffer(c.heads)?,
            gate_up: buffer(2 * c.hidden)?,
        })
    }
}

/// Memory that no block keeps.
pub(crate) struct Scratch {
    /// Normalised inputs, `[tokens, dim]`.
    pub(crate) norm: Buffer,
    /// Their gradients.
    pub(crate) dnorm: Buffer,
    /// `[tokens, max(q_dim, hidden)]`.
    wide: Buffer,
    /// `[tokens, q_dim + 2·kv_dim]`.
    pub(crate) dqkv: Buffer,
    /// `[tokens, heads]`.
    delta: Buffer,
    /// Logits of some tokens.
    pub(crate) logits: Buffer,
    /// Loss of each token.
    pub(crate) losses: Vec<f32>,
    /// Partial sums of the gradients of gains and biases, one row per [`ROWS`] tokens.
    partial: Buffer,
    /// Partial sums of the squared gradient.
    pub(crate) squares: Vec<f64>,
}

/// Tokens of one task; sums over tokens are cut here.
const ROWS: usize = 32;

impl Cpu {
    /// A model of zeros; write its weights. All memory is taken here, but for that of Muon, which
    /// is taken at its first update.
    pub fn new(config: &ModelConfig, plan: Plan) -> Result<Self> {
        Ok(Self::build(config, plan)?)
    }

    pub(crate) fn build(config: &ModelConfig, plan: Plan) -> CpuResult<Self> {
        config.validate()?;
        if plan.weights == WeightFormat::Bf16 && plan.precision != Precision::Bf16 {
            return Err(CpuError::WeightsWantBf16);
        }
        let c = config;
        let tokens = plan.max_tokens.max(1);
        let buffer = |width| Buffer::zeros_2d("activations", tokens, width);
        let storage = Storage::new(c, &plan)?;
        let mut exec = Exec::new(&plan)?;
        exec.pool.reserve_scratch(Heads::new(c, c.max_seq).scratch())?;
        exec.pool.reserve_scratch(storage.scratch().max(CHUNK))?;
        let mut rope = rope::Table::new(c);
        rope.reserve(tokens.min(c.max_seq))?;
        // Inputs of all blocks, the output of the last one, and the gradient that starts on its way back.
        let free = (0..2 * c.layers + 2).map(|_| Ok(Act(buffer(c.dim)?))).collect::<CpuResult<_>>()?;
        let kept = if plan.recompute { 1 } else { c.layers };
        let layers = (0..kept).map(|_| Inside::new(c, tokens)).collect::<CpuResult<_>>()?;
        let qkv = c.q_dim() + 2 * c.kv_dim();
        let out_of_memory =
            |len: usize| move |_| CpuError::OutOfMemory { what: "activations", bytes: len as u128 * 8 };
        let (mut losses, mut squares) = (Vec::new(), Vec::new());
        losses.try_reserve_exact(tokens).map_err(out_of_memory(tokens))?;
        let chunks = storage.layout.len().div_ceil(CHUNK);
        squares.try_reserve_exact(chunks).map_err(out_of_memory(chunks))?;
        squares.resize(chunks, 0.0);
        let scratch = Scratch {
            norm: buffer(c.dim)?,
            dnorm: buffer(c.dim)?,
            wide: buffer(c.q_dim().max(c.hidden))?,
            dqkv: buffer(qkv)?,
            delta: buffer(c.heads)?,
            logits: Buffer::zeros_2d("logits", head_tokens(c).min(tokens), c.vocab)?,
            losses,
            partial: Buffer::zeros_2d("activations", tokens.div_ceil(ROWS), c.dim.max(qkv))?,
            squares,
        };
        Ok(Self {
            config: c.clone(),
            plan,
            exec,
            storage,
            rope,
            free,
            inputs: (0..c.layers).map(|_| [None, None]).collect(),
            layers,
            scratch,
            muon: muon::Scratch::default(),
            moving: Moving::default(),
            pending: None,
            tokens: Vec::new(),
            seq: 1,
        })
    }

    /// The plan it runs by.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn take(&mut self) -> Result<Act> {
        match self.free.pop() {
            Some(act) => Ok(act),
            // The caller dropped some after an error.
            None => {
                let tokens = self.plan.max_tokens.max(1);
                Ok(Act(Buffer::zeros_2d("activations", tokens, self.config.dim)?))
            }
        }
    }

    fn keep(&mut self, layer: usize, block: usize, x: Act) {
        let old = self.inputs[layer][block].replace(x);
        self.free.extend(old);
    }

    fn kept(&mut self, layer: usize, block: usize) -> Result<Act> {
        self.inputs[layer][block].take().ok_or_else(|| {
            let block = ["attention", "ffn"][block];
            let message = format!("backward of {block} {layer} without its forward; run forward first");
            Error::Device { device: "cpu", source: message.into() }
        })
    }

    fn inside(&self, layer: usize) -> usize {
        if self.plan.recompute { 0 } else { layer }
    }

    /// Fills what attention keeps: queries, keys, values and the output of the heads.
    fn attention_inside(&mut self, layer: usize, x: &Act) {
        // SAFETY: done by the product below, which asks for weights of this layer.
        let beside = unsafe { self.beside(layer, Role::Q) };
        let (c, tokens, slot) = (&self.config, self.tokens.len(), self.inside(layer));
        let (isa, l) = (self.exec.isa, Some(layer));
        let inside = &mut self.layers[slot];
        let (q, qk, row) = (c.q_dim(), c.q_dim() + c.kv_dim(), c.q_dim() + 2 * c.kv_dim());
        let norm = norm_of(isa, &x.0, self.storage.weight(Role::AttnNorm, Role::AttnNorm, l), c.norm_eps);
        let norm = Left::made(&mut self.scratch.norm[..tokens * c.dim], c.dim, &norm);
        let qkv = &mut inside.qkv[..tokens * row];
        let mut into = Into::Set;
        if c.qkv_bias {
            let bias = self.storage.weight(Role::QBias, Role::VBias, l);
            self.exec.pool.each(RowsMut::new(qkv, row), |_, y| y.copy_from_slice(bias));
            into = Into::Add;
        }
        let w = self.storage.matrix(Role::Q, Role::V, l, c.dim);
        let y = MatMut::new(qkv, tokens, row);
        self.exec.product_beside(&beside, 1.0, norm, w.t(), into, y);

        let (rope, seq, eps) = (&self.rope, self.seq, c.norm_eps);
        if c.qk_norm {
            let gains = [Role::QNorm, Role::KNorm].map(|role| self.storage.weight(role, role, l));
            let raw = RowsMut::new(&mut inside.raw[..tokens * qk], qk);
            self.exec.pool.each((RowsMut::new(qkv, row), raw), |_, (qkv, raw)| {
                raw.copy_from_slice(&qkv[..qk]);
                rms_norm::forward(isa, &raw[..q], gains[0], eps, &mut qkv[..q]);
                rms_norm::forward(isa, &raw[q..], gains[1], eps, &mut qkv[q..qk]);
            });
        }
        self.exec.pool.each(RowsMut::new(qkv, ROWS * row), |chunk, qkv| {
            for (t, qkv) in qkv.chunks_exact_mut(row).enumerate() {
                rope.forward(isa, (chunk * ROWS + t) % seq, &mut qkv[..qk]);
            }
        });
        let (o, lse) = (&mut inside.o[..tokens * q], &mut inside.lse[..tokens * c.heads]);
        attention::forward(&self.exec, self.exec.precision, Heads::new(c, seq), qkv, o, lse);
    }

    /// Fills what the feed-forward keeps: gate and up.
    fn ffn_inside(&mut self, layer: usize, x: &Act) {
        // SAFETY: done by the product below, which asks for weights of this layer.
        let beside = unsafe { self.beside(layer, Role::Gate) };
        let (c, tokens, slot, l) = (&self.config, self.tokens.len(), self.inside(layer), Some(layer));
        let norm =
            norm_of(self.exec.isa, &x.0, self.storage.weight(Role::FfnNorm, Role::FfnNorm, l), c.norm_eps);
        let norm = Left::made(&mut self.scratch.norm[..tokens * c.dim], c.dim, &norm);
        let w = self.storage.matrix(Role::Gate, Role::Up, l, c.dim);
        let gate_up = &mut self.layers[slot].gate_up[..tokens * 2 * c.hidden];
        let y = MatMut::new(gate_up, tokens, 2 * c.hidden);
        self.exec.product_beside(&beside, 1.0, norm, w.t(), Into::Set, y);
    }

    /// The gradient of the input of a block: that of its output (`dy`, in place), plus what comes
    /// back through the norm from `dnorm`.
    pub(crate) fn norm_backward(&mut self, role: Role, layer: Option<usize>, x: &Act, dy: &mut Act) {
        let (c, tokens, isa) = (&self.config, self.tokens.len(), self.exec.isa);
        let (n, eps) = (tokens * c.dim, c.norm_eps);
        let partial = &mut self.scratch.partial[..tokens.div_ceil(ROWS) * c.dim];
        let gain = &self.storage.weight(role, role, layer);
        let len = ROWS * c.dim;
        let parts = (
            Rows::new(&x.0[..n], len),
            Rows::new(&self.scratch.dnorm[..n], len),
            RowsMut::new(&mut dy.0[..n], len),
            RowsMut::new(partial, c.dim),
        );
        self.exec.pool.each(parts, |_, (x, dnorm, dx, dgain)| {
            dgain.fill(0.0);
            rms_norm::backward(isa, x, gain, eps, dnorm, dx, dgain);
        });
        add_rows(&self.scratch.partial[..tokens.div_ceil(ROWS) * self.config.dim], {
            self.storage.gradient_sum(role, role, layer)
        });
    }

    /// Adds the gradients of the biases: the sums of the columns of `dqkv`.
    pub(crate) fn bias_backward(&mut self, layer: Option<usize>) {
        let (c, tokens) = (&self.config, self.tokens.len());
        let row = c.q_dim() + 2 * c.kv_dim();
        let partial = &mut self.scratch.partial[..tokens.div_ceil(ROWS) * row];
        let parts = (Rows::new(&self.scratch.dqkv[..tokens * row], ROWS * row), RowsMut::new(partial, row));
        self.exec.pool.each(parts, |_, (dqkv, sum)| {
            sum.fill(0.0);
            add_rows(dqkv, sum);
        });
        add_rows(
            &self.scratch.partial[..tokens.div_ceil(ROWS) * row],
            self.storage.gradient_sum(Role::QBias, Role::VBias, layer),
        );
    }

    /// Turns the gradients in `dqkv` back through the rotation of queries and keys.
    pub(crate) fn rotation_backward(&mut self) {
        let (c, tokens, isa) = (&self.config, self.tokens.len(), self.exec.isa);
        let (qk, row) = (c.q_dim() + c.kv_dim(), c.q_dim() + 2 * c.kv_dim());
        let (rope, seq) = (&self.rope, self.seq);
        let dqkv = &mut self.scratch.dqkv[..tokens * row];
        self.exec.pool.each(RowsMut::new(dqkv, ROWS * row), |chunk, dqkv| {
            for (t, dqkv) in dqkv.chunks_exact_mut(row).enumerate() {
                rope.backward(isa, (chunk * ROWS + t) % seq, &mut dqkv[..qk]);
            }
        });
    }

    /// Turns the gradients in `dqkv` back through the norms of queries and keys, if there are such norms.
    pub(crate) fn qk_norm_backward(&mut self, layer: usize) {
        let (c, tokens, isa, slot) = (&self.config, self.tokens.len(), self.exec.isa, self.inside(layer));
        if !c.qk_norm {
            return;
        }
        let (q, qk, row) = (c.q_dim(), c.q_dim() + c.kv_dim(), c.q_dim() + 2 * c.kv_dim());
        let (d, eps) = (c.head_dim, c.norm_eps);
        let dqkv = &mut self.scratch.dqkv[..tokens * row];
        let gains = [Role::QNorm, Role::KNorm].map(|r| self.storage.weight(r, r, Some(layer)));
        let raw = Rows::new(&self.layers[slot].raw[..tokens * qk], ROWS * qk);
        let chunks = tokens.div_ceil(ROWS);
        // The gradient of one token is copied, because the new one is added to zeros.
        let partial = RowsMut::new(&mut self.scratch.partial[..chunks * row], row);
        self.exec.pool.each((RowsMut::new(dqkv, ROWS * row), raw, partial), |_, (dqkv, raw, partial)| {
            let (dgain, dy) = partial.split_at_mut(2 * d);
            dgain.fill(0.0);
            let (dq_gain, dk_gain) = dgain.split_at_mut(d);
            let dy = &mut dy[..d];
            for (dqkv, raw) in dqkv.chunks_exact_mut(row).zip(raw.chunks_exact(qk)) {
                for (head, (dx, x)) in dqkv[..qk].chunks_exact_mut(d).zip(raw.chunks_exact(d)).enumerate() {
                    dy.copy_from_slice(dx);
                    dx.fill(0.0);
                    let (gain, dgain) =
                        if head < q / d { (gains[0], &mut *dq_gain) } else { (gains[1], &mut *dk_gain) };
                    rms_norm::backward(isa, x, gain, eps, dy, dx, dgain);
                }
            }
        });
        for (role, from) in [(Role::QNorm, 0), (Role::KNorm, d)] {
            let gradient = self.storage.gradient_sum(role, role, Some(layer));
            for partial in self.scratch.partial[..chunks * row].chunks_exact(row) {
                add_rows(&partial[from..from + d], gradient);
            }
        }
    }
}

impl Train for Cpu {
    type Act = Act;

    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn read(&mut self, id: ParamId, slot: Slot) -> Result<Cow<'_, [f32]>> {
        self.finish_update();
        Ok(self.storage.read(id, slot))
    }

    fn write(&mut self, id: ParamId, slot: Slot, values: &[f32]) -> Result<()> {
        self.finish_update();
        self.storage.write(id, slot, values)
    }

    fn embed(&mut self, tokens: Tokens<'_>) -> Result<Act> {
        tokens.check(&self.config)?;
        let (got, max) = (tokens.ids.len(), self.plan.max_tokens);
        if got > max {
            return Err(Error::BatchTooLarge { got, max });
        }
        self.tokens.clear();
        self.tokens.extend_from_slice(tokens.ids);
        self.seq = tokens.seq;
        self.storage.pack(&self.exec.pool, None);
        let mut x = self.take()?;
        let dim = self.config.dim;
        self.storage.embed(&self.exec.pool, &self.tokens, dim, &mut x.0[..got * dim]);
        Ok(x)
    }

    fn attention(&mut self, layer: usize, x: Act) -> Result<Act> {
        let mut y = self.take()?;
        self.finish_update_of(..layer + 1);
        self.storage.pack(&self.exec.pool, Some(layer));
        self.attention_inside(layer, &x);
        // SAFETY: done by the product below, which asks for weights of this layer.
        let beside = unsafe { self.beside(layer, Role::O) };
        let (c, tokens, slot) = (&self.config, self.tokens.len(), self.inside(layer));
        let o = Mat::new(&self.layers[slot].o, tokens, c.q_dim());
        let w = self.storage.matrix(Role::O, Role::O, Some(layer), c.q_dim());
        copy(&self.exec, &x.0[..tokens * c.dim], &mut y.0[..tokens * c.dim]);
        let y_rows = MatMut::new(&mut y.0, tokens, c.dim);
        self.exec.product_beside(&beside, c.residual_scale, o, w.t(), Into::Add, y_rows);
        self.keep(layer, 0, x);
        Ok(y)
    }

    fn ffn(&mut self, layer: usize, x: Act) -> Result<Act> {
        let mut y = self.take()?;
        self.finish_update_of(..layer + 1);
        self.storage.pack(&self.exec.pool, Some(layer));
        self.ffn_inside(layer, &x);
        // SAFETY: done by the product below, which asks for weights of this layer.
        let beside = unsafe { self.beside(layer, Role::Down) };
        let (c, tokens, slot) = (&self.config, self.tokens.len(), self.inside(layer));
        let (isa, hidden) = (self.exec.isa, c.hidden);
        let gate_up = &self.layers[slot].gate_up;
        let gate = |first: usize, y: &mut [f32]| {
            for (gate_up, y) in gate_up[first * 2 * hidden..].chunks(2 * hidden).zip(y.chunks_mut(hidden)) {
                let (gate, up) = gate_up.split_at(hidden);
                swiglu::forward(isa, gate, up, y);
            }
        };
        let gated = Left::made(&mut self.scratch.wide[..tokens * hidden], hidden, &gate);
        let w = self.storage.matrix(Role::Down, Role::Down, Some(layer), hidden);
        copy(&self.exec, &x.0[..tokens * c.dim], &mut y.0[..tokens * c.dim]);
        let y_rows = MatMut::new(&mut y.0, tokens, c.dim);
        self.exec.product_beside(&beside, c.residual_scale, gated, w.t(), Into::Add, y_rows);
        self.keep(layer, 1, x);
        Ok(y)
    }

    fn loss(&mut self, x: Act, targets: &[TokenId]) -> Result<f32> {
        let loss = self.head(&x, targets, None);
        self.free.push(x);
        loss
    }

    fn loss_backward(&mut self, x: Act, targets: &[TokenId]) -> Result<(f32, Act)> {
        self.finish_update();
        let mut dx = self.take()?;
        let loss = self.head(&x, targets, Some(&mut dx));
        self.free.push(x);
        let loss = loss?;
        self.moving.sound &= loss.is_finite();
        Ok((loss, dx))
    }

    fn ffn_backward(&mut self, layer: usize, mut dy: Act) -> Result<Act> {
        let x = self.kept(layer, 1)?;
        self.finish_update();
        self.storage.pack(&self.exec.pool, Some(layer));
        let (slot, l) = (self.inside(layer), Some(layer));
        if self.plan.recompute {
            self.ffn_inside(layer, &x);
        } else {
            let norm = &mut self.scratch.norm[..self.tokens.len() * self.config.dim];
            let gain = self.storage.weight(Role::FfnNorm, Role::FfnNorm, l);
            normalise(&self.exec, &x.0, gain, self.config.norm_eps, norm);
        }
        let (c, tokens, isa) = (&self.config, self.tokens.len(), self.exec.isa);
        let (dim, hidden) = (c.dim, c.hidden);
        let d = Mat::new(&dy.0, tokens, dim);
        let gated = &mut self.scratch.wide[..tokens * hidden];
        let w = self.storage.matrix(Role::Down, Role::Down, l, hidden);
        self.exec.product(c.residual_scale, d, w.right(), Into::Set, MatMut::new(gated, tokens, hidden));
        let gate_up = &mut self.layers[slot].gate_up[..tokens * 2 * hidden];
        let parts = (RowsMut::new(gate_up, 2 * hidden), RowsMut::new(gated, hidden));
        self.exec.pool.each(parts, |_, (gate_up, dy)| {
            let (gate, up) = gate_up.split_at_mut(hidden);
            swiglu::backward(isa, gate, up, dy);
        });
        let (down, gated) = ((Role::Down, Role::Down, l), Mat::new(gated, tokens, hidden));
        gradient(&mut self.exec, &mut self.storage, down, c.residual_scale, d, gated);

        let d = Mat::new(gate_up, tokens, 2 * hidden);
        let norm = Mat::new(&self.scratch.norm, tokens, dim);
        gradient(&mut self.exec, &mut self.storage, (Role::Gate, Role::Up, l), 1.0, d, norm);
        let w = self.storage.matrix(Role::Gate, Role::Up, l, dim);
        let dnorm = MatMut::new(&mut self.scratch.dnorm, tokens, dim);
        self.exec.product(1.0, d, w.right(), Into::Set, dnorm);
        self.norm_backward(Role::FfnNorm, l, &x, &mut dy);
        self.free.push(x);
        Ok(dy)
    }

    fn attention_backward(&mut self, layer: usize, mut dy: Act) -> Result<Act> {
        let x = self.kept(layer, 0)?;
        self.finish_update();
        self.storage.pack(&self.exec.pool, Some(layer));
        let (slot, l) = (self.inside(layer), Some(layer));
        if self.plan.recompute {
            self.attention_inside(layer, &x);
        } else {
            let norm = &mut self.scratch.norm[..self.tokens.len() * self.config.dim];
            let gain = self.storage.weight(Role::AttnNorm, Role::AttnNorm, l);
            normalise(&self.exec, &x.0, gain, self.config.norm_eps, norm);
        }
        let (c, tokens, isa, rope) = (&self.config, self.tokens.len(), self.exec.isa, &self.rope);
        let (dim, q, row) = (c.dim, c.q_dim(), c.q_dim() + 2 * c.kv_dim());
        let d = Mat::new(&dy.0, tokens, dim);
        let inside = &self.layers[slot];
        let o = Mat::new(&inside.o, tokens, q);
        gradient(&mut self.exec, &mut self.storage, (Role::O, Role::O, l), c.residual_scale, d, o);
        let dout = &mut self.scratch.wide[..tokens * q];
        let w = self.storage.matrix(Role::O, Role::O, l, q);
        self.exec.product(c.residual_scale, d, w.right(), Into::Set, MatMut::new(dout, tokens, q));
        attention::backward(
            &self.exec,
            Heads::new(c, self.seq),
            |position, heads| rope.backward(isa, position, heads),
            &inside.qkv[..tokens * row],
            &inside.o[..tokens * q],
            &inside.lse[..tokens * c.heads],
            dout,
            &mut self.scratch.delta[..tokens * c.heads],
            &mut self.scratch.dqkv[..tokens * row],
        );
        self.qk_norm_backward(layer);
        if self.config.qkv_bias {
            self.bias_backward(l);
        }
        let d = Mat::new(&self.scratch.dqkv, tokens, row);
        let norm = Mat::new(&self.scratch.norm, tokens, dim);
        gradient(&mut self.exec, &mut self.storage, (Role::Q, Role::V, l), 1.0, d, norm);
        let w = self.storage.matrix(Role::Q, Role::V, l, dim);
        let dnorm = MatMut::new(&mut self.scratch.dnorm, tokens, dim);
        self.exec.product(1.0, d, w.right(), Into::Set, dnorm);
        self.norm_backward(Role::AttnNorm, l, &x, &mut dy);
        self.free.push(x);
        self.move_layer(l)?;
        Ok(dy)
    }

    fn embed_backward(&mut self, dx: Act) -> Result<()> {
        let embed = (Role::Embed, Role::Embed, None);
        let before = self.storage.kept_squares(embed);
        let order = self.storage.order_of(Role::Embed, None);
        let dw = self.storage.gradient_sum(Role::Embed, Role::Embed, None);
        let more = embedding::backward(self.exec.isa, &self.tokens, &dx.0, self.config.dim, dw, order);
        // Where little is left of a sum, its rounding is not.
        let squares = before.and_then(|b| (b + more > 0.1 * b).then_some(b + more));
        self.storage.keep_squares(embed, squares);
        self.free.push(dx);
        self.move_layer(None)
    }

    fn announce(&mut self, update: &Update, norm: f32) -> Result<()> {
        self.begin_update(update, norm)
    }

    fn update(&mut self, update: &Update) -> Result<f32> {
        if self.plan.update_in_backward { self.end_update(update) } else { self.update_all(update) }
    }

    fn download(&mut self, x: &Act) -> Result<Vec<f32>> {
        Ok(x.0[..self.tokens.len() * self.config.dim].to_vec())
    }
}

/// Adds `alpha · dyᵀ·x` to the gradients of the matrix from role `first` to role `last`.
pub(crate) fn gradient(
    exec: &mut Exec,
    storage: &mut Storage,
    (first, last, layer): (Role, Role, Option<usize>),
    alpha: f32,
    dy: Mat<'_>,
    x: Mat<'_>,
) {
    let (dy, (_, cols)) = (dy.t(), x.shape());
    let (dw, into) = storage.gradient_matrix((first, last, layer), cols);
    let squares = exec.product_and_squares(alpha, dy, Right::Plain(x), into, dw);
    storage.keep_squares((first, last, layer), squares);
}

fn copy(exec: &Exec, from: &[f32], to: &mut [f32]) {
    exec.pool
        .each((Rows::new(from, CHUNK), RowsMut::new(to, CHUNK)), |_, (from, to)| to.copy_from_slice(from));
}

/// Adds every row of `rows` to `sum`, in order.
fn add_rows(rows: &[f32], sum: &mut [f32]) {
    for row in rows.chunks_exact(sum.len()) {
        for (sum, x) in sum.iter_mut().zip(row) {
            *sum += x;
        }
    }
}
