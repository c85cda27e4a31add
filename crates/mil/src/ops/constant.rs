//! Constants, casts and quantised values.
//!
//! ```text
//! quantize:                     round(x / scale) + zero_point, saturated
//! dequantize, affine constexpr: (q − zero_point) · scale          scale per tensor or along `axis`
//! lut_to_dense:                 lut[index]
//! ```

use super::{Call, Fault, Kind, OpDef, Support, Work, may, need};
use crate::eval::{Io, Kernel, Lower, map, store};
use crate::program::Data;
use crate::types::{DType, TensorType};

/// The family's rows of the op table.
pub const OPS: &[OpDef] = &[
    OpDef {
        name: "const",
        params: &[],
        infer: |call| match call.op.attr("val") {
            Some(literal) => Ok(vec![literal.ty.clone()]),
            None => Err(Fault::operand("the constant has no `val`", "write `const()[name = …, val = …]`")),
        },
        lower: |_| Lower::Constant,
        work: Work::None,
        support: Support::Checked,
    },
    OpDef {
        name: "cast",
        params: &[need("dtype", Kind::Str), need("x", Kind::Tensor)],
        infer: infer_cast,
        lower: lower_cast,
        work: Work::None,
        support: Support::Checked,
    },
    OpDef {
        name: "quantize",
        params: &[
            need("input", Kind::Tensor),
            need("output_dtype", Kind::Str),
            need("scale", Kind::Tensor),
            may("zero_point", Kind::Tensor),
            may("axis", Kind::Int),
        ],
        infer: |call| {
            let input = call.ty("input")?;
            let name = call.string("output_dtype").unwrap_or("");
            let dtype =
                DType::from_name(name).filter(|d| matches!(d, DType::Int8 | DType::UInt8)).ok_or_else(
                    || Fault::operand(format!("`output_dtype` is {name:?}"), "write \"int8\" or \"uint8\""),
                )?;
            scale_axis(call, input)?;
            Ok(vec![TensorType { dtype, shape: input.shape.clone() }])
        },
        lower: |call| lower_scaled(call, "input", true),
        work: Work::PerResult(2),
        support: Support::Checked,
    },
    OpDef {
        name: "dequantize",
        params: &[
            need("input", Kind::Tensor),
            need("scale", Kind::Tensor),
            may("zero_point", Kind::Tensor),
            may("axis", Kind::Int),
        ],
        infer: |call| infer_dequantize(call, "input"),
        lower: |call| lower_scaled(call, "input", false),
        work: Work::PerResult(2),
        support: Support::Checked,
    },
    OpDef {
        name: "constexpr_affine_dequantize",
        params: &[
            need("quantized_data", Kind::Tensor),
            need("scale", Kind::Tensor),
            need("zero_point", Kind::Tensor),
            need("axis", Kind::Int),
        ],
        infer: |call| infer_dequantize(call, "quantized_data"),
        lower: |call| lower_scaled(call, "quantized_data", false),
        work: Work::None,
        support: Support::Checked,
    },
    OpDef {
        name: "constexpr_lut_to_dense",
        params: &[
            need("indices", Kind::Tensor),
            need("lut", Kind::Tensor),
            may("shape", Kind::Ints),
            may("vector_axis", Kind::Int),
        ],
        // Indices are packed below a byte in the older form, so only the declared type is known.
        infer: |call| {
            Ok(vec![TensorType { dtype: call.ty("lut")?.dtype, shape: call.result(0).shape.clone() }])
        },
        lower: |_| Lower::Missing,
        work: Work::None,
        support: Support::Checked,
    },
];

/// Types that `cast` goes between on the ANE; int32 and the 4-bit types are refused.
const CASTS: [DType; 7] =
    [DType::Fp16, DType::Fp32, DType::Bool, DType::Int8, DType::UInt8, DType::Int16, DType::UInt16];

fn infer_cast(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let x = call.ty("x")?;
    let name = call.string("dtype").unwrap_or("");
    let to = DType::from_name(name).filter(|d| CASTS.contains(d) && CASTS.contains(&x.dtype)).ok_or_else(
        || {
            Fault::ty(
                format!("the ANE has no cast from {} to {name:?}", x.dtype),
                format!("cast between {}", CASTS.map(DType::name).join(", ")),
            )
        },
    )?;
    Ok(vec![TensorType { dtype: to, shape: x.shape.clone() }])
}

