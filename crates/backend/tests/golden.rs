//! The reference against transformers and PyTorch, and proof that the comparison sees mistakes.

use std::path::Path;

use backend::conformance::Golden;
use backend::reference::{Reference, ReferenceInfer, muon};
use backend::{Muon, conformance};
use model::safetensors::TensorFile;
use model::{Param, Role};

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/interop/golden"))
}

fn cases() -> Vec<Golden> {
    let cases = Golden::all(&folder().join("models")).unwrap();
    assert_eq!(cases.len(), 9, "the golden models are there");
    cases
}

#[test]
fn logits_and_text_are_those_of_transformers() {
    for case in cases() {
        let infer = ReferenceInfer::new(&case.config, case.weights.clone());
        case.check_infer(infer).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    }
}

#[test]
fn gradients_and_trained_weights_are_those_of_pytorch() {
    let cases: Vec<_> = cases().into_iter().filter(Golden::trains).collect();
    assert_eq!(cases.len(), 8);
    for case in cases {
        case.check_train(Reference::new(&case.config)).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    }
}

/// Changes a model's matrices of one role; rows are heads of the given size.
fn permute_rows(case: &mut Golden, roles: &[Role], order: impl Fn(usize) -> usize) {
    let params: Vec<Param> =
        case.weights.params().iter().filter(|p| roles.contains(&p.role)).cloned().collect();
    for p in params {
        let width = p.shape.get(1).copied().unwrap_or(1);
        let old = case.weights.get(p.id).to_vec();
        let new = case.weights.get_mut(p.id);
        for row in 0..p.shape[0] {
            new[row * width..][..width].copy_from_slice(&old[order(row) * width..][..width]);
        }
    }
}

/// Whether the comparison of logits or of training notices the change.
fn is_noticed(change: impl Fn(&mut Golden), case: &str) -> [bool; 2] {
    let mut case = cases().into_iter().find(|c| c.name == case).expect("the case exists");
    change(&mut case);
    let infer = case.check_infer(ReferenceInfer::new(&case.config, case.weights.clone()));
    let train = case.check_train(Reference::new(&case.config));
    [infer.is_err(), train.is_err()]
}

#[test]
fn a_swapped_rope_layout_is_noticed() {
    // Interleaved pairs turn channel 2i with 2i + 1: the same as turning halves of permuted rows.
    let interleave = |case: &mut Golden| {
        let d = case.config.head_dim;
        let order = |row: usize| {
            let (head, c) = (row / d * d, row % d);
            head + if c < d / 2 { 2 * c } else { 2 * (c - d / 2) + 1 }
        };
        permute_rows(case, &[Role::Q, Role::K], order);
    };
    for case in
        ["llama_mha_tied", "llama_gqa_untied", "llama_head_dim", "llama_rope_llama3", "llama_theta_eps"]
    {
        assert_eq!(is_noticed(interleave, case), [true, true], "{case}");
    }
}

#[test]
fn a_wrong_epsilon_is_noticed() {
    let swap = |case: &mut Golden| {
        case.config.norm_eps = if case.config.norm_eps > 5e-6 { 1e-6 } else { 1e-5 };
    };
    for case in cases().iter().filter(|c| c.trains()) {
        assert_eq!(is_noticed(swap, &case.name), [true, true], "{}", case.name);
    }
}

#[test]
fn a_dropped_bias_is_noticed() {
    for role in [Role::QBias, Role::KBias, Role::VBias] {
        let drop = |case: &mut Golden| {
            let id = case.weights.params().find(role, Some(0)).expect("the model has biases");
            case.weights.get_mut(id).fill(0.0);
        };
        assert_eq!(is_noticed(drop, "qwen2_gqa_tied"), [true, true], "{role:?}");
    }
}

#[test]
fn other_mistakes_are_noticed() {
    let no_scaling = |case: &mut Golden| case.config.rope.scaling = None;
    assert_eq!(is_noticed(no_scaling, "llama_rope_llama3"), [true, true], "scaling of the rope");
    let residual = |case: &mut Golden| case.config.residual_scale = 0.36;
    assert_eq!(is_noticed(residual, "granite_residual"), [true, true], "scale of the residual stream");
    let theta = |case: &mut Golden| case.config.rope.theta = 10_000.0;
    assert_eq!(is_noticed(theta, "llama_theta_eps"), [true, true], "base of the rope");
    // Heads that read the wrong keys.
    let mapping = |case: &mut Golden| {
        let d = case.config.head_dim;
        permute_rows(case, &[Role::K, Role::V], |row| (row + d) % (2 * d));
    };
    assert_eq!(is_noticed(mapping, "llama_gqa_untied"), [true, true], "mapping of heads");
    let gains = |case: &mut Golden| {
        let id = case.weights.params().find(Role::QNorm, Some(0)).expect("the model has query norms");
        case.weights.get_mut(id).fill(1.0);
    };
    assert_eq!(is_noticed(gains, "qwen3_gqa_untied"), [true, true], "query norm");
}

#[test]
fn muon_is_that_of_its_golden_file() {
    let file = TensorFile::open(&folder().join("muon.safetensors")).unwrap();
    let read = |name: &str| file.read(file.find(name).unwrap_or_else(|| panic!("no `{name}`"))).unwrap();
    let rule = Muon { lr: 0.02, momentum: 0.95, weight_decay: 0.1 };
    let mut shapes = 0;
    for tensor in file.tensors() {
        let Some(shape) = tensor.name.strip_suffix(".weight") else { continue };
        shapes += 1;
        let (mut w, mut m) = (read(&tensor.name), vec![0.0; tensor.len()]);
        for step in 1..=3 {
            let g: Vec<f64> = read(&format!("{shape}.grad{step}")).iter().map(|&g| f64::from(g)).collect();
            muon::update(&rule, 1.0, tensor.shape[0], &g, &mut w, &mut m);
            let error = conformance::relative_error(&w, &read(&format!("{shape}.after{step}")));
            assert!(error < 1e-5, "{shape} after step {step}: {error:.1e}");
        }
    }
    assert_eq!(shapes, 5);
}
