//! The same packing and products of bf16 in plain Rust: for machines without the instructions, and the
//! yardstick of those that have them.

use half::bf16;

use super::{MR, NR, V};
use crate::gemm::{Into, Mat, Target};

/// The pair of numbers `2p` and `2p + 1` of row `i`; zeros outside.
fn pair(a: Mat<'_>, i: usize, p: usize) -> u32 {
    let number = |k: usize| {
        let inside = i < a.rows && k < a.cols;
        let x = if inside { a.at(i, k) } else { 0.0 };
        u32::from(bf16::from_f32(x).to_bits())
    };
    number(2 * p) | number(2 * p + 1) << 16
}

/// Both numbers of a pair.
#[inline(always)]
fn both(pair: u32) -> (f32, f32) {
    (f32::from_bits(pair << 16), f32::from_bits(pair & 0xFFFF_0000))
}

/// See [`super::Unit::pack_rows`].
///
/// # Safety
///
/// `to` is writable for `a.rows` rounded up to [`MR`], times the pairs of `a.cols`.
pub(super) unsafe fn pack_rows(a: Mat<'_>, to: *mut u32) {
    let pairs = a.cols.div_ceil(2);
    for i in 0..a.rows.next_multiple_of(MR) {
        for p in 0..pairs {
            // SAFETY: inside what the caller promised.
            unsafe { *to.add(i / MR * MR * pairs + p * MR + i % MR) = pair(a, i, p) };
        }
    }
}

/// See [`super::Unit::pack_columns`].
///
/// # Safety
///
/// `to` is writable for the pairs of `b.rows`, times `b.cols` rounded up to [`V`].
pub(super) unsafe fn pack_columns(b: Mat<'_>, to: *mut u32) {
    let pairs = b.rows.div_ceil(2);
    for j in 0..b.cols.next_multiple_of(V) {
        let panel = j / NR * NR;
        let width = NR.min(b.cols - panel).next_multiple_of(V);
        for p in 0..pairs {
            // SAFETY: inside what the caller promised.
            unsafe { *to.add(panel * pairs + p * width + (j - panel)) = pair(b.t(), j, p) };
        }
    }
}

/// See [`super::Unit::turn`].
///
/// # Safety
///
/// `from` holds `pairs` vectors of 16 rows, `stride` numbers apart; `to` is writable for 8 vectors,
/// [`super::turned_width`] numbers apart.
pub(super) unsafe fn turn(from: *const u32, stride: usize, pairs: usize, to: *mut u32) {
    let width = super::turned_width(pairs);
    for q in 0..V / 2 {
        for j in 0..width {
            // SAFETY: the vectors that the caller promised.
            let number = |row: usize| unsafe {
                if j / 2 < pairs { *from.add(j / 2 * stride + row) >> (j % 2 * 16) & 0xFFFF } else { 0 }
            };
            let value = number(2 * q) | number(2 * q + 1) << 16;
            // SAFETY: as above.
            unsafe { *to.add(q * width + j) = value };
        }
    }
}

/// See [`super::Unit::panels`].
///
/// # Safety
///
/// `a` and `b` hold the packed panels of this shape; `c` is writable for `rows` rows of `cols`
/// numbers and nobody else uses it.
#[allow(clippy::too_many_arguments)]
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
    for j in (0..cols).step_by(NR) {
        let count = NR.min(cols - j);
        let width = count.next_multiple_of(V);
        for i in 0..rows {
            let mut sums = [0.0f32; NR];
            for p in 0..pairs {
                // SAFETY: inside the packed operands, as the caller promised.
                let (x, b) = unsafe {
                    let a = a.0.add(i / MR * MR * a.1 + p * MR + i % MR);
                    (both(*a), std::slice::from_raw_parts(b.0.add(j * b.1 + p * width), width))
                };
                for (sum, y) in sums.iter_mut().zip(b) {
                    let y = both(*y);
                    *sum += x.0 * y.0;
                    *sum += x.1 * y.1;
                }
            }
            for (v, sum) in sums.iter().enumerate().take(count) {
                // SAFETY: inside `c`, as the caller promised.
                unsafe {
                    let c = c.at(i, j + v).data;
                    *c = if into == Into::Add { *c + alpha * sum } else { alpha * sum };
                }
            }
        }
    }
}
