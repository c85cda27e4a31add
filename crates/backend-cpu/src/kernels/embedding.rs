//! Rows of the embedding.
//!
//! ```text
//! x[t] = w[token[t]]        dw[token[t]] += dx[t]
//! ```
//!
//! Shapes: `w`, `dw` `[vocab, dim]`; `x`, `dx` `[tokens, dim]`.

use model::TokenId;

use super::vector::LANES;
use crate::cells::Order;
use crate::isa::simd;
use crate::pool::{Pool, Rows, RowsMut};

/// Copies the row of every token.
pub fn forward(pool: &Pool, tokens: &[TokenId], w: &[f32], order: Order, dim: usize, x: &mut [f32]) {
    const TOKENS: usize = 64;
    let x = RowsMut::new(x, TOKENS * dim);
    pool.each((Rows::new(tokens, TOKENS), x), |_, (tokens, x)| {
        for (token, x) in tokens.iter().zip(x.chunks_exact_mut(dim)) {
            for (place, piece) in order.row(token.0 as usize, dim) {
                x[piece].copy_from_slice(&w[place]);
            }
        }
    });
}

/// Adds the gradient of every token to its row, in the order of the tokens; gives what that adds to `Σ dw²`.
pub fn backward(
    isa: crate::Isa,
    tokens: &[TokenId],
    dx: &[f32],
    dim: usize,
    dw: &mut [f32],
    order: Order,
) -> f64 {
    let mut more = 0.0;
    for (token, dx) in tokens.iter().zip(dx.chunks_exact(dim)) {
        for (place, piece) in order.row(token.0 as usize, dim) {
            more += add(isa, &dx[piece], &mut dw[place]);
        }
    }
    more
}

simd! {
    /// `dw += dx`; the new `Σ dw²` less the old one.
    fn add(dx: &[f32], dw: &mut [f32]) -> f64 {
        let mut more = [0.0f64; LANES];
        let ((dw, dw_rest), (dx, dx_rest)) = (dw.as_chunks_mut::<LANES>(), dx.as_chunks::<LANES>());
        for (dw, dx) in dw.iter_mut().zip(dx) {
            for l in 0..LANES {
                more[l] += added(&mut dw[l], dx[l]);
            }
        }
        let rest: f64 = dw_rest.iter_mut().zip(dx_rest).map(|(dw, &dx)| added(dw, dx)).sum();
        more.iter().sum::<f64>() + rest
    }
}

/// `sum += x`; the new square less the old one.
#[inline(always)]
fn added(sum: &mut f32, x: f32) -> f64 {
    let old = f64::from(*sum);
    *sum += x;
    let new = f64::from(*sum);
    (new - old) * (new + old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::check::values;

    #[test]
    fn reads_rows_and_adds_their_gradients() {
        reads_and_adds(Order::Rows, 5, 7);
        reads_and_adds(Order::Cells, 32, 16);
    }

    fn reads_and_adds(order: Order, dim: usize, vocab: usize) {
        let rows = values(vocab * dim, 1);
        let w = order.arrange(&rows, dim);
        let tokens: Vec<_> = (0..150).map(|i| TokenId(i * i % vocab as u32)).collect();
        let mut x = vec![0.0; tokens.len() * dim];
        forward(&Pool::new(3).unwrap(), &tokens, &w, order, dim, &mut x);
        for (t, x) in tokens.iter().zip(x.chunks(dim)) {
            assert_eq!(x, &rows[t.0 as usize * dim..][..dim]);
        }
        for &isa in crate::Isa::available() {
            let mut dw = vec![0.5; vocab * dim];
            let more = backward(isa, &tokens, &vec![1.0; x.len()], dim, &mut dw, order);
            let dw = order.to_rows(&dw, dim);
            for v in 0..vocab {
                let count = tokens.iter().filter(|t| t.0 as usize == v).count();
                assert!(dw[v * dim..][..dim].iter().all(|&d| d == count as f32 + 0.5));
            }
            let squares: f64 = dw.iter().map(|&d| f64::from(d).powi(2) - 0.25).sum();
            assert!((more - squares).abs() < 1e-9, "{more} for {squares}");
        }
    }
}
