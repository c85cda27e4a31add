//! Updates within the backward pass, beside updates after it.

use backend::conformance::{configs, tokens, weights};
use backend::{AdamW, Muon, Rule, Rules, Tokens, Train, Update, forward_backward};
use backend_cpu::{Cpu, MomentFormat, Plan, Precision, WeightFormat};
use model::{ModelConfig, Params, Role, Slot, TokenId};

fn model(config: &ModelConfig, plan: Plan) -> Cpu {
    let mut cpu = Cpu::new(config, plan).expect("a small model");
    let start = weights(config, 3);
    for p in &Params::new(config) {
        cpu.write(p.id, Slot::Weight, start.get(p.id)).expect("weights are written");
    }
    cpu
}

fn update(step: u64, clip: Option<f32>) -> Update {
    let adamw = Rule::AdamW(AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 });
    let muon = Rule::Muon(Muon { lr: 0.02, momentum: 0.9, weight_decay: 0.0 });
    let rules = Rules { embedding: adamw, head: adamw, matrix: muon, gain: adamw, bias: adamw };
    Update { step, grad_scale: 1.0, clip, rules }
}

/// Loss and gradient norm of a step on tokens of this seed.
fn step(cpu: &mut Cpu, update: &Update, before: f32, seed: u64) -> (f32, f32) {
    let config = cpu.config().clone();
    let seq = config.max_seq - 1;
    let (ids, targets) = (tokens(&config, 2 * seq, seed), tokens(&config, 2 * seq, seed + 9));
    cpu.announce(update, before).expect("the update is announced");
    let loss = forward_backward(cpu, Tokens { ids: &ids, seq }, &targets).expect("step runs");
    (loss, cpu.update(update).expect("update runs"))
}

fn all(cpu: &mut Cpu) -> Vec<Vec<u32>> {
    let mut bits = Vec::new();
    for p in &Params::new(&cpu.config().clone()) {
        for slot in [Slot::Weight, Slot::Moment1, Slot::Moment2] {
            let values = cpu.read(p.id, slot).expect("tensor is read");
            bits.push(values.iter().map(|v| v.to_bits()).collect());
        }
    }
    bits
}

fn bytes(config: &ModelConfig, plan: Plan) -> u64 {
    Cpu::footprint(config, plan, true).expect("a model that can be").total()
}

fn plans(config: &ModelConfig) -> Vec<Plan> {
    let plan = Plan::new(2 * config.max_seq).with_threads(2);
    let bf16 = plan.with_precision(Precision::Bf16);
    let thrifty = bf16.with_recompute(true).with_moments(MomentFormat::Q8);
    vec![plan, bf16, thrifty, thrifty.with_weights(WeightFormat::Bf16)]
}

#[test]
fn without_clipping_it_gives_the_bits_of_an_update_afterwards() {
    for (case, config) in configs() {
        for plan in plans(&config) {
            let (mut after, mut within) =
                (model(&config, plan), model(&config, plan.with_update_in_backward(true)));
            assert!(
                bytes(&config, plan.with_update_in_backward(true)) < bytes(&config, plan),
                "{case}: gradients of all layers are kept"
            );
            for n in 1..=3 {
                let (a, w) =
                    (step(&mut after, &update(n, None), 0.0, n), step(&mut within, &update(n, None), 0.0, n));
                assert_eq!(a.0.to_bits(), w.0.to_bits(), "{case}: loss of step {n}");
                assert!((a.1 - w.1).abs() < 1e-5 * a.1, "{case}: norms {} and {}", a.1, w.1);
            }
            assert!(all(&mut after) == all(&mut within), "{case}: {plan:?}");
        }
    }
}

#[test]
fn clipping_takes_the_norm_before_or_what_this_step_has_shown() {
    let (_, config) = configs().swap_remove(0);
    let plan = plans(&config)[0].with_update_in_backward(true);
    // A rule that moves in proportion to the gradient, as SGD does.
    let sgd = Rule::AdamW(AdamW { lr: 1.0, beta1: 0.0, beta2: 0.0, eps: 1e3, weight_decay: 0.0 });
    let rules = Rules { embedding: sgd, head: sgd, matrix: sgd, gain: sgd, bias: sgd };
    let moved = |clip, before| {
        let mut cpu = model(&config, plan);
        let update = Update { step: 1, grad_scale: 1.0, clip, rules: rules.clone() };
        let (_, norm) = step(&mut cpu, &update, before, 1);
        let start = weights(&config, 3);
        let table = Params::new(&config);
        let id = table.find(Role::FinalNorm, None).expect("every model has it");
        let now = cpu.read(id, Slot::Weight).expect("tensor is read");
        let squares = now.iter().zip(start.get(id)).map(|(a, b)| f64::from(a - b).powi(2));
        (squares.sum::<f64>().sqrt(), f64::from(norm))
    };
    let (free, norm) = moved(None, 0.0);
    // What is outside of all layers comes last: by then the whole norm is known.
    let clip = norm / 3.0;
    let (clipped, _) = moved(Some(clip as f32), 0.0);
    assert!((clipped / free - 1.0 / 3.0).abs() < 0.02, "{clipped} of {free}");
    let (held, _) = moved(Some(clip as f32), 2.0 * norm as f32);
    assert!((held / free - 1.0 / 6.0).abs() < 0.02, "{held} of {free}");
}

#[test]
fn numbers_that_are_not_finite_move_nothing() {
    let (_, config) = configs().swap_remove(0);
    let mut cpu = model(&config, plans(&config)[1].with_update_in_backward(true));
    let table = Params::new(&config);
    let id = table.find(Role::FinalNorm, None).expect("every model has it");
    let mut gain = cpu.read(id, Slot::Weight).expect("tensor is read").into_owned();
    gain[0] = f32::NAN;
    cpu.write(id, Slot::Weight, &gain).expect("tensor is written");
    let before = all(&mut cpu);
    let (loss, norm) = step(&mut cpu, &update(1, Some(1.0)), 0.0, 1);
    assert!(!loss.is_finite() && !norm.is_finite());
    assert!(all(&mut cpu) == before);
}

#[test]
fn an_update_that_was_not_announced_is_an_error_that_says_so() {
    let (_, config) = configs().swap_remove(0);
    let mut cpu = model(&config, plans(&config)[0].with_update_in_backward(true));
    let ids = vec![TokenId(1); 4];
    let error = forward_backward(&mut cpu, Tokens { ids: &ids, seq: 4 }, &ids).unwrap_err();
    let text = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(text.contains("`announce`") && text.contains("one micro-batch"), "{error}: {text}");
    cpu.announce(&update(1, None), 0.0).expect("the update is announced");
    assert!(cpu.update(&update(2, None)).is_err());
}
