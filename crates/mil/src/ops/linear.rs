//! Matrix products.
//!
//! ```text
//! matmul:  y[…, i, j] = Σ_k x[…, i, k] · y[…, k, j]     either side may come transposed
//! linear:  y[…, o]    = Σ_i x[…, i] · weight[o, i] + bias[o]
//! ```

use super::{Call, Fault, Kind, OpDef, Support, Work, may, need};
use crate::eval::{
    Arithmetic, Bias, Host, Io, Kernel, Layout, Lower, Mat, TASK, View, chunks, parts, store_mac, with_lines,
};
use crate::types::{Shape, TensorType};

/// The family's rows of the op table.
pub const OPS: &[OpDef] = &[
    OpDef {
        name: "matmul",
        params: &[
            may("transpose_x", Kind::Bool),
            may("transpose_y", Kind::Bool),
            need("x", Kind::Tensor),
            need("y", Kind::Tensor),
        ],
        infer: infer_matmul,
        lower: |call| {
            let (x, y) = flags(call);
            Lower::kernel(MatMul { transpose_x: x, transpose_y: y })
        },
        work: Work::Count(|call| {
            let (Some(x), out) = (call.opt_ty("x"), call.result(0)) else { return 0 };
            let back = if flags(call).0 { 2 } else { 1 };
            let k = x.shape.rank().checked_sub(back).map_or(1, |i| x.shape[i]);
            2 * (k as u64).saturating_mul(out.shape.elements() as u64)
        }),
        support: Support::Checked,
    },
    OpDef {
        name: "linear",
        params: &[need("x", Kind::Tensor), need("weight", Kind::Tensor), may("bias", Kind::Tensor)],
        infer: infer_linear,
        lower: |_| Lower::kernel(Linear),
        work: Work::Count(|call| {
            let Some(x) = call.opt_ty("x") else { return 0 };
            let k = x.shape.last().copied().unwrap_or(1);
            2 * (k as u64).saturating_mul(call.result(0).shape.elements() as u64)
        }),
        support: Support::Contested("one project reports a refusal; use a 1×1 `conv` or `matmul`"),
    },
];

fn flags(call: &Call<'_>) -> (bool, bool) {
    (call.bool("transpose_x").unwrap_or(false), call.bool("transpose_y").unwrap_or(false))
}

fn infer_matmul(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let (x, y) = (call.ty("x")?, call.ty("y")?);
    if x.dtype != y.dtype || !x.dtype.is_float() {
        return Err(Fault::ty(format!("the operands are {} and {}", x.dtype, y.dtype), "make both fp16"));
    }
    if x.shape.rank() < 2 || y.shape.rank() < 2 {
        return Err(Fault::ty(
            format!("{} and {} are no two matrices", x.shape, y.shape),
            "give both at least two axes",
        ));
    }
    let (transpose_x, transpose_y) = flags(call);
    let (batch_x, m, k) = matrix(&x.shape, transpose_x);
    let (batch_y, k_y, n) = matrix(&y.shape, transpose_y);
    if k != k_y {
        return Err(Fault::ty(
            format!(
                "{}{} times {}{} sums over {k} and {k_y}",
                x.shape,
                if transpose_x { "ᵀ" } else { "" },
                y.shape,
                if transpose_y { "ᵀ" } else { "" },
            ),
            "make the inner extents equal, or set transpose_x or transpose_y",
        ));
    }
    let batch = batch_x.broadcast(&batch_y).ok_or_else(|| {
        Fault::ty(
            format!("the batches {batch_x} and {batch_y} do not broadcast"),
            "make them equal, or 1 on one side",
        )
    })?;
    let mut dims = batch.to_vec();
    dims.extend([m, n]);
    Ok(vec![TensorType { dtype: x.dtype, shape: Shape::new(dims) }])
}

fn matrix(shape: &Shape, transposed: bool) -> (Shape, usize, usize) {
    let (batch, last) = shape.split_at(shape.rank() - 2);
    match transposed {
        false => (batch.into(), last[0], last[1]),
        true => (batch.into(), last[1], last[0]),
    }
}

fn infer_linear(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let (x, w) = (call.ty("x")?, call.ty("weight")?);
    let fits = x.dtype == w.dtype
        && x.dtype.is_float()
        && w.shape.rank() == 2
        && x.shape.last().is_some_and(|&i| i == w.shape[1]);
    if !fits {
        return Err(Fault::ty(
            format!("`{x}` has no product with the weight `{w}`"),
            "give a weight [out, in] in the type of `x`",
        ));
    }
    let mut dims = x.shape.to_vec();
    *dims.last_mut().expect("the rank is at least one") = w.shape[0];
    check_bias(call, w.shape[0])?;
    Ok(vec![TensorType { dtype: x.dtype, shape: Shape::new(dims) }])
}

/// A bias must hold one value per output.
pub(crate) fn check_bias(call: &Call<'_>, outputs: usize) -> Result<(), Fault> {
    match call.opt_ty("bias") {
        Some(bias) if *bias.shape != [outputs] => Err(Fault::ty(
            format!("the bias is {}, not [{outputs}]", bias.shape),
            "give one value per output",
        )),
        _ => Ok(()),
    }
}

struct MatMul {
    transpose_x: bool,
    transpose_y: bool,
}

impl Kernel for MatMul {
    fn run(&self, io: &mut Io<'_>) {
        let (x, y) = (io.view(0), io.view(1));
        let x = View { layout: turned(&x.layout, self.transpose_x), ..x };
        let y = View { layout: turned(&y.layout, self.transpose_y), ..y };
        products(io, x, y);
    }
}

