//! A whole model on the reference blocks.

use std::borrow::Cow;

use model::{ModelConfig, ParamId, Params, Role, Slot, TokenId, Weights};

use super::attention::Heads;
use super::{adamw, attention, cross_entropy, linear, muon, rms_norm, rope, swiglu};
use crate::{Error, Result, Rule, Tokens, Train, Update};

/// An activation: `[tokens, dim]`, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Act(pub Vec<f64>);

/// The reference trainer.
pub struct Reference {
    pub(super) config: ModelConfig,
    pub(super) weights: Weights,
    moments: [Weights; 2],
    gradients: Vec<Vec<f64>>,
    tokens: Vec<TokenId>,
    seq: usize,
    /// Input of each block in the last forward pass: attention of layer 0, ffn of layer 0, …
    inputs: Vec<Vec<f64>>,
}

/// What the attention block computes on the way.
pub(super) struct AttentionParts {
    norm: Vec<f64>,
    q_raw: Vec<f64>,
    k_raw: Vec<f64>,
    pub q: Vec<f64>,
    pub k: Vec<f64>,
    pub v: Vec<f64>,
}

impl Reference {
    /// A model of zeros; write its weights.
    pub fn new(config: &ModelConfig) -> Self {
        Self::from_weights(config, Weights::zeros(config))
    }

    /// A model of these weights.
    pub fn from_weights(config: &ModelConfig, weights: Weights) -> Self {
        let gradients = weights.params().iter().map(|p| vec![0.0; p.len()]).collect();
        Self {
            config: config.clone(),
            weights,
            moments: [Weights::zeros(config), Weights::zeros(config)],
            gradients,
            tokens: Vec::new(),
            seq: 1,
            inputs: vec![Vec::new(); 2 * config.layers],
        }
    }

    /// The table of parameters.
    pub fn params(&self) -> &Params {
        self.weights.params()
    }

    pub(super) fn id(&self, role: Role, layer: Option<usize>) -> ParamId {
        self.params().find(role, layer).expect("the model has this parameter")
    }

    pub(super) fn weight(&self, role: Role, layer: Option<usize>) -> &[f32] {
        self.weights.get(self.id(role, layer))
    }

    fn gradient(&mut self, role: Role, layer: Option<usize>) -> &mut [f64] {
        let id = self.id(role, layer);
        &mut self.gradients[id.index()]
    }

    pub(super) fn heads(&self, seq: usize) -> Heads {
        let ModelConfig { heads, kv_heads, head_dim, .. } = self.config;
        Heads { seq, heads, kv_heads, head_dim }
    }

    /// Queries, keys and values of a block, for rows that start at position `first`.
    pub(super) fn attention_parts(
        &self,
        layer: usize,
        x: &[f64],
        seq: usize,
        first: usize,
    ) -> AttentionParts {
        let (c, l) = (&self.config, Some(layer));
        let norm = rms_norm::forward(x, self.weight(Role::AttnNorm, l), c.norm_eps);
        let project = |matrix, bias| {
            let bias = c.qkv_bias.then(|| self.weight(bias, l));
            linear::forward(&norm, self.weight(matrix, l), bias, c.dim)
        };
        let q_raw = project(Role::Q, Role::QBias);
        let k_raw = project(Role::K, Role::KBias);
        let v = project(Role::V, Role::VBias);
        let (mut q, mut k) = (q_raw.clone(), k_raw.clone());
        if c.qk_norm {
            q = rms_norm::forward(&q, self.weight(Role::QNorm, l), c.norm_eps);
            k = rms_norm::forward(&k, self.weight(Role::KNorm, l), c.norm_eps);
        }
        let frequencies = c.rope.frequencies(c.head_dim);
        rope::forward(&mut q, &frequencies, c.q_dim(), seq, first);
        rope::forward(&mut k, &frequencies, c.kv_dim(), seq, first);
        AttentionParts { norm, q_raw, k_raw, q, k, v }
    }

    /// `x + a·Wo·o`.
    pub(super) fn attention_out(&self, layer: usize, x: &[f64], o: &[f64]) -> Vec<f64> {
        let out = linear::forward(o, self.weight(Role::O, Some(layer)), None, self.config.q_dim());
        sum(x, &self.scaled(&out))
    }

    fn ffn_parts(&self, layer: usize, x: &[f64]) -> [Vec<f64>; 4] {
        let (c, l) = (&self.config, Some(layer));
        let norm = rms_norm::forward(x, self.weight(Role::FfnNorm, l), c.norm_eps);
        let gate = linear::forward(&norm, self.weight(Role::Gate, l), None, c.dim);
        let up = linear::forward(&norm, self.weight(Role::Up, l), None, c.dim);
        let y = swiglu::forward(&gate, &up);
        [norm, gate, up, y]
    }

