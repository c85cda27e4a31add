//! The kernels on NEON with dot products.

use std::arch::aarch64::*;
use std::arch::asm;

use half::f16;

use super::{BLOCK, LANES, Lanes, Row, VECTOR};

/// Whether this machine has the instructions.
pub(super) fn detected() -> bool {
    std::arch::is_aarch64_feature_detected!("dotprod")
}

/// `dots + Σ w·x` of each lane's four bytes.
#[target_feature(enable = "neon,dotprod")]
fn add(dots: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    let mut sums = dots;
    // SAFETY: computes with registers only. The intrinsic is not in this version of Rust.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {w:v}.16b, {x:v}.16b",
            sums = inout(vreg) sums, w = in(vreg) w, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// Four inputs for every lane.
///
/// # Safety
///
/// They are readable at `at`.
#[target_feature(enable = "neon")]
unsafe fn broadcast(at: *const i8) -> int8x16_t {
    // SAFETY: the caller's promise.
    vreinterpretq_s8_s32(vdupq_n_s32(unsafe { at.cast::<i32>().read_unaligned() }))
}

macro_rules! blocks {
    ($name:ident, $vectors:literal, $start:expr, |$dots:ident, $w:ident, $x:ident| $add:expr, $what:literal) => {
        #[doc = $what]
        ///
        /// # Safety
        ///
        /// The machine has dot products; `panel` is whole units and every input as long.
        #[target_feature(enable = "neon,dotprod")]
        pub(super) unsafe fn $name<const M: usize>(panel: &[u8], x: &[Row<'_>; M], y: &mut [Lanes; M]) {
            const UNIT: usize = (1 + 2 * $vectors) * VECTOR;
            /// Columns of a vector.
            const WIDTH: usize = BLOCK / $vectors;
            /// Vectors of four lanes.
            const PARTS: usize = LANES / 4;
            *y = [[0.0; LANES]; M];
            for (unit, bytes) in panel.chunks_exact(UNIT).enumerate() {
                for half in 0..2 {
                    let block = 2 * unit + half;
                    let mut dots = x.map(|x| [vdupq_n_s32($start(x.offsets[block])); PARTS]);
                    for v in 0..$vectors {
                        let weights = &bytes[(1 + half * $vectors + v) * VECTOR..][..VECTOR];
                        for part in 0..PARTS {
                            // SAFETY: sixteen bytes of a vector; inputs of as many units.
                            unsafe {
                                let $w = vld1q_u8(weights.as_ptr().add(16 * part));
                                for m in 0..M {
                                    let $x = x[m].quants.as_ptr().add(block * BLOCK + v * WIDTH);
                                    let $dots = dots[m][part];
                                    dots[m][part] = $add;
                                }
                            }
                        }
                    }
                    for lane in 0..LANES {
                        let at = half * VECTOR / 2 + 2 * lane;
                        let scale = f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32();
                        for m in 0..M {
                            let mut four = [0i32; 4];
                            // SAFETY: four numbers.
                            unsafe { vst1q_s32(four.as_mut_ptr(), dots[m][lane / 4]) };
                            let d = scale * x[m].scales[block];
                            y[m][lane] = (four[lane % 4] as f32).mul_add(d, y[m][lane]);
                        }
                    }
                }
            }
        }
    };
}

blocks!(
    q8,
    8,
    // Signed weights need no offset.
    |_| 0,
    |dots, w, x| add(dots, vreinterpretq_s8_u8(veorq_u8(w, vdupq_n_u8(0x80))), broadcast(x)),
    "A panel of Q8_0."
);
blocks!(
    q4,
    4,
    |offset| offset,
    |dots, w, x| {
        let low = add(dots, vreinterpretq_s8_u8(vandq_u8(w, vdupq_n_u8(15))), broadcast(x));
        add(low, vreinterpretq_s8_u8(vshrq_n_u8::<4>(w)), broadcast(x.add(4)))
    },
    "A panel of Q4_0."
);
