//! The `gemm-f32` crate on tiles of a fixed size: AVX2, NEON, and whatever it chooses elsewhere.

use gemm_common::Parallelism;
use gemm_f32::gemm::f32::get_gemm_fn;

use super::{Into, Mat, Target, Tasks};
use crate::Isa;

/// Rows and columns of a tile. Large enough that packing costs little, small enough to share out.
const TILE: usize = 192;

/// Places for the sums of squares of a product: one for each tile.
pub(super) fn squares(m: usize, n: usize) -> usize {
    m.div_ceil(TILE) * n.div_ceil(TILE)
}

pub(super) fn matmul(isa: Isa, tasks: Tasks<'_>, alpha: f32, a: Mat<'_>, b: Mat<'_>, into: Into, c: Target) {
    let (m, n) = (a.rows, b.cols);
    let across = n.div_ceil(TILE);
    tasks.run(m.div_ceil(TILE) * across, |task, _| {
        let (i, j) = (task / across * TILE, task % across * TILE);
        let (rows, cols) = (TILE.min(m - i), TILE.min(n - j));
        let (a, b) = (a.part(i, rows, 0, a.cols), b.part(0, b.rows, j, cols));
        // SAFETY: this task alone writes this tile, which lies inside the matrix.
        unsafe {
            let c = c.at(i, j).of_task(task, true);
            tile(alpha, a, b, into, c);
            c.add_squares(isa, rows, cols);
        }
    });
}

/// One product on this thread.
///
/// # Safety
///
/// `c` is writable for `a.rows` rows of `b.cols` numbers and nobody else uses it.
pub(super) unsafe fn tile(alpha: f32, a: Mat<'_>, b: Mat<'_>, into: Into, c: Target) {
    // SAFETY: `Mat` checked that its numbers are there; the caller answers for `c`. Strides and
    // extents are of existing slices, so they fit isize.
    unsafe {
        // Its kernels write columns, so the transposed product is asked for: cᵀ = bᵀ·aᵀ.
        get_gemm_fn()(
            b.cols,
            a.rows,
            a.cols,
            c.data,
            c.row_stride as isize,
            1,
            into == Into::Add,
            b.as_ptr(),
            b.row_stride as isize,
            b.col_stride as isize,
            a.as_ptr(),
            a.row_stride as isize,
            a.col_stride as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