    pub(super) fn ffn_rows(&self, layer: usize, x: &[f64]) -> Vec<f64> {
        let [_, _, _, y] = self.ffn_parts(layer, x);
        let out = linear::forward(&y, self.weight(Role::Down, Some(layer)), None, self.config.hidden);
        sum(x, &self.scaled(&out))
    }

    /// What a block adds to the residual stream, and on the way back the gradient of it.
    fn scaled(&self, x: &[f64]) -> Vec<f64> {
        x.iter().map(|x| x * f64::from(self.config.residual_scale)).collect()
    }

    pub(super) fn embed_rows(&self, tokens: &[TokenId]) -> Vec<f64> {
        let (table, dim) = (self.weight(Role::Embed, None), self.config.dim);
        let rows = tokens.iter().map(|t| &table[t.0 as usize * dim..][..dim]);
        rows.flatten().map(|&w| f64::from(w)).collect()
    }

    /// Logits of every row.
    pub(super) fn logits(&self, x: &[f64]) -> Vec<f64> {
        let norm = rms_norm::forward(x, self.weight(Role::FinalNorm, None), self.config.norm_eps);
        linear::forward(&norm, self.weights.get(self.params().head()), None, self.config.dim)
    }

    /// Gradient of a linear layer of block `layer` on `x`, adding those of its parameters.
    fn linear_backward(
        &mut self,
        role: Role,
        bias: Option<Role>,
        layer: usize,
        x: &[f64],
        dy: &[f64],
    ) -> Vec<f64> {
        let l = Some(layer);
        let inputs = self.params().get(self.id(role, l)).shape[1];
        let dx = linear::backward_input(dy, self.weight(role, l), inputs);
        linear::backward_weight(dy, x, inputs, self.gradient(role, l));
        if let Some(bias) = bias {
            linear::backward_bias(dy, self.gradient(bias, l));
        }
        dx
    }

    fn norm_backward(&mut self, role: Role, layer: Option<usize>, x: &[f64], dy: &[f64]) -> Vec<f64> {
        let gain = self.weight(role, layer).to_vec();
        let eps = self.config.norm_eps;
        rms_norm::backward(x, &gain, eps, dy, self.gradient(role, layer))
    }

    fn check_length(&self, id: ParamId, got: usize) -> Result<()> {
        let p = self.params().get(id);
        if got == p.len() {
            return Ok(());
        }
        Err(Error::WrongLength { name: p.name.clone(), wanted: p.len(), got })
    }
}

