//! Runs a program in the evaluator, on parts given and returned as f64 `[channels, tokens]`.

use std::collections::BTreeMap;

use backend::conformance::relative_error;
use half::f16;
use mil::eval::{self, Arithmetic, Slice, SliceMut};
use mil::verify::Family;
use mil::{Program, Target, verify};
use model::Rope;

use super::graph::power;
use crate::plan::{Inputs, Linear};
use crate::{Choices, Dims, Extra, Packing, Part, Place, Scaling, SeqLen};

pub type Parts = BTreeMap<Part, Vec<f64>>;

/// Largest relative error with fp16 at the operations' boundaries and f32 sums.
pub const FAST: f64 = 2e-3;
/// The same on the ANE's product grid.
pub const EXACT: f64 = 6e-3;

/// Extents that use every path: groups of one and of several, odd channels, both sides of 64 columns.
pub fn shapes() -> Vec<Dims> {
    let tiny = Dims {
        dim: 12,
        hidden: 20,
        vocab: 27,
        heads: 2,
        kv_heads: 2,
        head_dim: 6,
        seq: SeqLen::padded(32),
        norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, scaling: None },
        extra: Extra::None,
    };
    vec![
        tiny.clone(),
        Dims { heads: 4, kv_heads: 2, dim: 30, hidden: 37, extra: Extra::QkvBias, ..tiny.clone() },
        Dims {
            heads: 6,
            kv_heads: 1,
            head_dim: 4,
            seq: SeqLen::padded(64),
            extra: Extra::QkNorm,
            ..tiny.clone()
        },
        Dims { dim: 64, hidden: 96, heads: 4, kv_heads: 4, head_dim: 16, seq: SeqLen::padded(96), ..tiny },
    ]
}

/// Shapes of any extents, the same ones every time.
fn random_shapes() -> impl Iterator<Item = Dims> {
    (0..6).map(|seed| {
        let random = values(6, seed + 77, 1.0);
        let pick = |i: usize, from: usize, to: usize| {
            from + ((random[i] + 1.0) * 0.499 * (to - from) as f64) as usize
        };
        let kv_heads = pick(0, 1, 4);
        Dims {
            dim: pick(1, 1, 70),
            hidden: pick(2, 1, 90),
            heads: kv_heads * pick(3, 1, 4),
            kv_heads,
            head_dim: 2 * pick(4, 1, 12),
            seq: SeqLen::padded(pick(5, 1, 130)),
            extra: [Extra::None, Extra::QkNorm, Extra::QkvBias][seed as usize % 3],
            ..shapes().swap_remove(0)
        }
    })
}

/// Both operations, both layouts, scaled and not.
pub fn choices() -> Vec<Choices> {
    let plain = Choices { linear: Linear::Matmul, inputs: Inputs::Packed, scaling: Scaling::OFF };
    vec![
        plain,
        Choices::default(),
        Choices { linear: Linear::Conv, ..plain },
        Choices { linear: Linear::Conv, inputs: Inputs::Separate, ..Choices::default() },
        Choices { inputs: Inputs::Separate, ..Choices::default() },
    ]
}

/// Numbers in (−size, size), as fp16 holds them (Marsaglia 2003, xorshift).
pub fn values(n: usize, seed: u64, size: f64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f64 / f64::from(1u32 << 23) - 1.0
    };
    (0..n).map(|_| f16::from_f64(size * next()).to_f64()).collect()
}

/// `[rows, columns]` to `[columns, rows]`.
pub fn transposed(x: &[f64], columns: usize) -> Vec<f64> {
    let rows = x.len() / columns;
    (0..x.len()).map(|i| x[i % rows * columns + i / rows]).collect()
}

pub fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

