//! Packing and products with the dot-product instructions of AVX-512 BF16.
//!
//! One `vdpbf16ps` adds 16 products of pairs: twice the work of an f32 multiply-add. It rounds
//! sums to nearest and counts numbers below the smallest normal one as zero.

use std::arch::x86_64::*;

use super::{MR, NR, V};
use crate::gemm::transpose::{lanes, transpose};
use crate::gemm::{Into, Mat, Target};

/// Steps of packing between the prefetch of a number and its use: matrices come from the last cache
/// or from memory, in strides that the processor does not foresee.
const AHEAD: usize = 4;

/// Whether this machine has the instructions.
pub(super) fn detected() -> bool {
    is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw")
}

/// See [`super::unit::Unit::pack_rows`].
///
/// # Safety
///
/// The instructions are there; `to` is writable for `a.rows` rounded up to [`MR`], times the pairs
/// of `a.cols`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack_rows(a: Mat<'_>, to: *mut u32) {
    let (rows, pairs) = (a.rows, a.cols.div_ceil(2));
    let store = |i: usize, p: usize, x: __m512i| {
        // SAFETY: the panels of rows that are there.
        unsafe {
            let at = to.add(i * pairs + p * MR);
            _mm256_storeu_si256(at.cast(), _mm512_castsi512_si256(x));
            if rows - i > MR {
                _mm256_storeu_si256(at.add(MR * pairs).cast(), _mm512_extracti64x4_epi64::<1>(x));
            }
        }
    };
    // SAFETY: the instructions are there.
    unsafe { vectors(a, store) };
}

/// See [`super::unit::Unit::pack_columns`].
///
/// # Safety
///
/// The instructions are there; `to` is writable for the pairs of `b.rows`, times `b.cols` rounded
/// up to [`V`].
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn pack_columns(b: Mat<'_>, to: *mut u32) {
    let (cols, pairs) = (b.cols, b.rows.div_ceil(2));
    let store = |j: usize, p: usize, x: __m512i| {
        let panel = j / NR * NR;
        let width = NR.min(cols - panel).next_multiple_of(V);
        // SAFETY: the panels of columns that are there.
        unsafe { _mm512_storeu_si512(to.add(panel * pairs + p * width + (j - panel)).cast(), x) };
    };
    // SAFETY: the instructions are there.
    unsafe { vectors(b.t(), store) };
}

/// Gives the pairs of up to 16 rows from `i` on as one vector, for every `i` that is a multiple of
/// 16 and every pair `p`; missing rows and the missing half of the last pair are zeros. The order
/// is that in which memory is read best.
///
/// # Safety
///
/// The instructions are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn vectors(a: Mat<'_>, mut store: impl FnMut(usize, usize, __m512i)) {
    let (depth, from) = (a.cols, a.as_ptr());
    if a.row_stride == 1 {
        for p in 0..depth.div_ceil(2) {
            let at = from.wrapping_add(2 * p * a.col_stride);
            let whole = if 2 * p + 1 < depth { a.rows / V * V } else { 0 };
            for i in (0..whole).step_by(V) {
                // SAFETY: 16 rows that are there.
                let (low, high) = unsafe {
                    for ahead in [2 * AHEAD, 2 * AHEAD + 1] {
                        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(i + ahead * a.col_stride).cast());
                    }
                    (_mm512_loadu_ps(at.add(i)), _mm512_loadu_ps(at.add(i + a.col_stride)))
                };
                store(i, p, interleave(low, high));
            }
            for i in (whole..a.rows).step_by(V) {
                let mask = u16::MAX >> (V - V.min(a.rows - i));
                let odd = if 2 * p + 1 < depth { mask } else { 0 };
                // SAFETY: masked to the rows that are there.
                let (low, high) = unsafe {
                    (
                        _mm512_maskz_loadu_ps(mask, at.wrapping_add(i)),
                        _mm512_maskz_loadu_ps(odd, at.wrapping_add(i + a.col_stride)),
                    )
                };
                store(i, p, interleave(low, high));
            }
        }
        return;
    }
    assert_eq!(a.col_stride, 1, "one stride of a matrix is 1");
    for i in (0..a.rows).step_by(V) {
        let (from, rows) = (from.wrapping_add(i * a.row_stride), V.min(a.rows - i));
        let whole = if rows == V { depth / (2 * V) * 2 * V } else { 0 };
        for k in (0..whole).step_by(2 * V) {
            let mut r = [_mm512_setzero_si512(); V];
            for (i, r) in r.iter_mut().enumerate() {
                let at = from.wrapping_add(i * a.row_stride + k);
                // SAFETY: 32 numbers of a row that is there; prefetches may be anywhere.
                unsafe {
                    for line in 0..2 {
                        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(2 * V * AHEAD + line * V).cast());
                    }
                    let (low, high) = (_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(V)));
                    *r = bits(_mm512_cvtne2ps_pbh(high, low));
                }
            }
            for (q, x) in transpose(r).into_iter().enumerate() {
                store(i, k / 2 + q, x);
            }
        }
        for k in (whole..depth).step_by(2 * V) {
            let left = (depth - k).min(2 * V);
            let low = u16::MAX >> (V - left.min(V));
            let high = (u32::from(u16::MAX) >> (2 * V - left.max(V))) as u16;
            let mut r = [_mm512_setzero_si512(); V];
            for (i, r) in r.iter_mut().enumerate().take(rows) {
                let at = from.wrapping_add(i * a.row_stride + k);
                // SAFETY: masked to the numbers of a row that is there.
                let (low, high) = unsafe {
                    (_mm512_maskz_loadu_ps(low, at), _mm512_maskz_loadu_ps(high, at.wrapping_add(V)))
                };
                *r = bits(_mm512_cvtne2ps_pbh(high, low));
            }
            for (q, x) in transpose(r).into_iter().enumerate().take(left.div_ceil(2)) {
                store(i, k / 2 + q, x);
            }
        }
    }
}

