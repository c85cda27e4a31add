//! The update of [`backend::Muon`], by matrix products.
//!
//! ```text
//! m = μ·m + g        u = g + μ·m,   g = factor · gradient
//! X₀ = u/‖u‖         X ← a·X + (b·A + c·A²)·X,   A = X·Xᵀ   (five times)
//! w = w·(1 − lr·decay) − lr · √max(1, rows/columns) · X
//! ```
//!
//! The Gram matrix `A` is over the shorter side: for a tall matrix `A = XᵀX` and `X ← a·X + X·(…)`.
//! Shapes: all `[rows, columns]` but `A`. Source: Jordan et al. 2024,
//! <https://kellerjordan.github.io/posts/muon/>.

use backend::Muon;

use super::vector::{fma, sum_of_squares};
use crate::cells::Order;
use crate::isa::simd;
use crate::pool::{Rows, RowsMut};
use crate::{Buffer, CpuError, Exec, Into, Mat, MatMut};

/// Numbers of one task.
const CHUNK: usize = 1 << 14;

/// Memory for the iteration.
#[derive(Default)]
pub struct Scratch {
    x: Buffer,
    next: Buffer,
    gram: Buffer,
    mix: Buffer,
    sums: Vec<f64>,
}

impl Scratch {
    /// Makes room for a matrix.
    pub fn reserve(&mut self, rows: usize, columns: usize) -> Result<(), CpuError> {
        let side = rows.min(columns);
        for (buffer, len) in [
            (&mut self.x, rows * columns),
            (&mut self.next, rows * columns),
            (&mut self.gram, side * side),
            (&mut self.mix, side * side),
        ] {
            if buffer.len() < len {
                *buffer = Buffer::zeros("iteration of Muon", len)?;
            }
        }
        Ok(())
    }
}

/// Moves the matrix `w` of `rows` rows and its momentum, which lie in this order; `scratch` has room for it.
#[allow(clippy::too_many_arguments)]
pub fn update(
    exec: &mut Exec,
    rule: &Muon,
    factor: f32,
    (rows, order): (usize, Order),
    g: &[f32],
    w: &mut [f32],
    m: &mut [f32],
    scratch: &mut Scratch,
) {
    let (len, columns, isa) = (w.len(), w.len() / rows, exec.isa);
    let x = &mut scratch.x[..len];
    scratch.sums.resize(len.div_ceil(CHUNK), 0.0);
    let parts = (
        Rows::new(g, CHUNK),
        RowsMut::new(m, CHUNK),
        RowsMut::new(x, CHUNK),
        RowsMut::new(&mut scratch.sums, 1),
    );
    exec.pool.each(parts, |_, (g, m, x, sum)| {
        momentum(isa, factor, rule.momentum, g, m, x);
        sum[0] = sum_of_squares(isa, x);
    });
    let norm = scratch.sums.iter().sum::<f64>().sqrt() + f64::from(Muon::EPS);
    let inverse = (1.0 / norm) as f32;
    exec.pool.each(RowsMut::new(x, CHUNK), |_, x| super::vector::scale(isa, inverse, x));

    let side = rows.min(columns);
    let (gram, mix) = (&mut scratch.gram[..side * side], &mut scratch.mix[..side * side]);
    let (a, b, c) = Muon::COEFFICIENTS;
    let (mut x, mut next) = (x, &mut scratch.next[..len]);
    for _ in 0..Muon::STEPS {
        let wide = Mat::ordered(order, x, rows, columns);
        let (left, right) = if rows > columns { (wide.t(), wide) } else { (wide, wide.t()) };
        exec.matmul(1.0, left, right, Into::Set, MatMut::new(gram, side, side));
        // mix = b·A + c·A².
        exec.pool.each((Rows::new(gram, CHUNK), RowsMut::new(mix, CHUNK)), |_, (gram, mix)| {
            scaled(isa, b, gram, mix);
        });
        let square = Mat::new(gram, side, side);
        exec.matmul(c, square, square, Into::Add, MatMut::new(mix, side, side));
        exec.pool.each((Rows::new(x, CHUNK), RowsMut::new(next, CHUNK)), |_, (x, next)| {
            scaled(isa, a, x, next);
        });
        let mix = Mat::new(mix, side, side);
        let (left, right) = if rows > columns { (wide, mix) } else { (mix, wide) };
        exec.matmul(1.0, left, right, Into::Add, MatMut::ordered(order, next, rows, columns));
        std::mem::swap(&mut x, &mut next);
    }

    let rate = rule.lr * (rows as f32 / columns as f32).max(1.0).sqrt();
    let keep = (1.0 - f64::from(rule.lr) * f64::from(rule.weight_decay)) as f32;
    exec.pool.each((Rows::new(x, CHUNK), RowsMut::new(w, CHUNK)), |_, (x, w)| step(isa, keep, rate, x, w));
}