/// Runs the program for one chip family. Each part is written where `staged` says, and read where
/// `packing` does; they differ only in tests of that very fault.
pub fn run_staged(
    program: Program,
    packing: &Packing,
    staged: impl Fn(Part) -> Place,
    arithmetic: Arithmetic,
    parts: &Parts,
) -> Parts {
    let verified = verify(program, &Target::default()).unwrap_or_else(|faults| panic!("{faults:?}"));
    let settings =
        eval::Settings { arithmetic, rows: eval::Rows::Pitched, count_flushed: false, tables: &[] };
    let mut plan = eval::Plan::new(&verified, settings).expect("every operation has an evaluator");
    let mut inputs: Vec<Vec<f16>> =
        packing.inputs.iter().map(|p| vec![f16::ZERO; p.channels * p.width]).collect();
    for (&part, values) in parts {
        let place = staged(part);
        let (width, columns) = (packing.inputs[place.port].width, place.region.columns);
        assert_eq!(values.len(), place.region.rows.len() * columns.len(), "{part:?}");
        for (row, values) in values.chunks_exact(columns.len()).enumerate() {
            for (to, v) in inputs[place.port][row * width + columns.start..].iter_mut().zip(values) {
                *to = f16::from_f64(*v);
            }
        }
    }
    let mut outputs: Vec<Vec<f16>> =
        packing.outputs.iter().map(|p| vec![f16::ZERO; p.channels * p.width]).collect();
    let inputs: Vec<_> = inputs.iter().map(|v| Slice::F16(v)).collect();
    let mut slices: Vec<_> = outputs.iter_mut().map(|v| SliceMut::F16(v)).collect();
    plan.run(&inputs, &mut slices).expect("the buffers fit");
    let read = packing.outputs.iter().zip(&outputs);
    read.map(|(port, v)| (port.blocks[0].part, v.iter().map(|x| x.to_f64()).collect())).collect()
}

/// Runs as built.
pub fn run(program: Program, packing: &Packing, arithmetic: Arithmetic, parts: &Parts) -> Parts {
    run_staged(program, packing, |part| packing.input(part), arithmetic, parts)
}

/// A kernel, its parts and what it should return, for one shape.
pub struct Case {
    pub kernel: super::Kernel,
    /// Parts as the model has them; weights are raised here.
    pub parts: Parts,
    pub wanted: Parts,
    /// Whether outputs keep the power of two of the weights.
    pub raised: bool,
}

impl Case {
    fn staged(&self, c: &Choices) -> Parts {
        let weight = |part: &Part| {
            matches!(
                part,
                Part::Wq | Part::Wk | Part::Wv | Part::Wo | Part::W1 | Part::W2 | Part::W3 | Part::Wh
            )
        };
        let factor = f64::from(power(c.scaling.weight));
        let scaled = |(part, v): (&Part, &Vec<f64>)| {
            let factor = if weight(part) { factor } else { 1.0 };
            (*part, v.iter().map(|x| x * factor).collect())
        };
        self.parts.iter().map(scaled).collect()
    }

    fn lowered(&self, c: &Choices, mut got: Parts) -> Parts {
        if self.raised {
            let factor = f64::from(power(-c.scaling.weight));
            got.values_mut().flatten().for_each(|x| *x *= factor);
        }
        got
    }

    /// The relative error of each output.
    pub fn errors(&self, d: &Dims, c: &Choices, arithmetic: Arithmetic) -> Vec<(Part, f64)> {
        let (packing, program) = (self.kernel.packing(d, c), self.kernel.program(d, c));
        self.compare(c, run(program, &packing, arithmetic, &self.staged(c)))
    }

    /// The largest relative error of another program, or of another order of staging.
    pub fn mutant_error(
        &self,
        d: &Dims,
        c: &Choices,
        program: Program,
        staged: impl Fn(Part) -> Place,
    ) -> f64 {
        let packing = self.kernel.packing(d, c);
        let got = run_staged(program, &packing, staged, Arithmetic::Fast, &self.staged(c));
        self.compare(c, got).iter().map(|e| e.1).fold(0.0, f64::max)
    }

    fn compare(&self, c: &Choices, got: Parts) -> Vec<(Part, f64)> {
        let got = self.lowered(c, got);
        assert_eq!(got.keys().collect::<Vec<_>>(), self.wanted.keys().collect::<Vec<_>>());
        let error = |(part, got): (&Part, &Vec<f64>)| {
            (*part, relative_error(&narrow(got), &narrow(&self.wanted[part])))
        };
        got.iter().map(error).collect()
    }
}

/// Compares a kernel with the reference over fixed and random shapes, choices and both arithmetics, and
/// checks that every chip family takes it.
pub fn agrees(case: impl Fn(&Dims) -> Case) {
    for d in shapes().into_iter().chain(random_shapes()) {
        let case = case(&d);
        for c in choices() {
            for (arithmetic, allowed) in [(Arithmetic::Fast, FAST), (Arithmetic::Exact, EXACT)] {
                for (part, error) in case.errors(&d, &c, arithmetic) {
                    let name = case.kernel.name();
                    assert!(
                        error <= allowed,
                        "{name}, {part:?}: {error:.1e} with {c:?}, {arithmetic:?}, {d:?}"
                    );
                }
            }
            for family in Family::ALL {
                let program = case.kernel.program(&d, &c);
                let verified = verify(program, &Target::new(family));
                assert!(verified.is_ok(), "{family:?}: {:?}", verified.err());
            }
        }
    }
}

