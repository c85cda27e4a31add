//! How numbers are multiplied, added and rounded.

use half::f16;
use mil::eval::Arithmetic;
use mil::program::{Arg, Literal};
use mil::{Builder, DType, Program};

use super::rig::{Rig, build, build_with_weights, checked, differing, evaluate, random, run_once};
use super::{Answer, LabError, Subject};
use crate::apple::Route;

/// Tokens of the small programs: a whole row of 64 bytes.
const WIDE: usize = 32;

/// `y = x · w` of two runtime inputs `[rows, inner]` and `[inner, WIDE]`.
fn product(rows: usize, inner: usize) -> Program {
    build(|b| {
        let x = b.input("i00_x", DType::Fp16, [1, 1, rows, inner]);
        let w = b.input("i01_w", DType::Fp16, [1, 1, inner, WIDE]);
        let y = b.matmul(x, w);
        b.output("o00_y", y);
    })
}

pub fn grid(subject: &impl Subject) -> Result<Answer, LabError> {
    const INNER: usize = 256;
    let device = subject.open(Route::Daemon)?;
    let program = checked(&device, product(WIDE, INNER));
    let inputs = [random(WIDE * INNER, 1), random(INNER * WIDE, 2)];
    let found = run_once(&device, "grid", &program, &inputs)?;
    let off = |arithmetic| differing(&found[0], &evaluate(&program, arithmetic, &inputs)[0]);
    let (grid, wide) = (off(Arithmetic::Exact), off(Arithmetic::Fast));
    let verdict = match (grid, wide) {
        (0, _) => "grid",
        (_, 0) => "f32 sums",
        _ => "neither",
    };
    let all = found[0].len();
    Ok(Answer::new(
        verdict,
        format!("of {all} results {grid} differ from the grid's and {wide} from f32 sums'"),
    ))
}

pub fn overflow(subject: &impl Subject) -> Result<Answer, LabError> {
    let device = subject.open(Route::Daemon)?;
    let program = checked(&device, product(WIDE, WIDE));
    let mut x = vec![0f32; WIDE * WIDE];
    x[..4].copy_from_slice(&[20_000.0, 20_000.0, -20_000.0, -20_000.0]);
    // Row j sums to 32752 + j; the terms are fp16.
    for (j, row) in x.chunks_exact_mut(WIDE).enumerate().skip(1) {
        row[..3].copy_from_slice(&[16_384.0, 16_368.0, j.min(16) as f32]);
    }
    let found = run_once(&device, "overflow", &program, &[x, vec![1.0; WIDE * WIDE]])?;
    let of = |row: usize| found[0][row * WIDE];
    let partial = match of(0) {
        0.0 => "partial sums pass",
        y if y.is_infinite() || y.is_nan() => "partial sums stick",
        _ => "partial sums wrap",
    };
    let first = (1..=16).find(|&j| of(j).is_infinite()).map(|j| 32_752 + j);
    let totals = first.map_or("totals do not overflow".into(), |total| format!("totals from {total}"));
    let detail = format!("the partial sum gave {}; 32752 gave {}", of(0), of(1));
    Ok(Answer::new(format!("{partial}, {totals}"), detail))
}

pub fn subnormals(subject: &impl Subject) -> Result<Answer, LabError> {
    let device = subject.open(Route::Daemon)?;
    let program = build(|b| {
        let x = b.input("i00_x", DType::Fp16, [1, 1, WIDE, WIDE]);
        let w = b.input("i01_w", DType::Fp16, [1, 1, WIDE, WIDE]);
        let one = b.fp16(1.0);
        let same = b.mul(x, one);
        let y = b.matmul(x, w);
        b.output("o00_same", same);
        b.output("o01_y", y);
    });
    let (tiny, large) = (2f32.powi(-20), 1024.0);
    let mut x = vec![0.0; WIDE * WIDE];
    x[0] = tiny;
    let found = run_once(&device, "subnormals", &checked(&device, program), &[x, vec![large; WIDE * WIDE]])?;
    let kept = |found: f32, wanted: f32| match found {
        0.0 => "lost",
        found if found == wanted => "kept",
        _ => "changed",
    };
    let (same, y) = (found[0][0], found[1][0]);
    let verdict = format!("elementwise {}, operands {}", kept(same, tiny), kept(y, tiny * large));
    Ok(Answer::new(verdict, format!("2⁻²⁰ · 1 = {same:e}, 2⁻²⁰ · 2¹⁰ = {y:e} in a product")))
}

/// How an operation rounds two ties: the number below the first is even, below the second odd.
fn rounding(found: [f32; 2], even: [f32; 2], away: [f32; 2]) -> &'static str {
    match found {
        found if found == even => "even",
        found if found == away => "away",
        [first, second] if first == even[0] && second < even[1] => "down",
        _ => "otherwise",
    }
}

