//! Where a step's time goes: calls across the seam, each beside the least that it could take.
//!
//! ```text
//! bound = max(FLOPs / peak, bytes / bandwidth)
//! ```
//!
//! FLOPs are those of matrix products. Bytes are each weight of a block once, its gradient read and written in
//! the backward pass, activations that enter and leave, the 16 bytes per parameter that the update reads: what has to
//! move when nothing stays in a cache. The update writes 12 back on top, which processors do while they read. It may leave
//! weights to other calls, the next forward pass on the CPU, which does not say how many: its bound is never above its
//! time. Peak and bandwidth are measured on this machine in the same run.
//! The trace is Chrome's format of JSON events, which <https://ui.perfetto.dev> opens.

mod picture;

use backend::{Phase, Span};
use model::ModelConfig;
use serde_json::{Value, json};

use crate::plan::Machine;

/// Most calls that a trace keeps: 20 steps of a 100-layer model, a file of some 3 MB.
pub const MOST_SPANS: usize = 20_000;

/// A kind of call, over all steps of a trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// What was called.
    pub phase: Phase,
    /// Calls of a step.
    pub calls: f64,
    /// Milliseconds of a step.
    pub ms: f64,
    /// The least that they could take.
    pub bound_ms: f64,
    /// Whether the bound is that of the products; else of memory.
    pub products: bool,
}

/// What was recorded, and of what.
#[derive(Clone, Copy, Debug)]
pub struct Profile<'a> {
    /// The calls, of whole steps or of one that is cut off at the end.
    pub spans: &'a [Span],
    /// The model.
    pub model: &'a ModelConfig,
    /// Tokens of a micro-batch.
    pub tokens: usize,
    /// Tokens of one of its sequences.
    pub seq: usize,
    /// What ran, as reports say it.
    pub device: &'a str,
}

impl Profile<'_> {
    /// Updates that were recorded.
    pub fn steps(&self) -> usize {
        self.spans.iter().filter(|s| s.phase == Phase::Update).count()
    }

    /// Time of a step by kind of call, in the order of a step; empty without a whole step.
    pub fn lines(&self, machine: &Machine) -> Vec<Line> {
        let steps = self.steps() as f64;
        let end = self.spans.iter().rposition(|s| s.phase == Phase::Update).map_or(0, |i| i + 1);
        let whole = &self.spans[..end];
        let line = |phase: Phase| {
            let calls = whole.iter().filter(|s| s.phase == phase);
            let count = calls.clone().count() as f64;
            let ms: f64 = calls.map(|s| s.took.as_secs_f64() * 1e3).sum();
            let (flops, bytes) = work(self.model, phase, self.tokens, self.seq);
            let (products, memory) = (flops / machine.gflop_per_s / 1e6, bytes / machine.gb_per_s / 1e6);
            let (calls, ms) = (count / steps, ms / steps);
            let bound = calls * products.max(memory);
            let bound_ms = if phase == Phase::Update { bound.min(ms) } else { bound };
            Line { phase, calls, ms, bound_ms, products: products >= memory }
        };
        Phase::ALL.into_iter().map(line).filter(|line| line.calls > 0.0).collect()
    }

    /// The trace, as Chrome and Perfetto read it: one track for the model's parts, one slice per call.
    pub fn trace(&self) -> Value {
        let name = |span: &Span| match span.layer {
            Some(layer) => format!("{} {layer}", span.phase.name()),
            None => span.phase.name().to_owned(),
        };
        let us = |d: std::time::Duration| d.as_nanos() as f64 / 1e3;
        let event = |span: &Span| {
            json!({
                "name": name(span), "cat": span.phase.name(), "ph": "X", "pid": 1, "tid": 1,
                "ts": us(span.begin), "dur": us(span.took), "args": { "layer": span.layer },
            })
        };
        let label = |what: &str, name: &str| json!({ "name": what, "ph": "M", "pid": 1, "tid": 1, "args": { "name": name } });
        let mut events =
            vec![label("process_name", self.device), label("thread_name", "calls across the seam")];
        events.extend(self.spans.iter().map(event));
        json!({ "displayTimeUnit": "ms", "traceEvents": events })
    }
}

