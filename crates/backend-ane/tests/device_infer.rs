//! Prompts on this machine's Neural Engine, in a process of their own as in `device_train.rs`.

use ane_bridge::AppleAne;
use ane_bridge::apple::Settings;
use backend::conformance;
use backend_ane::{AneInfer, Plan};

#[test]
fn reads_prompts_as_the_reference_does() {
    let device = AppleAne::open(Settings::default())
        .unwrap_or_else(|error| panic!("the feature `device` wants a Neural Engine: {error}"));
    conformance::infer(
        |config, weights| {
            let plan = Plan { threads: 2, ..Plan::new(config.max_seq, 1) };
            AneInfer::new(device.clone(), config, weights, plan).expect("a backend")
        },
        6e-3,
    );
}
