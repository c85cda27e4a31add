//! Loops of multiply-adds that wait for nothing but themselves, for the peaks of vectors.
//!
//! In assembly: compilers move so many sums from register to register and to memory, which hid half of the
//! peak of AVX-512 in f32. Tiles have a loop of their own, in `gemm`.

use std::arch::asm;
use std::arch::x86_64::*;

/// Sums of a loop: two results per cycle, each of which takes up to six.
const SUMS: usize = 12;

macro_rules! spin {
    ($name:ident, $products:ident, $lanes:literal, $features:literal, $class:ident, $wide:literal,
     $instruction:literal, $x:expr, $what:literal) => {
        #[doc = concat!("Multiply-adds of a step of [`", stringify!($name), "`].")]
        pub(crate) const $products: usize = SUMS * $lanes;

        #[doc = $what]
        ///
        /// # Safety
        ///
        /// The instructions are there.
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn $name(steps: usize) {
            let x = $x;
            // SAFETY: registers alone, all of them named.
            unsafe {
                asm!(
                    "vxorps xmm0, xmm0, xmm0",
                    "vxorps xmm1, xmm1, xmm1",
                    "vxorps xmm2, xmm2, xmm2",
                    "vxorps xmm3, xmm3, xmm3",
                    "vxorps xmm4, xmm4, xmm4",
                    "vxorps xmm5, xmm5, xmm5",
                    "vxorps xmm6, xmm6, xmm6",
                    "vxorps xmm7, xmm7, xmm7",
                    "vxorps xmm8, xmm8, xmm8",
                    "vxorps xmm9, xmm9, xmm9",
                    "vxorps xmm10, xmm10, xmm10",
                    "vxorps xmm11, xmm11, xmm11",
                    "2:",
                    concat!($instruction, " ", $wide, "0, {x}, {x}"),
                    concat!($instruction, " ", $wide, "1, {x}, {x}"),
                    concat!($instruction, " ", $wide, "2, {x}, {x}"),
                    concat!($instruction, " ", $wide, "3, {x}, {x}"),
                    concat!($instruction, " ", $wide, "4, {x}, {x}"),
                    concat!($instruction, " ", $wide, "5, {x}, {x}"),
                    concat!($instruction, " ", $wide, "6, {x}, {x}"),
                    concat!($instruction, " ", $wide, "7, {x}, {x}"),
                    concat!($instruction, " ", $wide, "8, {x}, {x}"),
                    concat!($instruction, " ", $wide, "9, {x}, {x}"),
                    concat!($instruction, " ", $wide, "10, {x}, {x}"),
                    concat!($instruction, " ", $wide, "11, {x}, {x}"),
                    "dec {steps}",
                    "jnz 2b",
                    x = in($class) x,
                    steps = inout(reg) steps.max(1) => _,
                    out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                    out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                    out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                    options(nomem, nostack),
                );
            }
        }
    };
}

spin!(avx2, AVX2, 8, "avx2,fma", ymm_reg, "ymm", "vfmadd231ps", _mm256_set1_ps(1e-3), "f32 with AVX2.");
spin!(
    avx512,
    AVX512,
    16,
    "avx512f",
    zmm_reg,
    "zmm",
    "vfmadd231ps",
    _mm512_set1_ps(1e-3),
    "f32 with AVX-512."
);
spin!(
    bf16,
    BF16,
    32,
    "avx512f,avx512bf16",
    zmm_reg,
    "zmm",
    "vdpbf16ps",
    _mm512_set1_epi32(0x3F80_3F80),
    "Pairs of bf16."
);
spin!(
    bytes,
    BYTES,
    64,
    "avx512f,avx512vnni",
    zmm_reg,
    "zmm",
    "vpdpbusd",
    _mm512_set1_epi8(1),
    "Four bytes at once."
);
