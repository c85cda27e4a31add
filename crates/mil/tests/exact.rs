//! The published errors of ANE matrix products, reproduced by the exact arithmetic.
//!
//! ANEForge's `bench/device_saturation_sweep.py` multiplies `x · Wᵀ`, N × N, standard normal / √N from
//! numpy's `default_rng(0)` as float32, run in fp16, and publishes the relative error of the first 256
//! rows against float64. The same figures are published for M1, M2 Pro, M4, M4 Max, M5, M5 Pro and M6.

use half::f16;
use mil::eval::{Arithmetic, Gemm, Mat, Plan, Settings, SimdGemm, Slice, SliceMut};
use mil::{Builder, DType, Flip, Program, Target, verify};

/// PCG64 (XSL-RR) in the state that `numpy.random.default_rng(0)` starts from.
/// Source: O'Neill 2014, "PCG"; state as `bit_generator.state` prints it.
struct Pcg64 {
    state: u128,
}

impl Pcg64 {
    const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;
    const INCREMENT: u128 = 87_136_372_517_582_989_555_478_159_403_783_844_777;

    fn new() -> Self {
        Self { state: 35_399_562_948_360_463_058_890_781_895_381_311_971 }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_mul(Self::MULTIPLIER).wrapping_add(Self::INCREMENT);
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Marsaglia and Tsang's ziggurat with 256 layers, in the bit layout that numpy uses.
struct Ziggurat {
    x: [f64; 257],
}

impl Ziggurat {
    const R: f64 = 3.654_152_885_361_009;
    /// Bits of the magnitude.
    const SCALE: f64 = (1u64 << 52) as f64;

    fn new() -> Self {
        let density = |x: f64| (-0.5 * x * x).exp();
        // Area of each layer: the rectangle under R and the tail beyond it.
        let volume = 0.004_928_673_233_974_655;
        let mut x = [0.0; 257];
        x[0] = volume / density(Self::R);
        x[1] = Self::R;
        for i in 2..256 {
            x[i] = (-2.0 * (volume / x[i - 1] + density(x[i - 1])).ln()).sqrt();
        }
        Self { x }
    }

    fn sample(&self, rng: &mut Pcg64) -> f64 {
        let density = |x: f64| (-0.5 * x * x).exp();
        loop {
            let bits = rng.next();
            // numpy numbers its layers from the top, with the base as 0.
            let layer = (bits & 0xff) as usize;
            let negative = bits >> 8 & 1 == 1;
            let magnitude = (bits >> 9 & ((1 << 52) - 1)) as f64;
            let (wide, narrow) = match layer {
                0 => (self.x[0], self.x[1]),
                n => (self.x[257 - n - 1 + usize::from(n == 0)], self.x[257 - n]),
            };
            let _ = (wide, narrow);
            let (outer, inner) = self.layer(layer);
            let x = magnitude * outer / Self::SCALE;
            let signed = if negative { -x } else { x };
            if magnitude < (inner / outer * Self::SCALE).floor() {
                return signed;
            }
            if layer == 0 {
                loop {
                    let xx = -(-rng.uniform()).ln_1p() / Self::R;
                    let yy = -(-rng.uniform()).ln_1p();
                    if yy + yy > xx * xx {
                        let tail = Self::R + xx;
                        return if (magnitude as u64) >> 8 & 1 == 1 { -tail } else { tail };
                    }
                }
            }
            let (low, high) = (density(outer), density(inner));
            if (high - low) * rng.uniform() + low < density(x) {
                return signed;
            }
        }
    }

    /// Right edges of a layer and of the one above it.
    fn layer(&self, layer: usize) -> (f64, f64) {
        match layer {
            0 => (self.x[0], self.x[1]),
            n => (self.x[256 - n], self.x[257 - n]),
        }
    }
}
