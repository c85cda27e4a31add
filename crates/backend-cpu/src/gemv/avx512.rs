//! The kernels on AVX-512 with VNNI.

use std::arch::x86_64::*;

use super::{AHEAD, BLOCK, LANES, Lanes, Row, VECTOR};

/// Whether this machine has the instructions beyond those of the level.
pub(super) fn detected() -> bool {
    is_x86_feature_detected!("avx512vnni")
}

/// Bytes that Q4_0 is fetched ahead, less than [`AHEAD`]: out of memory it comes a tenth faster so, out of the
/// third-level cache a tenth slower.
const AHEAD_Q4: usize = 3072;

/// Asks for a vector that comes `ahead` bytes later; any address will do.
#[target_feature(enable = "avx512f")]
fn fetch(at: *const u8, ahead: usize) {
    _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(ahead).cast());
}

/// # Safety
///
/// 64 bytes are readable at `at`.
#[target_feature(enable = "avx512f")]
unsafe fn load(at: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_si512(at.cast()) }
}

/// Four inputs for every lane.
///
/// # Safety
///
/// They are readable at `at`.
#[target_feature(enable = "avx512f")]
unsafe fn broadcast(at: *const i8) -> __m512i {
    // SAFETY: the caller's promise.
    _mm512_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}

/// Scales of the two blocks of a unit.
///
/// # Safety
///
/// 64 bytes are readable at `at`.
#[target_feature(enable = "avx512f")]
unsafe fn scales(at: *const u8) -> [__m512; 2] {
    // SAFETY: the caller's promise.
    let halves = unsafe { [at, at.add(VECTOR / 2)].map(|at| _mm256_loadu_si256(at.cast())) };
    [_mm512_cvtph_ps(halves[0]), _mm512_cvtph_ps(halves[1])]
}

/// Writes sums.
#[target_feature(enable = "avx512f")]
fn store<const M: usize>(sums: [__m512; M], y: &mut [Lanes; M]) {
    for (sum, y) in sums.into_iter().zip(y) {
        // SAFETY: 16 numbers.
        unsafe { _mm512_storeu_ps(y.as_mut_ptr(), sum) };
    }
}

macro_rules! blocks {
    ($name:ident, $vectors:literal, $ahead:ident, |$bytes:ident| $weights:expr, $what:literal) => {
        #[doc = $what]
        ///
        /// # Safety
        ///
        /// The machine has AVX-512 F and VNNI; `panel` is whole units and every input as long.
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        pub(super) unsafe fn $name<const M: usize>(panel: &[u8], x: &[Row<'_>; M], y: &mut [Lanes; M]) {
            const UNIT: usize = (1 + 2 * $vectors) * VECTOR;
            /// Columns of a vector.
            const WIDTH: usize = BLOCK / $vectors;
            let mut sums = [_mm512_setzero_ps(); M];
            let quants = x.map(|x| x.quants.as_ptr());
            for (unit, at) in panel.chunks_exact(UNIT).enumerate() {
                let at = at.as_ptr();
                // SAFETY: inside a unit, and inside inputs of as many units.
                unsafe {
                    fetch(at, $ahead);
                    let scales = scales(at);
                    for half in 0..2 {
                        let block = 2 * unit + half;
                        let mut dots = x.map(|x| _mm512_set1_epi32(*x.offsets.get_unchecked(block)));
                        for v in 0..$vectors {
                            let $bytes = at.add((1 + half * $vectors + v) * VECTOR);
                            fetch($bytes, $ahead);
                            for (i, w) in $weights.into_iter().enumerate() {
                                for m in 0..M {
                                    let q = quants[m].add(block * BLOCK + v * WIDTH + 4 * i);
                                    dots[m] = _mm512_dpbusd_epi32(dots[m], w, broadcast(q));
                                }
                            }
                        }
                        for m in 0..M {
                            let d = _mm512_set1_ps(*x[m].scales.get_unchecked(block));
                            let d = _mm512_mul_ps(scales[half], d);
                            sums[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[m]), d, sums[m]);
                        }
                    }
                }
            }
            store(sums, y);
        }
    };
}

blocks!(q8, 8, AHEAD, |at| [load(at)], "A panel of Q8_0.");
blocks!(q4, 4, AHEAD_Q4, |at| halves(load(at)), "A panel of Q4_0.");

/// The low and the high halves of bytes.
#[target_feature(enable = "avx512f")]
fn halves(bytes: __m512i) -> [__m512i; 2] {
    let mask = _mm512_set1_epi32(0x0F0F_0F0F);
    [_mm512_and_si512(bytes, mask), _mm512_and_si512(_mm512_srli_epi32::<4>(bytes), mask)]
}

/// A panel of bf16 pairs.
///
/// # Safety
///
/// As the others.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn bf16<const M: usize>(panel: &[u8], x: &[Row<'_>; M], y: &mut [Lanes; M]) {
    let mut even = [_mm512_setzero_ps(); M];
    let mut odd = [_mm512_setzero_ps(); M];
    let high = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
    for (unit, at) in panel.chunks_exact(VECTOR).enumerate() {
        fetch(at.as_ptr(), AHEAD);
        // SAFETY: inside a unit, and inside inputs of as many units.
        unsafe {
            let pairs = load(at.as_ptr());
            let low = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs));
            let high = _mm512_castsi512_ps(_mm512_and_si512(pairs, high));
            for m in 0..M {
                let x = x[m].values.as_ptr().add(2 * unit);
                even[m] = _mm512_fmadd_ps(low, _mm512_set1_ps(*x), even[m]);
                odd[m] = _mm512_fmadd_ps(high, _mm512_set1_ps(*x.add(1)), odd[m]);
            }
        }
    }
    store(std::array::from_fn(|m| _mm512_add_ps(even[m], odd[m])), y);
}

const _: () = assert!(LANES == 16);
