//! RMS norm of each row.
//!
//! ```text
//! r[t]   = (mean_c x[t,c]² + ε)^-½
//! y[t,c] = x[t,c] · gain[c] · r[t]
//! dx    += r · (g − x · r² · mean_c(g·x)),   g = dy · gain
//! dgain[c] += Σ_t dy[t,c] · x[t,c] · r[t]
//! ```
//!
//! Shapes: `x`, `y`, `dy`, `dx` are `[rows, channels]`; `gain` is `[channels]`. Sums are f32.
//! Source: Zhang & Sennrich 2019, arXiv:1910.07467.

use super::vector::{LANES, dot_lanes, fma, total};
use crate::isa::simd;
use crate::{Exec, Isa, RowsMut};

/// Rows of a task.
const ROWS: usize = 32;

/// Normalises all rows of `y`, on all threads.
pub fn normalise(exec: &Exec, x: &[f32], gain: &[f32], eps: f32, y: &mut [f32]) {
    let norm_of = norm_of(exec.isa, x, gain, eps);
    exec.pool.each(RowsMut::new(y, ROWS * gain.len()), |chunk, y| norm_of(chunk * ROWS, y));
}

/// Writes the norms of some rows of `x`, from one on: what [`crate::Left::made`] wants.
pub fn norm_of<'a>(
    isa: Isa,
    x: &'a [f32],
    gain: &'a [f32],
    eps: f32,
) -> impl Fn(usize, &mut [f32]) + Sync + 'a {
    move |first, y| forward(isa, &x[first * gain.len()..][..y.len()], gain, eps, y)
}

simd! {
    /// Normalises each row of `gain.len()` channels.
    pub fn forward(x: &[f32], gain: &[f32], eps: f32, y: &mut [f32]) {
        let n = gain.len();
        for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
            let r = inverse_rms::<FMA>(x, eps);
            for c in 0..n {
                y[c] = x[c] * r * gain[c];
            }
        }
    }
}

simd! {
    /// [`forward`] onto its input.
    pub fn in_place(gain: &[f32], eps: f32, x: &mut [f32]) {
        let n = gain.len();
        for x in x.chunks_exact_mut(n) {
            let r = inverse_rms::<FMA>(x, eps);
            for c in 0..n {
                x[c] = x[c] * r * gain[c];
            }
        }
    }
}

simd! {
    /// Adds the gradient with respect to `x` to `dx`, and that of the gain to `dgain`.
    pub fn backward(x: &[f32], gain: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], dgain: &mut [f32]) {
        let n = gain.len();
        for ((x, dy), dx) in x.chunks_exact(n).zip(dy.chunks_exact(n)).zip(dx.chunks_exact_mut(n)) {
            let r = inverse_rms::<FMA>(x, eps);
            let scale = r * r * r * dot3::<FMA>(dy, gain, x) / n as f32;
            for c in 0..n {
                dgain[c] = fma::<FMA>(dy[c] * x[c], r, dgain[c]);
                dx[c] += fma::<FMA>(dy[c] * gain[c], r, -(x[c] * scale));
            }
        }
    }
}

#[inline(always)]
fn inverse_rms<const FMA: bool>(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot_lanes::<FMA>(x, x) / x.len() as f32 + eps).sqrt()
}

/// `Σ a·b·c`.
#[inline(always)]
fn dot3<const FMA: bool>(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let (a_lanes, a) = a.as_chunks::<LANES>();
    let (b_lanes, b) = b.as_chunks::<LANES>();
    let (c_lanes, c) = c.as_chunks::<LANES>();
    let mut sums = [0.0f32; LANES];
    for ((a, b), c) in a_lanes.iter().zip(b_lanes).zip(c_lanes) {
        for l in 0..LANES {
            sums[l] = fma::<FMA>(a[l] * b[l], c[l], sums[l]);
        }
    }
    for (l, ((a, b), c)) in a.iter().zip(b).zip(c).enumerate() {
        sums[l] = fma::<FMA>(a * b, *c, sums[l]);
    }
    total(sums)
}

#[cfg(test)]
mod tests {
    use backend::reference::rms_norm as reference;

    use super::*;
    use crate::Isa;
    use crate::kernels::check::{assert_close, values, wide};

    #[test]
    fn agrees_with_the_reference() {
        for &isa in Isa::available() {
            for (rows, n) in [(1, 1), (3, 15), (2, 64), (4, 100), (5, 768)] {
                let (x, dy, gain) = (values(rows * n, 1), values(rows * n, 2), values(n, 3));
                let mut y = vec![0.0; rows * n];
                forward(isa, &x, &gain, 1e-3, &mut y);
                assert_close(&y, &reference::forward(&wide(&x), &gain, 1e-3), 1e-6);
                let mut same = x.clone();
                in_place(isa, &gain, 1e-3, &mut same);
                assert_eq!(same, y);

                let (mut dx, mut dgain) = (vec![0.0; rows * n], values(n, 4));
                let mut dgain_wanted = wide(&dgain);
                backward(isa, &x, &gain, 1e-3, &dy, &mut dx, &mut dgain);
                let wanted = reference::backward(&wide(&x), &gain, 1e-3, &wide(&dy), &mut dgain_wanted);
                assert_close(&dx, &wanted, 3e-6);
                assert_close(&dgain, &dgain_wanted, 3e-6);
            }
        }
    }

    #[test]
    fn backward_adds_to_what_is_there() {
        let (x, dy, gain) = (values(8, 1), values(8, 2), values(8, 3));
        let (mut once, mut on_top, mut unused) = (vec![0.0; 8], vec![1.0; 8], vec![0.0; 8]);
        backward(Isa::detect(), &x, &gain, 1e-5, &dy, &mut once, &mut unused);
        backward(Isa::detect(), &x, &gain, 1e-5, &dy, &mut on_top, &mut unused);
        assert!(once.iter().zip(&on_top).all(|(a, b)| (a + 1.0 - b).abs() < 1e-6));
    }
}
