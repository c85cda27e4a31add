//! Rows of the embedding.
//!
//! ```text
//! x[t] = w[token[t]]        dw[token[t]] += dx[t]
//! ```
//!
//! Shapes: `w`, `dw` `[vocab, dim]`; `x`, `dx` `[tokens, dim]`.

use model::TokenId;

use crate::pool::{Pool, Rows, RowsMut};

/// Copies the row of every token.
pub fn forward(pool: &Pool, tokens: &[TokenId], w: &[f32], dim: usize, x: &mut [f32]) {
    const TOKENS: usize = 64;
    let x = RowsMut::new(x, TOKENS * dim);
    pool.each((Rows::new(tokens, TOKENS), x), |_, (tokens, x)| {
        for (token, x) in tokens.iter().zip(x.chunks_exact_mut(dim)) {
            x.copy_from_slice(&w[token.0 as usize * dim..][..dim]);
        }
    });
}

/// Adds the gradient of every token to its row, in the order of the tokens.
pub fn backward(tokens: &[TokenId], dx: &[f32], dim: usize, dw: &mut [f32]) {
    for (token, dx) in tokens.iter().zip(dx.chunks_exact(dim)) {
        let row = &mut dw[token.0 as usize * dim..][..dim];
        for (sum, dx) in row.iter_mut().zip(dx) {
            *sum += dx;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::check::values;

    #[test]
    fn reads_rows_and_adds_their_gradients() {
        let (dim, vocab) = (5, 7);
        let w = values(vocab * dim, 1);
        let tokens: Vec<_> = (0..150).map(|i| TokenId(i * i % vocab as u32)).collect();
        let mut x = vec![0.0; tokens.len() * dim];
        forward(&Pool::new(3).unwrap(), &tokens, &w, dim, &mut x);
        for (t, x) in tokens.iter().zip(x.chunks(dim)) {
            assert_eq!(x, &w[t.0 as usize * dim..][..dim]);
        }
        let mut dw = vec![0.0; vocab * dim];
        backward(&tokens, &vec![1.0; x.len()], dim, &mut dw);
        for v in 0..vocab {
            let count = tokens.iter().filter(|t| t.0 as usize == v).count();
            assert!(dw[v * dim..][..dim].iter().all(|&d| d == count as f32));
        }
    }
}
