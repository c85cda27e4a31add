//! Updates that the next forward pass finishes, beside updates that are finished at once.

use backend::conformance::{configs, tokens, weights};
use backend::{AdamW, Muon, Rule, Rules, Tokens, Train, Update, forward_backward};
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

/// By AdamW; matrices by Muon if asked for.
fn update(n: u64, muon: bool) -> Update {
    let adamw = |decay| AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: decay };
    let (matrix, gain) = (Rule::AdamW(adamw(0.1)), Rule::AdamW(adamw(0.0)));
    let by_muon = Rule::Muon(Muon { lr: 0.02, momentum: 0.9, weight_decay: 0.0 });
    let rules = Rules {
        embedding: matrix,
        head: matrix,
        matrix: if muon { by_muon } else { matrix },
        gain,
        bias: gain,
    };
    Update { step: n, grad_scale: 1.0, clip: Some(0.5), rules }
}

/// Loss and gradient norm of a step.
fn step(cpu: &mut Cpu, update: &Update) -> [u32; 2] {
    let config = cpu.config().clone();
    let (seq, n) = (config.max_seq - 1, update.step);
    let (ids, targets) = (tokens(&config, 2 * seq, n), tokens(&config, 2 * seq, n + 9));
    let loss = forward_backward(cpu, Tokens { ids: &ids, seq }, &targets).expect("step runs");
    [loss, cpu.update(update).expect("update runs")].map(f32::to_bits)
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

/// Runs some blocks of a forward pass, after the first of them alone, and takes a loss behind the last of all.
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
        if blocks == 2 * config.layers {
            cpu.loss(x, &ids).expect("loss runs");
        }
    }
}

fn same(case: &str, config: &ModelConfig, plan: Plan) {
    let [mut at_once, mut later, mut left] = [(); 3].map(|()| model(config, plan));
    let first = Params::new(config).iter().next().map(|p| p.id).expect("a model has parameters");
    let blocks = 2 * config.layers;
    for n in 1..=4 {
        let update = update(n, n == 3);
        let wanted = step(&mut at_once, &update);
        at_once.read(first, Slot::Weight).expect("tensor is read");
        assert_eq!(step(&mut later, &update), wanted, "{case}: step {n}");
        assert_eq!(step(&mut left, &update), wanted, "{case}: step {n} after a pass that was left");
        leave(&mut left, [1, 3, 4, blocks][n as usize - 1].min(blocks));
        // Another one, of no gradients, behind one that is finished, one that is not, and one in between.
        for cpu in [&mut at_once, &mut later, &mut left] {
            assert_eq!(cpu.update(&update).expect("update runs"), 0.0, "{case}");
        }
        at_once.read(first, Slot::Weight).expect("tensor is read");
    }
    let wanted = all(&mut at_once);
    assert!(all(&mut later) == wanted, "{case}");
    assert!(all(&mut left) == wanted, "{case}: after passes that were left");
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
    // Among them biases that do not fill a block of moments.
    for case in [0, 5, 8] {
        let (case, config) = configs().swap_remove(case);
        let config = ModelConfig { layers: 3, ..config };
        for moments in [MomentFormat::Bf16, MomentFormat::Q8] {
            let plan = Plan::new(2 * config.max_seq).with_threads(2).with_moments(moments);
            same(case, &config, plan);
            let plan = plan.with_precision(Precision::Bf16);
            same(case, &config, plan);
            same(case, &config, plan.with_weights(WeightFormat::Bf16));
            same(case, &config, plan.with_weights(WeightFormat::Bf16).with_recompute(true).with_threads(8));
        }
    }
}

#[test]
fn one_layer_leaves_nothing_and_what_is_not_finite_moves_nothing() {
    let (case, config) = configs().swap_remove(0);
    let plan = Plan::new(2 * config.max_seq).with_threads(2);
    same(case, &ModelConfig { layers: 1, ..config.clone() }, plan);
    let mut cpu = model(&config, plan);
    step(&mut cpu, &update(1, false));
    let before = all(&mut cpu);
    let (id, len) = Params::new(&config).iter().last().map(|p| (p.id, p.len())).expect("a parameter");
    cpu.write(id, Slot::Gradient, &vec![f32::NAN; len]).expect("gradient is written");
    assert!(cpu.update(&update(2, false)).expect("update runs").is_nan());
    assert!(all(&mut cpu) == before);
}
