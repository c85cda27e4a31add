//! The time of writing: a prompt, then token by token.

use std::time::{Duration, Instant};

use backend::{Decode, Draw, Feed, Prefill, Result, SeqId};
use model::TokenId;
use serde::Serialize;

use crate::statistics::median;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct DecodeSettings {
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens written in each repetition.
    pub tokens: usize,
    /// Repetitions; the median counts.
    pub repetitions: usize,
}

/// The result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DecodeReport {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens written in each repetition.
    pub tokens: usize,
    /// Tokens of the prompt per second, keys and values on the host included.
    pub prefill_tok_per_s: f64,
    /// Milliseconds per written token, of each repetition, the host reading every logit.
    pub ms_per_token: Vec<f64>,
    /// Tokens per second, from the median.
    pub tok_per_s: f64,
    /// What [`decode_between`] measured before the first repetition and after each.
    pub between: Vec<f64>,
    /// The same with tokens drawn on the device, where it can.
    pub stream_ms_per_token: Option<Vec<f64>>,
    /// Tokens per second of that, from the median.
    pub stream_tok_per_s: Option<f64>,
    /// Milliseconds of one call that checks so many tokens: (tokens, milliseconds).
    pub verify_ms: Vec<(usize, f64)>,
}

/// Work before a time is taken: a GPU that idles while a kernel is compiled is several times slower at first.
const WARM: Duration = Duration::from_millis(300);

/// Does the work once, for what is made at the first call, and again until the device is at its clock of work.
fn warm(mut work: impl FnMut() -> Result<()>) -> Result<()> {
    work()?;
    let begin = Instant::now();
    while begin.elapsed() < WARM {
        work()?;
    }
    Ok(())
}

/// Measures a backend; its weights may be anything.
///
/// # Errors
/// Those of the backend.
pub fn decode<B: Prefill + Decode + ?Sized>(
    backend: &mut B,
    settings: &DecodeSettings,
) -> Result<DecodeReport> {
    decode_between(backend, settings, None)
}

/// [`decode`], with something else measured before the first repetition and after each: the limit of this machine at
/// that moment, which its neighbours move.
///
/// # Errors
/// Those of the backend.
pub fn decode_between<B: Prefill + Decode + ?Sized>(
    backend: &mut B,
    settings: &DecodeSettings,
    mut limit: Option<&mut dyn FnMut() -> f64>,
) -> Result<DecodeReport> {
    let DecodeSettings { vocab, prompt, tokens, repetitions } = *settings;
    // A multiplicative sequence through the vocabulary: tokens that differ, without a random crate.
    let token = |i: usize| TokenId(((i as u64 * 2_654_435_761) >> 7) as u32 % vocab as u32);
    let ids: Vec<_> = (0..prompt).map(token).collect();
    let seq = SeqId(0);
    warm(|| backend.prefill(&ids).map(drop))?;
    let begin = Instant::now();
    let (kv, _) = backend.prefill(&ids)?;
    let prefill_tok_per_s = prompt as f64 / begin.elapsed().as_secs_f64();
    backend.seed(seq, &kv)?;
    let (mut ms_per_token, mut between) = (Vec::new(), Vec::new());
    for n in 0..=repetitions {
        backend.truncate(seq, prompt)?;
        let begin = Instant::now();
        for i in 0..tokens {
            backend.extend(&[Feed { seq, tokens: &[token(prompt + i)] }])?;
        }
        // The first repetition warms up.
        if n > 0 {
            ms_per_token.push(begin.elapsed().as_secs_f64() * 1e3 / tokens as f64);
        }
        between.extend(limit.as_mut().map(|limit| limit()));
    }
    let mut stream_ms = Vec::new();
    for n in 0..=repetitions {
        backend.truncate(seq, prompt)?;
        let Some(stream) = backend.stream() else { break };
        let draw = Draw { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };
        let mut count = 0;
        let begin = Instant::now();
        stream.run(seq, token(prompt), &draw, &mut |_| {
            count += 1;
            count < tokens
        })?;
        if n > 0 {
            stream_ms.push(begin.elapsed().as_secs_f64() * 1e3 / count as f64);
        }
    }
    let mut verify_ms = Vec::new();
    for n in [2, 4, 8] {
        let draft: Vec<_> = (0..n).map(token).collect();
        let check = |backend: &mut B| -> Result<f64> {
            backend.truncate(seq, prompt)?;
            let begin = Instant::now();
            backend.extend(&[Feed { seq, tokens: &draft }])?;
            Ok(begin.elapsed().as_secs_f64() * 1e3)
        };
        warm(|| check(backend).map(drop))?;
        let times = (0..repetitions).map(|_| check(backend)).collect::<Result<Vec<f64>>>()?;
        verify_ms.push((n, median(&times)));
    }
    backend.release(seq);
    let streamed = (!stream_ms.is_empty()).then_some(stream_ms);
    Ok(DecodeReport {
        prompt,
        tokens,
        prefill_tok_per_s,
        tok_per_s: 1e3 / median(&ms_per_token),
        ms_per_token,
        between,
        stream_tok_per_s: streamed.as_deref().map(|ms| 1e3 / median(ms)),
        stream_ms_per_token: streamed,
        verify_ms,
    })
}

#[cfg(test)]
mod tests {
    use backend::conformance;
    use backend::reference::ReferenceInfer;

    use super::*;

    #[test]
    fn measures_a_backend_that_cannot_draw() {
        let (_, config) = conformance::configs().swap_remove(0);
        let mut backend = ReferenceInfer::new(&config, conformance::weights(&config, 1));
        let settings = DecodeSettings { vocab: config.vocab, prompt: 5, tokens: 3, repetitions: 2 };
        let mut calls = 0.0;
        let mut limit = || {
            calls += 1.0;
            calls
        };
        let report = decode_between(&mut backend, &settings, Some(&mut limit)).unwrap();
        assert_eq!((report.ms_per_token.len(), report.verify_ms.len()), (2, 3));
        assert_eq!(report.between, [1.0, 2.0, 3.0]);
        assert!(report.tok_per_s > 0.0 && report.stream_tok_per_s.is_none());
    }
}
