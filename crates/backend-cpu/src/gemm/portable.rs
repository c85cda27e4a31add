//! The `gemm` crate on tiles of a fixed size: AVX2, NEON, and whatever it chooses elsewhere.

use gemm::Parallelism;

use super::{Into, Mat, Target, Task};

/// Rows and columns of a tile. Large enough that packing costs little, small enough to share out.
const TILE: usize = 192;

pub(super) fn matmul(
    run: impl Fn(usize, &Task<'_>),
    alpha: f32,
    a: Mat<'_>,
    b: Mat<'_>,
    into: Into,
    c: Target,
) {
    let (m, n) = (a.rows, b.cols);
    let across = n.div_ceil(TILE);
    run(m.div_ceil(TILE) * across, &|task, _| {
        let (i, j) = (task / across * TILE, task % across * TILE);
        let (rows, cols) = (TILE.min(m - i), TILE.min(n - j));
        let (a, b) = (a.part(i, rows, 0, a.cols), b.part(0, b.rows, j, cols));
        // SAFETY: this task alone writes this tile, which lies inside the matrix.
        unsafe { tile(alpha, a, b, into, c.at(i, j)) };
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
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            c.data,
            1,
            c.row_stride as isize,
            into == Into::Add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}
