//! The suite of every backend, on every level of vector instructions and with recomputation.

use backend::conformance::{self, Tolerance};
use backend_cpu::{Cpu, CpuInfer, Isa, Plan, Precision};

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
