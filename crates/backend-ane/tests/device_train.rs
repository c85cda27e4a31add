//! The suite that every backend runs, on this machine's Neural Engine. It is alone in its process, which
//! has so many compiles and no more.

use ane_bridge::AppleAne;
use ane_bridge::apple::Settings;
use backend::conformance::{self, Tolerance};
use backend_ane::{Ane, Plan};

/// As on the virtual device, see `conformance.rs`.
const TOLERANCE: Tolerance = Tolerance { block: 6e-3, update: 1e-4 };

#[test]
fn trains_as_the_reference_does() {
    let device = AppleAne::open(Settings::default())
        .unwrap_or_else(|error| panic!("the feature `device` wants a Neural Engine: {error}"));
    conformance::train(
        |config, tokens| {
            let plan = Plan { threads: 2, ..Plan::new(config.max_seq, tokens.div_ceil(config.max_seq)) };
            Ane::new(device.clone(), config, plan).expect("a backend")
        },
        TOLERANCE,
    );
}
