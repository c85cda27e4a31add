//! Softmax and the normalisations.
//!
//! ```text
//! softmax:       e^(x − max) / Σ e^(x − max)                      along one axis
//! layer_norm:    gamma · (x − mean) / √(var + ε) + beta           over `axes`
//! instance_norm: the same over the spatial axes of each channel, [N, C, …]
//! ```
//!
//! Computed in f32 and rounded once; on the ANE they are several passes with roundings between.

use super::elementwise::same_as_x;
use super::reduce::axes;
use super::{Call, Fault, Kind, OpDef, Support, Work, may, need};
use crate::eval::vector::vector_fn;
use crate::eval::{
    Io, Kernel, Layout, Lower, MAX_RANK, TASK, View, math, parts, store, store_exact, with_lines,
};
use crate::types::TensorType;

/// The family's rows of the op table.
pub const OPS: &[OpDef] = &[
    OpDef {
        name: "softmax",
        params: &[may("axis", Kind::Int), need("x", Kind::Tensor)],
        infer: |call| {
            let x = same_as_x(call)?;
            let axis = call.int("axis").unwrap_or(-1);
            match x[0].shape.axis(axis) {
                Some(_) => Ok(x),
                None => {
                    Err(Fault::ty(format!("axis {axis} is no axis of {}", x[0].shape), "name an axis of `x`"))
                }
            }
        },
        lower: |call| {
            let axis = call.int("axis").unwrap_or(-1);
            match call.opt_ty("x").and_then(|x| x.shape.axis(axis)) {
                Some(axis) => Lower::kernel(Rows { rows: vec![axis], how: How::Softmax }),
                None => Lower::Missing,
            }
        },
        work: Work::PerResult(7),
        support: Support::Checked,
    },
    OpDef {
        name: "layer_norm",
        params: &[
            need("axes", Kind::Ints),
            need("epsilon", Kind::Float),
            need("x", Kind::Tensor),
            may("gamma", Kind::Tensor),
            may("beta", Kind::Tensor),
        ],
        infer: infer_layer_norm,
        lower: |call| {
            let Some(rows) = call.opt_ty("x").and_then(|x| axes(call, &x.shape).ok()) else {
                return Lower::Missing;
            };
            Lower::kernel(Rows { rows, how: norm(call, false) })
        },
        work: Work::PerResult(8),
        support: Support::Contested(
            "refused by one project; with gamma it fails from 1024 channels on M1 and M2",
        ),
    },
    OpDef {
        name: "instance_norm",
        params: &[
            may("beta", Kind::Tensor),
            need("epsilon", Kind::Float),
            may("gamma", Kind::Tensor),
            need("x", Kind::Tensor),
        ],
        infer: infer_instance_norm,
        lower: |call| {
            let rank = call.opt_ty("x").map_or(2, |x| x.shape.rank());
            Lower::kernel(Rows { rows: (2..rank).collect(), how: norm(call, true) })
        },
        work: Work::PerResult(8),
        support: Support::Contested("used by one project under a wrong argument name"),
    },
];

fn infer_layer_norm(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let x = same_as_x(call)?;
    let normalised: Vec<usize> = axes(call, &x[0].shape)?.iter().map(|&a| x[0].shape[a]).collect();
    for name in ["gamma", "beta"] {
        if let Some(ty) = call.opt_ty(name).filter(|ty| *ty.shape != *normalised || ty.dtype != x[0].dtype) {
            return Err(Fault::ty(
                format!("`{name}` is `{ty}`, not one value per normalised position {normalised:?}"),
                "give it the extents of the normalised axes, in the type of `x`",
            ));
        }
    }
    Ok(x)
}

fn infer_instance_norm(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let x = same_as_x(call)?;
    if x[0].shape.rank() < 3 {
        return Err(Fault::ty(
            format!("`x` is {}, without spatial axes", x[0].shape),
            "give [N, C, W] or [N, C, H, W]",
        ));
    }
    for name in ["gamma", "beta"] {
        if let Some(ty) = call.opt_ty(name).filter(|ty| *ty.shape != [x[0].shape[1]]) {
            return Err(Fault::ty(format!("`{name}` is `{ty}`, not one value per channel"), "give [C]"));
        }
    }
    Ok(x)
}

fn norm(call: &Call<'_>, per_channel: bool) -> How {
    // Operands come in table order: layer_norm x, gamma, beta; instance_norm beta, gamma, x.
    let has = |name| call.opt_ty(name).is_some();
    let (x, gamma, beta) = match per_channel {
        false => (0, has("gamma").then_some(1), has("beta").then_some(1 + usize::from(has("gamma")))),
        true => {
            let first = usize::from(has("beta"));
            (first + usize::from(has("gamma")), has("gamma").then_some(first), has("beta").then_some(0))
        }
    };
    How::Norm { epsilon: call.float("epsilon").unwrap_or(1e-5), per_channel, x, gamma, beta }
}

#[derive(Clone, Copy)]
enum How {
    Softmax,
    Norm { epsilon: f32, per_channel: bool, x: usize, gamma: Option<usize>, beta: Option<usize> },
}

