//! Numbers on their way into tiles: rounded, or split into three parts.
//!
//! Pairs of rounded numbers are neighbours in the depth. Parts are paired with those 16 numbers further on,
//! so that pairs come from whole vectors without moving anything sideways.

use std::arch::x86_64::*;

use super::{PART, STEP, Side, TILE, V};
use crate::gemm::Mat;
use crate::gemm::bf16::avx512::{bits, interleave};
use crate::gemm::transpose::transpose;

/// Numbers between one that is read and one that is asked for, in a row.
const AHEAD: usize = 2 * STEP;

/// Packs rows of `x` into bands, one after the other. Columns are the depth.
///
/// # Safety
///
/// The instructions of AMX's level are there; `to` is writable for `x.rows` rounded up to a band,
/// times the columns rounded up to a step, times half of `P`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
pub(super) unsafe fn pack<const P: usize>(x: Mat<'_>, side: Side, to: *mut u32) {
    let (panels, steps) = (x.rows.div_ceil(V).next_multiple_of(2), x.cols.div_ceil(STEP));
    let tile = |panel: usize, step: usize| {
        let at = to.wrapping_add((panel / 2 * steps + step) * P * PART + panel % 2 * TILE);
        let (row, k) = (panel * V, step * STEP);
        let whole = row + V <= x.rows && k + STEP <= x.cols;
        // SAFETY: a step of a band of those that the caller promised.
        unsafe {
            match (whole, Side::of(x) == side) {
                (true, true) => lines::<P, true>(x, row, k, |line, parts| put(at, line, parts)),
                (false, true) => lines::<P, false>(x, row, k, |line, parts| put(at, line, parts)),
                (true, false) => turned::<P, true>(x, row, k, at),
                (false, false) => turned::<P, false>(x, row, k, at),
            }
        }
    };
    // In the order in which memory is read best.
    if Side::of(x) == Side::Left {
        for panel in 0..panels {
            (0..steps).for_each(|step| tile(panel, step));
        }
    } else {
        for step in 0..steps {
            (0..panels).for_each(|panel| tile(panel, step));
        }
    }
}

/// Stores a line of the tiles of each part, each two tiles behind the one before.
///
/// # Safety
///
/// `to` is writable for the tiles of a panel.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn put<const P: usize>(to: *mut u32, line: usize, parts: [__m512i; P]) {
    for (i, part) in parts.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_si512(to.add(i * PART + line * V).cast(), part) };
    }
}

/// The tiles of 16 rows and a step, with rows and columns exchanged.
///
/// # Safety
///
/// As for [`lines`]; `to` is writable for the tiles of a panel.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
unsafe fn turned<const P: usize, const WHOLE: bool>(x: Mat<'_>, row: usize, k: usize, to: *mut u32) {
    let mut tiles = [[_mm512_setzero_si512(); V]; P];
    // SAFETY: the caller's promise.
    unsafe {
        lines::<P, WHOLE>(x, row, k, |line, parts| {
            for (tile, part) in tiles.iter_mut().zip(parts) {
                tile[line] = part;
            }
        });
        for (part, tile) in tiles.into_iter().enumerate() {
            for (line, x) in transpose(tile).into_iter().enumerate() {
                put(to.add(part * PART), line, [x]);
            }
        }
    }
}

/// The pairs of 16 rows from `row` on and a step from column `k` on, in `P` parts, line by line: of each
/// row where the depth is contiguous, else of each pair of columns. What is outside counts as zero.
///
/// # Safety
///
/// The instructions are there; when `WHOLE`, so are all these rows and columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
unsafe fn lines<const P: usize, const WHOLE: bool>(
    x: Mat<'_>,
    row: usize,
    k: usize,
    mut line_is: impl FnMut(usize, [__m512i; P]),
) {
    let natural = Side::of(x);
    let start = x.data.as_ptr().wrapping_add(row * x.row_stride + k * x.col_stride);
    let (stride, other, ahead) = match natural {
        Side::Left => (x.row_stride, V, AHEAD),
        Side::Right if P == 1 => (2 * x.col_stride, x.col_stride, STEP * x.col_stride),
        Side::Right => (x.col_stride, V * x.col_stride, STEP * x.col_stride),
    };
    for line in 0..V {
        let at = start.wrapping_add(line * stride);
        // SAFETY: all of it is there, or masked to the numbers that are; prefetches may be anywhere.
        let (low, high) = unsafe {
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(ahead).cast());
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(other + ahead).cast());
            if WHOLE {
                (_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(other)))
            } else {
                let (low, high) = masks::<P>(natural, line, x.rows.saturating_sub(row), x.cols - k);
                (_mm512_maskz_loadu_ps(low, at), _mm512_maskz_loadu_ps(high, at.wrapping_add(other)))
            }
        };
        line_is(line, parts(natural, low, high));
    }
}

