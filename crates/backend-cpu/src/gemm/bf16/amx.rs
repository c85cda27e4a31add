//! Packing and products with tiles of AMX.
//!
//! One `tdpbf16ps` multiplies 16 rows of 16 pairs with 16 pairs of 16 columns: 8192 multiply-adds in
//! 16 cycles, sixteen times the work of an f32 multiply-add. The left operand is stored tile by tile,
//! the pairs of a row next to each other; the right one in the panels of the other kernels, which
//! already are rows of 16 columns. Four tiles of `c` stay in registers, two of each operand pass by.
//! Numbers below the smallest normal one count as zero.

use std::arch::x86_64::*;

use super::avx512::{bits, interleave};
use super::{NR, V};
use crate::gemm::amx::{ROW_BYTES, ROWS, Tiles, fetch, load, multiply, store, zero};
use crate::gemm::transpose::transpose;
use crate::gemm::{Into, Mat, Target};

/// Rows of `a` that go by while a panel of `b` stays in the second-level cache.
const PASS_ROWS: usize = 512;

/// See [`super::Unit::pack_rows`].
///
/// # Safety
///
/// The instructions are there; `to` is writable for `a.rows` rounded up to [`ROWS`], times the
/// pairs of `a.cols` rounded up to [`V`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack_rows(a: Mat<'_>, to: *mut u32) {
    let (rows, depth, from) = (a.rows, a.cols, a.data.as_ptr());
    let pairs = depth.div_ceil(2).next_multiple_of(V);
    if a.row_stride == 1 && a.col_stride != 1 {
        for k in (0..depth).step_by(2 * V) {
            for i in (0..rows).step_by(ROWS) {
                let mask = u16::MAX >> (ROWS - ROWS.min(rows - i));
                let mut r = [_mm512_setzero_si512(); V];
                for (p, r) in r.iter_mut().enumerate().take((depth - k).div_ceil(2)) {
                    let at = from.wrapping_add((k + 2 * p) * a.col_stride + i);
                    let odd = if k + 2 * p + 1 < depth { mask } else { 0 };
                    // SAFETY: masked to the rows that are there; prefetches may be anywhere.
                    let (low, high) = unsafe {
                        for next in [0, a.col_stride] {
                            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(next + 2 * ROWS).cast());
                        }
                        (
                            _mm512_maskz_loadu_ps(mask, at),
                            _mm512_maskz_loadu_ps(odd, at.wrapping_add(a.col_stride)),
                        )
                    };
                    *r = interleave(low, high);
                }
                for (row, x) in transpose(r).into_iter().enumerate() {
                    // SAFETY: a tile of those that the caller promised.
                    unsafe { _mm512_storeu_si512(to.add(i * pairs + k / 2 * ROWS + row * V).cast(), x) };
                }
            }
        }
        return;
    }
    assert_eq!(a.col_stride, 1, "one stride of a matrix is 1");
    for i in 0..rows.next_multiple_of(ROWS) {
        let row = from.wrapping_add(i * a.row_stride);
        // SAFETY: a row of tiles of those that the caller promised.
        let to = unsafe { to.add(i / ROWS * ROWS * pairs + i % ROWS * V) };
        let count = if i < rows { depth } else { 0 };
        let whole = count / (2 * V) * (2 * V);
        for k in (0..whole).step_by(2 * V) {
            // SAFETY: 32 numbers of a row that is there, and a row of a tile.
            unsafe {
                let (low, high) = (_mm512_loadu_ps(row.add(k)), _mm512_loadu_ps(row.add(k + V)));
                let x = bits(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(to.add(k / 2 * ROWS).cast(), x);
            }
        }
        for k in (whole..2 * pairs).step_by(2 * V) {
            let left = count.saturating_sub(k).min(2 * V);
            let low = (u32::from(u16::MAX) >> (V - left.min(V))) as u16;
            let high = (u32::from(u16::MAX) >> (2 * V - left.max(V))) as u16;
            // SAFETY: masked to the numbers of a row that is there, and a row of a tile.
            unsafe {
                let (low, high) = (
                    _mm512_maskz_loadu_ps(low, row.wrapping_add(k)),
                    _mm512_maskz_loadu_ps(high, row.wrapping_add(k + V)),
                );
                let x = bits(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_si512(to.add(k / 2 * ROWS).cast(), x);
            }
        }
    }
}

/// Columns of `b`, 16 at a time: where they start, and the bytes from pair to pair.
#[derive(Clone, Copy)]
struct Columns {
    start: *const u32,
    stride: usize,
}

/// See [`super::Unit::panels`].
///
/// # Safety
///
/// The instructions are there; `a` and `b` hold the packed panels of this shape; `c` is writable
/// for `rows` rows of `cols` numbers and nobody else uses it.
#[allow(clippy::too_many_arguments)]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn panels(
    rows: usize,
    cols: usize,
    pairs: usize,
    a: (*const u32, usize),
    b: (*const u32, usize),
    c: Target,
    alpha: f32,
    into: Into,
) {
    let columns = |j: usize| {
        let panel = j / NR * NR;
        let width = NR.min(cols - panel).next_multiple_of(V);
        Columns { start: b.0.wrapping_add(panel * b.1 + (j - panel)), stride: 4 * width }
    };
    // SAFETY: the instructions are there.
    let _tiles = unsafe { Tiles::new() };
    // Those of all threads may lie in one line.
    let mut squares = 0.0;
    for i0 in (0..rows).step_by(PASS_ROWS) {
        for j in (0..cols).step_by(2 * V) {
            let width = (2 * V).min(cols - j);
            let b = [columns(j), columns(if width > V { j + V } else { j })];
            for i in (i0..rows.min(i0 + PASS_ROWS)).step_by(2 * ROWS) {
                let height = (2 * ROWS).min(rows - i);
                // SAFETY: inside the packed operands and `c`, as the caller promised.
                unsafe {
                    let (a, c) = ([i, i + ROWS].map(|i| a.0.wrapping_add(i * a.1)), c.at(i, j));
                    let tiles = match (height > ROWS, width > V) {
                        (false, false) => tiles::<false, false>,
                        (false, true) => tiles::<false, true>,
                        (true, false) => tiles::<true, false>,
                        (true, true) => tiles::<true, true>,
                    };
                    squares += tiles((height, width), pairs, a, b, c, alpha, into);
                }
            }
        }
    }
    // SAFETY: the place of this task, as the caller promised.
    unsafe { c.squares.add(squares) };
    if into == Into::Stream {
        // Whoever waits for this task sees what it wrote past the caches.
        _mm_sfence();
    }
}

