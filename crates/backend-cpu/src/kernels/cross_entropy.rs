//! Cross-entropy of one row of logits, and its gradient in place.
//!
//! ```text
//! loss = log Σ_v e^{z[v]} − z[target]        dz = (softmax(z) − onehot) · scale
//! ```
//!
//! Nats. Shapes: `z` is `[vocab]`. Sums are f32 in lanes, each of at most vocab/16 terms.

use super::accelerate;
use super::vector::{LANES, exp, total};
use crate::isa::simd;

/// The loss of one row.
pub fn loss(isa: crate::Isa, z: &[f32], target: usize) -> f32 {
    let (max, sum) = log_sum(isa, z);
    max + sum.ln() - z[target]
}

/// The loss of one row; turns the logits into the gradient of `scale · loss`.
pub fn loss_backward(isa: crate::Isa, z: &mut [f32], target: usize, scale: f32) -> f32 {
    let wanted = z[target];
    let (max, sum) = exp_sum(isa, z);
    super::vector::scale(isa, scale / sum, z);
    z[target] -= scale;
    max + sum.ln() - wanted
}

simd! {
    /// The maximum and `Σ e^{z − max}`.
    fn log_sum(z: &[f32]) -> (f32, f32) {
        let max = maximum(z);
        let (chunks, rest) = z.as_chunks::<LANES>();
        let mut sums = [0.0f32; LANES];
        for chunk in chunks {
            for l in 0..LANES {
                sums[l] += exp::<FMA>(chunk[l] - max);
            }
        }
        for (l, z) in rest.iter().enumerate() {
            sums[l] += exp::<FMA>(z - max);
        }
        (max, total(sums))
    }
}

/// [`log_sum`], leaving `e^{z − max}` in `z`.
fn exp_sum(isa: crate::Isa, z: &mut [f32]) -> (f32, f32) {
    match accelerate::exp_shifted(z, |z| largest(isa, z)) {
        Some(max) => (max, sum(isa, z)),
        None => exp_sum_lanes(isa, z),
    }
}

simd! {
    /// [`maximum`].
    fn largest(z: &[f32]) -> f32 {
        maximum(z)
    }
}

simd! {
    /// `Σ z`.
    fn sum(z: &[f32]) -> f32 {
        let (chunks, rest) = z.as_chunks::<LANES>();
        let mut sums = [0.0f32; LANES];
        for chunk in chunks {
            for l in 0..LANES {
                sums[l] += chunk[l];
            }
        }
        for (l, z) in rest.iter().enumerate() {
            sums[l] += z;
        }
        total(sums)
    }
}

simd! {
    fn exp_sum_lanes(z: &mut [f32]) -> (f32, f32) {
        let max = maximum(z);
        (max, exp_shifted::<FMA>(z, max))
    }
}

/// Turns `z` into `e^{z − shift}` and adds that up.
#[inline(always)]
pub(super) fn exp_shifted<const FMA: bool>(z: &mut [f32], shift: f32) -> f32 {
    let (chunks, rest) = z.as_chunks_mut::<LANES>();
    let mut sums = [0.0f32; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            chunk[l] = exp::<FMA>(chunk[l] - shift);
            sums[l] += chunk[l];
        }
    }
    for (l, z) in rest.iter_mut().enumerate() {
        *z = exp::<FMA>(*z - shift);
        sums[l] += *z;
    }
    total(sums)
}

/// The largest number; −∞ for none. NaN is passed over: the sum shows it.
#[inline(always)]
pub(super) fn maximum(z: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = z.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] = larger(lanes[l], chunk[l]);
        }
    }
    let lanes = lanes.into_iter().fold(f32::NEG_INFINITY, larger);
    rest.iter().copied().fold(lanes, larger)
}

#[cfg(test)]
mod tests {
    use backend::reference::cross_entropy as reference;
    use model::TokenId;

    use super::*;
    use crate::Isa;
    use crate::kernels::check::{assert_close, values, wide};

    #[test]
    fn agrees_with_the_reference() {
        for &isa in Isa::available() {
            for (n, spread) in [(1, 1.0), (5, 1.0), (16, 3.0), (67, 30.0), (3000, 10.0)] {
                let z: Vec<f32> = values(n, 1).iter().map(|z| spread * z).collect();
                let target = n / 3;
                let (wanted, dz) = reference::forward_backward(&wide(&z), n, &[TokenId(target as u32)]);
                assert_close(&[loss(isa, &z, target)], &[wanted], 1e-6);
                let mut got = z.clone();
                assert_close(&[loss_backward(isa, &mut got, target, 0.5)], &[wanted], 1e-6);
                assert_close(&got, &dz.iter().map(|d| 0.5 * d).collect::<Vec<_>>(), 1e-6);
            }
        }
    }

    /// What runs where Accelerate takes the exponentials.
    #[test]
    fn sums_after_the_exponentials_are_the_same() {
        for &isa in Isa::available() {
            for n in [1, 16, 67, 5003] {
                let mut z: Vec<f32> = values(n, 1).iter().map(|z| 3.0 * z).collect();
                let max = largest(isa, &z);
                let (lanes_max, lanes_sum) = exp_sum_lanes(isa, &mut z);
                assert_eq!((max, sum(isa, &z)), (lanes_max, lanes_sum));
            }
        }
    }

    #[test]
    fn logits_that_are_not_finite_show_in_the_loss() {
        for &isa in Isa::available() {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut z = vec![0.5; 40];
                z[33] = bad;
                assert!(!loss(isa, &z, 1).is_finite());
                assert!(!loss_backward(isa, &mut z, 1, 1.0).is_finite());
            }
        }
    }
}
