//! Predicted times of whole passes and steps, from the schedule of ten dispatches per layer.
//!
//! ```text
//! forward  = layers · (Σ dispatch of 3 kernels + weights / stage + activations / copy) + classifier
//! backward = layers · (Σ dispatch of 7 kernels + (weights + conflict · weights in conflict) / restage
//!                      + activations / copy + weight gradients / sgemm) + 2 classifiers
//! update   = 28 bytes per parameter / adam,   norm = 4 bytes per parameter / norm
//! ```
//!
//! The schedule is that of the published engine, on which the constants were fitted: fp32 master weights
//! on the host, staged to fp16 surfaces every pass, one packed surface per kernel, the feed-forward fused
//! in one program, weight gradients and classifier on the CPU, one sequence per step. Rates of the host
//! are what remains after overlap. The backward pass takes most weights transposed, and transposing reads down the columns
//! of the master weights: a matrix whose rows lie a multiple of 4 KiB apart is *in conflict*, as its columns fall
//! into few sets of the caches. Kernels, surfaces and FLOPs: [`kernels`].
//! Not modelled: paging when a model outgrows memory, decay of throughput in long runs.

mod published;

use crate::chip::Chip;
use crate::clock::{Work, dispatch_s};

pub use published::{Measured, PUBLISHED, Use};

/// Sizes of a Llama-style transformer and of its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the field's words, as in the rest of the workspace")]
pub struct Model {
    pub dim: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub layers: usize,
    pub vocab: usize,
    pub seq: usize,
}

impl Model {
    /// Weights of one layer's matrices.
    pub fn layer_weights(&self) -> f64 {
        let [d, h, q, kv] = self.widths();
        d * (2.0 * q + 2.0 * kv) + 3.0 * d * h
    }

    /// All parameters, with a tied embedding.
    pub fn params(&self) -> f64 {
        let (d, l) = (self.dim as f64, self.layers as f64);
        l * self.layer_weights() + self.vocab as f64 * d + d * (2.0 * l + 1.0)
    }

    /// dim, hidden, query width, key width.
    fn widths(&self) -> [f64; 4] {
        [self.dim, self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim].map(|x| x as f64)
    }
}

/// The ten kernels of one layer, by name in the order of a step: three forward, seven backward.
pub fn kernels(model: &Model) -> [(&'static str, Work); 10] {
    let [d, h, q, kv] = model.widths();
    let s = model.seq as f64;
    let scores = model.heads as f64 * s * s;
    let work = |mac_flops: f64, input: f64, output: f64, chain: f64| Work {
        mac_flops,
        vector_flops: 0.0,
        input_bytes: 2.0 * input,
        output_bytes: 2.0 * output,
        chain,
        resident_bytes: 0.0,
    };
    // Scale, mask and softmax take about eight operations per score.
    let softmax = 8.0 * scores;
    let rope = 2.0 * s * (q + kv) * model.head_dim as f64;
    [
        (
            "sdpa_fwd",
            Work {
                vector_flops: softmax,
                ..work(
                    2.0 * s * d * (q + 2.0 * kv) + 4.0 * s * s * q + rope,
                    d * (s + q + 2.0 * kv),
                    s * (2.0 * q + 2.0 * kv + d),
                    4.0,
                )
            },
        ),
        ("wo_fwd", work(2.0 * s * q * d, q * (s + d), d * s, 1.0)),
        (
            "ffn_fwd",
            Work {
                vector_flops: 6.0 * s * h,
                // Gate, up and their product wait together.
                resident_bytes: 2.0 * 3.0 * h * s,
                ..work(6.0 * s * d * h, d * (2.0 * s + 3.0 * h), (d + 3.0 * h) * s, 2.0)
            },
        ),
        ("ffn_bwd_w2", work(2.0 * s * d * h, d * (s + h), h * s, 1.0)),
        ("ffn_bwd_w13", work(4.0 * s * d * h, h * (2.0 * s + 2.0 * d), d * s, 1.0)),
        ("wo_bwd", work(2.0 * s * d * q, d * (s + q), q * s, 1.0)),
        (
            "sdpa_bwd_v",
            Work { vector_flops: softmax, ..work(6.0 * s * s * q, 4.0 * q * s, q * s + 2.0 * scores, 2.0) },
        ),
        (
            "sdpa_bwd_qk",
            Work {
                vector_flops: softmax / 2.0,
                ..work(4.0 * s * s * q, 2.0 * scores + 2.0 * q * s, 2.0 * q * s, 1.0)
            },
        ),
        ("q_bwd", work(2.0 * s * q * d, q * (s + d), d * s, 1.0)),
        ("kv_bwd", work(4.0 * s * kv * d, kv * (2.0 * s + 2.0 * d), d * s, 1.0)),
    ]
}

/// Predicted times of one step on one sequence, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Step {
    pub forward_ms: f64,
    pub backward_ms: f64,
    pub norm_ms: f64,
    pub update_ms: f64,
}

