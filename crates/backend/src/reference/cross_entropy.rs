//! Mean cross-entropy over the vocabulary.
//!
//! ```text
//! loss = mean_t (log Σ_v e^{z[t,v]} − z[t,target])        dz = (softmax(z) − onehot) / count
//! ```
//!
//! over the targets that are not [`TokenId::IGNORE`]. Shapes: `z` `[tokens, vocab]`. Nats.

use model::TokenId;

use super::attention::softmax;

/// The mean loss and the gradient of the logits; zeros when every target is ignored.
pub fn forward_backward(logits: &[f64], vocab: usize, targets: &[TokenId]) -> (f64, Vec<f64>) {
    let count = targets.iter().filter(|&&t| t != TokenId::IGNORE).count().max(1) as f64;
    let mut loss = 0.0;
    let mut dz = vec![0.0; logits.len()];
    for ((z, dz), &target) in logits.chunks_exact(vocab).zip(dz.chunks_exact_mut(vocab)).zip(targets) {
        if target == TokenId::IGNORE {
            continue;
        }
        let target = target.0 as usize;
        let p = softmax(z.to_vec());
        let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let log_sum = max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln();
        loss += (log_sum - z[target]) / count;
        for (dz, p) in dz.iter_mut().zip(p) {
            *dz = p / count;
        }
        dz[target] -= 1.0 / count;
    }
    (loss, dz)
}

#[cfg(test)]
mod tests {
    use super::super::check::{assert_close, numeric_gradient, values};
    use super::*;

    #[test]
    fn gradient() {
        let z = values(15, 1);
        let targets = [TokenId(3), TokenId::IGNORE, TokenId(0)];
        let (_, dz) = forward_backward(&z, 5, &targets);
        assert_close(&dz, &numeric_gradient(&z, |z| forward_backward(z, 5, &targets).0));
        assert_eq!(dz[5..10], [0.0; 5]);
    }

    #[test]
    fn equal_logits_cost_the_logarithm_of_the_vocabulary() {
        let (loss, _) = forward_backward(&[2.0; 8], 4, &[TokenId(1), TokenId(2)]);
        assert_close(&[loss], &[4f64.ln()]);
        assert_eq!(forward_backward(&[2.0; 4], 4, &[TokenId::IGNORE]).0, 0.0);
    }
}
