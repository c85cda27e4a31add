//! Packing and products with the dot-product instructions of AVX-512 BF16.
//!
//! One `vdpbf16ps` adds 16 products of pairs: twice the work of an f32 multiply-add. It rounds
//! sums to nearest and counts numbers below the smallest normal one as zero.

use std::arch::x86_64::*;

use super::avx512::kernel;
use super::{AHEAD, MR, NR, V};
use crate::gemm::transpose::{lanes, transpose};
use crate::gemm::{Into, Mat, Target};

kernel!("avx512f,avx512bw,avx512bf16", 2, vectors, multiply_add);

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn multiply_add(sum: __m512, x: __m512i, y: __m512i) -> __m512 {
    _mm512_dpbf16_ps(sum, pairs_of(x), pairs_of(y))
}

/// Whether this machine has the instructions.
pub(super) fn detected() -> bool {
    is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw")
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

/// See [`super::Unit::turn`].
///
/// # Safety
///
/// The instructions are there; `from` holds `pairs` vectors of 16 rows, `stride` numbers apart;
/// `to` is writable for 8 vectors, [`super::turned_width`] numbers apart, of `pairs` pairs each.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) unsafe fn turn(from: *const u32, stride: usize, pairs: usize, next: *const u32, to: *mut u32) {
    let width = super::turned_width(pairs);
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
