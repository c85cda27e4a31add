//! Updates on the GPU under gradients from elsewhere.

mod common;

use backend::conformance::{self, Tolerance};
use backend::reference::Reference;
use metal_decode::GpuOptimizer;

#[test]
fn trains() {
    let make = |c: &_, _| GpuOptimizer::new(Reference::new(c), common::gpu()).expect("a small model");
    conformance::train(make, Tolerance { block: 1e-6, update: 1e-4 });
}
