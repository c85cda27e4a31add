//! Packed weights for the way back.
//!
//! For `x·wᵀ` a pair is two neighbours in a row of `w`, for `dy·w` two neighbours in a column. Each step of a
//! band becomes a step of another band: 32 rows and 32 columns change places on their way into the second-level
//! cache, where a second copy would cost 2 bytes per weight in every update.

use std::arch::x86_64::*;

use super::{TILE, V};
use crate::gemm::transpose::lanes;

/// Two tiles of 16 columns that are 16 pairs deep, of the transposed matrix.
///
/// # Safety
///
/// The instructions of AMX's level are there; `from` holds two tiles, and `to` is writable for two.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn turn(from: *const u32, to: *mut u32) {
    // The middle two numbers of four exchange places: two rows of pairs become two pairs of rows.
    let order = _mm512_set4_epi32(0x0F0E_0B0A, 0x0D0C_0908, 0x0706_0302, 0x0504_0100);
    for tile in 0..2 {
        for half in 0..2 {
            let mut r = [_mm512_setzero_si512(); 8];
            for (line, r) in r.iter_mut().enumerate() {
                // SAFETY: a line of the tiles that the caller promised.
                let x = unsafe { _mm512_loadu_si512(from.add(tile * TILE + (half * 8 + line) * V).cast()) };
                *r = _mm512_shuffle_epi8(x, order);
            }
            // 64-bit blocks of eight vectors, rows and columns exchanged.
            let mut low = [_mm512_setzero_si512(); 4];
            let mut high = low;
            for g in 0..4 {
                low[g] = _mm512_unpacklo_epi64(r[2 * g], r[2 * g + 1]);
                high[g] = _mm512_unpackhi_epi64(r[2 * g], r[2 * g + 1]);
            }
            for (l, (low, high)) in lanes(low).into_iter().zip(lanes(high)).enumerate() {
                // SAFETY: lines of the tiles that the caller promised: 8 lines of the tile of these columns.
                unsafe {
                    let to = to.add(half * TILE + (8 * tile + 2 * l) * V);
                    _mm512_storeu_si512(to.cast(), low);
                    _mm512_storeu_si512(to.add(V).cast(), high);
                }
            }
        }
    }
}
