//! The oracle: every block in plain f64, one file each, no tricks.
//!
//! Weights and moments are f32, as on every backend; everything between is f64. Activations are
//! `[tokens, channels]`, row-major. Each file has the math on top and a numerical gradient check
//! below.

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
mod infer;
pub mod linear;
mod model;
pub mod muon;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;

pub use self::infer::ReferenceInfer;
pub use self::model::{Act, Reference};

#[cfg(test)]
pub(crate) mod check {
    //! Numerical gradients.

    /// Central differences of `f` at `x`.
    pub fn numeric_gradient(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
        let h = 1e-5;
        (0..x.len())
            .map(|i| {
                let at = |d: f64| {
                    let mut moved = x.to_vec();
                    moved[i] += d;
                    f(&moved)
                };
                (at(h) - at(-h)) / (2.0 * h)
            })
            .collect()
    }

    pub fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    pub fn assert_close(got: &[f64], wanted: &[f64]) {
        assert_eq!(got.len(), wanted.len());
        for (i, (g, w)) in got.iter().zip(wanted).enumerate() {
            assert!((g - w).abs() <= 1e-7 * (1.0 + w.abs()), "[{i}] {g} instead of {w}");
        }
    }

    /// Numbers in (-1, 1) that differ, from a small multiplicative generator.
    pub fn values(n: usize, seed: u64) -> Vec<f64> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
            })
            .collect()
    }
}
