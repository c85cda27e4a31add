//! The CPU backend against transformers and PyTorch.

use std::path::Path;

use backend::conformance::Golden;
use backend_cpu::{Cpu, CpuInfer, Plan};

fn cases() -> Vec<Golden> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/interop/golden/models");
    let cases = Golden::all(Path::new(folder)).unwrap();
    assert_eq!(cases.len(), 9, "the golden models are there");
    cases
}

#[test]
fn logits_and_text_are_those_of_transformers() {
    for case in cases() {
        let infer = CpuInfer::new(&case.config, case.weights.clone(), Plan::new(64)).unwrap();
        case.check_infer(infer).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    }
}

#[test]
fn gradients_and_trained_weights_are_those_of_pytorch() {
    for case in cases().into_iter().filter(Golden::trains) {
        for recompute in [false, true] {
            let cpu = Cpu::new(&case.config, Plan::new(64).with_recompute(recompute)).unwrap();
            case.check_train(cpu).unwrap_or_else(|e| panic!("{}, recompute {recompute}: {e}", case.name));
        }
    }
}
