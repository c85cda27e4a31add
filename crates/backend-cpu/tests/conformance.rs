//! The suite of every backend, on every level of vector instructions and with recomputation.

use backend::conformance::{self, Tolerance};
use backend::reference::ReferenceInfer;
use backend::{Decode, Feed, Prefill, SeqId};
use backend_cpu::{Cpu, CpuInfer, Isa, Plan, Precision};
use model::TokenId;
use model::quant::Format;

const TOLERANCE: Tolerance = Tolerance { block: 2e-5, update: 1e-4 };

/// Products of operands with 8 bits; the update is in f32 as ever.
const BF16: Tolerance = Tolerance { block: 2e-2, ..TOLERANCE };

fn train(plan: impl Fn(usize) -> Plan, tolerance: Tolerance) {
    conformance::train(|config, tokens| Cpu::new(config, plan(tokens)).expect("a small model"), tolerance);
}

#[test]
fn trains() {
    for &isa in Isa::available() {
        train(|tokens| Plan { isa, ..Plan::new(tokens).with_threads(2) }, TOLERANCE);
    }
}

#[test]
fn trains_in_bf16_with_the_instructions_and_without() {
    for &isa in Isa::available() {
        let plan = |tokens| Plan { isa, ..Plan::new(tokens).with_threads(2) };
        train(|tokens| plan(tokens).with_precision(Precision::Bf16), BF16);
    }
}

#[test]
fn trains_with_recomputation() {
    train(|tokens| Plan::new(tokens).with_threads(3).with_recompute(true), TOLERANCE);
}

#[test]
fn writes() {
    for &isa in Isa::available() {
        // More tokens in one pass than any prompt has, and fewer.
        for tokens in [512, 5] {
            let plan = Plan { isa, ..Plan::new(tokens).with_threads(2) };
            let make = |c: &_, weights| CpuInfer::new(c, weights, plan).expect("a small model");
            conformance::infer(make, 2e-5);
        }
    }
}

/// Keys and values are f16; with weights of 8 or 4 bits, inputs of products have 8 bits too.
fn tolerance(format: Format) -> f64 {
    if format == Format::Bf16 { 1e-3 } else { 3e-2 }
}

const FORMATS: [Format; 3] = [Format::Bf16, Format::Q8_0, Format::Q4_0];

#[test]
fn writes_with_weights_in_few_bits() {
    for &isa in Isa::available() {
        for format in FORMATS {
            for tokens in [512, 5] {
                let plan = Plan { isa, ..Plan::new(tokens).with_threads(2) }.with_format(Some(format));
                let make = |c: &_, weights| CpuInfer::new(c, weights, plan).expect("a small model");
                let round = |w: &mut model::Weights| w.round_to(format).expect("small weights");
                conformance::infer_of(make, round, tolerance(format));
            }
        }
    }
}

/// Long enough for the tiles that multiply prompts, where the machine has them.
#[test]
fn prompts_follow_the_reference_in_every_format() {
    for (case, format) in [(8, Format::Bf16), (8, Format::Q8_0), (7, Format::Q8_0), (1, Format::Q4_0)] {
        let (name, config) = conformance::configs().swap_remove(case);
        let mut weights = conformance::weights(&config, 9);
        weights.round_to(format).unwrap();
        let plan = Plan::new(64).with_threads(2).with_format(Some(format));
        let mut cpu = CpuInfer::new(&config, weights.clone(), plan).unwrap();
        let prompt = conformance::tokens(&config, 39, 3);
        let (kv, logits) = cpu.prefill(&prompt).unwrap();
        let (kv_wanted, wanted) = ReferenceInfer::new(&config, weights).prefill(&prompt).unwrap();
        for (what, got, wanted) in [
            ("logits", &logits.values, &wanted.values),
            ("keys", &kv.keys, &kv_wanted.keys),
            ("values", &kv.values, &kv_wanted.values),
        ] {
            let error = conformance::relative_error(got, wanted);
            assert!(error <= 3e-2, "{name}, {format}, {what}: {error:.1e}");
        }
    }
}

/// The most likely token by the reference is the one that was taken, or as likely within the rounding.
#[test]
fn sixty_four_greedy_tokens_follow_the_reference_in_every_format() {
    let (_, config) = conformance::configs().swap_remove(8);
    for format in FORMATS {
        let mut weights = conformance::weights(&config, 9);
        weights.round_to(format).unwrap();
        let plan = Plan::new(64).with_threads(2).with_format(Some(format));
        let mut cpu = CpuInfer::new(&config, weights.clone(), plan).unwrap();
        let mut reference = ReferenceInfer::new(&config, weights);
        let prompt = conformance::tokens(&config, 6, 3);
        let (kv, mut logits) = cpu.prefill(&prompt).unwrap();
        let (kv_wanted, mut wanted) = reference.prefill(&prompt).unwrap();
        cpu.seed(SeqId(0), &kv).unwrap();
        reference.seed(SeqId(0), &kv_wanted).unwrap();
        let mut same = 0;
        for n in 0..64 {
            let (got, best) = (largest(logits.last()), largest(wanted.last()));
            let size = wanted.last().iter().fold(0.0f32, |a, b| a.max(b.abs()));
            let lost = wanted.last()[best] - wanted.last()[got];
            assert!(lost <= tolerance(format) as f32 * size, "{format}: token {n} loses {lost} of {size}");
            same += usize::from(got == best);
            let token = [TokenId(got as u32)];
            let feed = [Feed { seq: SeqId(0), tokens: &token }];
            (logits, wanted) = (cpu.extend(&feed).unwrap(), reference.extend(&feed).unwrap());
        }
        let least = if format == Format::Bf16 { 64 } else { 60 };
        assert!(same >= least, "{format}: {same} of 64 tokens are those of the reference");
    }
}

fn largest(logits: &[f32]) -> usize {
    let larger = |best: usize, next: usize| if logits[next] > logits[best] { next } else { best };
    (0..logits.len()).reduce(larger).unwrap()
}

#[test]
fn names_the_weight_that_does_not_fit_and_the_format_that_is_not_held() {
    let (_, config) = conformance::configs().swap_remove(0);
    let weights = conformance::weights(&config, 9);
    let load = |weights, format| {
        let error = CpuInfer::new(&config, weights, Plan::new(8).with_format(Some(format))).err().unwrap();
        let mut text = error.to_string();
        let mut next = std::error::Error::source(&error);
        while let Some(cause) = next {
            text = format!("{text}: {cause}");
            next = cause.source();
        }
        text
    };
    assert!(load(weights.clone(), Format::F16).contains("wanted f32, bf16, q8_0 or q4_0"));
    let mut broken = weights;
    let id = broken.params().find(model::Role::Down, Some(1)).unwrap();
    broken.get_mut(id)[config.hidden + 3] = f32::NAN;
    let text = load(broken, Format::Q4_0);
    assert!(text.contains("down_proj") && text.contains("row 1, column 3 is NaN"), "{text}");
}
