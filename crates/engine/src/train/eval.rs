//! Validation: loss and bits per byte.

use backend::Train;

use super::TrainError;
use crate::data::Validation;

/// The result of a validation.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalStats {
    /// Mean cross-entropy, nats per counted token.
    pub loss: f64,
    /// Bits per byte of text: comparable between tokenizers.
    pub bpb: f64,
    /// Tokens that counted.
    pub tokens: u64,
    /// Bytes of text that they stand for.
    pub bytes: u64,
}

impl EvalStats {
    /// e to the loss.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Runs the model over the first `max_tokens` tokens of the validation data (at least one batch).
pub fn evaluate<B: Train>(
    backend: &mut B,
    data: &Validation,
    max_tokens: u64,
) -> Result<EvalStats, TrainError> {
    let (mut nats, mut tokens, mut bytes) = (0.0, 0, 0);
    for batch in data.batches() {
        let batch = batch?;
        let counted = batch.batch.counted();
        let input = backend::Tokens { ids: &batch.batch.tokens, seq: batch.batch.seq };
        let loss = backend::forward(backend, input, &batch.batch.targets)?;
        nats += f64::from(loss) * counted as f64;
        tokens += counted;
        bytes += batch.bytes;
        if tokens >= max_tokens {
            break;
        }
    }
    let bpb = nats / (std::f64::consts::LN_2 * bytes.max(1) as f64);
    Ok(EvalStats { loss: nats / tokens.max(1) as f64, bpb, tokens, bytes })
}
