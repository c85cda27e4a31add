//! The operations between the matrix products, one per file: math, code, test.
//!
//! Each works on one thread; the callers share rows out. The first argument picks the vector
//! instructions.

mod accelerate;
pub mod adamw;
pub mod attention;
pub mod cached_attention;
pub mod cross_entropy;
pub mod embedding;
pub mod muon;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;
pub mod vector;

#[cfg(test)]
pub(crate) mod check {
    //! Numbers and comparisons for the tests.

    /// Numbers in (-1, 1) (Marsaglia 2003, xorshift).
    pub fn values(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    pub fn wide(x: &[f32]) -> Vec<f64> {
        x.iter().map(|&x| f64::from(x)).collect()
    }

    /// Every number within `tolerance · (1 + |wanted|)`.
    pub fn assert_close(got: &[f32], wanted: &[f64], tolerance: f64) {
        assert_eq!(got.len(), wanted.len());
        for (i, (&g, &w)) in got.iter().zip(wanted).enumerate() {
            let error = (f64::from(g) - w).abs();
            assert!(error <= tolerance * (1.0 + w.abs()), "[{i}] {g} instead of {w}");
        }
    }
}
