//! The gate of the feed-forward.
//!
//! ```text
//! y  = silu(gate) · up,   silu(z) = z·σ(z)
//! dgate = dy · up · σ(gate)·(1 + gate·(1 − σ(gate)))        dup = dy · silu(gate)
//! ```
//!
//! All of one shape. Source: Shazeer 2020, arXiv:2002.05202.

/// `silu(gate) ⊙ up`.
pub fn forward(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter().zip(up).map(|(g, u)| g * sigmoid(*g) * u).collect()
}

/// Gradients `(dgate, dup)`.
pub fn backward(gate: &[f64], up: &[f64], dy: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let each = gate.iter().zip(up).zip(dy).map(|((&g, u), dy)| {
        let s = sigmoid(g);
        (dy * u * s * (1.0 + g * (1.0 - s)), dy * g * s)
    });
    each.unzip()
}

fn sigmoid(z: f64) -> f64 {
    1.0 / (1.0 + (-z).exp())
}

#[cfg(test)]
mod tests {
    use super::super::check::{assert_close, dot, numeric_gradient, values};
    use super::*;

    #[test]
    fn gradients() {
        let (gate, up, dy) = (values(9, 1), values(9, 2), values(9, 3));
        let gate: Vec<f64> = gate.iter().map(|g| 6.0 * g).collect();
        let (dgate, dup) = backward(&gate, &up, &dy);
        assert_close(&dgate, &numeric_gradient(&gate, |g| dot(&forward(g, &up), &dy)));
        assert_close(&dup, &numeric_gradient(&up, |u| dot(&forward(&gate, u), &dy)));
    }
}
