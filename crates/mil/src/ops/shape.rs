//! Data movement. Most of it is a view in the evaluator and costs nothing there.

use super::{Call, Fault, Kind, OpDef, Support, Work, may, need};
use crate::eval::{Io, Kernel, Layout, Lower, MAX_RANK, View, coalesce, store_exact};
use crate::types::{Shape, TensorType};

const CONCAT: &str = "refused on M4 Max by one project and on M3 Ultra by another, accepted on M3 Pro, M4 Max, M5 \
                      by others; return several outputs";

macro_rules! moves {
    ($name:literal, $params:expr, $infer:expr, $lower:expr, $support:expr) => {
        OpDef {
            name: $name,
            params: $params,
            infer: $infer,
            lower: $lower,
            work: Work::None,
            support: $support,
        }
    };
}

/// The family's rows of the op table.
pub const OPS: &[OpDef] = &[
    moves!(
        "identity",
        &[need("x", Kind::Tensor)],
        |call| Ok(vec![call.ty("x")?.clone()]),
        |_| Lower::view(|x| Some(vec![*x])),
        Support::Checked
    ),
    moves!(
        "reshape",
        &[need("shape", Kind::Ints), need("x", Kind::Tensor)],
        infer_reshape,
        to_result_shape,
        Support::Checked
    ),
    moves!(
        "expand_dims",
        &[need("axes", Kind::Ints), need("x", Kind::Tensor)],
        infer_expand,
        to_result_shape,
        Support::Compiles
    ),
    moves!(
        "squeeze",
        &[may("axes", Kind::Ints), need("x", Kind::Tensor)],
        infer_squeeze,
        to_result_shape,
        Support::Compiles
    ),
    moves!(
        "transpose",
        &[need("perm", Kind::Ints), need("x", Kind::Tensor)],
        infer_transpose,
        |call| match permutation(call) {
            Ok(perm) => Lower::view(move |x| Some(vec![x.permute(&perm)])),
            Err(_) => Lower::Missing,
        },
        Support::Checked
    ),
    moves!(
        "slice_by_size",
        &[need("begin", Kind::Ints), need("size", Kind::Ints), need("x", Kind::Tensor)],
        |call| infer_slice(call, by_size(call)?),
        |call| lower_slice(by_size(call)),
        Support::Checked
    ),
    moves!(
        "slice_by_index",
        &[
            need("begin", Kind::Ints),
            need("end", Kind::Ints),
            may("stride", Kind::Ints),
            may("begin_mask", Kind::Bools),
            may("end_mask", Kind::Bools),
            may("squeeze_mask", Kind::Bools),
            need("x", Kind::Tensor),
        ],
        |call| infer_slice(call, by_index(call)?),
        |call| lower_slice(by_index(call)),
        Support::Checked
    ),
    moves!(
        "reverse",
        &[may("axes", Kind::Ints), need("x", Kind::Tensor)],
        |call| {
            let x = call.ty("x")?;
            super::reduce::axes(call, &x.shape)?;
            Ok(vec![x.clone()])
        },
        |call| {
            let axes = call.opt_ty("x").and_then(|x| super::reduce::axes(call, &x.shape).ok());
            let Some(axes) = axes else { return Lower::Missing };
            Lower::view(move |x| {
                Some(vec![axes.iter().fold(*x, |x, &a| {
                    let len = x.dims()[a];
                    x.slice(a, len.saturating_sub(1), len, -1)
                })])
            })
        },
        Support::Compiles
    ),
    moves!(
        "split",
        &[
            need("axis", Kind::Int),
            may("num_splits", Kind::Int),
            may("split_sizes", Kind::Ints),
            need("x", Kind::Tensor)
        ],
        infer_split,
        |call| match split_parts(call) {
            Ok((axis, sizes)) => Lower::view(move |x| {
                let begins = sizes.iter().scan(0, |at, &n| Some(std::mem::replace(at, *at + n)));
                Some(begins.zip(&sizes).map(|(at, &n)| x.slice(axis, at, n, 1)).collect())
            }),
            Err(_) => Lower::Missing,
        },
        Support::Compiles
    ),
    moves!(
        "concat",
        &[need("axis", Kind::Int), may("interleave", Kind::Bool), need("values", Kind::Tensors)],
        infer_concat,
        |call| {
            let axis = call.types("values").first().and_then(|t| t.shape.axis(call.int("axis")?));
            match axis {
                Some(axis) => {
                    Lower::kernel(Concat { axis, interleave: call.bool("interleave").unwrap_or(false) })
                }
                None => Lower::Missing,
            }
        },
        Support::Contested(CONCAT)
    ),
    moves!(
        "tile",
        &[need("reps", Kind::Ints), need("x", Kind::Tensor)],
        infer_tile,
        |_| Lower::kernel(Tile),
        Support::Checked
    ),
    moves!(
        "pad",
        &[
            may("constant_val", Kind::Float),
            may("mode", Kind::Str),
            need("pad", Kind::Ints),
            need("x", Kind::Tensor)
        ],
        infer_pad,
        |call| match (padding(call), call.opt_ty("x")) {
            (Ok(pad), Some(_)) => {
                Lower::kernel(Pad { pad, value: call.float("constant_val").unwrap_or(0.0) })
            }
            _ => Lower::Missing,
        },
        Support::Checked
    ),
];

