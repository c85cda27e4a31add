//! Conformance of [`Train`].

use model::{ModelConfig, Params, Slot, TokenId};

use super::{Tolerance, configs, tokens, weights};
use crate::checked::relative_error;
use crate::reference::Reference;
use crate::{AdamW, Checked, Error, Muon, Rule, Rules, Tokens, Train, Update, forward, forward_backward};

/// Runs the whole suite. `make` builds a backend for a model and micro-batches of at most that
/// many tokens; its weights and moments may be anything.
pub fn train<B: Train>(make: impl Fn(&ModelConfig, usize) -> B, tolerance: Tolerance) {
    for (case, config) in configs() {
        blocks_match_the_reference(case, &config, &make, tolerance);
        updates_match_the_reference(case, &config, &make, tolerance);
    }
    let (_, config) = configs().swap_remove(1);
    tensors_come_back_as_written(&config, &make);
    the_loss_alone_leaves_no_gradient(&config, &make);
    a_gradient_that_is_not_finite_changes_nothing(&config, &make);
    the_same_run_gives_the_same_bits(&config, &make);
    a_copied_state_continues_bit_for_bit(&config, &make);
    refuses_what_does_not_fit(&config, &make);
}

fn params(config: &ModelConfig) -> Params {
    Params::new(config)
}

/// A backend with the weights of [`weights`], zero moments and no gradient.
fn start<B: Train>(config: &ModelConfig, make: &impl Fn(&ModelConfig, usize) -> B) -> B {
    let mut backend = make(config, 2 * config.max_seq);
    let weights = weights(config, 3);
    for p in &params(config) {
        backend.write(p.id, Slot::Weight, weights.get(p.id)).expect("weights are written");
        for slot in [Slot::Moment1, Slot::Moment2, Slot::Gradient] {
            backend.write(p.id, slot, &vec![0.0; p.len()]).expect("moments are written");
        }
    }
    backend
}

fn blocks_match_the_reference<B: Train>(
    case: &str,
    config: &ModelConfig,
    make: &impl Fn(&ModelConfig, usize) -> B,
    tolerance: Tolerance,
) {
    let mut checked = Checked::new(start(config, make), tolerance.block).expect("tensors are read");
    // Two micro-batches of different shapes: their gradients add up.
    for (batch, seq, seed) in [(2, config.max_seq - 3, 1), (1, 7, 2)] {
        let ids = tokens(config, batch * seq, seed);
        let mut targets = tokens(config, batch * seq, seed + 10);
        targets[seq / 2] = TokenId::IGNORE;
        targets[0] = TokenId::IGNORE;
        let result = forward_backward(&mut checked, Tokens { ids: &ids, seq }, &targets);
        result.unwrap_or_else(|e| panic!("{case}, {batch}×{seq}: {e}"));
    }
}

fn adamw(lr: f32) -> Rule {
    Rule::AdamW(AdamW { lr, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 })
}

fn rules(matrix: Rule) -> Rules {
    // The first step of AdamW is near ±lr whatever the gradient: parameters whose gradient is
    // rounding noise would differ, so their rule has a large epsilon here.
    let bias = Rule::AdamW(AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-2, weight_decay: 0.0 });
    Rules { embedding: adamw(1e-2), head: adamw(2e-3), matrix, gain: adamw(3e-3), bias }
}

