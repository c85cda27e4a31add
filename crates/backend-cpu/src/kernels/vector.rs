//! Pieces of the other kernels: multiply-add, exponential, sums in a fixed order.
//!
//! Sums run in [`LANES`] lanes that are added at the end, so that the compiler can use vectors of
//! any width and every width gives the same order.

use crate::isa::simd;

/// Partial sums of a reduction.
pub const LANES: usize = 16;

/// `a·b + c`, fused where that is one instruction.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// `eˣ` for −87.3 ≤ x ≤ 88.3 within 2 units in the last place; beyond, the value at the border.
/// NaN stays NaN.
///
/// ```text
/// x = n·ln 2 + r, |r| ≤ ln 2 / 2        eˣ = 2ⁿ · (1 + r + r²·p(r))
/// ```
///
/// Source of `p` and of the two parts of ln 2: Moshier's Cephes library, `expf`.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    /// 1.5·2²³: adding it rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.336_54, 88.37);
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<FMA>(n, -LN2_LOW, fma::<FMA>(n, -LN2_HIGH, x));
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = fma::<FMA>(p, r, c);
    }
    let y = fma::<FMA>(p, r * r, r) + 1.0;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32).wrapping_add(127);
    y * f32::from_bits((exponent as u32) << 23)
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// The lanes added in pairs.
#[inline(always)]
pub(crate) fn total(lanes: [f32; LANES]) -> f32 {
    joined(lanes, |a, b| a + b)
}

/// One of all lanes: halves are joined until one is left, which takes few operations on vectors.
#[inline(always)]
pub(crate) fn joined<T: Copy>(mut lanes: [T; LANES], join: impl Fn(T, T) -> T) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] = join(lanes[l], lanes[l + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// `Σ f(i)` over whole lanes by `add(lane sums, chunk)`, then the rest one by one.
#[inline(always)]
pub(crate) fn dot_lanes<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    const WIDE: usize = 4 * LANES;
    let (a_wide, a) = a.as_chunks::<WIDE>();
    let (b_wide, b) = b.as_chunks::<WIDE>();
    let mut wide = [0.0f32; WIDE];
    for (a, b) in a_wide.iter().zip(b_wide) {
        for l in 0..WIDE {
            wide[l] = fma::<FMA>(a[l], b[l], wide[l]);
        }
    }
    let mut sums = [0.0f32; LANES];
    for l in 0..LANES {
        sums[l] = (wide[l] + wide[l + 2 * LANES]) + (wide[l + LANES] + wide[l + 3 * LANES]);
    }
    let (a_lanes, a) = a.as_chunks::<LANES>();
    let (b_lanes, b) = b.as_chunks::<LANES>();
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for l in 0..LANES {
            sums[l] = fma::<FMA>(a[l], b[l], sums[l]);
        }
    }
    for (l, (a, b)) in a.iter().zip(b).enumerate() {
        sums[l] = fma::<FMA>(*a, *b, sums[l]);
    }
    total(sums)
}

simd! {
    /// `Σ a·b`.
    pub fn dot(a: &[f32], b: &[f32]) -> f32 {
        dot_lanes::<FMA>(a, b)
    }
}

simd! {
    /// `y += factor·x`.
    pub fn add_scaled(factor: f32, x: &[f32], y: &mut [f32]) {
        for (x, y) in x.iter().zip(y) {
            *y = fma::<FMA>(factor, *x, *y);
        }
    }
}

simd! {
    /// `y *= factor`.
    pub fn scale(factor: f32, y: &mut [f32]) {
        for y in y {
            *y *= factor;
        }
    }
}

simd! {
    /// `Σ x²` in f64: no f32 is so large that its square is lost.
    pub fn sum_of_squares(x: &[f32]) -> f64 {
        let (chunks, rest) = x.as_chunks::<LANES>();
        let mut sums = [0.0f64; LANES];
        for chunk in chunks {
            for l in 0..LANES {
                let x = f64::from(chunk[l]);
                sums[l] = if FMA { x.mul_add(x, sums[l]) } else { x * x + sums[l] };
            }
        }
        let rest: f64 = rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        sums.iter().sum::<f64>() + rest
    }
}

simd! {
    /// `Eˣ` of every number in place, see the limits of the kernel's exponential.
    pub fn exp_all(x: &mut [f32]) {
        for x in x {
            *x = exp::<FMA>(*x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::kernels::check::{values, wide};

    #[test]
    fn exponential_is_within_two_units_in_the_last_place() {
        for &isa in Isa::available() {
            let x: Vec<f32> = (0..400_000).map(|i| -87.3 + i as f32 * (175.6 / 400_000.0)).collect();
            let mut y = x.clone();
            exp_all(isa, &mut y);
            for (x, y) in x.iter().zip(y) {
                let wanted = f64::from(*x).exp();
                let unit = f64::from(f32::from_bits((wanted as f32).to_bits() + 1) - wanted as f32);
                let error = (f64::from(y) - wanted).abs() / unit;
                assert!(error <= 2.0, "{isa:?}: exp({x}) = {y}, {error} units from {wanted}");
            }
        }
    }

    #[test]
    fn exponential_saturates_and_keeps_nan() {
        for &isa in Isa::available() {
            let mut x = [f32::NEG_INFINITY, -1000.0, 0.0, 1000.0, f32::INFINITY, f32::NAN];
            exp_all(isa, &mut x);
            assert!(x[0] < 1.2e-38 && x[0] >= 0.0 && x[1] == x[0]);
            assert!(x[2] == 1.0 && x[3] > 2e38 && x[4] == x[3] && x[5].is_nan());
        }
    }

    #[test]
    fn sums_agree_with_f64() {
        for &isa in Isa::available() {
            for n in [0, 1, 15, 16, 17, 63, 64, 65, 200, 1000] {
                let (a, b) = (values(n, 1), values(n, 2));
                let wanted: f64 = wide(&a).iter().zip(wide(&b)).map(|(a, b)| a * b).sum();
                assert!((f64::from(dot(isa, &a, &b)) - wanted).abs() < 1e-5);
                let wanted: f64 = wide(&a).iter().map(|a| a * a).sum();
                assert!((sum_of_squares(isa, &a) - wanted).abs() < 1e-9);
                let mut y = b.clone();
                add_scaled(isa, 0.5, &a, &mut y);
                scale(isa, 2.0, &mut y);
                assert!((0..n).all(|i| (y[i] - (a[i] + 2.0 * b[i])).abs() < 1e-6));
            }
            assert_eq!(sum_of_squares(isa, &[1e30]), f64::from(1e30f32).powi(2));
            assert!(sum_of_squares(isa, &[1.0, f32::NAN]).is_nan());
        }
    }
}
