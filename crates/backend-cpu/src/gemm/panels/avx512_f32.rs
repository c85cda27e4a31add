//! Packing and products in f32 with AVX-512: one fused multiply-add is 16 products.

use std::arch::x86_64::*;

use super::avx512::kernel;
use super::{AHEAD, MR, NR, V};
use crate::gemm::transpose::transpose;
use crate::gemm::{Into, Mat, Target};

kernel!("avx512f", 1, vectors, multiply_add);

#[inline]
#[target_feature(enable = "avx512f")]
fn multiply_add(sum: __m512, x: __m512i, y: __m512i) -> __m512 {
    _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(y), sum)
}

/// Gives number `p` of up to 16 rows from `i` on as one vector, for every `i` that is a multiple of 16 and every
/// `p`; missing rows are zeros. The order is that in which memory is read best.
///
/// # Safety
///
/// The instructions are there.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn vectors(a: Mat<'_>, mut store: impl FnMut(usize, usize, __m512i)) {
    let (depth, from) = (a.cols, a.as_ptr());
    let first = |count: usize| u16::MAX >> (V - V.min(count));
    if a.row_stride == 1 {
        for p in 0..depth {
            let at = from.wrapping_add(p * a.col_stride);
            for i in (0..a.rows).step_by(V) {
                let at = at.wrapping_add(i);
                // SAFETY: masked to the rows that are there; prefetches may be anywhere.
                let x = unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD * a.col_stride).cast());
                    _mm512_maskz_loadu_epi32(first(a.rows - i), at.cast())
                };
                store(i, p, x);
            }
        }
        return;
    }
    assert_eq!(a.col_stride, 1, "one stride of a matrix is 1");
    for i in (0..a.rows).step_by(V) {
        let (from, rows) = (from.wrapping_add(i * a.row_stride), V.min(a.rows - i));
        for k in (0..depth).step_by(V) {
            let mask = first(depth - k);
            // Integers, because mapping the array to floats was a call for each.
            let mut r = [_mm512_setzero_si512(); V];
            for (i, r) in r.iter_mut().enumerate().take(rows) {
                let at = from.wrapping_add(i * a.row_stride + k);
                // SAFETY: masked to the numbers of a row that is there; prefetches may be anywhere.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(V * AHEAD).cast());
                    *r = _mm512_maskz_loadu_epi32(mask, at.cast());
                }
            }
            for (q, x) in transpose(r).into_iter().enumerate().take(depth - k) {
                store(i, k + q, x);
            }
        }
    }
}
