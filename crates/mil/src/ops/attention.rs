//! Fused attention, `softmax(q · kᵀ / √d + mask) · v`.
//!
//! Kernels write it out instead: whether the ANE honours the mask is contested.

use super::linear::products;
use super::normalize::softmax_rows;
use super::{Call, Fault, Kind, OpDef, Support, Work, may, need};
use crate::eval::{Io, Kernel, Layout, Lower, MAX_RANK, Slice, View, store};
use crate::types::{DType, Shape, TensorType};

/// The family's rows of the op table.
pub const OPS: &[OpDef] = &[OpDef {
    name: "scaled_dot_product_attention",
    params: &[
        need("query", Kind::Tensor),
        need("key", Kind::Tensor),
        need("value", Kind::Tensor),
        may("attn_mask", Kind::Tensor),
    ],
    infer,
    lower: |call| {
        let keeps_true = call.opt_ty("attn_mask").is_some_and(|t| t.dtype == DType::Bool);
        Lower::kernel(Attention { keeps_true })
    },
    work: Work::Count(|call| {
        let (Some(q), Some(k), Some(v)) = (call.opt_ty("query"), call.opt_ty("key"), call.opt_ty("value"))
        else {
            return 0;
        };
        let last =
            |t: &TensorType, back: usize| t.shape.rank().checked_sub(back).map_or(1, |i| t.shape[i]) as u64;
        let scores = (q.shape.elements() as u64 / last(q, 1).max(1)).saturating_mul(last(k, 2));
        scores.saturating_mul(2 * (last(q, 1) + last(v, 1)) + 7)
    }),
    support: Support::Contested(
        "two projects see the mask ignored, one sees it honoured; write matmul, mask, softmax, matmul",
    ),
}];

fn infer(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let (q, k, v) = (call.ty("query")?, call.ty("key")?, call.ty("value")?);
    let rank = q.shape.rank();
    let same = |t: &TensorType| t.dtype == q.dtype && t.shape.rank() == rank;
    let fits = rank >= 3
        && q.dtype.is_float()
        && same(k)
        && same(v)
        && q.shape[..rank - 2] == k.shape[..rank - 2]
        && q.shape[..rank - 2] == v.shape[..rank - 2]
        && q.shape[rank - 1] == k.shape[rank - 1]
        && k.shape[rank - 2] == v.shape[rank - 2];
    if !fits {
        return Err(Fault::ty(
            format!("query {}, key {}, value {} do not go together", q.shape, k.shape, v.shape),
            "give […, L, E], […, S, E] and […, S, V] with equal batches in one type",
        ));
    }
    let mut scores = q.shape.to_vec();
    scores[rank - 1] = k.shape[rank - 2];
    if let Some(mask) = call.opt_ty("attn_mask") {
        let scores = Shape::new(scores);
        if scores.broadcast(&mask.shape).as_ref() != Some(&scores) {
            return Err(Fault::ty(
                format!("the mask {} does not broadcast to {scores}", mask.shape),
                "give […, L, S]",
            ));
        }
    }
    let mut dims = q.shape.to_vec();
    dims[rank - 1] = v.shape[rank - 1];
    Ok(vec![TensorType { dtype: q.dtype, shape: Shape::new(dims) }])
}

struct Attention {
    /// The mask is bool and keeps what is true; any other is added.
    keeps_true: bool,
}

impl Kernel for Attention {
    fn run(&self, io: &mut Io<'_>) {
        let (q, k, v) = (io.view(0), io.view(1), io.view(2));
        let rank = q.layout.dims().len();
        let depth = q.layout.dims()[rank - 1];
        let mut dims = [0; MAX_RANK];
        dims[..rank].copy_from_slice(q.layout.dims());
        dims[rank - 1] = k.layout.dims()[rank - 2];
        let dims = &dims[..rank];
        let len = dims.iter().product();
        let width = dims[rank - 1];

        // Scores are rounded to fp16 after each of the steps that a written-out attention has.
        let mut scores = crate::eval::Buf::F16(vec![half::f16::ZERO; len]);
        let mut perm: [usize; MAX_RANK] = std::array::from_fn(|i| i);
        perm.swap(rank - 1, rank - 2);
        let keys = View { layout: k.layout.permute(&perm[..rank]), ..k };
        products(&mut io.with_out(scores.as_mut(len), dims), q, keys);

        let mut line = vec![0f32; len];
        let scale = 1.0 / (depth as f32).sqrt();
        let stats = &mut io.env.stats;
        let arch = io.env.arch;
        load(&scores, dims, &mut line);
        line.iter_mut().for_each(|x| *x *= scale);
        store(arch, &mut scores.as_mut(len), 0, &mut line, stats);
        if io.operands.len() > 3 {
            let mask = io.view(3);
            let mut added = vec![0f32; len];
            View { layout: mask.layout.broadcast(dims), ..mask }.load(&mut added);
            load(&scores, dims, &mut line);
            for (x, m) in line.iter_mut().zip(&added) {
                *x = match self.keeps_true {
                    true => {
                        if *m != 0.0 {
                            *x
                        } else {
                            f32::NEG_INFINITY
                        }
                    }
                    false => *x + m,
                };
            }
            store(arch, &mut scores.as_mut(len), 0, &mut line, &mut io.env.stats);
        }
        load(&scores, dims, &mut line);
        softmax_rows(arch, &mut line, width);
        store(arch, &mut scores.as_mut(len), 0, &mut line, &mut io.env.stats);
        let crate::eval::Buf::F16(probabilities) = &scores else { return };
        products(io, View { data: Slice::F16(probabilities), layout: Layout::dense(dims) }, v);
    }
}

fn load(buf: &crate::eval::Buf, dims: &[usize], out: &mut [f32]) {
    if let crate::eval::Buf::F16(data) = buf {
        View { data: Slice::F16(data), layout: Layout::dense(dims) }.load(out);
    }
}