fn turned(layout: &Layout, transpose: bool) -> Layout {
    let rank = layout.dims().len();
    let mut perm: [usize; crate::eval::MAX_RANK] = std::array::from_fn(|i| i);
    if transpose {
        perm.swap(rank - 1, rank - 2);
    }
    layout.permute(&perm[..rank])
}

/// `out[…] = x[…] · y[…]` over the broadcast batch of the result.
pub(crate) fn products(io: &mut Io<'_>, x: View<'_>, y: View<'_>) {
    let batch_axes = io.dims.len() - 2;
    let (m, n) = (io.dims[batch_axes], io.dims[batch_axes + 1]);
    let k = *x.layout.dims().last().expect("a matrix has two axes");
    let mut dims = [1; crate::eval::MAX_RANK];
    dims[..batch_axes].copy_from_slice(&io.dims[..batch_axes]);
    let over = |view: &View<'_>, rows: usize, cols: usize| {
        let mut dims = dims;
        dims[batch_axes] = rows;
        dims[batch_axes + 1] = cols;
        view.layout.broadcast(&dims[..batch_axes + 2]).split(batch_axes)
    };
    let (batch_x, matrix_x) = over(&x, m, k);
    let (batch_y, matrix_y) = over(&y, k, n);
    let walk = crate::eval::coalesce([&batch_x, &batch_y], &io.dims[..batch_axes]);
    let count: usize = io.dims[..batch_axes].iter().product();
    let env = &mut *io.env;
    if env.arithmetic == Arithmetic::Fast && !env.count_flushed && count >= WHOLE_TASKS {
        // Each matrix stays in the caches of one thread from fp16 to fp16.
        let (host, arch) = (&*env.host, env.arch);
        env.stats.products += (count * m * k * n) as u64;
        env.stats += parts(host, &mut io.out, m * n, |first, out, stats| {
            let [at_x, at_y] = walk.offsets(walk.rank, first / (m * n));
            with_lines([m * k, k * n, m * n], |[a, b, sums]| {
                in_memory_order(x, matrix_x.starting_at(at_x)).load(a);
                in_memory_order(y, matrix_y.starting_at(at_y)).load(b);
                host.matmul(as_matrix(a, &matrix_x), as_matrix(b, &matrix_y), sums);
                store_mac(arch, out, 0, sums, stats);
            });
        });
        return;
    }
    let mut a = std::mem::take(&mut env.scratch[0]);
    let mut b = std::mem::take(&mut env.scratch[1]);
    let mut last = [None; 2];
    walk.outer(walk.rank, |i, [at_x, at_y]| {
        // A repeated matrix is widened once.
        if last[0] != Some(at_x) {
            widen(&*io.env.host, x, matrix_x.starting_at(at_x), &mut a);
        }
        if last[1] != Some(at_y) {
            widen(&*io.env.host, y, matrix_y.starting_at(at_y), &mut b);
        }
        last = [Some(at_x), Some(at_y)];
        io.env.matmul(as_matrix(&a, &matrix_x), as_matrix(&b, &matrix_y), Bias::None, &mut io.out, i * m * n);
    });
    io.env.scratch[0] = a;
    io.env.scratch[1] = b;
}

/// Matrices of a batch from which on each is one task.
const WHOLE_TASKS: usize = 4;

/// Loads a matrix in the order in which its elements lie.
fn widen(host: &dyn Host, view: View<'_>, layout: Layout, out: &mut Vec<f32>) {
    let view = in_memory_order(view, layout);
    let len = view.layout.len();
    out.resize(out.len().max(len), 0.0);
    if !view.in_runs() {
        return view.load(&mut out[..len]);
    }
    chunks(host, &mut out[..len], 4 * TASK, |start, line, _| view.load_range(start, line));
}

fn in_memory_order<'a>(view: View<'a>, layout: Layout) -> View<'a> {
    View { data: view.data, layout: if by_columns(&layout) { layout.permute(&[1, 0]) } else { layout } }
}

fn as_matrix<'a>(data: &'a [f32], layout: &Layout) -> Mat<'a> {
    let (rows, cols) = (layout.dims()[0], layout.dims()[1]);
    if by_columns(layout) { Mat::columns(data, rows, cols) } else { Mat::rows(data, rows, cols) }
}

fn by_columns(layout: &Layout) -> bool {
    layout.steps()[1] != 1 && layout.steps()[0] == 1
}

struct Linear;

impl Kernel for Linear {
    fn run(&self, io: &mut Io<'_>) {
        let (x, w) = (io.view(0), io.view(1));
        let (outputs, inputs) = (w.layout.dims()[0], w.layout.dims()[1]);
        let rows = x.layout.len().checked_div(inputs).unwrap_or(0);
        let mut a = std::mem::take(&mut io.env.scratch[0]);
        let mut b = std::mem::take(&mut io.env.scratch[1]);
        a.resize(a.len().max(rows * inputs), 0.0);
        b.resize(b.len().max(outputs * inputs + outputs), 0.0);
        x.load(&mut a[..rows * inputs]);
        w.load(&mut b[..outputs * inputs]);
        let (weights, bias) = b.split_at_mut(outputs * inputs);
        let bias = match io.operands() {
            2 => Bias::None,
            _ => {
                io.view(2).load(&mut bias[..outputs]);
                Bias::PerColumn(&bias[..outputs])
            }
        };
        let (a_matrix, b_matrix) = (Mat::rows(&a, rows, inputs), Mat::columns(weights, inputs, outputs));
        io.env.matmul(a_matrix, b_matrix, bias, &mut io.out, 0);
        io.env.scratch[0] = a;
        io.env.scratch[1] = b;
    }
}
