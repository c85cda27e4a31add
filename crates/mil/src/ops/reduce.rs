//! Reductions over axes.
//!
//! Sums: f32 in fast arithmetic; exact and rounded half away from zero in exact arithmetic, which
//! fits the one published test (integers exact to 2048, then 2049 → 2050). Whether long sums are
//! exact on hardware is contested.

use pulp::Arch;

use super::elementwise::same_as_x;
use super::{Call, Fault, Kind, OpDef, Param, Support, Work, may, need};
use crate::eval::vector::vector_fn;
use crate::eval::{
    Arithmetic, Io, Kernel, Layout, Lower, MAX_RANK, TASK, View, chunks, coalesce, math, round_sum, store,
    with_lines,
};
use crate::types::{Shape, TensorType};

const PARAMS: &[Param] = &[may("axes", Kind::Ints), may("keep_dims", Kind::Bool), need("x", Kind::Tensor)];

macro_rules! reduce {
    ($name:literal, $support:expr, $how:expr) => {
        OpDef {
            name: $name,
            params: PARAMS,
            infer,
            lower: |call| lower(call, $how),
            work: Work::PerInput(1),
            support: $support,
        }
    };
}

/// The family's rows of the op table.
pub const OPS: &[OpDef] = &[
    reduce!("reduce_sum", Support::Checked, How::Sum),
    reduce!("reduce_mean", Support::Checked, How::Mean),
    reduce!("reduce_max", Support::Checked, How::Max),
    reduce!("reduce_min", Support::Checked, How::Min),
    reduce!("reduce_l2_norm", Support::Checked, How::L2Norm),
    reduce!("reduce_log_sum_exp", Support::Checked, How::LogSumExp),
    reduce!("reduce_l1_norm", Support::Compiles, How::L1Norm),
    reduce!("reduce_log_sum", Support::Compiles, How::LogSum),
    reduce!("reduce_sum_square", Support::Compiles, How::SumSquare),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Sum,
    Mean,
    Max,
    Min,
    L1Norm,
    L2Norm,
    SumSquare,
    LogSum,
    LogSumExp,
}

fn infer(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let x = &same_as_x(call)?[0];
    let reduced = axes(call, &x.shape)?;
    let keep = call.bool("keep_dims").unwrap_or(false);
    let dims = x.shape.iter().enumerate().filter_map(|(i, &d)| match reduced.contains(&i) {
        true => keep.then_some(1),
        false => Some(d),
    });
    Ok(vec![TensorType { dtype: x.dtype, shape: Shape::new(dims.collect::<Vec<_>>()) }])
}

/// The reduced axes counted from the front; all of them when `axes` is absent.
pub(crate) fn axes(call: &Call<'_>, shape: &Shape) -> Result<Vec<usize>, Fault> {
    let Some(axes) = call.ints("axes") else { return Ok((0..shape.rank()).collect()) };
    let mut out = Vec::with_capacity(axes.len());
    for &axis in axes {
        let front = shape.axis(axis).filter(|a| !out.contains(a)).ok_or_else(|| {
            Fault::ty(
                format!("axis {axis} is no axis of {shape}, or is given twice"),
                format!("name axes from {} to {}", -(shape.rank() as i64), shape.rank() as i64 - 1),
            )
        })?;
        out.push(front);
    }
    Ok(out)
}

fn lower(call: &Call<'_>, how: How) -> Lower {
    let Some(x) = call.opt_ty("x") else { return Lower::Missing };
    let Ok(reduced) = axes(call, &x.shape) else { return Lower::Missing };
    let kept = (0..x.shape.rank()).filter(|a| !reduced.contains(a));
    let mut perm = [0; MAX_RANK];
    for (to, from) in perm.iter_mut().zip(kept.chain(reduced.iter().copied())) {
        *to = from;
    }
    Lower::kernel(Reduce { how, perm, rank: x.shape.rank(), reduced: reduced.len() })
}

struct Reduce {
    how: How,
    /// Kept axes, then reduced ones.
    perm: [usize; MAX_RANK],
    rank: usize,
    reduced: usize,
}

