//! The suite that every backend runs, on the virtual ANE.

use ane_bridge::{Settings, VirtualAne};
use backend::conformance::{self, Tolerance};
use backend_ane::{Ane, AneInfer, Choices, Ffn, Inputs, Linear, Plan, Scaling};
use mil::eval::Arithmetic;
use model::ModelConfig;

/// fp16 activations between f32 sums: each program rounds its operands and results to 11 bits, and a block
/// is two or three programs. Updates run on the CPU in f32.
const TOLERANCE: Tolerance = Tolerance { block: 1e-2, update: 1e-4 };

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

#[test]
fn trains_in_every_cut() {
    let cut = |config: &ModelConfig, tokens: usize| {
        let shards = |n: usize| if n.is_multiple_of(2) { 2 } else { 1 };
        Plan {
            choices: Choices { linear: Linear::Conv, inputs: Inputs::Separate, scaling: Scaling::OFF },
            ffn: Ffn::Split,
            head_shards: shards(config.kv_heads),
            ffn_shards: shards(config.hidden),
            ..plan(config, tokens)
        }
    };
    conformance::train(
        |config, tokens| Ane::new(device(Arithmetic::Fast), config, cut(config, tokens)).expect("a backend"),
        TOLERANCE,
    );
}

#[test]
fn reads_prompts_as_the_reference_does() {
    conformance::infer(
        |config, weights| {
            AneInfer::new(device(Arithmetic::Fast), config, weights, plan(config, 1)).expect("a backend")
        },
        TOLERANCE.block,
    );
}
