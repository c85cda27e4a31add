//! The published errors of ANE matrix products, reproduced by the exact arithmetic.
//!
//! ANEForge's `bench/device_saturation_sweep.py` multiplies `x · Wᵀ`, N × N, standard normal / √N from
//! numpy's `default_rng(0)` as float32, run in fp16, and publishes the relative error of the first 256
//! rows against float64. The same figures are published for M1, M2 Pro, M4, M4 Max, M5, M5 Pro and M6.

use half::f16;
use mil::eval::{Arithmetic, Mat, Plan, Settings, SimdGemm, Slice, SliceMut};
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
            let layer = (bits & 0xff) as usize;
            let negative = bits >> 8 & 1 == 1;
            let magnitude = (bits >> 9 & ((1 << 52) - 1)) as f64;
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

    /// Right edges of a layer and of the one above it; 0 is the base, the others count from the top.
    fn layer(&self, layer: usize) -> (f64, f64) {
        match layer {
            0 => (self.x[0], self.x[1]),
            n => (self.x[256 - n], self.x[257 - n]),
        }
    }
}

fn matrix(rng: &mut Pcg64, ziggurat: &Ziggurat, n: usize) -> Vec<f32> {
    let scale = (n as f64).sqrt() as f32;
    (0..n * n).map(|_| ziggurat.sample(rng) as f32 / scale).collect()
}

fn halves(values: &[f32]) -> Vec<f16> {
    values.iter().map(|&x| f16::from_f32(x)).collect()
}

/// Relative error of `x · Wᵀ` against float64 over the first 256 rows, and the count of flushed products.
fn relative_error(n: usize) -> (f64, u64) {
    let (mut rng, ziggurat) = (Pcg64::new(), Ziggurat::new());
    let (x, w) = (matrix(&mut rng, &ziggurat, n), matrix(&mut rng, &ziggurat, n));
    let rows = n.min(256);

    let mut b = Builder::new("main");
    let vx = b.input("i00_x", DType::Fp16, [rows, n]);
    let vw = b.input("i01_w", DType::Fp16, [n, n]);
    let y = b.matmul_flip(vx, vw, Flip::Y);
    b.output("o00_y", y);
    let program = verify(Program::new(vec![b.finish().unwrap()]), &Target::default()).unwrap();
    let settings = Settings { arithmetic: Arithmetic::Exact, ..Settings::default() };
    let mut plan = Plan::new(&program, settings).unwrap();
    let mut y = vec![f16::ZERO; rows * n];
    let inputs = [halves(&x[..rows * n]), halves(&w)];
    let inputs = [Slice::F16(&inputs[0]), Slice::F16(&inputs[1])];
    let stats = plan.run(&inputs, &mut [SliceMut::F16(&mut y)]).unwrap();

    let (mut error, mut norm) = (0.0, 0.0);
    for (i, line) in y.chunks_exact(n).enumerate() {
        for (j, y) in line.iter().enumerate() {
            let want = dot(&x[i * n..][..n], &w[j * n..][..n]);
            error += (y.to_f64() - want).powi(2);
            norm += want * want;
        }
    }
    ((error / norm).sqrt(), stats.flushed)
}

/// In f64, with eight partial sums for speed.
fn dot(x: &[f32], w: &[f32]) -> f64 {
    let mut lanes = [0f64; 8];
    for (x, w) in x.chunks_exact(8).zip(w.chunks_exact(8)) {
        for i in 0..8 {
            lanes[i] += f64::from(x[i]) * f64::from(w[i]);
        }
    }
    lanes.iter().sum()
}

fn assert_published(n: usize, published: f64) {
    let (error, flushed) = relative_error(n);
    assert!((error / published - 1.0).abs() < 1e-10, "{n}: {error} against {published}");
    assert!(flushed > 0);
}

#[test]
fn published_error_512() {
    assert_published(512, 0.002_578_003_970_237_92);
}

#[test]
fn published_error_1024() {
    assert_published(1024, 0.005_528_352_999_597_525);
}

#[test]
fn published_error_2048() {
    assert_published(2048, 0.012_131_920_427_695_623);
}

#[test]
fn published_error_4096() {
    assert_published(4096, 0.027_237_621_125_542_212);
}

#[test]
fn other_arithmetics_miss_the_published_error() {
    // f32 sums of the same fp16 operands, rounded once: what the ANE does not do.
    let n = 512;
    let (mut rng, ziggurat) = (Pcg64::new(), Ziggurat::new());
    let (x, w) = (matrix(&mut rng, &ziggurat, n), matrix(&mut rng, &ziggurat, n));
    let wide = |v: &[f32]| halves(v).iter().map(|h| h.to_f32()).collect::<Vec<_>>();
    let (xh, wh) = (wide(&x), wide(&w));
    let mut y = vec![0.0; n * n];
    SimdGemm::default().product(Mat::rows(&xh, n, n), Mat::columns(&wh, n, n), &mut y);
    let (mut error, mut norm) = (0.0, 0.0);
    for i in 0..256 {
        for j in 0..n {
            let want = dot(&x[i * n..][..n], &w[j * n..][..n]);
            error += (f64::from(f16::from_f32(y[i * n + j]).to_f32()) - want).powi(2);
            norm += want * want;
        }
    }
    let error = (error / norm).sqrt();
    assert!(error < 0.000_5, "{error}");
}
