//! Conformance of [`Prefill`] and [`Decode`].

use model::{ModelConfig, Weights};

use super::{configs, tokens, weights};
use crate::checked::relative_error;
use crate::reference::ReferenceInfer;
use crate::{Decode, Error, Feed, Prefill, SeqId};

/// Runs the whole suite. `make` builds a backend from weights; `tolerance` bounds
/// ‖result − reference‖ / ‖reference‖ of logits, keys and values.
pub fn infer<B: Prefill + Decode>(make: impl Fn(&ModelConfig, Weights) -> B, tolerance: f64) {
    infer_of(make, |_| {}, tolerance);
}

/// [`infer`] on weights that `round` made such as the backend holds exactly: those of a format of few bits.
pub fn infer_of<B: Prefill + Decode>(
    make: impl Fn(&ModelConfig, Weights) -> B,
    round: impl Fn(&mut Weights),
    tolerance: f64,
) {
    let weights = |config: &ModelConfig, seed| {
        let mut weights = weights(config, seed);
        round(&mut weights);
        weights
    };
    for (case, config) in configs() {
        let weights = weights(&config, 9);
        let mut backend = make(&config, weights.clone());
        let mut reference = ReferenceInfer::new(&config, weights);
        follows_the_reference(case, &config, &mut backend, &mut reference, tolerance);
    }
    let (_, config) = configs().swap_remove(1);
    let mut backend = make(&config, weights(&config, 9));
    sequences_do_not_mix(&config, &mut backend, tolerance);
    truncation_takes_positions_back(&config, &mut backend, tolerance);
    refuses_what_does_not_fit(&config, &mut backend);
}

fn close(what: &str, got: &[f32], wanted: &[f32], tolerance: f64) {
    let error = relative_error(got, wanted);
    assert!(error <= tolerance, "{what}: relative error {error:.1e}, allowed {tolerance:.0e}");
}

fn follows_the_reference<B: Prefill + Decode>(
    case: &str,
    config: &ModelConfig,
    backend: &mut B,
    reference: &mut ReferenceInfer,
    tolerance: f64,
) {
    let prompt = tokens(config, 9, 4);
    let (kv, logits) = backend.prefill(&prompt).expect("prefill runs");
    let (kv_wanted, wanted) = reference.prefill(&prompt).expect("prefill runs");
    close(&format!("{case}: prefill logits"), &logits.values, &wanted.values, tolerance);
    close(&format!("{case}: prefill keys"), &kv.keys, &kv_wanted.keys, tolerance);
    close(&format!("{case}: prefill values"), &kv.values, &kv_wanted.values, tolerance);
    let seq = SeqId(5);
    backend.seed(seq, &kv).expect("seed");
    reference.seed(seq, &kv_wanted).expect("seed");
    // One token, several at once, one again; to the last position of the context.
    let rest = tokens(config, config.max_seq - 9, 8);
    let (one, rest) = rest.split_at(1);
    let (several, rest) = rest.split_at(4);
    for chunk in [one, several].into_iter().chain(rest.chunks(8)) {
        let feeds = [Feed { seq, tokens: chunk }];
        let got = backend.extend(&feeds).expect("extend runs");
        let wanted = reference.extend(&feeds).expect("extend runs");
        assert_eq!((got.vocab, got.rows()), (config.vocab, chunk.len()), "{case}: one row per token");
        close(
            &format!("{case}: logits after {} tokens", chunk.len()),
            &got.values,
            &wanted.values,
            tolerance,
        );
    }
    let over = [Feed { seq, tokens: one }];
    assert!(matches!(backend.extend(&over), Err(Error::SequenceTooLong { .. })), "{case}: context end");
    backend.release(seq);
}

fn sequences_do_not_mix<B: Prefill + Decode>(config: &ModelConfig, backend: &mut B, tolerance: f64) {
    let prompts = [tokens(config, 3, 1), tokens(config, 12, 2), tokens(config, 6, 3)];
    let next = tokens(config, 6, 4);
    let ids = [SeqId(0), SeqId(7), SeqId(3)];
    let alone: Vec<_> = prompts
        .iter()
        .map(|prompt| {
            let (kv, _) = backend.prefill(prompt).expect("prefill runs");
            backend.seed(SeqId(1), &kv).expect("seed");
            let logits = backend.extend(&[Feed { seq: SeqId(1), tokens: &next[..2] }]).expect("extend");
            backend.release(SeqId(1));
            logits.values
        })
        .collect();
    for (prompt, &seq) in prompts.iter().zip(&ids) {
        let (kv, _) = backend.prefill(prompt).expect("prefill runs");
        backend.seed(seq, &kv).expect("seed");
    }
    let feeds: Vec<_> = ids.iter().map(|&seq| Feed { seq, tokens: &next[..2] }).collect();
    let together = backend.extend(&feeds).expect("extend runs");
    close("three sequences at once", &together.values, &alone.concat(), tolerance);
    ids.into_iter().for_each(|seq| backend.release(seq));
}

fn truncation_takes_positions_back<B: Prefill + Decode>(
    config: &ModelConfig,
    backend: &mut B,
    tolerance: f64,
) {
    let (seq, prompt, draft) = (SeqId(2), tokens(config, 5, 1), tokens(config, 4, 2));
    let (kv, _) = backend.prefill(&prompt).expect("prefill runs");
    backend.seed(seq, &kv).expect("seed");
    let first = backend.extend(&[Feed { seq, tokens: &draft }]).expect("extend runs");
    backend.truncate(seq, 7).expect("truncate");
    let again = backend.extend(&[Feed { seq, tokens: &draft[2..] }]).expect("extend runs");
    close("after truncation", again.row(0), first.row(2), tolerance);
    close("after truncation", again.row(1), first.row(3), tolerance);
    backend.release(seq);
}

fn refuses_what_does_not_fit<B: Prefill + Decode>(config: &ModelConfig, backend: &mut B) {
    let long = tokens(config, config.max_seq + 1, 1);
    assert!(matches!(backend.prefill(&long), Err(Error::SequenceTooLong { .. })));
    let outside = [model::TokenId(config.vocab as u32)];
    assert!(matches!(backend.prefill(&outside), Err(Error::TokenOutOfRange { .. })));
    assert!(matches!(backend.prefill(&[]), Err(Error::RaggedBatch { .. })));
    let feed = [Feed { seq: SeqId(99), tokens: &long[..1] }];
    assert!(matches!(backend.extend(&feed), Err(Error::UnknownSequence(99))));
    assert!(matches!(backend.truncate(SeqId(99), 0), Err(Error::UnknownSequence(99))));
}
