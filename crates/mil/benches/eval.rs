//! How fast the evaluator runs, and how much of that is its matrix products.
//!
//! `cargo bench -p mil` prints, for kernels of a transformer layer: time per run, the time of the products
//! alone, and the overhead over them; then products per second of the exact arithmetic.

use std::hint::black_box;
use std::time::Instant;

use half::f16;
use mil::eval::{Arithmetic, Mat, Plan, Settings, SimdGemm, Slice, SliceMut};
use mil::{Builder, DType, Flip, Function, Program, Target, verify};

const TOKENS: usize = 256;
const DIM: usize = 768;
const HIDDEN: usize = 2048;
const HEADS: usize = 12;

fn main() {
    let (t, d, h) = (TOKENS, DIM, HIDDEN);
    let head = d / HEADS;
    let ffn = [(h, d, t), (h, d, t), (d, h, t)];
    let attention: Vec<_> = [(t, head, t), (t, t, head)].repeat(HEADS);
    measure("ffn", feed_forward(), &ffn);
    measure("linear", linear(), &[(t, d, d)]);
    measure("attention", attend(), &attention);
    exact();
}

fn measure(name: &str, function: Function, products: &[(usize, usize, usize)]) {
    let program = verify(Program::new(vec![function]), &Target::default()).expect("the kernel is legal");
    let largest = |f: fn(&(usize, usize, usize)) -> usize| products.iter().map(f).max().unwrap_or(0);
    let (a, b) = (vec![0.5; largest(|p| p.0 * p.1)], vec![0.25; largest(|p| p.1 * p.2)]);
    let mut c = vec![0.0; largest(|p| p.0 * p.2)];
    let baseline = seconds(|| {
        for &(m, k, n) in products {
            SimdGemm::default().product(Mat::rows(&a, m, k), Mat::rows(&b, k, n), &mut c);
            black_box(&c);
        }
    });
    let gflop: f64 = products.iter().map(|&(m, k, n)| 2e-9 * (m * k * n) as f64).sum();
    for count_flushed in [true, false] {
        let mut plan =
            Plan::new(&program, Settings { count_flushed, ..Settings::default() }).expect("a plan");
        let inputs: Vec<Vec<f16>> = plan.inputs().iter().map(|p| noise(p.len)).collect();
        let mut outputs: Vec<Vec<f16>> = plan.outputs().map(|p| vec![f16::ZERO; p.len]).collect();
        let run = seconds(|| {
            let inputs: Vec<Slice<'_>> = inputs.iter().map(|v| Slice::F16(v)).collect();
            let mut outputs: Vec<SliceMut<'_>> = outputs.iter_mut().map(|v| SliceMut::F16(v)).collect();
            plan.run(&inputs, &mut outputs).expect("the buffers fit");
        });
        println!(
            "{name:10} counting {count_flushed:5}: {:7.2} ms, products {:7.2} ms ({:5.1} GFLOP/s), overhead {:4.0} %",
            run * 1e3,
            baseline * 1e3,
            gflop / baseline,
            (run / baseline - 1.0) * 100.0
        );
    }
}

fn exact() {
    let n = 512;
    let mut b = Builder::new("main");
    let (x, w) = (b.input("x", DType::Fp16, [n, n]), b.input("y", DType::Fp16, [n, n]));
    let z = b.matmul(x, w);
    b.output("z", z);
    let function = b.finish().expect("shapes fit");
    let program = verify(Program::new(vec![function]), &Target::default()).expect("the kernel is legal");
    let settings = Settings { arithmetic: Arithmetic::Exact, ..Settings::default() };
    let mut plan = Plan::new(&program, settings).expect("a plan");
    let (x, w) = (noise(n * n), noise(n * n));
    let mut z = vec![f16::ZERO; n * n];
    let run = seconds(|| {
        plan.run(&[Slice::F16(&x), Slice::F16(&w)], &mut [SliceMut::F16(&mut z)]).expect("the buffers fit");
    });
    println!("exact {n}³: {:.2} ms, {:.2} G products/s", run * 1e3, (n * n * n) as f64 / run * 1e-9);
}

