//! Blocks of 16 × 16 numbers, turned in registers.

use std::arch::x86_64::*;

/// Numbers of a vector.
const V: usize = 16;

/// Rows and columns of 16 × 16 numbers of 32 bits exchanged.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(r: [__m512i; V]) -> [__m512i; V] {
    // In each 128-bit lane: pairs of rows, then groups of four rows.
    let mut u = [_mm512_setzero_si512(); V];
    for g in 0..4 {
        let [a, b, c, d] = [r[4 * g], r[4 * g + 1], r[4 * g + 2], r[4 * g + 3]];
        let (ab0, ab1) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd0, cd1) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        u[4 * g] = _mm512_unpacklo_epi64(ab0, cd0);
        u[4 * g + 1] = _mm512_unpackhi_epi64(ab0, cd0);
        u[4 * g + 2] = _mm512_unpacklo_epi64(ab1, cd1);
        u[4 * g + 3] = _mm512_unpackhi_epi64(ab1, cd1);
    }
    // Lane `l` of `u[4g + j]` holds column `4l + j` of rows `4g..4g + 4`.
    let mut out = [_mm512_setzero_si512(); V];
    for j in 0..4 {
        for (l, x) in lanes([u[j], u[4 + j], u[8 + j], u[12 + j]]).into_iter().enumerate() {
            out[4 * l + j] = x;
        }
    }
    out
}

/// 128-bit lanes of four vectors, rows and columns exchanged.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn lanes([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (even_ab, odd_ab) = (_mm512_shuffle_i64x2::<0x88>(a, b), _mm512_shuffle_i64x2::<0xDD>(a, b));
    let (even_cd, odd_cd) = (_mm512_shuffle_i64x2::<0x88>(c, d), _mm512_shuffle_i64x2::<0xDD>(c, d));
    [
        _mm512_shuffle_i64x2::<0x88>(even_ab, even_cd),
        _mm512_shuffle_i64x2::<0x88>(odd_ab, odd_cd),
        _mm512_shuffle_i64x2::<0xDD>(even_ab, even_cd),
        _mm512_shuffle_i64x2::<0xDD>(odd_ab, odd_cd),
    ]
}
