//! Rotary positions in the half-split layout.
//!
//! ```text
//! a = x[i], b = x[i + d/2], φ = position · frequency[i]
//! y[i]       = a·cos φ − b·sin φ
//! y[i + d/2] = b·cos φ + a·sin φ
//! ```
//!
//! The gradient turns back: the same with −φ. Shapes: `x` is `[tokens, heads·d]`.
//! Source: Su et al. 2021, arXiv:2104.09864; frequencies from [`model::Rope::frequencies`].

/// Turns every head of every row; row `t` is at position `first + t mod seq`.
pub fn forward(x: &mut [f64], frequencies: &[f64], row: usize, seq: usize, first: usize) {
    turn(x, frequencies, row, |t| (first + t % seq) as f64);
}

/// Turns a gradient back.
pub fn backward(dx: &mut [f64], frequencies: &[f64], row: usize, seq: usize) {
    turn(dx, frequencies, row, |t| -((t % seq) as f64));
}

fn turn(x: &mut [f64], frequencies: &[f64], row: usize, position: impl Fn(usize) -> f64) {
    let half = frequencies.len();
    for (t, row) in x.chunks_exact_mut(row).enumerate() {
        for head in row.chunks_exact_mut(2 * half) {
            for (i, frequency) in frequencies.iter().enumerate() {
                let (sin, cos) = (position(t) * frequency).sin_cos();
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * cos - b * sin;
                head[i + half] = b * cos + a * sin;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{assert_close, dot, values};
    use super::*;

    #[test]
    fn backward_is_the_transpose_of_forward() {
        let frequencies = [1.0, 0.1, 0.01];
        let (x, dy) = (values(4 * 12, 1), values(4 * 12, 2));
        let (mut y, mut dx) = (x.clone(), dy.clone());
        forward(&mut y, &frequencies, 12, 2, 0);
        backward(&mut dx, &frequencies, 12, 2);
        assert_close(&[dot(&y, &dy)], &[dot(&x, &dx)]);
        assert_ne!(x, y);
    }

    #[test]
    fn products_depend_on_the_distance_alone() {
        let frequencies = [1.0, 0.3];
        let (q, k) = (values(4, 1), values(4, 2));
        let product = |i: usize, j: usize| {
            let (mut q, mut k) = (q.clone(), k.clone());
            forward(&mut q, &frequencies, 4, 1, i);
            forward(&mut k, &frequencies, 4, 1, j);
            dot(&q, &k)
        };
        assert_close(&[product(7, 4)], &[product(3, 0)]);
        assert!((product(7, 4) - product(4, 7)).abs() > 1e-3);
    }
}
