//! Arithmetic, comparison, rounding and roots, element by element with numpy broadcasting.

use super::{Call, Fault, Kind, OpDef, Param, Support, Work, may, need};
use crate::eval::{Lower, map, math};
use crate::types::{DType, TensorType};

const X: &[Param] = &[need("x", Kind::Tensor)];
const XY: &[Param] = &[need("x", Kind::Tensor), need("y", Kind::Tensor)];
const X_EPSILON: &[Param] = &[need("epsilon", Kind::Float), need("x", Kind::Tensor)];

macro_rules! binary {
    ($name:literal, $f:expr) => {
        OpDef {
            name: $name,
            params: XY,
            infer: arithmetic,
            lower: |_| map::binary($f),
            work: Work::PerResult(1),
            support: Support::Checked,
        }
    };
}

macro_rules! compare {
    ($name:literal, $f:expr) => {
        OpDef {
            name: $name,
            params: XY,
            infer: comparison,
            lower: |_| map::binary(|x: f32, y: f32| if $f(&x, &y) { 1.0 } else { 0.0 }),
            work: Work::PerResult(1),
            support: Support::Checked,
        }
    };
}

macro_rules! unary {
    ($name:literal, $work:expr, $f:expr) => {
        OpDef {
            name: $name,
            params: X,
            infer: same_as_x,
            lower: |_| map::unary($f),
            work: Work::PerResult($work),
            support: Support::Checked,
        }
    };
}

/// The family's rows of the op table.
pub const OPS: &[OpDef] = &[
    binary!("add", |x, y| x + y),
    binary!("sub", |x, y| x - y),
    binary!("mul", |x, y| x * y),
    binary!("real_div", |x, y| x / y),
    binary!("floor_div", |x: f32, y: f32| (x / y).floor()),
    binary!("maximum", |x: f32, y: f32| if x > y || x.is_nan() { x } else { y }),
    binary!("minimum", |x: f32, y: f32| if x < y || x.is_nan() { x } else { y }),
    OpDef {
        name: "pow",
        params: XY,
        infer: arithmetic,
        lower: lower_pow,
        work: Work::PerResult(4),
        support: Support::Checked,
    },
    compare!("equal", PartialEq::eq),
    compare!("not_equal", PartialEq::ne),
    compare!("less", PartialOrd::lt),
    compare!("less_equal", PartialOrd::le),
    compare!("greater", PartialOrd::gt),
    compare!("greater_equal", PartialOrd::ge),
    OpDef {
        name: "logical_not",
        params: X,
        infer: |call| {
            let x = call.ty("x")?;
            match x.dtype {
                DType::Bool => Ok(vec![x.clone()]),
                other => Err(Fault::ty(format!("`x` is {other}, not bool"), "compare it with 0 first")),
            }
        },
        lower: |_| map::unary(|x| 1.0 - x),
        work: Work::PerResult(1),
        support: Support::Checked,
    },
    OpDef {
        name: "select",
        params: &[need("cond", Kind::Tensor), need("a", Kind::Tensor), need("b", Kind::Tensor)],
        infer: infer_select,
        lower: |_| map::ternary(|cond, a, b| if cond != 0.0 { a } else { b }),
        work: Work::PerResult(1),
        support: Support::Checked,
    },
    unary!("abs", 1, |x: f32| x.abs()),
    unary!("sign", 1, |x: f32| if x > 0.0 {
        1.0
    } else if x < 0.0 {
        -1.0
    } else {
        x
    }),
    unary!("ceil", 1, |x: f32| x.ceil()),
    unary!("floor", 1, |x: f32| x.floor()),
    // Half away from zero on the ANE (ANEForge, PR 116), where numpy rounds half to even.
    unary!("round", 1, |x: f32| (x + 0.5f32.copysign(x)).trunc()),
    unary!("square", 1, |x: f32| x * x),
    unary!("sqrt", 4, |x: f32| x.sqrt()),
    unary!("exp", 4, math::exp),
    unary!("exp2", 4, |x: f32| x.exp2()),
    unary!("erf", 4, math::erf),
    unary!("atan", 4, |x: f32| x.atan()),
    OpDef {
        name: "rsqrt",
        params: X_EPSILON,
        infer: same_as_x,
        lower: |call| {
            let epsilon = call.float("epsilon").unwrap_or(0.0);
            map::unary(move |x| 1.0 / (x + epsilon).sqrt())
        },
        work: Work::PerResult(4),
        support: Support::Checked,
    },
    OpDef {
        name: "log",
        params: X_EPSILON,
        infer: same_as_x,
        lower: |call| {
            let epsilon = call.float("epsilon").unwrap_or(0.0);
            map::unary(move |x| (x + epsilon).ln())
        },
        work: Work::PerResult(4),
        support: Support::Checked,
    },
    OpDef {
        name: "inverse",
        params: X_EPSILON,
        infer: same_as_x,
        lower: |call| {
            let epsilon = call.float("epsilon").unwrap_or(0.0);
            map::unary(move |x| 1.0 / (x + epsilon))
        },
        work: Work::PerResult(4),
        support: Support::Checked,
    },
    OpDef {
        name: "clip",
        params: &[need("alpha", Kind::Float), need("beta", Kind::Float), need("x", Kind::Tensor)],
        infer: same_as_x,
        lower: |call| {
            let low = call.float("alpha").unwrap_or(f32::NEG_INFINITY);
            let high = call.float("beta").unwrap_or(f32::INFINITY);
            map::unary(move |x| {
                let x = if x < low { low } else { x };
                if x > high { high } else { x }
            })
        },
        work: Work::PerResult(2),
        support: Support::Checked,
    },
    OpDef {
        name: "threshold",
        params: &[may("alpha", Kind::Float), need("x", Kind::Tensor)],
        infer: same_as_x,
        lower: |call| {
            let alpha = call.float("alpha").unwrap_or(0.0);
            map::unary(move |x| if x < alpha { alpha } else { x })
        },
        work: Work::PerResult(1),
        support: Support::Compiles,
    },
];

