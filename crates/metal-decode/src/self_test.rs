//! Compares this device with the reference before it is trusted with a text.

use std::num::NonZeroUsize;

use backend::conformance::{self, relative_error};
use backend::reference::ReferenceInfer;
use backend::{Decode, Draw, Feed, Logits, Prefill, SeqId, Stream};
use model::{ModelConfig, Rope};

use crate::gpu::Gpu;
use crate::kernels::Epilogue;
use crate::tuning::{Entry, Tuning};
use crate::{GpuError, GpuInfer, GpuResult, Settings};

/// Largest allowed ‖result − reference‖ / ‖reference‖: keys and values are rounded to f16.
const ALLOWED: f64 = 5e-3;

/// Largest window here.
const WINDOW: NonZeroUsize = NonZeroUsize::new(40).unwrap();

/// Runs a small model with the options, the format and the tilings of the real one, through every kernel:
/// a prompt, one token, several, enough positions for splits, greedy drawing. Takes well under a second.
///
/// # Errors
/// [`GpuError::SelfTest`] names the first result that differs.
pub fn self_test(gpu: Gpu, real: &ModelConfig, settings: &Settings) -> GpuResult<Gpu> {
    let c = ModelConfig {
        dim: 64,
        hidden: 96,
        layers: 1,
        heads: real.group_size(),
        kv_heads: 1,
        vocab: 97,
        max_seq: 300,
        rope: Rope { scaling: None, ..real.rope },
        ..real.clone()
    };
    let adapter = gpu.name().to_owned();
    let tuning = small_tuning(&gpu, real, &c, settings);
    let mut weights = conformance::weights(&c, 5);
    let weight_error = |source| GpuError::Weight { name: "a weight of the self-test".into(), source };
    weights.round_to(settings.format).map_err(weight_error)?;
    // A window so small that the ring goes round.
    let window = settings.window.map(|real| real.min(WINDOW));
    let small = Settings { tuning, prefill: 64, window, ..Settings::new(settings.format) };
    let mut device = GpuInfer::new(gpu, &c, &weights, small)?;
    let seen = window.map_or(c.max_seq, NonZeroUsize::get);
    let mut reference = ReferenceInfer::new(&c, weights).with_window(seen);
    let failed = |e: backend::Error| GpuError::Lost { adapter: adapter.clone(), reason: e.to_string() };
    let compare = |what: &str, got: &[f32], wanted: &[f32]| {
        let error = relative_error(got, wanted);
        // Written so that NaN fails.
        if error <= ALLOWED {
            return Ok(());
        }
        let (adapter, what) = (adapter.clone(), what.to_owned());
        Err(GpuError::SelfTest { adapter, what, error, allowed: ALLOWED })
    };
    let (prompt, next) = (conformance::tokens(&c, 150, 1), conformance::tokens(&c, 7, 2));
    let (kv, logits) = device.prefill(&prompt).map_err(failed)?;
    let (kv_wanted, wanted) = reference.prefill(&prompt).map_err(failed)?;
    compare("a prompt's logits", &logits.values, &wanted.values)?;
    compare("a prompt's keys", &kv.keys, &kv_wanted.keys)?;
    let seq = SeqId(0);
    device.seed(seq, &kv).map_err(failed)?;
    reference.seed(seq, &kv_wanted).map_err(failed)?;
    let mut last: Option<Logits> = None;
    for n in [1, 2, 4] {
        let feed = [Feed { seq, tokens: &next[n - 1..2 * n - 1] }];
        let got = device.extend(&feed).map_err(failed)?;
        let wanted = reference.extend(&feed).map_err(failed)?;
        compare(&format!("the logits of {n} tokens at once"), &got.values, &wanted.values)?;
        last = Some(got);
    }
    // Greedy drawing takes what the host finds in the device's own logits.
    let host = last.map_or(0, |l| first_largest(l.last()));
    let greedy = Draw { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };
    // Among one token there is no choice, but a draw.
    for draw in [greedy, Draw { temperature: 1.0, top_k: 1, ..greedy }] {
        device.truncate(seq, prompt.len() + 6).map_err(failed)?;
        let mut drawn = u32::MAX;
        let mut take = |token: model::TokenId| {
            drawn = token.0;
            false
        };
        device.run(seq, next[6], &draw, &mut take).map_err(failed)?;
        if drawn != host {
            let what = format!("the drawn token ({drawn} instead of {host})");
            return Err(GpuError::SelfTest { adapter, what, error: 1.0, allowed: 0.0 });
        }
    }
    Ok(device.into_gpu())
}

fn first_largest(logits: &[f32]) -> u32 {
    let larger = |best: (u32, f32), next: (u32, f32)| if next.1 > best.1 { next } else { best };
    (0u32..).zip(logits.iter().copied()).reduce(larger).map_or(0, |best| best.0)
}

/// A table that gives the small model the tilings of the real one.
fn small_tuning(gpu: &Gpu, real: &ModelConfig, small: &ModelConfig, s: &Settings) -> Tuning {
    let shapes = |c: &ModelConfig| {
        [
            (c.dim, c.q_dim() + 2 * c.kv_dim(), Epilogue::Store),
            (c.q_dim(), c.dim, Epilogue::Residual),
            (c.dim, 2 * c.hidden, Epilogue::Swiglu),
            (c.hidden, c.dim, Epilogue::Residual),
            (c.dim, c.vocab, Epilogue::Store),
        ]
    };
    let pairs = shapes(real).into_iter().zip(shapes(small));
    let entries = pairs.map(|((k, m, epilogue), (small_k, small_m, _))| Entry {
        format: s.format.name().into(),
        k: small_k,
        m: small_m,
        tiling: s.tuning.tiling(gpu, s.format, k, m, epilogue),
    });
    Tuning { entries: entries.collect(), splits: 2, batch_rows: s.tuning.batch_rows }
}