fn updates_match_the_reference<B: Train>(
    case: &str,
    config: &ModelConfig,
    make: &impl Fn(&ModelConfig, usize) -> B,
    tolerance: Tolerance,
) {
    let muon = Rule::Muon(Muon { lr: 0.02, momentum: 0.9, weight_decay: 0.1 });
    for (rule, matrix) in [("AdamW", adamw(4e-3)), ("Muon", muon)] {
        let mut backend = start(config, make);
        let mut reference = Reference::from_weights(config, weights(config, 3));
        for step in 1..=3 {
            // The same gradients on both sides, so that only the update is compared; the second
            // step is clipped.
            for p in &params(config) {
                let values: Vec<f32> = tokens(config, p.len(), step * 1000 + p.id.index() as u64)
                    .iter()
                    .map(|t| (t.0 as f32 + 0.5) / config.vocab as f32 - 0.5)
                    .collect();
                backend.write(p.id, Slot::Gradient, &values).expect("gradient is written");
                reference.write(p.id, Slot::Gradient, &values).expect("gradient is written");
            }
            let clip = (step == 2).then_some(0.5);
            let update = Update { step, grad_scale: 0.25, clip, rules: rules(matrix) };
            let norm = backend.update(&update).expect("update runs");
            let wanted = reference.update(&update).expect("update runs");
            let error = relative_error(&[norm], &[wanted]);
            assert!(error <= 1e-5, "{case}, {rule}: gradient norm {norm} instead of {wanted}");
        }
        let before = weights(config, 3);
        for p in &params(config) {
            let moved = |w: &[f32]| -> Vec<f32> {
                w.iter().zip(before.get(p.id)).map(|(after, before)| after - before).collect()
            };
            let got = moved(&backend.read(p.id, Slot::Weight).expect("weight is read"));
            let wanted = moved(&reference.read(p.id, Slot::Weight).expect("weight is read"));
            let error = relative_error(&got, &wanted);
            assert!(error <= tolerance.update, "{case}, {rule}: `{}` moved wrongly by {error:.1e}", p.name);
            let gradient = backend.read(p.id, Slot::Gradient).expect("gradient is read");
            assert!(gradient.iter().all(|&g| g == 0.0), "{case}: gradient of `{}` is not cleared", p.name);
        }
    }
}

fn step<B: Train>(backend: &mut B, number: u64) -> (f32, f32) {
    let config = backend.config().clone();
    let ids = tokens(&config, 2 * 11, number);
    let targets = tokens(&config, 2 * 11, number + 50);
    let loss = forward_backward(backend, Tokens { ids: &ids, seq: 11 }, &targets).expect("step runs");
    let update = Update { step: number, grad_scale: 1.0, clip: Some(1.0), rules: rules(adamw(1e-3)) };
    (loss, backend.update(&update).expect("update runs"))
}

fn snapshot<B: Train>(backend: &mut B) -> Vec<Vec<u32>> {
    let mut bits = Vec::new();
    for p in &params(&backend.config().clone()) {
        for slot in [Slot::Weight, Slot::Moment1, Slot::Moment2] {
            let values = backend.read(p.id, slot).expect("tensor is read");
            bits.push(values.iter().map(|v| v.to_bits()).collect());
        }
    }
    bits
}

fn tensors_come_back_as_written<B: Train>(config: &ModelConfig, make: &impl Fn(&ModelConfig, usize) -> B) {
    let mut backend = make(config, config.max_seq);
    for slot in [Slot::Weight, Slot::Gradient, Slot::Moment1, Slot::Moment2] {
        for p in &params(config) {
            // Second moments are squares.
            let values: Vec<f32> = (0..p.len()).map(|i| (i % 97) as f32 * 0.01).collect();
            backend.write(p.id, slot, &values).expect("tensor is written");
            let back = backend.read(p.id, slot).expect("tensor is read");
            assert_eq!(*back, *values, "{slot:?} of `{}` came back changed", p.name);
        }
    }
}

fn the_loss_alone_leaves_no_gradient<B: Train>(
    config: &ModelConfig,
    make: &impl Fn(&ModelConfig, usize) -> B,
) {
    let mut backend = start(config, make);
    let ids = tokens(config, 24, 5);
    let targets = tokens(config, 24, 6);
    let batch = Tokens { ids: &ids, seq: 12 };
    let alone = forward(&mut backend, batch, &targets).expect("forward runs");
    for p in &params(config) {
        let gradient = backend.read(p.id, Slot::Gradient).expect("gradient is read");
        assert!(gradient.iter().all(|&g| g == 0.0), "`loss` left a gradient on `{}`", p.name);
    }
    let with_gradient = forward_backward(&mut backend, batch, &targets).expect("step runs");
    assert!((alone - with_gradient).abs() <= 1e-5 * alone, "{alone} and {with_gradient}");
    let ignored = vec![TokenId::IGNORE; 24];
    assert_eq!(forward(&mut backend, batch, &ignored).expect("forward runs"), 0.0);
}