/// The result has the type of `x`, which must be a float.
pub(crate) fn same_as_x(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let x = call.ty("x")?;
    if !x.dtype.is_float() {
        return Err(Fault::ty(
            format!("`x` is {}, but the operation takes floats", x.dtype),
            "cast it to fp16",
        ));
    }
    Ok(vec![x.clone()])
}

fn arithmetic(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let (x, y) = (call.ty("x")?, call.ty("y")?);
    let result = together(x, y)?;
    if !result.dtype.is_float() {
        return Err(Fault::ty(
            format!("the operands are {}, and the ANE computes in fp16 only", x.dtype),
            "cast them to fp16",
        ));
    }
    Ok(vec![result])
}

fn comparison(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let both = together(call.ty("x")?, call.ty("y")?)?;
    Ok(vec![TensorType { dtype: DType::Bool, shape: both.shape }])
}

fn infer_select(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let cond = call.ty("cond")?;
    if cond.dtype != DType::Bool {
        return Err(Fault::ty(
            format!("`cond` is {}, not bool", cond.dtype),
            "compare with `greater` or the like",
        ));
    }
    let both = together(call.ty("a")?, call.ty("b")?)?;
    let shape = both.shape.broadcast(&cond.shape).ok_or_else(|| shapes(cond, &both))?;
    Ok(vec![TensorType { dtype: both.dtype, shape }])
}

/// The common type of two operands.
pub(crate) fn together(x: &TensorType, y: &TensorType) -> Result<TensorType, Fault> {
    if x.dtype != y.dtype {
        return Err(Fault::ty(
            format!("the operands are {} and {}", x.dtype, y.dtype),
            format!("cast one, or write a constant as `{}`", x.dtype),
        ));
    }
    let shape = x.shape.broadcast(&y.shape).ok_or_else(|| shapes(x, y))?;
    Ok(TensorType { dtype: x.dtype, shape })
}

fn shapes(x: &TensorType, y: &TensorType) -> Fault {
    Fault::ty(
        format!("{} and {} do not broadcast", x.shape, y.shape),
        "make each axis equal, or 1 on one side",
    )
}

/// Powers that kernels use get exact forms; others go through `powf`.
fn lower_pow(call: &Call<'_>) -> Lower {
    match call.float("y").filter(|_| call.opt_ty("y").is_some_and(|t| t.shape.rank() == 0)) {
        Some(-0.5) => map::binary(|x: f32, _| 1.0 / x.sqrt()),
        Some(0.5) => map::binary(|x: f32, _| x.sqrt()),
        Some(-1.0) => map::binary(|x: f32, _| 1.0 / x),
        Some(2.0) => map::binary(|x: f32, _| x * x),
        _ => map::binary(|x: f32, y: f32| x.powf(y)),
    }
}