impl Kernel for Reduce {
    fn run(&self, io: &mut Io<'_>) {
        let view = io.view(0);
        let layout = view.layout.permute(&self.perm[..self.rank]);
        let kept = self.rank - self.reduced;
        let (outer, inner) = (&layout.dims()[..kept], &layout.dims()[kept..]);
        let (results, count) = (outer.iter().product::<usize>(), inner.iter().product::<usize>());
        if results == 0 {
            return;
        }
        let arch = io.env.arch;
        let mut sums = std::mem::take(&mut io.env.scratch[0]);
        let mut line = std::mem::take(&mut io.env.scratch[1]);
        sums.resize(sums.len().max(results), 0.0);
        let wide = io.env.arithmetic == Arithmetic::Exact && self.how != How::Max && self.how != How::Min;
        // Along memory when the reduced elements are neighbours, across it when the kept ones are.
        let across = kept > 0 && layout.steps()[..kept].contains(&1) && self.how != How::LogSumExp && !wide;
        let turned = View { data: view.data, layout };
        let reduce =
            |y: &mut f32, row: &[f32]| *y = if wide { self.exact(row) } else { self.along(arch, row) };
        if across {
            self.across(view, &layout, kept, &mut sums[..results], &mut line);
        } else if turned.in_runs() && count > 0 {
            let task = TASK.div_ceil(count);
            chunks(&*io.env.host, &mut sums[..results], task, |first, sums, _| {
                with_lines([sums.len() * count, 0, 0], |[line, ..]| {
                    turned.load_range(first * count, line);
                    sums.iter_mut().zip(line.chunks_exact(count)).for_each(|(y, row)| reduce(y, row));
                });
            });
        } else {
            line.resize(line.len().max(results * count), 0.0);
            turned.load(&mut line[..results * count]);
            let rows = line.chunks_exact(count.max(1));
            sums[..results].iter_mut().zip(rows).for_each(|(y, row)| reduce(y, row));
        }
        if !wide {
            sums[..results].iter_mut().for_each(|y| *y = self.finish(*y, count));
        }
        store(arch, &mut io.out, 0, &mut sums[..results], &mut io.env.stats);
        io.env.scratch[0] = sums;
        io.env.scratch[1] = line;
    }
}

impl Reduce {
    fn start(&self) -> f32 {
        match self.how {
            How::Max => f32::NEG_INFINITY,
            How::Min => f32::INFINITY,
            _ => 0.0,
        }
    }

    #[inline(always)]
    fn add(&self, sum: f32, x: f32) -> f32 {
        match self.how {
            How::Sum | How::Mean | How::LogSum => sum + x,
            How::L1Norm => sum + x.abs(),
            How::L2Norm | How::SumSquare => sum + x * x,
            How::Max => {
                if x > sum || x.is_nan() {
                    x
                } else {
                    sum
                }
            }
            How::Min => {
                if x < sum || x.is_nan() {
                    x
                } else {
                    sum
                }
            }
            How::LogSumExp => sum,
        }
    }

    /// Adds whole rows of kept elements to the results.
    fn across(&self, view: View<'_>, layout: &Layout, kept: usize, sums: &mut [f32], line: &mut Vec<f32>) {
        sums.fill(self.start());
        line.resize(line.len().max(sums.len()), 0.0);
        let (turn, reduced) = layout.split(kept);
        let walk = coalesce([&reduced], reduced.dims());
        walk.outer(walk.rank, |_, [at]| {
            let row = &mut line[..sums.len()];
            View { data: view.data, layout: turn.starting_at(at) }.load(row);
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum = self.add(*sum, *x);
            }
        });
    }

    fn along(&self, arch: Arch, row: &[f32]) -> f32 {
        if self.how == How::LogSumExp {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            if max == f32::NEG_INFINITY {
                return max;
            }
            return max + row.iter().map(|x| math::exp(x - max)).sum::<f32>().ln();
        }
        along(arch, self, row)
    }

    /// Sums in f64, which holds every sum of fp16 values and of their squares exactly enough.
    fn exact(&self, row: &[f32]) -> f32 {
        let row = row.iter().map(|&x| f64::from(x));
        let sum: f64 = match self.how {
            How::L1Norm => row.map(f64::abs).sum(),
            How::L2Norm | How::SumSquare => row.map(|x| x * x).sum(),
            How::LogSumExp => {
                let max = row.clone().fold(f64::NEG_INFINITY, f64::max);
                return (max + row.map(|x| (x - max).exp()).sum::<f64>().ln()) as f32;
            }
            How::Mean => {
                let count = row.len() as f64;
                row.sum::<f64>() / count
            }
            _ => row.sum(),
        };
        match self.how {
            How::L2Norm => sum.sqrt() as f32,
            How::LogSum => sum.ln() as f32,
            _ => round_sum(sum).to_f32(),
        }
    }

    fn finish(&self, sum: f32, count: usize) -> f32 {
        match self.how {
            How::Mean => sum / count as f32,
            How::L2Norm => sum.sqrt(),
            How::LogSum => sum.ln(),
            _ => sum,
        }
    }
}

vector_fn! {
    fn along(reduce: &'a Reduce, row: &'a [f32]) -> f32 {
        match reduce.how {
            // The plain sums apart, so that their loop is without choices.
            How::Sum | How::Mean | How::LogSum => fold(row, 0.0, |sum, x| sum + x, |sum, lane| sum + lane),
            How::Max | How::Min => {
                fold(row, reduce.start(), |sum, x| reduce.add(sum, x), |sum, lane| reduce.add(sum, lane))
            }
            _ => fold(row, 0.0, |sum, x| reduce.add(sum, x), |sum, lane| sum + lane),
        }
    }
}

/// Sixteen partial results let the compiler use vectors.
#[inline(always)]
fn fold(row: &[f32], start: f32, add: impl Fn(f32, f32) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 16];
    let chunks = row.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = add(*lane, *x);
        }
    }
    let sum = lanes.iter().fold(start, |sum, &lane| join(sum, lane));
    rest.iter().fold(sum, |sum, x| add(sum, *x))
}