/// Pairs `(low[i], high[i])`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(in crate::gemm) fn interleave(low: __m512, high: __m512) -> __m512i {
    const ORDER: [u16; 32] = {
        let mut order = [0; 32];
        let mut i = 0;
        while i < 16 {
            order[2 * i] = i as u16;
            order[2 * i + 1] = 16 + i as u16;
            i += 1;
        }
        order
    };
    // SAFETY: 64 bytes of a constant.
    let order = unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) };
    _mm512_permutexvar_epi16(order, bits(_mm512_cvtne2ps_pbh(high, low)))
}

#[inline]
pub(in crate::gemm) fn bits(x: __m512bh) -> __m512i {
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { std::mem::transmute(x) }
}

#[inline]
fn pairs_of(x: __m512i) -> __m512bh {
    // SAFETY: as above.
    unsafe { std::mem::transmute(x) }
}

/// See [`super::unit::Unit::turn`].
///
/// # Safety
///
/// The instructions are there; `from` holds `pairs` vectors of 16 rows, `stride` numbers apart;
/// `to` is writable for 8 vectors, [`super::panels::turned_width`] numbers apart, of `pairs` pairs each.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn turn(from: *const u32, stride: usize, pairs: usize, next: *const u32, to: *mut u32) {
    let width = super::panels::turned_width(pairs);
    // The middle two numbers of four exchange places: two rows of pairs become two pairs of rows.
    let order = _mm512_set4_epi32(0x0F0E_0B0A, 0x0D0C_0908, 0x0706_0302, 0x0504_0100);
    for p in (0..pairs).step_by(8) {
        // The same block of the next panel comes soon, from another place.
        for line in 0..8 {
            _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add((p + line) * stride).cast());
        }
        let mut r = [_mm512_setzero_si512(); 8];
        for (u, r) in r.iter_mut().enumerate().take(pairs - p) {
            // SAFETY: one of the vectors that the caller promised.
            let x = unsafe { _mm512_loadu_si512(from.add((p + u) * stride).cast()) };
            *r = _mm512_shuffle_epi8(x, order);
        }
        // 64-bit blocks of eight vectors, rows and columns exchanged.
        let mut low = [_mm512_setzero_si512(); 4];
        let mut high = low;
        for g in 0..4 {
            low[g] = _mm512_unpacklo_epi64(r[2 * g], r[2 * g + 1]);
            high[g] = _mm512_unpackhi_epi64(r[2 * g], r[2 * g + 1]);
        }
        let (low, high) = (lanes(low), lanes(high));
        for l in 0..4 {
            // SAFETY: as the caller promised; the width has room for whole vectors.
            unsafe {
                _mm512_storeu_si512(to.add(2 * l * width + 2 * p).cast(), low[l]);
                _mm512_storeu_si512(to.add((2 * l + 1) * width + 2 * p).cast(), high[l]);
            }
        }
    }
}

