//! Updates that the next forward pass finishes, beside updates that are finished at once.

use backend::conformance::{configs, tokens, weights};
use backend::{AdamW, Rule, Rules, Tokens, Train, Update, forward_backward};
use backend_cpu::{Cpu, Isa, MomentFormat, Plan, Precision, WeightFormat};
use model::{ModelConfig, Params, Slot};

fn model(config: &ModelConfig, plan: Plan) -> Cpu {
    let mut cpu = Cpu::new(config, plan).expect("a small model");
    let start = weights(config, 3);
    for p in &Params::new(config) {
        cpu.write(p.id, Slot::Weight, start.get(p.id)).expect("weights are written");
    }
    cpu
}

/// Loss and gradient norm of step `n`.
fn step(cpu: &mut Cpu, n: u64) -> [u32; 2] {
    let config = cpu.config().clone();
    let seq = config.max_seq - 1;
    let (ids, targets) = (tokens(&config, 2 * seq, n), tokens(&config, 2 * seq, n + 9));
    let loss = forward_backward(cpu, Tokens { ids: &ids, seq }, &targets).expect("step runs");
    let adamw =
        |weight_decay| Rule::AdamW(AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay });
    let rules = Rules {
        embedding: adamw(0.1),
        head: adamw(0.1),
        matrix: adamw(0.1),
        gain: adamw(0.0),
        bias: adamw(0.0),
    };
    let update = Update { step: n, grad_scale: 1.0, clip: Some(0.5), rules };
    [loss, cpu.update(&update).expect("update runs")].map(f32::to_bits)
}

fn all(cpu: &mut Cpu) -> Vec<Vec<u32>> {
    let mut bits = Vec::new();
    for p in &Params::new(&cpu.config().clone()) {
        for slot in [Slot::Weight, Slot::Gradient, Slot::Moment1, Slot::Moment2] {
            let values = cpu.read(p.id, slot).expect("tensor is read");
            bits.push(values.iter().map(|v| v.to_bits()).collect());
        }
    }
    bits
}

/// Leaves a forward pass after some blocks, the first of them twice.
fn leave(cpu: &mut Cpu, blocks: usize) {
    let config = cpu.config().clone();
    let seq = config.max_seq - 1;
    let ids = tokens(&config, seq, 77);
    for blocks in [1, blocks] {
        let mut x = cpu.embed(Tokens { ids: &ids, seq }).expect("embed runs");
        for block in 0..blocks {
            let run = if block % 2 == 0 { Cpu::attention } else { Cpu::ffn };
            x = run(cpu, block / 2, x).expect("block runs");
        }
    }
}

fn same(case: &str, config: &ModelConfig, plan: Plan) {
    let (mut at_once, mut later, mut left) = (model(config, plan), model(config, plan), model(config, plan));
    let first = Params::new(config).iter().next().map(|p| p.id).expect("a model has parameters");
    for n in 1..=3 {
        let wanted = step(&mut at_once, n);
        at_once.read(first, Slot::Weight).expect("tensor is read");
        assert_eq!(step(&mut later, n), wanted, "{case}: step {n}");
        assert_eq!(step(&mut left, n), wanted, "{case}: step {n} after a pass that was left");
        leave(&mut left, 2 * n as usize - 1);
    }
    let wanted = all(&mut at_once);
    assert!(all(&mut later) == wanted, "{case}");
    assert!(all(&mut left) == wanted, "{case}: after a pass that was left");
}

#[test]
fn give_the_same_bits() {
    for (case, config) in configs() {
        let config = ModelConfig { layers: 4, ..config };
        for &isa in Isa::available() {
            let plan = Plan { isa, ..Plan::new(2 * config.max_seq).with_threads(2) };
            same(case, &config, plan);
            same(case, &config, plan.with_precision(Precision::Bf16).with_threads(3));
        }
    }
}

#[test]
fn give_the_same_bits_in_every_format() {
    for case in [0, 8] {
        let (case, config) = configs().swap_remove(case);
        let config = ModelConfig { layers: 3, ..config };
        for moments in [MomentFormat::Bf16, MomentFormat::Q8] {
            let plan = Plan::new(2 * config.max_seq).with_threads(2).with_moments(moments);
            same(case, &config, plan);
            let plan = plan.with_precision(Precision::Bf16);
            same(case, &config, plan);
            same(case, &config, plan.with_weights(WeightFormat::Bf16).with_recompute(true).with_threads(8));
        }
    }
}