/// The pairs of two vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
fn parts<const P: usize>(natural: Side, low: __m512, high: __m512) -> [__m512i; P] {
    let mut parts = [_mm512_setzero_si512(); P];
    if P == 1 {
        parts[0] = match natural {
            Side::Left => bits(_mm512_cvtne2ps_pbh(high, low)),
            Side::Right => interleave(low, high),
        };
    } else {
        let (low, high) = (split(low), split(high));
        for (i, part) in parts.iter_mut().enumerate() {
            *part = _mm512_or_si512(_mm512_srli_epi32::<16>(low[i]), high[i]);
        }
    }
    parts
}

/// Which numbers of the two vectors of a line are among so many rows and columns.
fn masks<const P: usize>(natural: Side, line: usize, rows: usize, depth: usize) -> (u16, u16) {
    let first = |count: usize| (u32::from(u16::MAX) >> (V - count.min(V))) as u16;
    match natural {
        Side::Left if line < rows => (first(depth), first(depth.saturating_sub(V))),
        Side::Left => (0, 0),
        Side::Right => {
            let of = |p: usize| if p < depth { first(rows) } else { 0 };
            if P == 1 { (of(2 * line), of(2 * line + 1)) } else { (of(line), of(V + line)) }
        }
    }
}

/// `x` as a sum of three numbers of 8 bits: f32 whose lower halves are zero.
///
/// The first two are rounded to nearest, which leaves 7 bits at most to the third. The largest
/// finite ones are rounded down instead, else the first part were infinite.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
fn split(x: __m512) -> [__m512i; 3] {
    const LARGEST: f32 = f32::from_bits(0x7F7F_0000);
    /// The smaller magnitude of two, with the sign of the first.
    const LIMIT: i32 = 0b0010;
    let upper = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
    let half = _mm512_set1_epi32(0x8000);
    let round = |x: __m512| _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(x), half), upper);
    let hi = round(_mm512_range_ps::<LIMIT>(x, _mm512_set1_ps(LARGEST)));
    let rest = _mm512_sub_ps(x, _mm512_castsi512_ps(hi));
    let mid = round(rest);
    let lo = _mm512_sub_ps(rest, _mm512_castsi512_ps(mid));
    [hi, mid, _mm512_and_si512(_mm512_castps_si512(lo), upper)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::isa::Level;

    fn parts_of(x: f32) -> [f32; 3] {
        // SAFETY: the caller looked for the instructions.
        unsafe {
            split(_mm512_set1_ps(x)).map(|part| {
                let mut all = [0.0; V];
                _mm512_storeu_si512(all.as_mut_ptr().cast(), part);
                all[0]
            })
        }
    }

    #[test]
    fn three_parts_of_eight_bits_are_the_number() {
        if Isa::detect().level() != Level::Amx {
            return;
        }
        let mut state = 1u64;
        for _ in 0..200_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let x = f32::from_bits((state >> 32) as u32);
            if !x.is_finite() || x.abs() < 2f32.powi(-109) {
                continue;
            }
            let [hi, mid, lo] = parts_of(x);
            assert!([hi, mid, lo].iter().all(|p| p.to_bits() & 0xFFFF == 0 && p.is_finite()), "{x:e}");
            assert_eq!(f64::from(hi) + f64::from(mid) + f64::from(lo), f64::from(x));
            let bound = |part: f32, bits: i32| f64::from(part).abs() <= f64::from(x).abs() * 2f64.powi(bits);
            // The largest ones are rounded down.
            let one = if x.abs() >= 3.39e38 { 1 } else { 0 };
            assert!(bound(mid, one - 8) && bound(lo, one - 17), "{x:e}: {hi:e} {mid:e} {lo:e}");
        }
        for x in [f32::MAX, f32::MIN, 0.0, 1.0, -3.0] {
            assert_eq!(parts_of(x).iter().map(|&p| f64::from(p)).sum::<f64>(), f64::from(x));
        }
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x7FFF_FFFF)] {
            assert!(parts_of(x)[2].is_nan(), "{x}");
        }
    }
}
