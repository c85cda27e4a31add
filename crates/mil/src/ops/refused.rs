//! Operations that exist in MIL and that ANE compilers refuse, with what to write instead.
//!
//! Source: op probes on M3 Pro, macOS 15.4 (jafreck/ironmill), agreed to by sbryngelson/ANEForge.

use super::{OpDef, Support, Work};
use crate::eval::Lower;

macro_rules! refused {
    ($($name:literal => $instead:literal),* $(,)?) => {
        &[$(OpDef {
            name: $name,
            params: &[],
            infer: |_| Ok(Vec::new()),
            lower: |_| Lower::Missing,
            work: Work::None,
            support: Support::Refused($instead),
        }),*]
    };
}

/// The family's rows of the op table.
pub const OPS: &[OpDef] = refused! {
    "mod" => "compute x − y · floor(x / y)",
    "logical_and" => "multiply the conditions as fp16",
    "logical_or" => "take the maximum of the conditions as fp16",
    "logical_xor" => "compare the conditions with `not_equal`",
    "batch_norm" => "fold it into a multiplication and an addition",
    "reduce_prod" => "sum logarithms, or compute it on the CPU",
    "sin" => "bake a table as a constant",
    "cos" => "bake a table as a constant",
    "tan" => "bake a table as a constant",
    "asin" => "compute it on the CPU",
    "acos" => "compute it on the CPU",
    "sinh" => "combine two `exp`",
    "cosh" => "combine two `exp`",
    "gather" => "gather on the CPU",
    "gather_along_axis" => "gather on the CPU",
    "gather_nd" => "gather on the CPU",
    "scatter" => "scatter on the CPU",
    "scatter_along_axis" => "scatter on the CPU",
    "scatter_nd" => "scatter on the CPU",
    "non_zero" => "find indices on the CPU",
    "one_hot" => "pass the one-hot tensor as an input",
    "gru" => "unroll it into matmuls",
    "lstm" => "unroll it into matmuls",
};