fn lower_cast(call: &Call<'_>) -> Lower {
    let Some(from) = call.opt_ty("x").map(|x| x.dtype) else { return Lower::Missing };
    let to = call.result(0).dtype;
    match to {
        _ if from == to => Lower::view(|x| Some(vec![*x])),
        DType::Bool => map::convert(|x| if x != 0.0 { 1.0 } else { 0.0 }),
        DType::Fp32 => map::convert(|x| x),
        DType::Fp16 => map::unary(|x| x),
        to => {
            let (low, high) = to.int_range().unwrap_or((0, 0));
            let (low, high) = (low as f32, high as f32);
            // Saturation is measured for int8 (ironmill); NaN becomes 0.
            map::convert(move |x| if x.is_nan() { 0.0 } else { x.trunc().clamp(low, high) })
        }
    }
}

fn infer_dequantize(call: &Call<'_>, data: &str) -> Result<Vec<TensorType>, Fault> {
    let (input, scale) = (call.ty(data)?, call.ty("scale")?);
    if !matches!(input.dtype, DType::Int8 | DType::UInt8) || !scale.dtype.is_float() {
        return Err(Fault::ty(
            format!("`{input}` with a scale `{scale}` cannot be dequantised"),
            "give int8 or uint8 data and an fp16 scale",
        ));
    }
    scale_axis(call, input)?;
    Ok(vec![TensorType { dtype: scale.dtype, shape: input.shape.clone() }])
}

/// The axis that a scale per channel runs along.
fn scale_axis(call: &Call<'_>, input: &TensorType) -> Result<Option<usize>, Fault> {
    let axis = call.int("axis").and_then(|a| input.shape.axis(a));
    for name in ["scale", "zero_point"] {
        let Some(ty) = call.opt_ty(name).filter(|ty| ty.shape.rank() > 0) else { continue };
        if axis.is_none_or(|a| *ty.shape != [input.shape[a]]) {
            return Err(Fault::ty(
                format!("`{name}` is `{ty}`, not one value or one per index of an axis of {}", input.shape),
                "give a scalar, or `axis` and one value per index",
            ));
        }
    }
    Ok(axis)
}

fn lower_scaled(call: &Call<'_>, data: &str, quantize: bool) -> Lower {
    let Some(input) = call.opt_ty(data) else { return Lower::Missing };
    let axis = scale_axis(call, input).ok().flatten().unwrap_or(0);
    let inner = input.shape.get(axis + 1..).map_or(1, |d| d.iter().product());
    let range = if quantize { call.result(0).dtype.int_range() } else { None };
    if matches!(call.literal(data).map(|l| &l.data), Some(Data::Str(_))) {
        return Lower::Missing;
    }
    Lower::kernel(Scaled { inner, range })
}

struct Scaled {
    /// Elements per step of the scale's axis.
    inner: usize,
    /// Set when quantising.
    range: Option<(i64, i64)>,
}

impl Kernel for Scaled {
    fn run(&self, io: &mut Io<'_>) {
        let (x, scale) = (io.view(0), io.view(1));
        let load = |view: crate::eval::View<'_>| {
            let mut values = vec![0f32; view.layout.len()];
            view.load(&mut values);
            values
        };
        let (mut values, scale) = (load(x), load(scale));
        let zero = if io.operands() > 2 { load(io.view(2)) } else { vec![0.0] };
        for (i, y) in values.iter_mut().enumerate() {
            let channel = i / self.inner.max(1);
            let (s, z) = (scale[channel % scale.len()], zero[channel % zero.len()]);
            *y = match self.range {
                Some((low, high)) => ((*y / s).round_ties_even() + z).clamp(low as f32, high as f32),
                None => (*y - z) * s,
            };
        }
        match self.range {
            Some(_) => crate::eval::store_exact(&mut io.out, 0, &values),
            None => store(io.env.arch, &mut io.out, 0, &mut values, &mut io.env.stats),
        }
    }
}
