//! The update of [`crate::Muon`], in f64 with f32 storage.

use crate::Muon;

/// Moves the matrix `w` `[rows, columns]` and its momentum by the gradient `g · factor`.
pub fn update(rule: &Muon, factor: f32, rows: usize, g: &[f64], w: &mut [f32], m: &mut [f32]) {
    let columns = w.len() / rows;
    let momentum = f64::from(rule.momentum);
    let mut u = vec![0.0; w.len()];
    for i in 0..w.len() {
        let g = g[i] * f64::from(factor);
        let next = momentum * f64::from(m[i]) + g;
        m[i] = next as f32;
        u[i] = g + momentum * next;
    }
    let o = if rows > columns {
        transpose(&orthogonal(transpose(&u, rows), columns), columns)
    } else {
        orthogonal(u, rows)
    };
    let lr = f64::from(rule.lr);
    let scale = lr * (rows as f64 / columns as f64).max(1.0).sqrt();
    let keep = 1.0 - lr * f64::from(rule.weight_decay);
    for (w, o) in w.iter_mut().zip(o) {
        *w = (f64::from(*w) * keep - scale * o) as f32;
    }
}

/// Newton–Schulz towards the nearest matrix with orthonormal rows; `rows` ≤ columns.
fn orthogonal(mut x: Vec<f64>, rows: usize) -> Vec<f64> {
    let (a, b, c) = Muon::COEFFICIENTS;
    let [a, b, c] = [a, b, c].map(f64::from);
    let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt() + f64::from(Muon::EPS);
    x.iter_mut().for_each(|x| *x /= norm);
    for _ in 0..Muon::STEPS {
        let gram = product(&x, &transpose(&x, rows), rows);
        let square = product(&gram, &gram, rows);
        let mix: Vec<f64> = gram.iter().zip(&square).map(|(g, s)| b * g + c * s).collect();
        let step = product(&mix, &x, rows);
        x.iter_mut().zip(step).for_each(|(x, step)| *x = a * *x + step);
    }
    x
}

/// `a·b` for `a` of `rows` rows.
fn product(a: &[f64], b: &[f64], rows: usize) -> Vec<f64> {
    let inner = a.len() / rows;
    let columns = b.len() / inner;
    let mut out = vec![0.0; rows * columns];
    for i in 0..rows {
        for k in 0..inner {
            super::attention::add(
                &mut out[i * columns..][..columns],
                a[i * inner + k],
                &b[k * columns..][..columns],
            );
        }
    }
    out
}

fn transpose(x: &[f64], rows: usize) -> Vec<f64> {
    let columns = x.len() / rows;
    (0..columns).flat_map(|c| (0..rows).map(move |r| x[r * columns + c])).collect()
}

#[cfg(test)]
mod tests {
    use super::super::check::values;
    use super::*;

    #[test]
    fn the_step_has_singular_values_near_one() {
        for (rows, columns) in [(4, 9), (9, 4), (5, 5)] {
            let g = values(rows * columns, 3);
            let (mut w, mut m) = (vec![0.0; g.len()], vec![0.0; g.len()]);
            let rule = Muon { lr: 1.0, momentum: 0.95, weight_decay: 0.0 };
            update(&rule, 1.0, rows, &g, &mut w, &mut m);
            let w: Vec<f64> = w.iter().map(|&w| f64::from(w)).collect();
            // Of the Gram matrix over the short side, the trace is the sum of squared singular values.
            let scale = (rows as f64 / columns as f64).max(1.0);
            let mean = w.iter().map(|w| w * w).sum::<f64>() / scale / rows.min(columns) as f64;
            assert!((0.6..1.3).contains(&mean), "{rows}×{columns}: {mean}");
            // Against the gradient.
            assert!(w.iter().zip(&g).map(|(w, g)| w * g).sum::<f64>() < 0.0);
        }
    }

    #[test]
    fn no_gradient_moves_nothing() {
        let (mut w, mut m) = (vec![1.0; 6], vec![0.0; 6]);
        let rule = Muon { lr: 0.1, momentum: 0.9, weight_decay: 0.0 };
        update(&rule, 1.0, 2, &[0.0; 6], &mut w, &mut m);
        assert_eq!(w, [1.0; 6]);
    }
}
