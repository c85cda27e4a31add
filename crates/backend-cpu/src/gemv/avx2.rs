//! The kernels on AVX2.
//!
//! Products of bytes are added in pairs in 16 bits, with signs moved from weights to inputs so that no
//! pair overflows: 2 · 128 · 127 = 32512.

use std::arch::x86_64::*;

use super::{AHEAD, BLOCK, LANES, Lanes, Row, VECTOR, portable};

/// Half of the lanes.
const HALF: usize = LANES / 2;

/// Whether this machine has the instructions beyond those of the level.
pub(super) fn detected() -> bool {
    is_x86_feature_detected!("f16c")
}

/// A panel of bf16 pairs.
///
/// # Safety
///
/// The machine has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn bf16<const M: usize>(panel: &[u8], x: &[Row<'_>; M], y: &mut [Lanes; M]) {
    for (x, y) in x.iter().zip(y) {
        portable::bf16_lanes::<true>(panel, x.values, y);
    }
}

/// `dots + Σ w·x` of each lane's four bytes, `w` not negative.
#[target_feature(enable = "avx2")]
fn add_unsigned(dots: __m256i, w: __m256i, x: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(w, x);
    _mm256_add_epi32(dots, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

/// The same for weights that are 128 too large.
#[target_feature(enable = "avx2")]
fn add_signed(dots: __m256i, w: __m256i, x: __m256i) -> __m256i {
    let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
    add_unsigned(dots, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
}

macro_rules! blocks {
    ($name:ident, $vectors:literal, $start:expr, |$dots:ident, $w:ident, $x:ident| $add:expr, $what:literal) => {
        #[doc = $what]
        ///
        /// # Safety
        ///
        /// The machine has AVX2, FMA and F16C; `panel` is whole units and every input as long.
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) unsafe fn $name<const M: usize>(panel: &[u8], x: &[Row<'_>; M], y: &mut [Lanes; M]) {
            const UNIT: usize = (1 + 2 * $vectors) * VECTOR;
            /// Columns of a vector.
            const WIDTH: usize = BLOCK / $vectors;
            for (side, first) in [0, HALF].into_iter().enumerate() {
                let mut sums = [_mm256_setzero_ps(); M];
                for (unit, bytes) in panel.chunks_exact(UNIT).enumerate() {
                    let at = bytes.as_ptr().wrapping_add(side * VECTOR / 2);
                    for half in 0..2 {
                        let block = 2 * unit + half;
                        let mut dots = x.map(|x| _mm256_set1_epi32($start(x.offsets[block])));
                        for v in 0..$vectors {
                            // SAFETY: half a vector inside the unit; inputs of as many units.
                            unsafe {
                                let at = at.add((1 + half * $vectors + v) * VECTOR);
                                if side == 0 {
                                    _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(AHEAD).cast());
                                }
                                let $w = _mm256_loadu_si256(at.cast());
                                for m in 0..M {
                                    let $x = x[m].quants.as_ptr().add(block * BLOCK + v * WIDTH);
                                    let $dots = dots[m];
                                    dots[m] = $add;
                                }
                            }
                        }
                        // SAFETY: eight scales inside the unit.
                        let scales = unsafe {
                            let at = bytes.as_ptr().add(half * VECTOR / 2 + 2 * first);
                            _mm256_cvtph_ps(_mm_loadu_si128(at.cast()))
                        };
                        for m in 0..M {
                            let d = _mm256_mul_ps(scales, _mm256_set1_ps(x[m].scales[block]));
                            sums[m] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[m]), d, sums[m]);
                        }
                    }
                }
                for (sum, y) in sums.into_iter().zip(&mut *y) {
                    // SAFETY: eight of sixteen numbers.
                    unsafe { _mm256_storeu_ps(y.as_mut_ptr().add(first), sum) };
                }
            }
        }
    };
}

/// Four inputs for every lane.
///
/// # Safety
///
/// They are readable at `at`.
#[target_feature(enable = "avx2")]
unsafe fn broadcast(at: *const i8) -> __m256i {
    // SAFETY: the caller's promise.
    _mm256_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}

blocks!(
    q8,
    8,
    // Signed weights need no offset.
    |_| 0,
    |dots, w, x| add_signed(dots, w, broadcast(x)),
    "A panel of Q8_0."
);
blocks!(
    q4,
    4,
    |offset| offset,
    |dots, w, x| {
        let mask = _mm256_set1_epi8(15);
        let low = add_unsigned(dots, _mm256_and_si256(w, mask), broadcast(x));
        let high = _mm256_and_si256(_mm256_srli_epi32::<4>(w), mask);
        add_unsigned(low, high, broadcast(x.add(4)))
    },
    "A panel of Q4_0."
);