fn to_result_shape(call: &Call<'_>) -> Lower {
    let dims = call.result(0).shape.to_vec();
    Lower::view(move |x| x.reshape(&dims).map(|layout| vec![layout]))
}

fn like(x: &TensorType, dims: Vec<usize>) -> Vec<TensorType> {
    vec![TensorType { dtype: x.dtype, shape: Shape::new(dims) }]
}

fn infer_reshape(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let (x, shape) = (call.ty("x")?, call.need_ints("shape")?);
    let known: usize = shape
        .iter()
        .filter(|&&d| d != -1)
        .fold(1, |n, &d| n.saturating_mul(usize::try_from(d).unwrap_or(usize::MAX)));
    let free = shape.iter().filter(|&&d| d == -1).count();
    let elements = x.shape.elements();
    let fits = match free {
        0 => known == elements,
        1 => known > 0 && elements.is_multiple_of(known),
        _ => false,
    };
    if !fits || shape.len() > MAX_RANK {
        return Err(Fault::ty(
            format!("{} has {elements} elements, which do not fill {shape:?}", x.shape),
            "keep the number of elements; at most one extent may be -1",
        ));
    }
    let dims = shape.iter().map(|&d| if d == -1 { elements / known } else { d as usize });
    Ok(like(x, dims.collect()))
}

fn infer_expand(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let (x, axes) = (call.ty("x")?, call.need_ints("axes")?);
    let rank = x.shape.rank() + axes.len();
    let mut new = vec![false; rank];
    for &axis in axes {
        let front = if axis < 0 { axis + rank as i64 } else { axis };
        match usize::try_from(front).ok().and_then(|a| new.get_mut(a)) {
            Some(slot) if !*slot && rank <= MAX_RANK => *slot = true,
            _ => {
                return Err(Fault::ty(
                    format!("axis {axis} is no new axis of rank {rank}"),
                    "name each new axis once",
                ));
            }
        }
    }
    let mut old = x.shape.iter();
    let dims = new.iter().map(|&new| if new { 1 } else { *old.next().expect("the rest are old axes") });
    Ok(like(x, dims.collect()))
}

fn infer_squeeze(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let x = call.ty("x")?;
    let gone = match call.ints("axes") {
        Some(_) => super::reduce::axes(call, &x.shape)?,
        None => (0..x.shape.rank()).filter(|&a| x.shape[a] == 1).collect(),
    };
    if let Some(&axis) = gone.iter().find(|&&a| x.shape[a] != 1) {
        return Err(Fault::ty(
            format!("axis {axis} of {} has {} elements, not 1", x.shape, x.shape[axis]),
            "squeeze axes of extent 1 only",
        ));
    }
    let dims = x.shape.iter().enumerate().filter(|(i, _)| !gone.contains(i)).map(|(_, &d)| d);
    Ok(like(x, dims.collect()))
}

fn permutation(call: &Call<'_>) -> Result<Vec<usize>, Fault> {
    let (x, perm) = (call.ty("x")?, call.need_ints("perm")?);
    let axes: Vec<usize> = perm.iter().filter_map(|&a| x.shape.axis(a)).collect();
    let mut sorted = axes.clone();
    sorted.sort_unstable();
    if axes.len() != perm.len() || !sorted.iter().copied().eq(0..x.shape.rank()) {
        return Err(Fault::ty(
            format!("{perm:?} is no order of the {} axes of {}", x.shape.rank(), x.shape),
            "name every axis once",
        ));
    }
    Ok(axes)
}

