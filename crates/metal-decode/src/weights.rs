//! A model's numbers on the device.

use std::sync::Arc;

use model::{ModelConfig, ParamId, Role, Weights};

use crate::gpu::{Buffer, Gpu};
use crate::matrix::{Matrix, Numbers};
use crate::{GpuResult, Settings, layout};

/// Every parameter, on the device.
pub struct Loaded {
    /// Token embedding.
    pub embed: Arc<Matrix>,
    /// Output head; the embedding when tied.
    pub head: Arc<Matrix>,
    /// Gain of the last norm.
    pub final_norm: Buffer,
    /// The blocks.
    pub layers: Vec<Layer>,
}

/// A block.
pub struct Layer {
    /// Gain of the norm before attention.
    pub attn_norm: Buffer,
    /// Queries, keys and values.
    pub qkv: Matrix,
    /// Their biases.
    pub bias: Option<Buffer>,
    /// Gains of the norms of query and key heads, one after the other.
    pub qk_norm: Option<Buffer>,
    /// Output projection.
    pub o: Matrix,
    /// Gain of the norm before the feed-forward.
    pub ffn_norm: Buffer,
    /// Gate and up, row by row in turn.
    pub gate_up: Matrix,
    /// Back to the residual stream.
    pub down: Matrix,
}

impl Loaded {
    /// Loads weights, or noise for `None`.
    ///
    /// # Errors
    /// As [`Matrix::load`].
    pub fn new(gpu: &Gpu, c: &ModelConfig, weights: Option<&Weights>, s: &Settings) -> GpuResult<Self> {
        let lanes = gpu.lanes() as usize;
        let get = |role, layer: Option<usize>| weights.map(|w| w.get(id(w, role, layer)));
        let gain = |role, layer| {
            let values = get(role, layer).map_or_else(|| vec![1.0; c.dim], <[f32]>::to_vec);
            gpu.buffer_of("gains", &layout::activations(&values, lanes))
        };
        let matrix =
            |name: &str, shape: (usize, usize), row: &dyn Fn(usize, &Weights) -> (ParamId, usize)| {
                let Some(w) = weights else {
                    return Matrix::load(gpu, name, s.format, shape, &Numbers::Noise, s.max_binding);
                };
                let of = |n: usize| {
                    let (id, row) = row(n, w);
                    &w.get(id)[row * shape.1..][..shape.1]
                };
                Matrix::load(gpu, name, s.format, shape, &Numbers::Rows(&of), s.max_binding)
            };
        let plain = |name: &str, role, layer, shape| matrix(name, shape, &|n, w| (id(w, role, layer), n));
        let embed = Arc::new(plain("the embedding", Role::Embed, None, (c.vocab, c.dim))?);
        let head = if c.tied {
            embed.clone()
        } else {
            Arc::new(plain("the head", Role::Head, None, (c.vocab, c.dim))?)
        };
        let (q, kv) = (c.q_dim(), c.kv_dim());
        let mut layers = Vec::with_capacity(c.layers);
        for layer in 0..c.layers {
            let l = Some(layer);
            let vector = |roles: &[Role], len: usize, noise: f32| {
                let values = match weights {
                    Some(w) => roles.iter().flat_map(|&r| w.get(id(w, r, l))).copied().collect(),
                    None => vec![noise; len],
                };
                gpu.buffer_of("biases", &values)
            };
            let bias = [Role::QBias, Role::KBias, Role::VBias];
            layers.push(Layer {
                attn_norm: gain(Role::AttnNorm, l)?,
                qkv: matrix("queries, keys and values", (q + 2 * kv, c.dim), &|n, w| match n {
                    n if n < q => (id(w, Role::Q, l), n),
                    n if n < q + kv => (id(w, Role::K, l), n - q),
                    n => (id(w, Role::V, l), n - q - kv),
                })?,
                bias: c.qkv_bias.then(|| vector(&bias, q + 2 * kv, 0.0)).transpose()?,
                qk_norm: c
                    .qk_norm
                    .then(|| vector(&[Role::QNorm, Role::KNorm], 2 * c.head_dim, 1.0))
                    .transpose()?,
                o: plain("the output projection", Role::O, l, (c.dim, q))?,
                ffn_norm: gain(Role::FfnNorm, l)?,
                gate_up: matrix("gate and up", (2 * c.hidden, c.dim), &|n, w| {
                    (id(w, if n % 2 == 0 { Role::Gate } else { Role::Up }, l), n / 2)
                })?,
                down: plain("down", Role::Down, l, (c.dim, c.hidden))?,
            });
        }
        Ok(Self { embed, head, final_norm: gain(Role::FinalNorm, None)?, layers })
    }

    /// Bytes of the matrices that one token reads.
    pub fn bytes_per_token(&self) -> u64 {
        let layer = |l: &Layer| l.qkv.bytes() + l.o.bytes() + l.gate_up.bytes() + l.down.bytes();
        self.layers.iter().map(layer).sum::<u64>() + self.head.bytes()
    }
}

fn id(w: &Weights, role: Role, layer: Option<usize>) -> ParamId {
    w.params().find(role, layer).expect("the model has this parameter")
}