simd! {
    fn momentum(factor: f32, momentum: f32, g: &[f32], m: &mut [f32], u: &mut [f32]) {
        for ((g, m), u) in g.iter().zip(m).zip(u) {
            let g = factor * g;
            *m = fma::<FMA>(momentum, *m, g);
            *u = fma::<FMA>(momentum, *m, g);
        }
    }
}

simd! {
    fn scaled(factor: f32, x: &[f32], y: &mut [f32]) {
        for (x, y) in x.iter().zip(y) {
            *y = factor * x;
        }
    }
}

simd! {
    fn step(keep: f32, rate: f32, x: &[f32], w: &mut [f32]) {
        for (x, w) in x.iter().zip(w) {
            *w = fma::<FMA>(-rate, *x, keep * *w);
        }
    }
}

#[cfg(test)]
mod tests {
    use backend::reference::muon as reference;

    use super::*;
    use crate::kernels::check::{assert_close, values, wide};
    use crate::{Isa, Plan, Precision};

    #[test]
    fn agrees_with_the_reference() {
        let rule = Muon { lr: 0.1, momentum: 0.9, weight_decay: 0.1 };
        for &isa in Isa::available() {
            let mut exec = Exec::new(&Plan { isa, ..Plan::new(1).with_threads(2) }).unwrap();
            let mut scratch = Scratch::default();
            for (rows, columns) in [(1, 1), (5, 9), (40, 17), (33, 33), (70, 200), (32, 80), (48, 32)] {
                let n = rows * columns;
                let (mut w_wanted, mut m_wanted) = (values(n, 1), values(n, 2));
                let order = Order::best(isa, Precision::F32, &[rows, columns]);
                let ordered = |x: &[f32]| order.arrange(x, columns);
                let (mut w, mut m) = (ordered(&w_wanted), ordered(&m_wanted));
                scratch.reserve(rows, columns).unwrap();
                for step in 0..3 {
                    let g = values(n, 3 + step);
                    update(&mut exec, &rule, 0.5, (rows, order), &ordered(&g), &mut w, &mut m, &mut scratch);
                    reference::update(&rule, 0.5, rows, &wide(&g), &mut w_wanted, &mut m_wanted);
                }
                assert_close(&order.to_rows(&w, columns), &wide(&w_wanted), 1e-5);
                assert_close(&order.to_rows(&m, columns), &wide(&m_wanted), 1e-6);
            }
        }
    }

    #[test]
    fn no_gradient_moves_nothing() {
        let mut exec = Exec::new(&Plan::new(1).with_threads(1)).unwrap();
        let rule = Muon { lr: 0.1, momentum: 0.9, weight_decay: 0.0 };
        let (mut w, mut m, mut scratch) = ([1.0; 6], [0.0; 6], Scratch::default());
        scratch.reserve(2, 3).unwrap();
        update(&mut exec, &rule, 1.0, (2, Order::Rows), &[0.0; 6], &mut w, &mut m, &mut scratch);
        assert_eq!(w, [1.0; 6]);
    }
}
