//! Causal grouped-query attention, after projection and rotation.
//!
//! ```text
//! s[i,j] = q[i]·k[j] / √d  for j ≤ i        p = softmax_j(s)        o[i] = Σ_j p[i,j]·v[j]
//! dv[j] = Σ_i p[i,j]·do[i]                  dp[i,j] = do[i]·v[j]
//! ds[i,j] = p[i,j]·(dp[i,j] − Σ_j p·dp)     dq[i] = Σ_j ds·k[j]/√d   dk[j] = Σ_i ds·q[i]/√d
//! ```
//!
//! Shapes: `q`, `o` `[batch·seq, heads·d]`; `k`, `v` `[batch·seq, kv_heads·d]`. Query head `h`
//! reads key head `h / (heads/kv_heads)`, whose gradient sums over its query heads.
//! Source: Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245.

/// Extents of one call.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Tokens of one sequence.
    pub seq: usize,
    /// Query heads.
    pub heads: usize,
    /// Key heads.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
}

impl Heads {
    fn q(&self, token: usize, head: usize) -> std::ops::Range<usize> {
        let start = (token * self.heads + head) * self.head_dim;
        start..start + self.head_dim
    }

    fn kv(&self, token: usize, head: usize) -> std::ops::Range<usize> {
        let start = (token * self.kv_heads + head / (self.heads / self.kv_heads)) * self.head_dim;
        start..start + self.head_dim
    }

    /// Probabilities of query token `i` of the sequence that starts at token `first`.
    fn probabilities(&self, q: &[f64], k: &[f64], first: usize, i: usize, head: usize) -> Vec<f64> {
        let query = &q[self.q(first + i, head)];
        let scale = (self.head_dim as f64).sqrt().recip();
        let scores = (0..=i).map(|j| dot(query, &k[self.kv(first + j, head)]) * scale);
        softmax(scores.collect())
    }
}

/// The outputs of all heads.
pub fn forward(h: Heads, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let mut o = vec![0.0; q.len()];
    each_query(h, q.len(), |first, i, head| {
        let p = h.probabilities(q, k, first, i, head);
        for (j, p) in p.iter().enumerate() {
            add(&mut o[h.q(first + i, head)], *p, &v[h.kv(first + j, head)]);
        }
    });
    o
}

/// Gradients `(dq, dk, dv)`.
pub fn backward(h: Heads, q: &[f64], k: &[f64], v: &[f64], dout: &[f64]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    let scale = (h.head_dim as f64).sqrt().recip();
    each_query(h, q.len(), |first, i, head| {
        let p = h.probabilities(q, k, first, i, head);
        let dout = &dout[h.q(first + i, head)];
        let dp: Vec<f64> = (0..=i).map(|j| dot(dout, &v[h.kv(first + j, head)])).collect();
        let mean = dot(&p, &dp);
        for j in 0..=i {
            let kv = h.kv(first + j, head);
            let ds = p[j] * (dp[j] - mean) * scale;
            add(&mut dv[kv.clone()], p[j], dout);
            add(&mut dq[h.q(first + i, head)], ds, &k[kv.clone()]);
            add(&mut dk[kv], ds, &q[h.q(first + i, head)]);
        }
    });
    (dq, dk, dv)
}

fn each_query(h: Heads, len: usize, mut visit: impl FnMut(usize, usize, usize)) {
    let tokens = len / (h.heads * h.head_dim);
    for first in (0..tokens).step_by(h.seq) {
        for i in 0..h.seq {
            for head in 0..h.heads {
                visit(first, i, head);
            }
        }
    }
}

/// `e^s / Σ e^s`.
pub(super) fn softmax(mut s: Vec<f64>) -> Vec<f64> {
    let max = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    s.iter_mut().for_each(|s| *s = (*s - max).exp());
    let sum: f64 = s.iter().sum();
    s.iter_mut().for_each(|s| *s /= sum);
    s
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(super) fn add(sum: &mut [f64], factor: f64, x: &[f64]) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += factor * x;
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{assert_close, numeric_gradient, values};
    use super::*;

    const H: Heads = Heads { seq: 3, heads: 4, kv_heads: 2, head_dim: 2 };

    #[test]
    fn gradients() {
        let tokens = 6;
        let (q, dout) = (values(tokens * 8, 1), values(tokens * 8, 2));
        let (k, v) = (values(tokens * 4, 3), values(tokens * 4, 4));
        let (dq, dk, dv) = backward(H, &q, &k, &v, &dout);
        assert_close(&dq, &numeric_gradient(&q, |q| dot(&forward(H, q, &k, &v), &dout)));
        assert_close(&dk, &numeric_gradient(&k, |k| dot(&forward(H, &q, k, &v), &dout)));
        assert_close(&dv, &numeric_gradient(&v, |v| dot(&forward(H, &q, &k, v), &dout)));
    }

    #[test]
    fn the_first_token_sees_itself_and_nothing_later() {
        let (q, k, v) = (values(24, 1), values(12, 2), values(12, 3));
        let o = forward(H, &q, &k, &v);
        assert_close(&o[..8], &[v[0], v[1], v[0], v[1], v[2], v[3], v[2], v[3]]);
        let mut later = v.clone();
        later[8..].fill(9.0);
        assert_close(&forward(H, &q, &k, &later)[..16], &o[..16]);
    }
}