pub fn ties(subject: &impl Subject) -> Result<Answer, LabError> {
    let device = subject.open(Route::Daemon)?;
    let program = checked(
        &device,
        build(|b| {
            let x = b.input("i00_x", DType::Fp16, [1, 1, 1, WIDE]);
            let y = b.input("i01_y", DType::Fp16, [1, 1, 1, WIDE]);
            let z = b.input("i02_z", DType::Fp32, [1, 1, 1, WIDE]);
            let (sum, difference, product) = (b.add(x, y), b.sub(x, y), b.mul(x, y));
            let quotient = b.op("real_div", vec![("x", Arg::Value(x)), ("y", Arg::Value(y))]);
            let cast = b.cast(z, DType::Fp16);
            b.output("o00_sum", sum);
            b.output("o01_difference", difference);
            b.output("o02_product", product);
            b.output("o03_quotient", quotient);
            b.output("o04_cast", cast);
        }),
    );
    let unit = 2f32.powi(-10);
    let mut inputs = vec![vec![0.0; WIDE]; 3];
    // The smallest fp16: a quotient that fits no fp16 is a tie only among its few multiples.
    let least = 2f32.powi(-24);
    // Columns 0 and 1 for the sum, 2 and 3 for the difference, 4 and 5 for the product, 6 and 7 for the
    // quotient. The rest divides by one.
    inputs[1].fill(1.0);
    inputs[0][..8].copy_from_slice(&[
        2048.0,
        2050.0,
        2048.0,
        2050.0,
        1.0 + 3.0 * unit,
        1.0 + unit,
        5.0 * least,
        3.0 * least,
    ]);
    inputs[1][..8].copy_from_slice(&[1.0, 1.0, -1.0, -1.0, 1.5, 1.5, 2.0, 2.0]);
    inputs[2][..2].copy_from_slice(&[2049.0, 2051.0]);
    let found = run_once(&device, "ties", &program, &inputs)?;
    let whole = ([2048.0, 2052.0], [2050.0, 2052.0]);
    // 1.5 · (1 + 3u) = 1.5 + 4.5u and 1.5 · (1 + u) = 1.5 + 1.5u.
    let parts = ([1.5 + 4.0 * unit, 1.5 + 2.0 * unit], [1.5 + 5.0 * unit, 1.5 + 2.0 * unit]);
    // 2.5 and 1.5 of the smallest.
    let small = ([2.0 * least, 2.0 * least], [3.0 * least, 2.0 * least]);
    let mut verdict = Vec::new();
    let mut detail = Vec::new();
    for (name, output, at, (even, away)) in [
        ("add", 0, 0, whole),
        ("sub", 1, 2, whole),
        ("mul", 2, 4, parts),
        ("div", 3, 6, small),
        ("cast", 4, 0, whole),
    ] {
        let pair = [found[output][at], found[output][at + 1]];
        verdict.push(format!("{name} {}", rounding(pair, even, away)));
        detail.push(format!("{name}: {} and {}", pair[0], pair[1]));
    }
    Ok(Answer::new(verdict.join(", "), detail.join("; ")))
}

pub fn reduction(subject: &impl Subject) -> Result<Answer, LabError> {
    const TERMS: usize = 4096;
    let device = subject.open(Route::Daemon)?;
    let program = build(|b| {
        let x = b.input("i00_x", DType::Fp16, [1, TERMS, 1, WIDE]);
        let y = b.reduce_sum(x, &[1]);
        b.output("o00_y", y);
    });
    let mut x = vec![0.0; TERMS * WIDE];
    for (i, row) in x.chunks_exact_mut(WIDE).enumerate() {
        row[0] = 1.0;
        // 2048, 1, 1, …, 1, −2048: the ones are lost where sums are fp16.
        row[1] = match i {
            0 => 2048.0,
            1..1000 => 1.0,
            1000 => -2048.0,
            _ => 0.0,
        };
    }
    let found = run_once(&device, "reduction", &checked(&device, program), &[x])?;
    let (ones, between) = (found[0][0], found[0][1]);
    let verdict = if (ones, between) == (4096.0, 999.0) { "wide" } else { "narrow" };
    Ok(Answer::new(verdict, format!("4096 ones are {ones}, 999 ones between ±2048 are {between}")))
}

