//! The reference passes its own suite: the suite runs, and a wrong block fails it.

use backend::conformance::{self, Tolerance};
use backend::reference::{Reference, ReferenceInfer};

#[test]
fn the_reference_trains() {
    conformance::train(|config, _| Reference::new(config), Tolerance { block: 1e-12, update: 1e-12 });
}

#[test]
fn the_reference_writes() {
    conformance::infer(ReferenceInfer::new, 1e-6);
}
