//! The norm that an update returns is that of the gradients that are there.

use backend::conformance::{configs, tokens, weights};
use backend::{AdamW, Rule, Rules, Tokens, Train, Update, forward_backward};
use backend_cpu::{Cpu, Plan, Precision};
use model::{ModelConfig, Params, Role, Slot};

fn model(config: &ModelConfig, plan: Plan) -> Cpu {
    let mut cpu = Cpu::new(config, plan).expect("a small model");
    let start = weights(config, 3);
    for p in &Params::new(config) {
        cpu.write(p.id, Slot::Weight, start.get(p.id)).expect("weights are written");
    }
    cpu
}

fn micro_batch(cpu: &mut Cpu, seed: u64) {
    let config = cpu.config().clone();
    let seq = config.max_seq - 1;
    let (ids, targets) = (tokens(&config, 2 * seq, seed), tokens(&config, 2 * seq, seed + 9));
    forward_backward(cpu, Tokens { ids: &ids, seq }, &targets).expect("step runs");
}

/// Relative error of the norm of an update beside that of the gradients as they are read.
fn error(cpu: &mut Cpu) -> f64 {
    let mut squares = 0.0;
    for p in &Params::new(&cpu.config().clone()) {
        let gradient = cpu.read(p.id, Slot::Gradient).expect("tensor is read");
        squares += gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
    }
    let rule = Rule::AdamW(AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 });
    let rules = Rules { embedding: rule, head: rule, matrix: rule, gain: rule, bias: rule };
    let norm = cpu.update(&Update { step: 1, grad_scale: 1.0, clip: None, rules }).expect("update runs");
    (f64::from(norm) / squares.sqrt() - 1.0).abs()
}

#[test]
fn is_that_of_the_gradients_after_micro_batches_and_after_writing_some() {
    for (case, config) in configs() {
        for precision in [Precision::F32, Precision::Bf16] {
            let plan = Plan::new(2 * config.max_seq).with_threads(2).with_precision(precision);
            let mut cpu = model(&config, plan);
            let case = format!("{case}, {}", precision.name());
            for micro_batches in 1..=2 {
                (0..micro_batches).for_each(|n| micro_batch(&mut cpu, n));
                let error = error(&mut cpu);
                assert!(error < 1e-6, "{case}: off by {error:.1e} after {micro_batches} micro-batches");
            }
            // Of a matrix that is multiplied with its neighbours.
            micro_batch(&mut cpu, 1);
            let id = Params::new(&config).find(Role::K, Some(0)).expect("every model has it");
            let more: Vec<_> = cpu.read(id, Slot::Gradient).unwrap().iter().map(|g| 10.0 * g).collect();
            cpu.write(id, Slot::Gradient, &more).expect("tensor is written");
            let error = error(&mut cpu);
            assert!(error < 1e-6, "{case}: off by {error:.1e} after writing");
        }
    }
}