pub fn functions(subject: &impl Subject) -> Result<Answer, LabError> {
    const SIDE: usize = 256;
    let device = subject.open(Route::Daemon)?;
    let names = ["exp", "sigmoid", "tanh", "softmax"];
    let program = checked(
        &device,
        build(|b| {
            let x = b.input("i00_x", DType::Fp16, [1, SIDE, 1, SIDE]);
            for (i, name) in names[..3].iter().enumerate() {
                let y = b.op(name, vec![("x", Arg::Value(x))]);
                b.output(&format!("o0{i}_{name}"), y);
            }
            // Beside a zero: 1 / (1 + e⁻ˣ), and all of its parts.
            let pairs = b.input("i01_pairs", DType::Fp16, [1, 2, SIDE, SIDE]);
            let y = b.softmax(pairs, 1);
            let first = b.slice(y, &[0, 0, 0, 0], &[1, 1, SIDE, SIDE]);
            b.output("o03_softmax", first);
        }),
    );
    let all: Vec<_> = (0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f32()).collect();
    let pairs = all.iter().copied().chain(std::iter::repeat_n(0.0, all.len())).collect();
    let inputs = [all, pairs];
    let found = run_once(&device, "functions", &program, &inputs)?;
    let wanted = evaluate(&program, Arithmetic::Exact, &inputs);
    let mut answer = Answer::default();
    let mut detail = Vec::new();
    for ((name, found), wanted) in names.into_iter().zip(&found).zip(&wanted) {
        let off = differing(found, wanted);
        let bits = |v: f32| f16::from_f32(v).to_bits();
        // Neighbouring fp16 of one sign have neighbouring bits.
        let apart = |(a, b): (&f32, &f32)| {
            let same_sign = a.is_sign_negative() == b.is_sign_negative();
            (same_sign && a.is_finite() && b.is_finite()).then(|| bits(*a).abs_diff(bits(*b)))
        };
        let most = found.iter().zip(wanted).filter_map(apart).max().unwrap_or(0);
        detail.push(format!("{name}: {off} of 65536 differ, by at most {most} units in the last place"));
        if off > 0 {
            answer.tables.push((name, found.iter().map(|v| bits(*v)).collect()));
        }
    }
    answer.verdict = if answer.tables.is_empty() { "as computed" } else { "tables" }.into();
    answer.detail = detail.join("; ");
    Ok(answer)
}

/// A 3×3 convolution that keeps the extents, with constant weights.
fn convolution_program(weights: &[f32], channels: usize) -> Program {
    build_with_weights(weights, |b: &mut Builder, path, offset| {
        let x = b.input("i00_x", DType::Fp16, [1, channels, WIDE, WIDE]);
        let w = b.weight("w", DType::Fp16, [channels, channels, 3, 3], path, offset);
        let numbers = |values: &[i64]| Arg::Literal(Literal::int32s(values));
        let args = vec![
            ("dilations", numbers(&[1, 1])),
            ("groups", Arg::Literal(Literal::int32(1))),
            ("pad", numbers(&[1, 1, 1, 1])),
            ("pad_type", Arg::Literal(Literal::string("custom"))),
            ("strides", numbers(&[1, 1])),
            ("weight", Arg::Value(w)),
            ("x", Arg::Value(x)),
        ];
        let y = b.op("conv", args);
        b.output("o00_y", y);
    })
}

pub fn convolution(subject: &impl Subject) -> Result<Answer, LabError> {
    const CHANNELS: usize = 8;
    let device = subject.open(Route::Daemon)?;
    let impulse: Vec<f32> = (0..CHANNELS * CHANNELS * 9)
        .map(|i| if i % 9 == 4 && i / 9 % CHANNELS == i / 9 / CHANNELS { 1.0 } else { 0.0 })
        .collect();
    let mut off = Vec::new();
    for (name, weights) in [("impulse", impulse), ("random", random(CHANNELS * CHANNELS * 9, 3))] {
        let program = checked(&device, convolution_program(&weights, CHANNELS));
        let inputs = [random(CHANNELS * WIDE * WIDE, 4)];
        let found = run_once(&device, name, &program, &inputs)?;
        off.push((name, differing(&found[0], &evaluate(&program, Arithmetic::Exact, &inputs)[0])));
    }
    let verdict = match (off[0].1, off[1].1) {
        (0, 0) => "plain",
        (0, _) => "plain products, other sums",
        _ => "transformed",
    };
    let detail: Vec<_> = off.iter().map(|(name, n)| format!("{name} weights: {n} results differ")).collect();
    Ok(Answer::new(verdict, detail.join("; ")))
}

pub fn clamp(subject: &impl Subject) -> Result<Answer, LabError> {
    const BEGIN: usize = 64;
    let device = subject.open(Route::Daemon)?;
    let program = build(|b| {
        let x = b.input("i00_x", DType::Fp16, [1, 1, WIDE, 2 * BEGIN]);
        let part = b.slice(x, &[0, 0, 0, BEGIN], &[1, 1, WIDE, BEGIN]);
        let y = b.relu(part);
        b.output("o00_y", y);
    });
    let rig = Rig::new(&device, "clamp", &checked(&device, program))?;
    let found = rig.run(&[vec![5000.0; WIDE * 2 * BEGIN]])?[0][0];
    let verdict = match found {
        5000.0 => "kept",
        found if found.is_infinite() => "clamped",
        _ => "changed",
    };
    Ok(Answer::new(verdict, format!("5000 became {found}")))
}
