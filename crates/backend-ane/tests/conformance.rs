//! The suite that every backend runs, on the virtual ANE.

use ane_bridge::{Settings, VirtualAne};
use backend::conformance::{self, Tolerance};
use backend_ane::{Ane, AneInfer, Choices, Classifier, Ffn, Inputs, Linear, Plan, Scaling};
use mil::eval::Arithmetic;
use model::ModelConfig;

/// fp16 activations between f32 sums: each program rounds its operands and results to 11 bits, and a block
/// is two or three programs. The worst, 3e-3, is the bias of keys, whose gradients nearly cancel. Updates
/// run on the CPU in f32.
const TOLERANCE: Tolerance = Tolerance { block: 6e-3, update: 1e-4 };

fn device(arithmetic: Arithmetic) -> VirtualAne {
    VirtualAne::new(Settings { arithmetic, count_flushed: false, ..Settings::default() })
}

fn plan(config: &ModelConfig, tokens: usize) -> Plan {
    Plan { threads: 2, ..Plan::new(config.max_seq, tokens.div_ceil(config.max_seq)) }
}

#[test]
fn trains_as_the_reference_does() {
    conformance::train(
        |config, tokens| Ane::new(device(Arithmetic::Fast), config, plan(config, tokens)).expect("a backend"),
        TOLERANCE,
    );
}

/// The grid of 2^-16 adds its own rounding to every product.
#[test]
fn trains_on_the_product_grid() {
    conformance::train(
        |config, tokens| {
            Ane::new(device(Arithmetic::Exact), config, plan(config, tokens)).expect("a backend")
        },
        TOLERANCE,
    );
}

/// Everything that [`plan`] leaves at its default, the other way round.
fn cut(config: &ModelConfig, tokens: usize) -> Plan {
    let shards = |n: usize| if n.is_multiple_of(2) { 2 } else { 1 };
    Plan {
        choices: Choices { linear: Linear::Conv, inputs: Inputs::Separate, scaling: Scaling::OFF },
        ffn: Ffn::Split,
        classifier: Classifier::Device,
        vocab_shards: 3,
        head_shards: shards(config.kv_heads),
        ffn_shards: shards(config.hidden),
        ..plan(config, tokens)
    }
}

/// Logits of fp16 in place of f32, beside the tolerance of the blocks.
#[test]
fn trains_with_the_classifier_on_the_device() {
    conformance::train(
        |config, tokens| {
            let plan = Plan { classifier: Classifier::Device, ..plan(config, tokens) };
            Ane::new(device(Arithmetic::Fast), config, plan).expect("a backend")
        },
        TOLERANCE,
    );
}

#[test]
fn trains_in_every_cut() {
    conformance::train(
        |config, tokens| Ane::new(device(Arithmetic::Fast), config, cut(config, tokens)).expect("a backend"),
        TOLERANCE,
    );
}

#[test]
fn reads_prompts_as_the_reference_does() {
    for plan in [plan, cut] {
        conformance::infer(
            |config, weights| {
                AneInfer::new(device(Arithmetic::Fast), config, weights, plan(config, 1)).expect("a backend")
            },
            TOLERANCE.block,
        );
    }
}