impl Train for Reference {
    type Act = Act;

    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn read(&mut self, id: ParamId, slot: Slot) -> Result<Cow<'_, [f32]>> {
        Ok(match slot {
            Slot::Weight => self.weights.get(id).into(),
            Slot::Moment1 => self.moments[0].get(id).into(),
            Slot::Moment2 => self.moments[1].get(id).into(),
            Slot::Gradient => to_f32(&self.gradients[id.index()]).into(),
        })
    }

    fn write(&mut self, id: ParamId, slot: Slot, values: &[f32]) -> Result<()> {
        self.check_length(id, values.len())?;
        match slot {
            Slot::Weight => self.weights.get_mut(id).copy_from_slice(values),
            Slot::Moment1 => self.moments[0].get_mut(id).copy_from_slice(values),
            Slot::Moment2 => self.moments[1].get_mut(id).copy_from_slice(values),
            Slot::Gradient => {
                self.gradients[id.index()] = values.iter().map(|&v| f64::from(v)).collect();
            }
        }
        Ok(())
    }

    fn embed(&mut self, tokens: Tokens<'_>) -> Result<Act> {
        tokens.check(&self.config)?;
        self.tokens = tokens.ids.to_vec();
        self.seq = tokens.seq;
        Ok(Act(self.embed_rows(tokens.ids)))
    }

    fn attention(&mut self, layer: usize, x: Act) -> Result<Act> {
        let parts = self.attention_parts(layer, &x.0, self.seq, 0);
        let o = attention::forward(self.heads(self.seq), &parts.q, &parts.k, &parts.v);
        let y = self.attention_out(layer, &x.0, &o);
        self.inputs[2 * layer] = x.0;
        Ok(Act(y))
    }

    fn ffn(&mut self, layer: usize, x: Act) -> Result<Act> {
        let y = self.ffn_rows(layer, &x.0);
        self.inputs[2 * layer + 1] = x.0;
        Ok(Act(y))
    }

    fn loss(&mut self, x: Act, targets: &[TokenId]) -> Result<f32> {
        Ok(cross_entropy::forward_backward(&self.logits(&x.0), self.config.vocab, targets).0 as f32)
    }

    fn loss_backward(&mut self, x: Act, targets: &[TokenId]) -> Result<(f32, Act)> {
        let (dim, eps) = (self.config.dim, self.config.norm_eps);
        let norm = rms_norm::forward(&x.0, self.weight(Role::FinalNorm, None), eps);
        let head = self.params().head();
        let logits = linear::forward(&norm, self.weights.get(head), None, dim);
        let (loss, dz) = cross_entropy::forward_backward(&logits, self.config.vocab, targets);
        linear::backward_weight(&dz, &norm, dim, &mut self.gradients[head.index()]);
        let dnorm = linear::backward_input(&dz, self.weights.get(head), dim);
        Ok((loss as f32, Act(self.norm_backward(Role::FinalNorm, None, &x.0, &dnorm))))
    }

    fn ffn_backward(&mut self, layer: usize, dy: Act) -> Result<Act> {
        let x = std::mem::take(&mut self.inputs[2 * layer + 1]);
        let [norm, gate, up, y] = self.ffn_parts(layer, &x);
        let d = self.linear_backward(Role::Down, None, layer, &y, &self.scaled(&dy.0));
        let (dgate, dup) = swiglu::backward(&gate, &up, &d);
        let dnorm = sum(
            &self.linear_backward(Role::Gate, None, layer, &norm, &dgate),
            &self.linear_backward(Role::Up, None, layer, &norm, &dup),
        );
        Ok(Act(sum(&dy.0, &self.norm_backward(Role::FfnNorm, Some(layer), &x, &dnorm))))
    }

    fn attention_backward(&mut self, layer: usize, dy: Act) -> Result<Act> {
        let x = std::mem::take(&mut self.inputs[2 * layer]);
        let parts = self.attention_parts(layer, &x, self.seq, 0);
        let heads = self.heads(self.seq);
        let o = attention::forward(heads, &parts.q, &parts.k, &parts.v);
        let dout = self.linear_backward(Role::O, None, layer, &o, &self.scaled(&dy.0));
        let (mut dq, mut dk, dv) = attention::backward(heads, &parts.q, &parts.k, &parts.v, &dout);
        let frequencies = self.config.rope.frequencies(self.config.head_dim);
        rope::backward(&mut dq, &frequencies, self.config.q_dim(), self.seq);
        rope::backward(&mut dk, &frequencies, self.config.kv_dim(), self.seq);
        if self.config.qk_norm {
            dq = self.norm_backward(Role::QNorm, Some(layer), &parts.q_raw, &dq);
            dk = self.norm_backward(Role::KNorm, Some(layer), &parts.k_raw, &dk);
        }
        let bias = |role| self.config.qkv_bias.then_some(role);
        let biases = [bias(Role::QBias), bias(Role::KBias), bias(Role::VBias)];
        let mut dnorm = self.linear_backward(Role::Q, biases[0], layer, &parts.norm, &dq);
        dnorm = sum(&dnorm, &self.linear_backward(Role::K, biases[1], layer, &parts.norm, &dk));
        dnorm = sum(&dnorm, &self.linear_backward(Role::V, biases[2], layer, &parts.norm, &dv));
        Ok(Act(sum(&dy.0, &self.norm_backward(Role::AttnNorm, Some(layer), &x, &dnorm))))
    }

    fn embed_backward(&mut self, dx: Act) -> Result<()> {
        let dim = self.config.dim;
        let tokens = std::mem::take(&mut self.tokens);
        let table = self.gradient(Role::Embed, None);
        for (row, token) in dx.0.chunks_exact(dim).zip(&tokens) {
            attention::add(&mut table[token.0 as usize * dim..][..dim], 1.0, row);
        }
        Ok(())
    }

    fn update(&mut self, update: &Update) -> Result<f32> {
        let squares: f64 = self.gradients.iter().flatten().map(|g| g * g).sum();
        let norm = (squares.sqrt() * f64::from(update.grad_scale)) as f32;
        if norm.is_finite() {
            let factor = update.factor(norm);
            let [first, second] = &mut self.moments;
            let params = self.weights.params().clone();
            for p in &params {
                let g = &self.gradients[p.id.index()];
                let (w, m) = (self.weights.get_mut(p.id), first.get_mut(p.id));
                match update.rules.of(p.group) {
                    Rule::AdamW(rule) => {
                        adamw::update(&rule, update.step, factor, g, w, m, second.get_mut(p.id));
                    }
                    Rule::Muon(rule) => muon::update(&rule, factor, p.shape[0], g, w, m),
                }
            }
        }
        self.gradients.iter_mut().for_each(|g| g.fill(0.0));
        Ok(norm)
    }

    fn download(&mut self, x: &Act) -> Result<Vec<f32>> {
        Ok(to_f32(&x.0))
    }
}

pub(super) fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

pub(super) fn to_f32(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}