fn infer_transpose(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let perm = permutation(call)?;
    let x = call.ty("x")?;
    Ok(like(x, perm.iter().map(|&a| x.shape[a]).collect()))
}

/// Part of each axis, and the axes that disappear.
struct Parts {
    parts: Vec<(usize, usize, isize)>,
    squeeze: Vec<bool>,
}

fn by_size(call: &Call<'_>) -> Result<Parts, Fault> {
    let (x, begin, size) = (call.ty("x")?, call.need_ints("begin")?, call.need_ints("size")?);
    let rank = x.shape.rank();
    if begin.len() != rank || size.len() != rank {
        return Err(Fault::operand(
            format!("`begin` {begin:?} and `size` {size:?} do not have one entry per axis of {}", x.shape),
            format!("give {rank} numbers each"),
        ));
    }
    let mut parts = Vec::with_capacity(rank);
    for i in 0..rank {
        let dim = x.shape[i] as i64;
        let first = if begin[i] < 0 { begin[i].saturating_add(dim) } else { begin[i] };
        let len = if size[i] == -1 { dim.saturating_sub(first) } else { size[i] };
        if first < 0 || len < 0 || first.saturating_add(len) > dim {
            return Err(Fault::ty(
                format!(
                    "axis {i} has {dim} elements, but the slice begins at {} and takes {}",
                    begin[i], size[i]
                ),
                format!("keep begin + size ≤ {dim}; a size of -1 runs to the end"),
            ));
        }
        parts.push((first as usize, len as usize, 1));
    }
    Ok(Parts { parts, squeeze: vec![false; rank] })
}

fn by_index(call: &Call<'_>) -> Result<Parts, Fault> {
    let (x, begin, end) = (call.ty("x")?, call.need_ints("begin")?, call.need_ints("end")?);
    let rank = x.shape.rank();
    let ones = vec![1; rank];
    let none = vec![false; rank];
    let stride = call.ints("stride").unwrap_or(&ones);
    let masks = ["begin_mask", "end_mask", "squeeze_mask"].map(|m| call.bools(m).unwrap_or(&none));
    let lengths = [begin.len(), end.len(), stride.len(), masks[0].len(), masks[1].len(), masks[2].len()];
    if lengths != [rank; 6] || stride.contains(&0) {
        return Err(Fault::operand(
            format!("a list does not have one entry per axis of {}, or a stride is 0", x.shape),
            format!("give {rank} entries each"),
        ));
    }
    let mut parts = Vec::with_capacity(rank);
    for i in 0..rank {
        let dim = x.shape[i] as i64;
        let step = stride[i];
        let (low, high) = if step > 0 { (0, dim) } else { (-1, dim - 1) };
        let at = |v: i64| (if v < 0 { v.saturating_add(dim) } else { v }).clamp(low, high);
        let first = if masks[0][i] { if step > 0 { 0 } else { dim - 1 } } else { at(begin[i]) };
        let mut last = if masks[1][i] { if step > 0 { dim } else { -1 } } else { at(end[i]) };
        if masks[2][i] {
            last = first + step.signum();
        }
        let span = if step > 0 { last - first } else { first - last };
        let len = if span > 0 { (span as u64).div_ceil(step.unsigned_abs()) } else { 0 };
        if masks[2][i] && !(0..dim).contains(&first) {
            return Err(Fault::ty(
                format!("index {} is not on axis {i} of {}", begin[i], x.shape),
                "name an index inside",
            ));
        }
        parts.push((first.max(0) as usize, len as usize, step as isize));
    }
    Ok(Parts { parts, squeeze: masks[2].to_vec() })
}

fn infer_slice(call: &Call<'_>, parts: Parts) -> Result<Vec<TensorType>, Fault> {
    let kept = parts.parts.iter().zip(&parts.squeeze).filter(|(_, gone)| !**gone);
    Ok(like(call.ty("x")?, kept.map(|((_, len, _), _)| *len).collect()))
}

