//! Results do not depend on the threads, bit for bit.

use half::f16;
use mil::eval::{Arithmetic, Host, Mat, Plan, Settings, SimdGemm, Slice, SliceMut, Stats};
use mil::{Builder, DType, Flip, Function, Program, Target, verify};

/// Some threads for every call.
struct Several(usize);

impl Host for Several {
    fn matmul(&self, a: Mat<'_>, b: Mat<'_>, c: &mut [f32]) {
        SimdGemm::default().product(a, b, c);
    }

    fn spread(&self, work: &(dyn Fn() + Sync)) {
        std::thread::scope(|scope| (0..self.0).for_each(|_| drop(scope.spawn(work))));
    }
}

/// Every operation that hands out tasks, on tensors of several tasks whose last one is short: products
/// of a batch and of one matrix, with a repeated operand and with transposed ones, softmax, sums,
/// elementwise operations with broadcasts and strides, transposing and plain copies.
fn program() -> Function {
    let (heads, s, d) = (5, 160, 32);
    let mut b = Builder::new("main");
    let [q, k] = ["i00_q", "i01_k"].map(|name| b.input(name, DType::Fp16, [1, heads * d, 1, s]));
    let w = b.input("i02_w", DType::Fp16, [1, heads * d, 1, s + 320]);
    let mask = b.input("i03_mask", DType::Fp16, [1, 1, s, s]);
    let heads_of = |b: &mut Builder, x| b.reshape(x, &[1, heads, d, s]);
    let (q, k) = (heads_of(&mut b, q), heads_of(&mut b, k));
    let scores = b.matmul_flip(q, k, Flip::X);
    let masked = b.add(scores, mask);
    let p = b.softmax(masked, -1);
    let mean = b.reduce_sum(p, &[-1]);
    let centred = b.sub(masked, mean);
    let ds = b.mul(p, centred);
    let dq = b.matmul_flip(k, ds, Flip::Y);
    let one_key = b.slice(k, &[0, 0, 0, 0], &[1, 1, d, s]);
    let repeated = b.matmul_flip(q, one_key, Flip::X);
    let turned = b.transpose(repeated, &[0, 1, 3, 2]);
    let turned = b.reshape(turned, &[1, heads * s, 1, s]);
    let weights = b.slice(w, &[0, 0, 0, s], &[1, heads * d, 1, 320]);
    let weights = b.reshape(weights, &[1, 1, heads * d, 320]);
    let flat = b.reshape(dq, &[1, 1, heads * d, s]);
    let y = b.matmul_flip(weights, flat, Flip::X);
    b.output("o00_y", y);
    b.output("o01_p", p);
    b.output("o02_turned", turned);
    let y_rows = b.reshape(y, &[1, 1, 320, s]);
    b.output("o03_y_rows", y_rows);
    b.finish().expect("shapes fit")
}

fn run(arithmetic: Arithmetic, count_flushed: bool, host: Option<usize>) -> (Vec<Vec<u16>>, Stats) {
    let program = verify(Program::new(vec![program()]), &Target::default()).expect("the program is legal");
    let settings = Settings { arithmetic, count_flushed, ..Settings::default() };
    let mut plan = Plan::new(&program, settings).expect("a plan");
    if let Some(threads) = host {
        plan = plan.with_host(Box::new(Several(threads)));
    }
    let value = |i: usize| f16::from_f32(((i * 7919 % 1009) as f32 - 504.0) / 300.0);
    let inputs: Vec<Vec<f16>> = plan.inputs().iter().map(|p| (0..p.len).map(value).collect()).collect();
    let inputs: Vec<Slice<'_>> = inputs.iter().map(|v| Slice::F16(v)).collect();
    let mut outputs: Vec<Vec<f16>> = plan.outputs().map(|p| vec![f16::NAN; p.len]).collect();
    let mut stats = Stats::default();
    for _ in 0..2 {
        let mut slices: Vec<SliceMut<'_>> = outputs.iter_mut().map(|v| SliceMut::F16(v)).collect();
        stats = plan.run(&inputs, &mut slices).expect("the buffers fit");
    }
    (outputs.iter().map(|v| v.iter().map(|x| x.to_bits()).collect()).collect(), stats)
}

#[test]
fn bits_and_counts_do_not_depend_on_the_threads() {
    for (arithmetic, count_flushed) in
        [(Arithmetic::Fast, false), (Arithmetic::Fast, true), (Arithmetic::Exact, true)]
    {
        let one = run(arithmetic, count_flushed, None);
        assert!(one.0.iter().flatten().all(|&x| !f16::from_bits(x).is_nan()));
        assert_eq!(one.0[0], one.0[3]);
        for threads in [2, 5] {
            let several = run(arithmetic, count_flushed, Some(threads));
            assert!(one == several, "{arithmetic:?}, flushed {count_flushed}, {threads} threads");
        }
    }
}

#[test]
fn counting_changes_no_result() {
    let (counted, plain) = (run(Arithmetic::Fast, true, None), run(Arithmetic::Fast, false, None));
    assert!(counted.0 == plain.0);
    assert_eq!(counted.1.products, plain.1.products);
    assert_eq!(counted.1.overflows, plain.1.overflows);
}