/// Work on the elements of some axes at a time.
struct Rows {
    rows: Vec<usize>,
    how: How,
}

impl Kernel for Rows {
    fn run(&self, io: &mut Io<'_>) {
        let x = io.view(match self.how {
            How::Softmax => 0,
            How::Norm { x, .. } => x,
        });
        let rank = x.layout.dims().len();
        let mut perm = [0; MAX_RANK];
        let kept = (0..rank).filter(|a| !self.rows.contains(a));
        for (to, from) in perm.iter_mut().zip(kept.chain(self.rows.iter().copied())) {
            *to = from;
        }
        let perm = &perm[..rank];
        let layout = x.layout.permute(perm);
        let width: usize = layout.dims()[rank - self.rows.len()..].iter().product();
        let len = layout.len();
        if len == 0 {
            return;
        }
        let arch = io.env.arch;
        let turned = perm.iter().enumerate().any(|(i, &p)| i != p);
        let view = View { data: x.data, layout };
        if matches!(self.how, How::Softmax) && !turned && view.in_runs() {
            let task = (TASK / width).max(1) * width;
            io.env.stats += parts(&*io.env.host, &mut io.out, task, |start, out, stats| {
                with_lines([out.len(), 0, 0], |[values, ..]| {
                    view.load_range(start, values);
                    softmax_rows(arch, values, width);
                    store(arch, out, 0, values, stats);
                });
            });
            return;
        }
        let mut line = std::mem::take(&mut io.env.scratch[0]);
        line.resize(line.len().max(len), 0.0);
        let values = &mut line[..len];
        view.load(values);
        match self.how {
            How::Softmax => softmax_rows(arch, values, width),
            How::Norm { epsilon, per_channel, gamma, beta, .. } => {
                normalise(arch, values, width, epsilon);
                let channels = x.layout.dims()[if per_channel { 1 } else { 0 }];
                for (operand, scale) in [(gamma, true), (beta, false)] {
                    let Some(operand) = operand else { continue };
                    let view = io.view(operand);
                    let mut factors = std::mem::take(&mut io.env.scratch[1]);
                    let count = view.layout.len();
                    factors.resize(factors.len().max(count), 0.0);
                    view.load(&mut factors[..count]);
                    for (row, line) in values.chunks_exact_mut(width).enumerate() {
                        for (i, y) in line.iter_mut().enumerate() {
                            let f = factors[if per_channel { row % channels } else { i }];
                            *y = if scale { *y * f } else { *y + f };
                        }
                    }
                    io.env.scratch[1] = factors;
                }
            }
        }
        store(arch, &mut io.out, 0, values, &mut io.env.stats);
        if turned {
            restore_order(io, perm);
        }
        io.env.scratch[0] = line;
    }
}

/// Turns a result whose axes were permuted by `perm` back to its declared order.
fn restore_order(io: &mut Io<'_>, perm: &[usize]) {
    let mut dims = [0; MAX_RANK];
    let mut inverse = [0; MAX_RANK];
    for (i, &p) in perm.iter().enumerate() {
        dims[i] = io.dims[p];
        inverse[p] = i;
    }
    let rank = perm.len();
    let layout = Layout::dense(&dims[..rank]).permute(&inverse[..rank]);
    let mut line = std::mem::take(&mut io.env.scratch[1]);
    line.resize(line.len().max(layout.len()), 0.0);
    let values = &mut line[..layout.len()];
    View { data: io.out.as_slice(), layout }.load(values);
    store_exact(&mut io.out, 0, values);
    io.env.scratch[1] = line;
}

vector_fn! {
    /// Softmax of each row, in place.
    pub(crate) fn softmax_rows(values: &'a mut [f32], width: usize) {
        for row in values.chunks_exact_mut(width) {
            let max = largest(row);
            for x in row.iter_mut() {
                *x = math::exp(*x - max);
            }
            let scale = 1.0 / sum(row);
            for x in row.iter_mut() {
                *x *= scale;
            }
        }
    }
}

vector_fn! {
    fn normalise(values: &'a mut [f32], width: usize, epsilon: f32) {
        for row in values.chunks_exact_mut(width) {
            let mean = sum(row) / width as f32;
            for x in row.iter_mut() {
                *x -= mean;
            }
            let variance = row.iter().map(|x| x * x).sum::<f32>() / width as f32;
            let scale = 1.0 / (variance + epsilon).sqrt();
            for x in row.iter_mut() {
                *x *= scale;
            }
        }
    }
}

/// Partial results side by side, so that the loops become vector code.
const LANES: usize = 32;

#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder().iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    for chunk in chunks {
        for (m, x) in lanes.iter_mut().zip(chunk) {
            *m = if *x > *m { *x } else { *m };
        }
    }
    lanes.iter().fold(rest, |m, &x| if x > m { x } else { m })
}

#[inline(always)]
fn sum(row: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x;
        }
    }
    lanes.iter().sum::<f32>() + rest
}