fn lower_slice(parts: Result<Parts, Fault>) -> Lower {
    let Ok(parts) = parts else { return Lower::Missing };
    Lower::view(move |x| {
        let mut out = *x;
        for (axis, &(begin, len, stride)) in parts.parts.iter().enumerate() {
            out = out.slice(axis, begin, len, stride);
        }
        let kept: Vec<usize> = (0..parts.squeeze.len()).filter(|&a| !parts.squeeze[a]).collect();
        let gone = (0..parts.squeeze.len()).filter(|&a| parts.squeeze[a]);
        let order: Vec<usize> = kept.iter().copied().chain(gone).collect();
        Some(vec![out.permute(&order).split(kept.len()).0])
    })
}

fn split_parts(call: &Call<'_>) -> Result<(usize, Vec<usize>), Fault> {
    let x = call.ty("x")?;
    let axis = call
        .int("axis")
        .and_then(|a| x.shape.axis(a))
        .ok_or_else(|| Fault::ty(format!("`axis` is no axis of {}", x.shape), "name an axis of `x`"))?;
    let dim = x.shape[axis];
    let sizes = match (call.ints("split_sizes"), call.int("num_splits")) {
        (Some(sizes), _) => sizes.iter().map(|&n| usize::try_from(n).unwrap_or(usize::MAX)).collect(),
        (None, Some(n)) if n > 0 && dim.is_multiple_of(n as usize) => {
            vec![dim / n as usize; call.op.results.len()]
        }
        _ => Vec::new(),
    };
    let sum = sizes.iter().fold(0usize, |sum, &n| sum.saturating_add(n));
    if sum != dim || sizes.len() != call.op.results.len() {
        return Err(Fault::ty(
            format!(
                "axis {axis} of {} does not split into {} results like this",
                x.shape,
                call.op.results.len()
            ),
            "give `num_splits` that divides the extent, or `split_sizes` that add up to it",
        ));
    }
    Ok((axis, sizes))
}

fn infer_split(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let (axis, sizes) = split_parts(call)?;
    let x = call.ty("x")?;
    let part = |&n: &usize| {
        let mut dims = x.shape.to_vec();
        dims[axis] = n;
        TensorType { dtype: x.dtype, shape: Shape::new(dims) }
    };
    Ok(sizes.iter().map(part).collect())
}

fn infer_concat(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let values = call.types("values");
    let Some(first) = values.first() else {
        return Err(Fault::operand("`values` is empty", "give at least one value"));
    };
    let axis = call.int("axis").and_then(|a| first.shape.axis(a)).ok_or_else(|| {
        Fault::ty(format!("`axis` is no axis of {}", first.shape), "name an axis of the values")
    })?;
    let interleave = call.bool("interleave").unwrap_or(false);
    let mut sum = 0usize;
    for ty in &values {
        let same = ty.dtype == first.dtype
            && ty.shape.rank() == first.shape.rank()
            && (0..first.shape.rank()).all(|i| (i == axis && !interleave) || ty.shape[i] == first.shape[i]);
        if !same {
            return Err(Fault::ty(
                format!("`{ty}` and `{first}` do not join on axis {axis}"),
                "make the other axes equal; interleaved values must be equal on all",
            ));
        }
        sum = sum.saturating_add(ty.shape[axis]);
    }
    let mut dims = first.shape.to_vec();
    dims[axis] = sum;
    Ok(like(first, dims))
}

struct Concat {
    axis: usize,
    interleave: bool,
}

impl Kernel for Concat {
    fn run(&self, io: &mut Io<'_>) {
        let whole = Layout::dense(io.dims);
        let count = io.operands();
        let mut begin = 0;
        for i in 0..count {
            let view = io.view(i);
            let len = view.layout.dims()[self.axis];
            let part = match self.interleave {
                true => whole.slice(self.axis, i, len, count as isize),
                false => whole.slice(self.axis, begin, len, 1),
            };
            begin += len;
            scatter(io, view, &part);
        }
    }
}

/// Copies a view into part of the result, row by row.
fn scatter(io: &mut Io<'_>, view: View<'_>, part: &Layout) {
    let mut line = std::mem::take(&mut io.env.scratch[0]);
    line.resize(line.len().max(view.layout.len()), 0.0);
    view.load(&mut line[..view.layout.len()]);
    let walk = coalesce([part], part.dims());
    let (n, step) = (walk.row_len(), walk.row_step(0));
    walk.rows(|row, [at]| {
        let from = &line[row * n..][..n];
        if step == 1 || n == 1 {
            store_exact(&mut io.out, at, from);
        } else {
            for (j, x) in from.iter().enumerate() {
                store_exact(&mut io.out, at + j * step as usize, std::slice::from_ref(x));
            }
        }
    });
    io.env.scratch[0] = line;
}

