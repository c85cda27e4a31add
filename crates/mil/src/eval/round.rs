//! Rounding to fp16, and what it counts.

use half::f16;
use pulp::Arch;

use super::convert::narrow;
use super::vector::vector_fn;
use super::{Slice, SliceMut, Stats};

/// Multiply-accumulate results at or beyond this become ±∞ on the ANE: half of fp16's range.
/// Measured by bisection on hardware to lie between 32752 and 32768.
pub const MAC_LIMIT: f32 = 32768.0;

/// Elements that are rounded at once: 16 KiB of f32 and half of it of fp16.
const BLOCK: usize = 4096;

/// A buffer that a kernel fills.
#[derive(Clone, Debug)]
pub(crate) enum Buf {
    F16(Vec<f16>),
    F32(Vec<f32>),
}

impl Buf {
    pub(crate) fn as_slice(&self) -> Slice<'_> {
        match self {
            Buf::F16(v) => Slice::F16(v),
            Buf::F32(v) => Slice::F32(v),
        }
    }

    /// The first `len` elements, to write.
    pub(crate) fn as_mut(&mut self, len: usize) -> SliceMut<'_> {
        match self {
            Buf::F16(v) => SliceMut::F16(&mut v[..len]),
            Buf::F32(v) => SliceMut::F32(&mut v[..len]),
        }
    }

    pub(crate) fn resize(&mut self, len: usize) {
        match self {
            Buf::F16(v) => v.resize(len, f16::ZERO),
            Buf::F32(v) => v.resize(len, 0.0),
        }
    }
}

/// Rounds `src` half to even and stores it from `at` on.
pub(crate) fn store(arch: Arch, dst: &mut SliceMut<'_>, at: usize, src: &mut [f32], stats: &mut Stats) {
    match dst {
        SliceMut::F16(v) => {
            let v = &mut v[at..at + src.len()];
            // What is rounded is counted while it is in the first cache.
            for (src, v) in src.chunks(BLOCK).zip(v.chunks_mut(BLOCK)) {
                narrow(src, v);
                count(arch, v, stats);
            }
        }
        // The ANE computes fp32 values in fp16 too.
        SliceMut::F32(v) => {
            for (x, y) in src.iter().zip(&mut v[at..]) {
                *y = f16::from_f32(*x).to_f32();
            }
        }
    }
}

/// Stores values that are already exact in the type of `dst`.
pub(crate) fn store_exact(dst: &mut SliceMut<'_>, at: usize, src: &[f32]) {
    match dst {
        SliceMut::F16(v) => narrow(src, &mut v[at..at + src.len()]),
        SliceMut::F32(v) => v[at..at + src.len()].copy_from_slice(src),
    }
}

/// [`store`] behind the multiply-accumulate limit.
pub(crate) fn store_mac(arch: Arch, dst: &mut SliceMut<'_>, at: usize, src: &mut [f32], stats: &mut Stats) {
    for (i, src) in src.chunks_mut(BLOCK).enumerate() {
        limit(arch, src);
        store(arch, dst, at + i * BLOCK, src, stats);
    }
}

/// Counts the infinite and the subnormal values.
pub(crate) fn count(arch: Arch, values: &[f16], stats: &mut Stats) {
    // Blocks keep the lane counters inside 16 bits.
    for block in values.chunks(1 << 15) {
        let (infinite, subnormal) = tally(arch, block);
        stats.overflows += u64::from(infinite);
        stats.subnormals += u64::from(subnormal);
    }
}

vector_fn! {
    fn limit(values: &'a mut [f32]) {
        for x in values.iter_mut() {
            *x = if x.abs() >= MAC_LIMIT { f32::INFINITY.copysign(*x) } else { *x };
        }
    }
}

vector_fn! {
    fn tally(block: &'a [f16]) -> (u16, u16) {
        let (mut infinite, mut subnormal) = (0u16, 0u16);
        for x in block {
            let magnitude = x.to_bits() & 0x7fff;
            infinite += u16::from(magnitude == 0x7c00);
            // 1..=0x3ff, with one comparison.
            subnormal += u16::from(magnitude.wrapping_sub(1) < 0x3ff);
        }
        (infinite, subnormal)
    }
}

/// fp16 bits of `x`, ties away from zero; beyond the largest fp16 plus half a step is ±∞.
#[inline(always)]
pub fn half_away(x: f64) -> u16 {
    let bits = x.to_bits();
    let sign = ((bits >> 48) & 0x8000) as u16;
    let magnitude = bits & !(1 << 63);
    // 2^-14, the smallest normal fp16.
    const NORMAL: u64 = (1023 - 14) << 52;
    let rounded = if magnitude >= NORMAL {
        // Adding half of the dropped 42 bits carries exactly the ties and what is above them.
        let shifted = (magnitude + (1 << 41)) >> 42;
        (shifted - ((1023 - 15) << 10)).min(0x7c00) as u16
    } else {
        (f64::from_bits(magnitude) * f64::from(1 << 24) + 0.5) as u16
    };
    let nan = if x.is_nan() { 0x7e00 } else { rounded };
    sign | nan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_away_differs_from_half_even_only_at_ties() {
        for bits in 0..0x7bffu16 {
            let (a, b) = (f16::from_bits(bits).to_f64(), f16::from_bits(bits + 1).to_f64());
            let tie = (a + b) / 2.0;
            assert_eq!(half_away(a), bits);
            assert_eq!(half_away(tie), bits + 1, "{tie}");
            assert_eq!(half_away(-tie), 0x8000 | (bits + 1));
            assert_eq!(half_away(tie * (1.0 - 1e-15)), bits);
        }
        assert_eq!(half_away(65519.9), 0x7bff);
        assert_eq!(half_away(65520.0), 0x7c00);
        assert_eq!(half_away(f64::NEG_INFINITY), 0xfc00);
        assert!(f16::from_bits(half_away(f64::NAN)).is_nan());
    }

    #[test]
    fn counts_what_fp16_cannot_hold() {
        let mut stats = Stats::default();
        let mut dst = [f16::ZERO; 5];
        store_mac(
            Arch::new(),
            &mut SliceMut::F16(&mut dst),
            0,
            &mut [1.0, 40000.0, -32768.0, 1e-5, 0.0],
            &mut stats,
        );
        assert_eq!((stats.overflows, stats.subnormals), (2, 1));
    }
}
