//! Activation functions. On the ANE they are table look-ups with an error of about one fp16 step.

use super::elementwise::same_as_x;
use super::{Call, Fault, Kind, OpDef, Param, Support, Work, need};
use crate::eval::{Lower, map, math};
use crate::types::TensorType;

const X: &[Param] = &[need("x", Kind::Tensor)];
const ALPHA_X: &[Param] = &[need("alpha", Kind::Float), need("x", Kind::Tensor)];
const ALPHA_BETA_X: &[Param] =
    &[need("alpha", Kind::Float), need("beta", Kind::Float), need("x", Kind::Tensor)];

macro_rules! activation {
    ($name:literal, $support:expr, $f:expr) => {
        OpDef {
            name: $name,
            params: X,
            infer: same_as_x,
            lower: |_| map::unary($f),
            work: Work::PerResult(4),
            support: $support,
        }
    };
}

/// The family's rows of the op table.
pub const OPS: &[OpDef] = &[
    activation!("relu", Support::Checked, |x: f32| if x < 0.0 { 0.0 } else { x }),
    activation!("relu6", Support::Compiles, |x: f32| {
        let x = if x < 0.0 { 0.0 } else { x };
        if x > 6.0 { 6.0 } else { x }
    }),
    activation!("sigmoid", Support::Checked, math::sigmoid),
    activation!("tanh", Support::Checked, math::tanh),
    activation!("silu", Support::Checked, |x| x * math::sigmoid(x)),
    activation!("softplus", Support::Checked, |x: f32| {
        (if x > 0.0 { x } else { 0.0 }) + math::exp(-x.abs()).ln_1p()
    }),
    activation!("softsign", Support::Checked, |x: f32| x / (1.0 + x.abs())),
    OpDef {
        name: "gelu",
        params: &[need("mode", Kind::Str), need("x", Kind::Tensor)],
        infer: infer_gelu,
        lower: lower_gelu,
        work: Work::PerResult(8),
        support: Support::Contested(
            "two projects report a refusal, without a mode; one reports success with it",
        ),
    },
    OpDef {
        name: "leaky_relu",
        params: ALPHA_X,
        infer: same_as_x,
        lower: |call| {
            let alpha = call.float("alpha").unwrap_or(0.01);
            map::unary(move |x| if x < 0.0 { alpha * x } else { x })
        },
        work: Work::PerResult(2),
        support: Support::Compiles,
    },
    OpDef {
        name: "elu",
        params: ALPHA_X,
        infer: same_as_x,
        lower: |call| {
            let alpha = call.float("alpha").unwrap_or(1.0);
            map::unary(move |x| if x < 0.0 { alpha * (math::exp(x) - 1.0) } else { x })
        },
        work: Work::PerResult(4),
        support: Support::Compiles,
    },
    OpDef {
        name: "linear_activation",
        params: ALPHA_BETA_X,
        infer: same_as_x,
        lower: |call| {
            let (alpha, beta) = alpha_beta(call);
            map::unary(move |x| alpha * x + beta)
        },
        work: Work::PerResult(2),
        support: Support::Compiles,
    },
    OpDef {
        name: "sigmoid_hard",
        params: ALPHA_BETA_X,
        infer: same_as_x,
        lower: |call| {
            let (alpha, beta) = alpha_beta(call);
            map::unary(move |x| (alpha * x + beta).clamp(0.0, 1.0))
        },
        work: Work::PerResult(4),
        support: Support::Compiles,
    },
];

fn alpha_beta(call: &Call<'_>) -> (f32, f32) {
    (call.float("alpha").unwrap_or(1.0), call.float("beta").unwrap_or(0.0))
}

const GELU_MODES: [&str; 3] = ["EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"];

fn infer_gelu(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    match call.string("mode") {
        Some(mode) if GELU_MODES.contains(&mode) => same_as_x(call),
        mode => Err(Fault::operand(
            format!("the mode {:?} of `gelu` does not exist", mode.unwrap_or("")),
            format!("write one of {}", GELU_MODES.join(", ")),
        )),
    }
}

fn lower_gelu(call: &Call<'_>) -> Lower {
    const INNER: f32 = 0.797_884_6; // √(2/π)
    match call.string("mode") {
        Some("TANH_APPROXIMATION") => {
            map::unary(|x| 0.5 * x * (1.0 + math::tanh(INNER * (x + 0.044_715 * x * x * x))))
        }
        Some("SIGMOID_APPROXIMATION") => map::unary(|x| x * math::sigmoid(1.702 * x)),
        _ => map::unary(|x| 0.5 * x * (1.0 + math::erf(x * std::f32::consts::FRAC_1_SQRT_2))),
    }
}