fn a_gradient_that_is_not_finite_changes_nothing<B: Train>(
    config: &ModelConfig,
    make: &impl Fn(&ModelConfig, usize) -> B,
) {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut backend = start(config, make);
        step(&mut backend, 1);
        let before = snapshot(&mut backend);
        let table = params(config);
        let p = table.iter().last().expect("there are parameters");
        let mut gradient = vec![0.5; p.len()];
        gradient[p.len() - 1] = bad;
        backend.write(p.id, Slot::Gradient, &gradient).expect("gradient is written");
        let update = Update { step: 2, grad_scale: 1.0, clip: Some(1.0), rules: rules(adamw(1e-3)) };
        let norm = backend.update(&update).expect("update runs");
        assert!(!norm.is_finite(), "a gradient of {bad} has the norm {norm}");
        assert!(before == snapshot(&mut backend), "a gradient of {bad} changed weights or moments");
        let gradient = backend.read(p.id, Slot::Gradient).expect("gradient is read");
        assert!(gradient.iter().all(|&g| g == 0.0), "a gradient of {bad} is not cleared");
    }
}

fn the_same_run_gives_the_same_bits<B: Train>(
    config: &ModelConfig,
    make: &impl Fn(&ModelConfig, usize) -> B,
) {
    let run = || {
        let mut backend = start(config, make);
        let losses: Vec<_> = (1..=3).map(|n| step(&mut backend, n)).collect();
        (losses, snapshot(&mut backend))
    };
    assert!(run() == run(), "two equal runs differ");
}

fn a_copied_state_continues_bit_for_bit<B: Train>(
    config: &ModelConfig,
    make: &impl Fn(&ModelConfig, usize) -> B,
) {
    let mut first = start(config, make);
    step(&mut first, 1);
    step(&mut first, 2);
    let mut second = make(config, 2 * config.max_seq);
    for p in &params(config) {
        for slot in [Slot::Weight, Slot::Moment1, Slot::Moment2] {
            let values = first.read(p.id, slot).expect("tensor is read").into_owned();
            second.write(p.id, slot, &values).expect("tensor is written");
        }
        second.write(p.id, Slot::Gradient, &vec![0.0; p.len()]).expect("gradient is written");
    }
    assert_eq!(step(&mut first, 3), step(&mut second, 3), "the copy takes another step");
    assert!(snapshot(&mut first) == snapshot(&mut second), "the copy ends elsewhere");
}

fn refuses_what_does_not_fit<B: Train>(config: &ModelConfig, make: &impl Fn(&ModelConfig, usize) -> B) {
    let mut backend = start(config, make);
    let mut embed = |n: usize, seq: usize, last: u32| {
        let mut ids = tokens(config, n, 1);
        if let Some(id) = ids.last_mut() {
            *id = TokenId(last);
        }
        backend.embed(Tokens { ids: &ids, seq }).map(drop)
    };
    let long = config.max_seq + 1;
    assert!(matches!(embed(long, long, 0), Err(Error::SequenceTooLong { .. })));
    assert!(matches!(embed(7, 3, 0), Err(Error::RaggedBatch { .. })));
    assert!(matches!(embed(0, 3, 0), Err(Error::RaggedBatch { .. })));
    assert!(matches!(embed(3, 0, 0), Err(Error::RaggedBatch { .. })));
    assert!(matches!(embed(6, 3, config.vocab as u32), Err(Error::TokenOutOfRange { .. })));
    let id = params(config).head();
    assert!(matches!(backend.write(id, Slot::Weight, &[0.0]), Err(Error::WrongLength { .. })));
    // And still works.
    step(&mut backend, 1);
}
