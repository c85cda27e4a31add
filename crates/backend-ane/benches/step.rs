//! Seconds of a training step on the virtual ANE beside the CPU backend: 48.8M parameters by default.
//!
//! `cargo bench -p backend-ane --bench step -- [dim hidden layers heads vocab seq steps]`

use std::time::Instant;

use ane_bridge::{Settings, VirtualAne};
use backend::conformance::tokens;
use backend::{AdamW, Rule, Rules, Tokens, Train, Update, forward_backward};
use backend_ane::{Ane, Plan};
use backend_cpu::Cpu;
use model::{ModelConfig, Slot, Weights};

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let [dim, hidden, layers, heads, vocab, seq, steps] =
        numbers.try_into().unwrap_or([768, 2048, 6, 6, 8192, 512, 4]);
    let config = ModelConfig {
        dim,
        hidden,
        layers,
        heads,
        kv_heads: heads,
        head_dim: dim / heads,
        vocab,
        max_seq: seq,
        ..ModelConfig::default()
    };
    println!("{:.1}M parameters, {seq} tokens", config.param_count() as f64 / 1e6);
    let weights = Weights::init(&config, 1);
    let cpu_s = {
        let mut cpu = Cpu::new(&config, backend_cpu::Plan::new(seq)).expect("memory");
        measure(&mut cpu, &weights, seq, steps)
    };
    println!("cpu          {:8.1} ms  {:8.0} tokens/s", cpu_s * 1e3, seq as f64 / cpu_s);
    let device = VirtualAne::new(Settings { count_flushed: false, ..Settings::default() });
    let mut ane = Ane::new(device, &config, Plan::new(seq, 1)).expect("memory");
    let start = Instant::now();
    ane.compile().expect("programs");
    println!(
        "compile      {:8.1} ms for {} programs",
        start.elapsed().as_secs_f64() * 1e3,
        ane.plan().kernels().len()
    );
    let ane_s = measure(&mut ane, &weights, seq, steps);
    println!(
        "{} {:8.1} ms  {:8.0} tokens/s, {:.2} times the CPU",
        ane.label(),
        ane_s * 1e3,
        seq as f64 / ane_s,
        ane_s / cpu_s
    );
    for (name, entry) in ane.ledger().entries() {
        let real = entry.real.as_secs_f64() * 1e3 / entry.dispatches.max(1) as f64;
        let predicted = entry.predicted_s * 1e3 / entry.dispatches.max(1) as f64;
        println!(
            "  {name:14} {:5} dispatches, {real:8.2} ms each, {predicted:7.3} ms on the chip",
            entry.dispatches
        );
    }
}

/// Seconds of the fastest of some steps, after one to warm up.
fn measure<B: Train>(backend: &mut B, weights: &Weights, seq: usize, steps: usize) -> f64 {
    for p in weights.params() {
        backend.write(p.id, Slot::Weight, weights.get(p.id)).expect("weights");
    }
    let rule = Rule::AdamW(AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 });
    let rules = Rules { embedding: rule, head: rule, matrix: rule, gain: rule, bias: rule };
    let ids = tokens(backend.config(), seq + 1, 1);
    let step = |number: u64| {
        let start = Instant::now();
        forward_backward(backend, Tokens { ids: &ids[..seq], seq }, &ids[1..]).expect("step");
        let update = Update { step: number, grad_scale: 1.0, clip: Some(1.0), rules: rules.clone() };
        backend.update(&update).expect("update");
        start.elapsed().as_secs_f64()
    };
    (1..=steps as u64 + 1).map(step).skip(1).fold(f64::INFINITY, f64::min)
}
