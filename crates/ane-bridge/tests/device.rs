//! The bridge on this machine's Neural Engine.

use ane_bridge::apple::{Settings, probe};

#[test]
fn the_neural_engine_gives_what_the_evaluator_gives() {
    let probe = probe(&Settings::default());
    assert!(probe.route.is_some(), "the feature `device` wants a Neural Engine\n{probe}");
    assert!(probe.findings.iter().all(|finding| finding.ok), "{probe}");
}