/// See [`super::unit::Unit::panels`].
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
    for j in (0..cols).step_by(NR) {
        let width = NR.min(cols - j);
        let mask = u16::MAX >> (width.next_multiple_of(V) - width);
        for i in (0..rows).step_by(MR) {
            // SAFETY: inside the packed operands and `c`, as the caller promised.
            unsafe {
                let (a, b, c) = (a.0.add(i * a.1), b.0.add(j * b.1), c.at(i, j));
                let tile = match width.div_ceil(V) {
                    1 => tile_rows::<1>,
                    2 => tile_rows::<2>,
                    _ => tile_rows::<3>,
                };
                tile(MR.min(rows - i), pairs, a, b, c, mask, alpha, into);
            }
        }
    }
}

/// [`tile`] for a number of rows known at run time.
///
/// # Safety
///
/// As for [`tile`].
#[allow(clippy::too_many_arguments)]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn tile_rows<const VECTORS: usize>(
    rows: usize,
    pairs: usize,
    a: *const u32,
    b: *const u32,
    c: Target,
    mask: u16,
    alpha: f32,
    into: Into,
) {
    // SAFETY: the caller's promises are passed on.
    unsafe {
        match rows {
            1 => tile::<1, VECTORS>(pairs, a, b, c, mask, alpha, into),
            2 => tile::<2, VECTORS>(pairs, a, b, c, mask, alpha, into),
            3 => tile::<3, VECTORS>(pairs, a, b, c, mask, alpha, into),
            4 => tile::<4, VECTORS>(pairs, a, b, c, mask, alpha, into),
            5 => tile::<5, VECTORS>(pairs, a, b, c, mask, alpha, into),
            6 => tile::<6, VECTORS>(pairs, a, b, c, mask, alpha, into),
            7 => tile::<7, VECTORS>(pairs, a, b, c, mask, alpha, into),
            _ => tile::<8, VECTORS>(pairs, a, b, c, mask, alpha, into),
        }
    }
}

/// `ROWS` rows and `VECTORS` vectors of `c`; `mask` says which numbers of the last vector count.
///
/// # Safety
///
/// The instructions are there; `a` holds `pairs · MR` pairs, `b` `pairs · VECTORS · V`; `c` is
/// writable for `ROWS` rows of the columns that count, and nobody else uses them.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn tile<const ROWS: usize, const VECTORS: usize>(
    pairs: usize,
    mut a: *const u32,
    mut b: *const u32,
    c: Target,
    mask: u16,
    alpha: f32,
    into: Into,
) {
    // SAFETY: every access is inside what the caller promised; prefetches may be anywhere.
    unsafe {
        for i in 0..ROWS {
            let row = c.data.wrapping_add(i * c.row_stride);
            for v in 0..VECTORS {
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(v * V).cast());
            }
        }
        let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
        for _ in 0..pairs {
            let mut columns = [_mm512_setzero_si512(); VECTORS];
            for (v, column) in columns.iter_mut().enumerate() {
                *column = _mm512_loadu_si512(b.add(v * V).cast());
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let x = pairs_of(_mm512_set1_epi32(*a.add(i) as i32));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = _mm512_dpbf16_ps(*sum, x, pairs_of(column));
                }
            }
            a = a.add(MR);
            b = b.add(VECTORS * V);
        }
        let alpha = _mm512_set1_ps(alpha);
        for (i, sums) in sums.into_iter().enumerate() {
            let row = c.data.add(i * c.row_stride);
            for (v, sum) in sums.into_iter().enumerate() {
                let mask = if v + 1 == VECTORS { mask } else { u16::MAX };
                let at = row.add(v * V);
                let value = match into {
                    Into::Set | Into::Stream => _mm512_mul_ps(alpha, sum),
                    Into::Add => _mm512_fmadd_ps(alpha, sum, _mm512_maskz_loadu_ps(mask, at)),
                };
                _mm512_mask_storeu_ps(at, mask, value);
            }
        }
    }
}