/// The best of several runs.
fn seconds(mut f: impl FnMut()) -> f64 {
    f();
    let times = (0..15).map(|_| {
        let start = Instant::now();
        f();
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

fn noise(len: usize) -> Vec<f16> {
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f16::from_f32((state >> 8) as f32 / 16_777_216.0 - 0.5)
    };
    (0..len).map(|_| next()).collect()
}

/// Activations and a weight side by side: `y[o, t] = Σ_c x[c, t] · w[c, o]`.
fn linear() -> Function {
    let mut b = Builder::new("main");
    let packed = b.input("packed", DType::Fp16, [1, DIM, 1, TOKENS + DIM]);
    let y = packed_linear(&mut b, packed, 0, TOKENS, DIM, DIM);
    b.output("y", y);
    b.finish().expect("shapes fit")
}

fn packed_linear(
    b: &mut Builder,
    packed: mil::ValueId,
    x: usize,
    w: usize,
    inputs: usize,
    outputs: usize,
) -> mil::ValueId {
    let x = b.slice(packed, &[0, 0, 0, x], &[1, inputs, 1, TOKENS]);
    let w = b.slice(packed, &[0, 0, 0, w], &[1, inputs, 1, outputs]);
    let x = b.reshape(x, &[1, 1, inputs, TOKENS]);
    let w = b.reshape(w, &[1, 1, inputs, outputs]);
    let y = b.matmul_flip(w, x, Flip::X);
    b.reshape(y, &[1, outputs, 1, TOKENS])
}

/// `x + W2 · (silu(W1 · x) ⊙ W3 · x)` from one packed input.
fn feed_forward() -> Function {
    let (t, d, h) = (TOKENS, DIM, HIDDEN);
    let mut b = Builder::new("main");
    let packed = b.input("packed", DType::Fp16, [1, d, 1, t + 3 * h]);
    let h1 = packed_linear(&mut b, packed, 0, t, d, h);
    let h3 = packed_linear(&mut b, packed, 0, t + h, d, h);
    let s = b.sigmoid(h1);
    let s = b.mul(h1, s);
    let gate = b.mul(s, h3);
    let w2 = b.slice(packed, &[0, 0, 0, t + 2 * h], &[1, d, 1, h]);
    let w2 = b.reshape(w2, &[1, 1, d, h]);
    let flat = b.reshape(gate, &[1, 1, h, t]);
    let y = b.matmul(w2, flat);
    let y = b.reshape(y, &[1, d, 1, t]);
    b.output("o00_y", y);
    b.output("o01_h1", h1);
    b.output("o02_h3", h3);
    b.finish().expect("shapes fit")
}

/// Causal attention over heads, written out.
fn attend() -> Function {
    let (t, d) = (TOKENS, DIM);
    let mut b = Builder::new("main");
    let names = ["i00_q", "i01_k", "i02_v"];
    let [q, k, v] = names.map(|name| {
        let x = b.input(name, DType::Fp16, [1, d, 1, t]);
        let x = b.reshape(x, &[1, HEADS, d / HEADS, t]);
        b.transpose(x, &[0, 1, 3, 2])
    });
    let mask = b.input("i03_mask", DType::Fp16, [1, 1, t, t]);
    let scores = b.matmul_flip(q, k, Flip::Y);
    let scale = b.fp16(1.0 / (d as f32 / HEADS as f32).sqrt());
    let scores = b.mul(scores, scale);
    let scores = b.add(scores, mask);
    let p = b.softmax(scores, -1);
    let y = b.matmul(p, v);
    let y = b.transpose(y, &[0, 1, 3, 2]);
    let y = b.reshape(y, &[1, d, 1, t]);
    b.output("y", y);
    b.finish().expect("shapes fit")
}