/// Central differences of `f` at `x`.
pub fn numeric_gradient(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let h = 1e-4;
    let at = |i: usize, d: f64| {
        let mut moved = x.to_vec();
        moved[i] += d;
        f(&moved)
    };
    (0..x.len()).map(|i| (at(i, h) - at(i, -h)) / (2.0 * h)).collect()
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Checks the outputs of a backward kernel against differences of its forward: `forward` maps the
/// variable behind each output to what `dy` is the gradient of; all `[channels, tokens]`.
pub fn matches_differences(case: &Case, d: &Dims, part: Part, x: &[f64], loss: impl Fn(&[f64]) -> f64) {
    let c = Choices { scaling: Scaling::OFF, ..Choices::default() };
    let got = run(case.kernel.program(d, &c), &case.kernel.packing(d, &c), Arithmetic::Fast, &case.parts);
    let wanted = numeric_gradient(x, loss);
    let error = relative_error(&narrow(&got[&part]), &narrow(&wanted));
    assert!(error <= 3e-3, "{}: {part:?} differs from differences by {error:.1e}", case.kernel.name());
}

/// A block small enough for differences.
pub fn tiny() -> Dims {
    Dims { heads: 4, kv_heads: 2, head_dim: 2, dim: 6, hidden: 5, ..shapes().swap_remove(0) }
}

/// The reference's attention on `[channels, tokens]`.
pub mod attention {
    use backend::reference::attention::{self, Heads};

    use super::{Dims, transposed};

    pub fn heads(d: &Dims) -> Heads {
        Heads { seq: d.s(), heads: d.heads, kv_heads: d.kv_heads, head_dim: d.head_dim }
    }

    pub fn forward(d: &Dims, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
        let [q, k, v] = [q, k, v].map(|x| transposed(x, d.s()));
        transposed(&attention::forward(heads(d), &q, &k, &v), d.q_dim())
    }

    pub fn backward(d: &Dims, q: &[f64], k: &[f64], v: &[f64], da: &[f64]) -> [Vec<f64>; 3] {
        let [q, k, v, da] = [q, k, v, da].map(|x| transposed(x, d.s()));
        let (dq, dk, dv) = attention::backward(heads(d), &q, &k, &v, &da);
        [transposed(&dq, d.q_dim()), transposed(&dk, d.kv_dim()), transposed(&dv, d.kv_dim())]
    }

    /// Probabilities and their gradients, `[heads·seq, seq]`.
    pub fn probabilities(d: &Dims, q: &[f64], k: &[f64], v: &[f64], da: &[f64]) -> [Vec<f64>; 2] {
        let (s, c) = (d.s(), d.head_dim);
        let (mut p, mut dp) = (vec![0.0; d.heads * s * s], vec![0.0; d.heads * s * s]);
        let at = |x: &[f64], head: usize, channel: usize, token: usize| x[(head * c + channel) * s + token];
        for h in 0..d.heads {
            let kv = h / d.group();
            for i in 0..s {
                let row = (h * s + i) * s;
                let inner = |a: &[f64], b: &[f64], j: usize| -> f64 {
                    (0..c).map(|n| at(a, h, n, i) * at(b, kv, n, j)).sum()
                };
                let e: Vec<f64> = (0..=i).map(|j| (inner(q, k, j) / (c as f64).sqrt()).exp()).collect();
                let sum: f64 = e.iter().sum();
                e.iter().enumerate().for_each(|(j, e)| p[row + j] = e / sum);
                (0..s).for_each(|j| dp[row + j] = inner(da, v, j));
            }
        }
        [p, dp]
    }
}

/// The reference's linear layer on `[channels, tokens]`: `w · x` for `w` `[outputs, inputs]`.
pub fn product(w: &[f64], x: &[f64], inputs: usize, s: usize) -> Vec<f64> {
    let y = backend::reference::linear::forward(&transposed(x, s), &narrow(w), None, inputs);
    transposed(&y, w.len() / inputs)
}
