//! fp16 ↔ f32 for long rows: by instruction where the machine has one for sixteen values, else in integer
//! vector code, which is several times faster than eight values per call.

use half::f16;
use pulp::Arch;

use super::vector::vector_fn;

vector_fn! {
    fn widen_row(from: &'a [f16], to: &'a mut [f32]) {
        for (x, y) in from.iter().zip(to) {
            let bits = u32::from(x.to_bits());
            let magnitude = (bits & 0x7fff) << 13;
            // Exponents move from bias 15 to 127; all ones stay all ones.
            let normal = magnitude + (112 << 23);
            let special = magnitude + (224 << 23);
            const SMALLEST_NORMAL: u32 = 113 << 23;
            let subnormal =
                (f32::from_bits(magnitude | SMALLEST_NORMAL) - f32::from_bits(SMALLEST_NORMAL)).to_bits();
            let finite = if magnitude < 1 << 23 { subnormal } else { normal };
            let value = if magnitude >= 31 << 23 { special } else { finite };
            *y = f32::from_bits(value | (bits & 0x8000) << 16);
        }
    }
}

vector_fn! {
    fn narrow_row(from: &'a [f32], to: &'a mut [f16]) {
        for (x, y) in from.iter().zip(to) {
            let bits = x.to_bits();
            let magnitude = bits & 0x7fff_ffff;
            // Adding just under half of the dropped bits, and the last kept bit, rounds half to even.
            let normal = ((magnitude + 0xfff + ((magnitude >> 13) & 1)) >> 13).wrapping_sub(112 << 10);
            // Below 2^-14 the sum with 0.5 has a step of 2^-24, and the adder rounds half to even.
            let subnormal = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
            let finite = if magnitude < 113 << 23 { subnormal } else { normal };
            let limited = if magnitude >= 0x477f_f000 { 0x7c00 } else { finite };
            let value = if magnitude > 0x7f80_0000 { 0x7e00 } else { limited };
            *y = f16::from_bits((value | (bits >> 16) & 0x8000) as u16);
        }
    }
}

/// Widens a row; exact.
pub(crate) fn widen(from: &[f16], to: &mut [f32]) {
    match Arch::new() {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(simd) => avx512::widen(simd, from, to),
        arch => widen_row(arch, from, to),
    }
}

/// Rounds a row half to even.
pub(crate) fn narrow(from: &[f32], to: &mut [f16]) {
    match Arch::new() {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(simd) => avx512::narrow(simd, from, to),
        arch => narrow_row(arch, from, to),
    }
}

/// The conversions that AVX-512 has as instructions, sixteen values each.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use half::f16;
    use half::slice::HalfFloatSliceExt;
    use pulp::x86::V4;
    use pulp::{NullaryFnOnce, cast};

    const LANES: usize = 16;

    struct Widen<'a>(V4, &'a [f16], &'a mut [f32]);

    impl NullaryFnOnce for Widen<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Self(simd, from, to) = self;
            let convert = |x: [u16; LANES]| -> [f32; LANES] { cast(simd.avx512f._mm512_cvtph_ps(cast(x))) };
            let from = &from.reinterpret_cast()[..to.len()];
            let (from, from_rest) = from.as_chunks::<LANES>();
            let (to, to_rest) = to.as_chunks_mut::<LANES>();
            for (x, y) in from.iter().zip(to) {
                *y = convert(*x);
            }
            let mut last = [0; LANES];
            last[..from_rest.len()].copy_from_slice(from_rest);
            to_rest.copy_from_slice(&convert(last)[..from_rest.len()]);
        }
    }

    struct Narrow<'a>(V4, &'a [f32], &'a mut [f16]);

    impl NullaryFnOnce for Narrow<'_> {
        type Output = ();

        #[inline(always)]
        fn call(self) {
            let Self(simd, from, to) = self;
            // Rounding 0 is half to even.
            let convert =
                |x: [f32; LANES]| -> [u16; LANES] { cast(simd.avx512f._mm512_cvtps_ph::<0>(cast(x))) };
            let (from, from_rest) = from[..to.len()].as_chunks::<LANES>();
            let (to, to_rest) = to.reinterpret_cast_mut().as_chunks_mut::<LANES>();
            for (x, y) in from.iter().zip(to) {
                *y = convert(*x);
            }
            let mut last = [0.0; LANES];
            last[..from_rest.len()].copy_from_slice(from_rest);
            to_rest.copy_from_slice(&convert(last)[..from_rest.len()]);
        }
    }

    pub(super) fn widen(simd: V4, from: &[f16], to: &mut [f32]) {
        simd.vectorize(Widen(simd, from, to));
    }

    pub(super) fn narrow(simd: V4, from: &[f32], to: &mut [f16]) {
        simd.vectorize(Narrow(simd, from, to));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widening_is_exact_for_every_fp16() {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let mut wide = vec![0.0; all.len()];
        widen(&all, &mut wide);
        for (h, x) in all.iter().zip(&wide) {
            assert!(h.to_f32().to_bits() == x.to_bits() || (h.is_nan() && x.is_nan()), "{h:?} {x}");
        }
    }

    #[test]
    fn narrowing_rounds_half_to_even() {
        // Every fp16 and its neighbours in f32, every tie between two fp16, and a spread of bit patterns.
        let mut values: Vec<f32> = (0..=u16::MAX).map(|b| f16::from_bits(b).to_f32()).collect();
        let halves: Vec<f32> = values.windows(2).map(|w| w[0] + (w[1] - w[0]) / 2.0).collect();
        values.extend(halves);
        let near: Vec<f32> = values.iter().flat_map(|x| [x.next_up(), x.next_down()]).collect();
        values.extend(near);
        values.extend((0..1u32 << 20).map(|i| f32::from_bits(i.wrapping_mul(2_654_435_761))));
        let mut narrow_values = vec![f16::ZERO; values.len()];
        narrow(&values, &mut narrow_values);
        for (x, h) in values.iter().zip(&narrow_values) {
            let want = f16::from_f32(*x);
            assert!(want.to_bits() == h.to_bits() || (want.is_nan() && h.is_nan()), "{x:e} {h:?} {want:?}");
        }
    }
}