impl Step {
    /// The whole step.
    pub fn total_ms(&self) -> f64 {
        self.forward_ms + self.backward_ms + self.norm_ms + self.update_ms
    }
}

/// One forward pass with the loss, milliseconds.
pub fn forward_ms(chip: &Chip, model: &Model) -> f64 {
    let [d, h, q, kv] = model.widths();
    let s = model.seq as f64;
    // In: normed x twice, x, attention. Out: attention, q, k, v, its projection, x, gate, up, product.
    let activations = s * (3.0 * d + q) + s * (2.0 * q + 2.0 * kv + 2.0 * d + 3.0 * h);
    let host = &chip.host;
    let layer = device_s(chip, &kernels(model)[..3])
        + 4.0 * model.layer_weights() / (host.stage_gb_s * 1e9)
        + 4.0 * activations / (host.copy_gb_s * 1e9);
    1e3 * (model.layers as f64 * layer + classifier_s(chip, model))
}

/// One step: forward, backward, gradient norm and AdamW.
pub fn step_ms(chip: &Chip, model: &Model) -> Step {
    let [d, h, q, kv] = model.widths();
    let s = model.seq as f64;
    // In: dy twice, both gate gradients, q, k, v, da, dq, dk, dv. Out: gate gradient, dx four times, da, dV, dQ, dK.
    let activations = s * (2.0 * d + 2.0 * h + 3.0 * q + 4.0 * kv) + s * (h + 3.0 * d + 2.0 * q + 3.0 * kv);
    let host = &chip.host;
    let layer = device_s(chip, &kernels(model)[3..])
        + 4.0 * (model.layer_weights() + host.conflict * in_conflict(model)) / (host.restage_gb_s * 1e9)
        + 4.0 * activations / (host.copy_gb_s * 1e9)
        + 2.0 * s * model.layer_weights() / (host.sgemm_tflops * 1e12);
    Step {
        forward_ms: forward_ms(chip, model),
        backward_ms: 1e3 * (model.layers as f64 * layer + 2.0 * classifier_s(chip, model)),
        norm_ms: 1e3 * 4.0 * model.params() / (host.norm_gb_s * 1e9),
        update_ms: 1e3 * 28.0 * model.params() / (host.adam_gb_s * 1e9),
    }
}

/// Bytes between rows from which on columns meet in the caches.
const CONFLICT_BYTES: usize = 4096;

/// Weights of one layer that the backward pass takes transposed, in matrices whose rows are in conflict: the four of
/// attention, `[dim, …]`, and two of the feed-forward, `[dim, hidden]`, in f32.
fn in_conflict(model: &Model) -> f64 {
    let [d, h, q, kv] = model.widths();
    let meets = |row: usize| (4 * row).is_multiple_of(CONFLICT_BYTES);
    let attention = if meets(model.dim) { d * (2.0 * q + 2.0 * kv) } else { 0.0 };
    attention + if meets(model.hidden) { 2.0 * d * h } else { 0.0 }
}

fn device_s(chip: &Chip, kernels: &[(&str, Work)]) -> f64 {
    kernels.iter().map(|(_, work)| dispatch_s(chip, work)).sum()
}

/// One product with the embedding on the CPU.
fn classifier_s(chip: &Chip, model: &Model) -> f64 {
    2.0 * (model.seq * model.vocab) as f64 * model.dim as f64 / (chip.host.sgemm_tflops * 1e12)
}
