//! The same bits for any number of threads.

use backend::conformance::{configs, tokens, weights};
use backend::{
    AdamW, Decode, Feed, Muon, Prefill, Rule, Rules, SeqId, Tokens, Train, Update, forward_backward,
};
use backend_cpu::{Cpu, CpuInfer, Isa, MomentFormat, Plan, Precision, WeightFormat};
use model::quant::Format;
use model::{ModelConfig, Params, Slot};

/// Losses, gradient norms and all tensors after three steps.
fn steps(config: &ModelConfig, plan: Plan) -> (Vec<u32>, Vec<Vec<u32>>) {
    let mut cpu = Cpu::new(config, plan).expect("a small model");
    let start = weights(config, 3);
    let table = Params::new(config);
    for p in &table {
        cpu.write(p.id, Slot::Weight, start.get(p.id)).expect("weights are written");
    }
    let adamw = Rule::AdamW(AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 });
    let muon = Rule::Muon(Muon { lr: 0.02, momentum: 0.9, weight_decay: 0.0 });
    let rules = Rules { embedding: adamw, head: adamw, matrix: muon, gain: adamw, bias: adamw };
    let mut numbers = Vec::new();
    for step in 1..=3 {
        let seq = config.max_seq - 1;
        let (ids, targets) = (tokens(config, 2 * seq, step), tokens(config, 2 * seq, step + 9));
        let loss = forward_backward(&mut cpu, Tokens { ids: &ids, seq }, &targets).expect("step runs");
        let update = Update { step, grad_scale: 1.0, clip: Some(1.0), rules: rules.clone() };
        numbers.extend([loss, cpu.update(&update).expect("update runs")].map(f32::to_bits));
    }
    let mut bits = Vec::new();
    for p in &table {
        for slot in [Slot::Weight, Slot::Moment1, Slot::Moment2] {
            let values = cpu.read(p.id, slot).expect("tensor is read");
            bits.push(values.iter().map(|v| v.to_bits()).collect());
        }
    }
    (numbers, bits)
}

#[test]
fn training_does_not_depend_on_the_threads() {
    for (case, config) in configs() {
        for &isa in Isa::available() {
            let plan = Plan { isa, ..Plan::new(2 * config.max_seq).with_threads(1) };
            let one = steps(&config, plan);
            for threads in [2, 3, 8] {
                let several = steps(&config, plan.with_threads(threads));
                assert!(one == several, "{case}, {}: {threads} threads differ from one", isa.name());
            }
        }
    }
}

#[test]
fn narrow_moments_do_not_depend_on_the_threads() {
    let (case, config) = configs().swap_remove(0);
    for format in [MomentFormat::Bf16, MomentFormat::Q8] {
        let plan = Plan::new(2 * config.max_seq).with_moments(format).with_threads(1);
        assert!(steps(&config, plan) == steps(&config, plan.with_threads(3)), "{case}, {format:?}");
        let plan = plan.with_precision(Precision::Bf16).with_weights(WeightFormat::Bf16);
        let one = steps(&config, plan);
        assert!(one == steps(&config, plan.with_threads(3)), "{case}, {format:?}, weights in bf16");
        assert!(one == steps(&config, plan.with_recompute(true)), "{case}, {format:?}, recomputation");
    }
}

#[test]
fn training_in_bf16_does_not_depend_on_the_threads() {
    for (case, config) in configs() {
        let plan = Plan::new(2 * config.max_seq).with_precision(Precision::Bf16).with_threads(1);
        let one = steps(&config, plan);
        for threads in [2, 3, 8] {
            assert!(one == steps(&config, plan.with_threads(threads)), "{case}: {threads} threads");
        }
        assert!(one == steps(&config, plan.with_recompute(true)), "{case}: recomputation");
    }
}

#[test]
fn recomputation_gives_the_same_bits() {
    for (case, config) in configs() {
        let plan = Plan::new(2 * config.max_seq).with_threads(2);
        assert!(steps(&config, plan) == steps(&config, plan.with_recompute(true)), "{case}");
    }
}

#[test]
fn writing_does_not_depend_on_the_threads() {
    let formats = [None, Some(Format::Bf16), Some(Format::Q8_0), Some(Format::Q4_0)];
    for ((case, config), format) in configs().into_iter().flat_map(|c| formats.map(|f| (c.clone(), f))) {
        let run = |threads| {
            let plan = Plan::new(16).with_threads(threads).with_format(format);
            let mut cpu = CpuInfer::new(&config, weights(&config, 1), plan).expect("a small model");
            let (kv, first) = cpu.prefill(&tokens(&config, 20, 2)).expect("prefill runs");
            cpu.seed(SeqId(0), &kv).expect("seed");
            let next = tokens(&config, 3, 3);
            let more = cpu.extend(&[Feed { seq: SeqId(0), tokens: &next }]).expect("extend runs");
            [first.values, more.values].concat().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let one = run(1);
        assert!([2, 3, 8].into_iter().all(|threads| run(threads) == one), "{case}, {format:?}");
    }
}

#[test]
fn a_copied_state_in_few_bits_continues_bit_for_bit() {
    let (case, config) = configs().swap_remove(0);
    let formats = [MomentFormat::Bf16, MomentFormat::Q8];
    for (format, precision) in formats.into_iter().flat_map(|f| [(f, Precision::Bf16), (f, Precision::F32)]) {
        let plan = Plan::new(2 * config.max_seq).with_moments(format).with_precision(precision);
        let adamw = Rule::AdamW(AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 });
        let muon = Rule::Muon(Muon { lr: 0.02, momentum: 0.9, weight_decay: 0.0 });
        let rules = Rules { embedding: adamw, head: adamw, matrix: muon, gain: adamw, bias: adamw };
        let step = |cpu: &mut Cpu, step| {
            let (ids, targets) = (tokens(&config, 20, step), tokens(&config, 20, step + 9));
            let loss = forward_backward(cpu, Tokens { ids: &ids, seq: 10 }, &targets).expect("step runs");
            let update = Update { step, grad_scale: 1.0, clip: Some(1.0), rules: rules.clone() };
            (loss, cpu.update(&update).expect("update runs"))
        };
        let mut first = Cpu::new(&config, plan).expect("a small model");
        let start = weights(&config, 3);
        for p in &Params::new(&config) {
            first.write(p.id, Slot::Weight, start.get(p.id)).expect("weights are written");
        }
        step(&mut first, 1);
        step(&mut first, 2);
        let mut second = Cpu::new(&config, plan).expect("a small model");
        for p in &Params::new(&config) {
            for slot in [Slot::Weight, Slot::Moment1, Slot::Moment2] {
                let values = first.read(p.id, slot).expect("tensor is read").into_owned();
                second.write(p.id, slot, &values).expect("tensor is written");
            }
        }
        for n in 3..6 {
            assert_eq!(
                step(&mut first, n),
                step(&mut second, n),
                "{case}, {format:?}, {precision:?}: step {n}"
            );
        }
    }
}