fn infer_tile(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let (x, reps) = (call.ty("x")?, call.need_ints("reps")?);
    if reps.len() != x.shape.rank() || reps.iter().any(|&r| r < 1) || 2 * reps.len() > MAX_RANK {
        return Err(Fault::operand(
            format!("`reps` {reps:?} is not one positive number per axis of {}", x.shape),
            "give one number per axis, at most four axes",
        ));
    }
    let dims = x.shape.iter().zip(reps).map(|(&d, &r)| d.saturating_mul(r as usize));
    Ok(like(x, dims.collect()))
}

struct Tile;

impl Kernel for Tile {
    fn run(&self, io: &mut Io<'_>) {
        // [a, b] tiled to [r·a, s·b] is [r, a, s, b] with steps of 0 on the repetitions.
        let view = io.view(0);
        let rank = view.layout.dims().len();
        let (mut pairs, mut plain) = ([1; MAX_RANK], [1; MAX_RANK]);
        for i in 0..rank {
            let dim = view.layout.dims()[i];
            pairs[2 * i] = io.dims[i].checked_div(dim).unwrap_or(0);
            pairs[2 * i + 1] = dim;
            plain[2 * i + 1] = dim;
        }
        let Some(spread) = view.layout.reshape(&plain[..2 * rank]) else {
            // A view that cannot be spread is copied first.
            let mut dense = vec![0f32; view.layout.len()];
            view.load(&mut dense);
            let layout = Layout::dense(&plain[..2 * rank]).broadcast(&pairs[..2 * rank]);
            return fill(io, View { data: crate::eval::Slice::F32(&dense), layout });
        };
        fill(io, View { data: view.data, layout: spread.broadcast(&pairs[..2 * rank]) });
    }
}

fn fill(io: &mut Io<'_>, view: View<'_>) {
    let len = view.layout.len();
    let mut line = std::mem::take(&mut io.env.scratch[0]);
    line.resize(line.len().max(len), 0.0);
    view.load(&mut line[..len]);
    store_exact(&mut io.out, 0, &line[..len]);
    io.env.scratch[0] = line;
}

/// Elements before and after, for the last axes.
fn padding(call: &Call<'_>) -> Result<Vec<(usize, usize)>, Fault> {
    let (x, pad) = (call.ty("x")?, call.need_ints("pad")?);
    let mode = call.string("mode").unwrap_or("constant");
    if mode != "constant" {
        return Err(Fault::operand(format!("the padding mode {mode:?} is not supported"), "use constant"));
    }
    if !pad.len().is_multiple_of(2)
        || pad.len() / 2 > x.shape.rank()
        || pad.iter().any(|p| !(0..1 << 31).contains(p))
    {
        return Err(Fault::operand(
            format!("`pad` {pad:?} is no list of (before, after) for the last axes of {}", x.shape),
            "give two numbers ≥ 0 per padded axis",
        ));
    }
    Ok(pad.chunks_exact(2).map(|p| (p[0] as usize, p[1] as usize)).collect())
}

fn infer_pad(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let pad = padding(call)?;
    let x = call.ty("x")?;
    let mut dims = x.shape.to_vec();
    let first = dims.len() - pad.len();
    for (dim, (before, after)) in dims[first..].iter_mut().zip(pad) {
        *dim += before + after;
    }
    Ok(like(x, dims))
}

struct Pad {
    pad: Vec<(usize, usize)>,
    value: f32,
}

impl Kernel for Pad {
    fn run(&self, io: &mut Io<'_>) {
        let view = io.view(0);
        let mut inside = Layout::dense(io.dims);
        let first = io.dims.len() - self.pad.len();
        for (i, &(before, _)) in self.pad.iter().enumerate() {
            inside = inside.slice(first + i, before, view.layout.dims()[first + i], 1);
        }
        let fill = [self.value; 256];
        let len: usize = io.dims.iter().product();
        for at in (0..len).step_by(fill.len()) {
            store_exact(&mut io.out, at, &fill[..fill.len().min(len - at)]);
        }
        scatter(io, view, &inside);
    }
}