/// FLOPs of products and bytes that one call has to move.
fn work(c: &ModelConfig, phase: Phase, tokens: usize, seq: usize) -> (f64, f64) {
    let [t, dim, hidden, q, kv, vocab] =
        [tokens, c.dim, c.hidden, c.q_dim(), c.kv_dim(), c.vocab].map(|n| n as f64);
    let (attention, ffn, head) = (2.0 * dim * (q + kv), 3.0 * dim * hidden, dim * vocab);
    let scores = 2.0 * t * q * (seq + 1) as f64;
    // Inputs and outputs of a block, and what lies between its products, once in and once out.
    let kept_attention = 2.0 * (2.0 * dim + 2.0 * q + 2.0 * kv);
    let kept_ffn = 2.0 * (2.0 * dim + 2.0 * hidden);
    let forward = |weights: f64, kept: f64| 4.0 * (weights + t * kept);
    let backward = |weights: f64, kept: f64| 4.0 * (3.0 * weights + 2.0 * t * kept);
    match phase {
        Phase::Embed => (0.0, 8.0 * t * dim),
        Phase::Attention => (2.0 * t * attention + scores, forward(attention, kept_attention)),
        Phase::Ffn => (2.0 * t * ffn, forward(ffn, kept_ffn)),
        Phase::Loss => (2.0 * t * head, forward(head, 2.0 * dim)),
        Phase::LossBackward => (6.0 * t * head, backward(head, 2.0 * dim)),
        Phase::FfnBackward => (4.0 * t * ffn, backward(ffn, kept_ffn)),
        Phase::AttentionBackward => (4.0 * t * attention + 2.0 * scores, backward(attention, kept_attention)),
        Phase::EmbedBackward => (0.0, 12.0 * t * dim),
        Phase::Update => (0.0, 16.0 * c.param_count() as f64),
    }
}

#[cfg(test)]
mod tests {
    use backend::reference::Reference;
    use backend::{AdamW, Rule, Rules, Timed, Tokens, Train, Update, conformance, forward_backward};
    use model::TokenId;

    use super::*;

    fn machine() -> Machine {
        Machine { gflop_per_s: 100.0, gb_per_s: 10.0 }
    }

    /// The products of the phases are those of the step.
    #[test]
    fn phases_add_up_to_the_step() {
        let c = ModelConfig::default();
        let (tokens, seq) = (512, 128);
        let calls = |phase: Phase| match phase {
            Phase::Loss => 0.0,
            Phase::Attention | Phase::Ffn | Phase::FfnBackward | Phase::AttentionBackward => c.layers as f64,
            _ => 1.0,
        };
        let sum: f64 = Phase::ALL.iter().map(|&p| calls(p) * work(&c, p, tokens, seq).0).sum();
        let wanted = c.train_flops_per_token(seq) * tokens as f64;
        assert!((sum / wanted - 1.0).abs() < 1e-9, "{sum} {wanted}");
    }

    #[test]
    fn a_recorded_step_becomes_lines_and_a_trace() {
        let (_, config) = conformance::configs().swap_remove(0);
        let mut backend = Timed::new(Reference::new(&config));
        let ids: Vec<_> = (0..16).map(TokenId).collect();
        let rule = Rule::AdamW(AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 });
        let rules = Rules { embedding: rule, head: rule, matrix: rule, gain: rule, bias: rule };
        let update = Update { step: 1, grad_scale: 1.0, clip: None, rules };
        assert!(backend.spans().is_empty());
        // The third step is cut off.
        backend.record(2 * (4 * config.layers + 4) + 3);
        for _ in 0..3 {
            forward_backward(&mut backend, Tokens { ids: &ids, seq: 8 }, &ids).unwrap();
            backend.update(&update).unwrap();
        }
        let spans = backend.spans().to_vec();
        let profile = Profile { spans: &spans, model: &config, tokens: 16, seq: 8, device: "reference" };
        assert_eq!((profile.steps(), spans.len()), (2, 2 * (4 * config.layers + 4) + 3));
        let lines = profile.lines(&machine());
        assert_eq!(lines.len(), 8);
        let attention = lines.iter().find(|l| l.phase == Phase::Attention).unwrap();
        assert_eq!(attention.calls, config.layers as f64);
        assert!(lines.iter().all(|l| l.bound_ms > 0.0 && l.ms > 0.0));
        let trace = profile.trace();
        let events = trace["traceEvents"].as_array().unwrap();
        assert_eq!(events.len(), 2 + spans.len());
        assert_eq!(events[0]["args"]["name"], "reference");
        assert_eq!(events[3]["name"], "attention 0");
        let ends: Vec<f64> =
            events[2..].iter().map(|e| e["ts"].as_f64().unwrap() + e["dur"].as_f64().unwrap()).collect();
        let begins: Vec<f64> = events[3..].iter().map(|e| e["ts"].as_f64().unwrap()).collect();
        assert!(ends.iter().zip(&begins).all(|(end, next)| *end <= next + 1e-3), "calls follow each other");
        // The picture has the calls of one step and a line for each kind of them.
        let picture = profile.picture(&machine()).unwrap();
        assert_eq!(picture.matches("<title>").count(), 4 * config.layers + 4, "{picture}");
        assert_eq!(picture.matches(" a step, at least ").count(), 8);
        assert!(
            picture.contains(">One step of 16 tokens: ") && picture.contains("<title>attention_backward 0: ")
        );
        assert!(picture.ends_with("</svg>\n") && !picture.contains("NaN"), "{picture}");
    }

    #[test]
    fn nothing_recorded_is_no_line() {
        let config = ModelConfig::default();
        let profile = Profile { spans: &[], model: &config, tokens: 16, seq: 8, device: "none" };
        assert_eq!((profile.lines(&machine()).len(), profile.steps()), (0, 0));
        assert_eq!(profile.picture(&machine()), None);
    }
}
