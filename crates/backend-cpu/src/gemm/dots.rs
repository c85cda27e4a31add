//! A few rows against a matrix whose columns are contiguous, as in decoding: every number of `b`
//! is used so few times that packing it would cost more than the product.

use super::{Into, Mat, Target, Tasks};
use crate::Isa;
use crate::kernels::vector::dot;

/// Columns of one task.
const COLUMNS: usize = 64;

pub(super) fn matmul(isa: Isa, tasks: Tasks<'_>, alpha: f32, a: Mat<'_>, b: Mat<'_>, into: Into, c: Target) {
    let n = b.cols;
    tasks.run(n.div_ceil(COLUMNS), |task, _| {
        for j in task * COLUMNS..n.min((task + 1) * COLUMNS) {
            let column = b.t().row(j);
            for i in 0..a.rows {
                let sum = alpha * dot(isa, a.row(i), column);
                // SAFETY: `(i, j)` is inside the matrix, and this task alone has column `j`.
                unsafe {
                    let c = c.place(i, j);
                    *c = if into == Into::Add { *c + sum } else { sum };
                }
            }
        }
    });
}