/// Up to 32 rows and 32 columns of `c`: `TALL` says whether there is a second row of tiles, `WIDE`
/// whether there is a second column. Gives the sum of the squares of what `c` is then, if it is wanted.
///
/// # Safety
///
/// As for [`panels`]; tiles are configured.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn tiles<const TALL: bool, const WIDE: bool>(
    (rows, cols): (usize, usize),
    pairs: usize,
    a: [*const u32; 2],
    b: [Columns; 2],
    c: Target,
    alpha: f32,
    into: Into,
) -> f64 {
    let corners = [(0, 0), (0, V), (ROWS, 0), (ROWS, V)];
    let stride = 4 * c.row_stride;
    // Whole tiles that are not scaled are added up where they belong.
    let direct =
        alpha == 1.0 && rows == if TALL { 2 * ROWS } else { ROWS } && cols == if WIDE { 2 * V } else { V };
    let stream = direct
        && into == Into::Stream
        && c.data.addr().is_multiple_of(4 * V)
        && c.row_stride.is_multiple_of(V);
    // SAFETY: every access is inside what the caller promised; prefetches may be anywhere.
    unsafe {
        let [c00, c01, c10, c11] =
            corners.map(|(i, j)| c.data.wrapping_add(i * c.row_stride).wrapping_add(j));
        if direct && into == Into::Add {
            load!(0, c00, stride);
            if WIDE {
                load!(1, c01, stride);
            }
            if TALL {
                load!(2, c10, stride);
            }
            if TALL && WIDE {
                load!(3, c11, stride);
            }
        } else {
            zero!(0);
            zero!(1);
            zero!(2);
            zero!(3);
        }
        // The lines of `c` come while the products go on, a few per step.
        let fetched = if into == Into::Stream { 0 } else { rows };
        let step = rows.div_ceil((pairs / V).max(1)).max(2);
        for p in (0..pairs / V * V).step_by(V) {
            for i in (p / V * step..fetched).take(step) {
                let row = c.data.wrapping_add(i * c.row_stride);
                fetch(row);
                fetch(row.wrapping_add(V));
            }
            let b0 = b[0].start.add(p / V * 4 * b[0].stride);
            load!(4, a[0].add(p * ROWS), ROW_BYTES);
            load!(6, b0, b[0].stride);
            multiply!(0, 4, 6);
            if WIDE {
                load!(7, b[1].start.add(p / V * 4 * b[1].stride), b[1].stride);
                multiply!(1, 4, 7);
            }
            if TALL {
                load!(5, a[1].add(p * ROWS), ROW_BYTES);
                multiply!(2, 5, 6);
                if WIDE {
                    multiply!(3, 5, 7);
                }
            }
        }
        if !pairs.is_multiple_of(V) {
            // The last pairs, with zeros below them: behind them may lie anything.
            let p = pairs / V * V;
            let mut last = [[_mm512_setzero_si512(); V]; 2];
            for (last, b) in last.iter_mut().zip(b).take(if WIDE { 2 } else { 1 }) {
                for (q, last) in last.iter_mut().enumerate().take(pairs - p) {
                    *last = _mm512_loadu_si512(b.start.byte_add((p + q) * b.stride).cast());
                }
            }
            load!(4, a[0].add(p * ROWS), ROW_BYTES);
            load!(6, last[0].as_ptr(), ROW_BYTES);
            multiply!(0, 4, 6);
            if WIDE {
                load!(7, last[1].as_ptr(), ROW_BYTES);
                multiply!(1, 4, 7);
            }
            if TALL {
                load!(5, a[1].add(p * ROWS), ROW_BYTES);
                multiply!(2, 5, 6);
                if WIDE {
                    multiply!(3, 5, 7);
                }
            }
        }
        if direct && !stream && !c.squares.wanted() {
            store!(0, c00, stride);
            if WIDE {
                store!(1, c01, stride);
            }
            if TALL {
                store!(2, c10, stride);
            }
            if TALL && WIDE {
                store!(3, c11, stride);
            }
            return 0.0;
        }
        let mut sums = [[_mm512_setzero_ps(); ROWS]; 4];
        let [s0, s1, s2, s3] = &mut sums;
        store!(0, s0.as_mut_ptr(), ROW_BYTES);
        store!(1, s1.as_mut_ptr(), ROW_BYTES);
        store!(2, s2.as_mut_ptr(), ROW_BYTES);
        store!(3, s3.as_mut_ptr(), ROW_BYTES);
        let mut squares = [_mm512_setzero_ps(); 2];
        if direct {
            let count = if WIDE { 2 } else { 1 };
            for (i, row) in (0..rows).map(|i| (i, c.data.add(i * c.row_stride))) {
                for j in 0..count {
                    let sum = sums[i / ROWS * 2 + j][i % ROWS];
                    squares[j] = _mm512_fmadd_ps(sum, sum, squares[j]);
                    if stream {
                        _mm512_stream_ps(row.add(j * V), sum);
                    } else {
                        _mm512_storeu_ps(row.add(j * V), sum);
                    }
                }
            }
            return f64::from(_mm512_reduce_add_ps(_mm512_add_ps(squares[0], squares[1])));
        }
        let alpha = _mm512_set1_ps(alpha);
        for (sums, (i0, j)) in sums.into_iter().zip(corners) {
            let count = cols.saturating_sub(j).min(V);
            let mask = (u32::from(u16::MAX) >> (V - count)) as u16;
            for (i, sum) in sums.into_iter().enumerate().take(rows.saturating_sub(i0)) {
                let at = c.data.wrapping_add((i0 + i) * c.row_stride + j);
                let value = match into {
                    Into::Set | Into::Stream => _mm512_mul_ps(alpha, sum),
                    Into::Add => _mm512_fmadd_ps(alpha, sum, _mm512_maskz_loadu_ps(mask, at)),
                };
                _mm512_mask_storeu_ps(at, mask, value);
                squares[0] = _mm512_mask3_fmadd_ps(value, value, squares[0], mask);
            }
        }
        f64::from(_mm512_reduce_add_ps(squares[0]))
    }
}

/// Multiply-adds of a step of [`spin`].
pub(super) const SPIN: usize = 4 * ROWS * V * 2 * V;

/// `steps` times four products of tiles that wait for nothing but themselves.
///
/// # Safety
///
/// The instructions are there.
pub(super) unsafe fn spin(steps: usize) {
    // SAFETY: the instructions are there; tiles of zeros.
    unsafe {
        let _tiles = Tiles::new();
        for _ in 0..steps {
            multiply!(0, 4, 6);
            multiply!(1, 4, 7);
            multiply!(2, 5, 6);
            multiply!(3, 5, 7);
        }
    }
}
