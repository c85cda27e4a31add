//! The suite of every backend, on whatever Vulkan there is: in CI a software driver.

mod common;

use backend::conformance::{self, relative_error};
use backend::reference::ReferenceInfer;
use backend::{Decode, Feed, Prefill, SeqId};
use common::gpu;
use metal_decode::{GpuInfer, Settings, Tuning};
use model::quant::Format;

/// Keys and values are f16: a rounding of 2⁻¹¹ each.
const TOLERANCE: f64 = 1e-3;

#[test]
fn writes() {
    // Three sequences are the most that the suite holds at once.
    let format = Format::Q8_0;
    // Small kernels compile sooner; the tilings in use are the self-test's.
    let tuning = Tuning { batch_rows: 1, ..Tuning::default() };
    let settings = Settings { sequences: 3, prefill: 32, tuning, ..Settings::new(format) };
    let make = |c: &_, weights| GpuInfer::new(gpu(), c, &weights, settings.clone()).expect("a small model");
    conformance::infer_of(make, |w| w.round_to(format).expect("small weights"), TOLERANCE);
}

#[test]
fn every_format_follows_the_reference() {
    for (format, case) in [(Format::F16, 6), (Format::Bf16, 1), (Format::Q4_0, 6)] {
        // "Odd extents", or query groups.
        let (_, config) = conformance::configs().swap_remove(case);
        let mut weights = conformance::weights(&config, 9);
        weights.round_to(format).unwrap();
        // Small bindings cut the tables by rows; the caches still fit.
        let settings = Settings { max_binding: 20_000, ..Settings::new(format) };
        let mut device = GpuInfer::new(gpu(), &config, &weights, settings).unwrap();
        let mut reference = ReferenceInfer::new(&config, weights);
        let tokens = conformance::tokens(&config, 20, 1);
        let (kv, logits) = device.prefill(&tokens[..9]).unwrap();
        let (kv_wanted, wanted) = reference.prefill(&tokens[..9]).unwrap();
        let close = |what: &str, got: &[f32], wanted: &[f32]| {
            let error = relative_error(got, wanted);
            assert!(error < TOLERANCE, "{format}, {what}: {error:.1e}");
        };
        close("prompt", &logits.values, &wanted.values);
        close("keys", &kv.keys, &kv_wanted.keys);
        device.seed(SeqId(0), &kv).unwrap();
        reference.seed(SeqId(0), &kv_wanted).unwrap();
        for range in [9..10, 10..13] {
            let feed = [Feed { seq: SeqId(0), tokens: &tokens[range] }];
            let (got, wanted) = (device.extend(&feed).unwrap(), reference.extend(&feed).unwrap());
            close("token", &got.values, &wanted.values);
        }
    }
}
