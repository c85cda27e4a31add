//! Numbers on their way into tiles: rounded, or split into three parts.
//!
//! Pairs of rounded numbers are neighbours in the depth. Parts are paired with those 16 numbers further on,
//! so that pairs come from whole vectors without moving anything sideways.

use std::arch::x86_64::*;

use super::{BAND, PART, STEP, Side, TILE, V};
use crate::gemm::Mat;
use crate::gemm::panels::avx512_bf16::{bits, interleave};
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
    // SAFETY: the caller's promise.
    (0..Piece::count(x)).for_each(|index| unsafe { Piece::new(x, index).pack::<P>(x, side, to) });
}

/// The tiles of 16 rows and a step.
struct Piece {
    panel: usize,
    step: usize,
    steps: usize,
}

impl Piece {
    /// In how many `x` is packed.
    fn count(x: Mat<'_>) -> usize {
        x.rows.div_ceil(BAND) * 2 * x.cols.div_ceil(STEP)
    }

    /// They are numbered in the order in which memory is read best.
    fn new(x: Mat<'_>, index: usize) -> Self {
        let (panels, steps) = (x.rows.div_ceil(BAND) * 2, x.cols.div_ceil(STEP));
        let (panel, step) = match Side::of(x) {
            Side::Left => (index / steps, index % steps),
            Side::Right => (index % panels, index / panels),
        };
        Self { panel, step, steps }
    }

    /// Its first row and column.
    fn corner(&self) -> (usize, usize) {
        (self.panel * V, self.step * STEP)
    }

    /// Whether all of its rows and columns are there.
    fn is_whole(&self, x: Mat<'_>) -> bool {
        let (row, k) = self.corner();
        row + V <= x.rows && k + STEP <= x.cols
    }

    /// Where it goes among bands that start at `to`.
    fn place<const P: usize>(&self, to: *mut u32) -> *mut u32 {
        to.wrapping_add((self.panel / 2 * self.steps + self.step) * P * PART + self.panel % 2 * TILE)
    }

    /// Packs it.
    ///
    /// # Safety
    ///
    /// As for [`pack`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    unsafe fn pack<const P: usize>(&self, x: Mat<'_>, side: Side, to: *mut u32) {
        let (at, (row, k)) = (self.place::<P>(to), self.corner());
        // SAFETY: a step of a band of those that the caller promised.
        unsafe {
            match (self.is_whole(x), Side::of(x) == side) {
                (true, true) => lines::<P, true>(x, row, k, |line, parts| put(at, line, parts)),
                (false, true) => lines::<P, false>(x, row, k, |line, parts| put(at, line, parts)),
                (true, false) => turned::<P, true>(x, row, k, at),
                (false, false) => turned::<P, false>(x, row, k, at),
            }
        }
    }
}

/// The operand of the next task, packed line by line between products of this one: what packs has nothing to do
/// while tiles multiply.
pub(super) struct Packing<'a, const P: usize> {
    x: Mat<'a>,
    side: Side,
    to: *mut u32,
    /// The piece after the one at hand.
    next: usize,
    pieces: usize,
    /// Lines of the piece at hand that are still to come, and where they come from and go to.
    left: usize,
    from: *const f32,
    at: *mut u32,
    way: Way,
    /// Lines in all, and the calls that they are spread over.
    lines: usize,
    calls: usize,
    /// Lines that are to come now, times the calls.
    due: usize,
}

impl<'a, const P: usize> Packing<'a, P> {
    /// Packs as [`pack`] does, in so many calls of [`Packing::lines`].
    pub fn new(x: Mat<'a>, side: Side, to: *mut u32, calls: usize) -> Self {
        let pieces = Piece::count(x);
        let lines = V * pieces;
        let (from, way) = (x.as_ptr(), Way::of::<P>(x));
        Self { x, side, to, next: 0, pieces, left: 0, from, at: to, way, lines, calls, due: 0 }
    }

    /// Packs some lines.
    ///
    /// # Safety
    ///
    /// As for [`pack`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    pub unsafe fn lines(&mut self) {
        self.due += self.lines;
        while self.due >= self.calls {
            self.due -= self.calls;
            // SAFETY: the caller's promise.
            unsafe {
                if self.left == 0 && !self.begin() {
                    self.due = 0;
                    return;
                }
                put(self.at, 0, whole_line::<P>(self.from, &self.way));
            }
            self.from = self.from.wrapping_add(self.way.stride);
            self.at = self.at.wrapping_add(V);
            self.left -= 1;
        }
    }

    /// Goes to the next piece that goes line by line; others on the way are packed as a whole. False when all are.
    ///
    /// # Safety
    ///
    /// As for [`pack`].
    #[cold]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    unsafe fn begin(&mut self) -> bool {
        while self.next < self.pieces {
            let piece = Piece::new(self.x, self.next);
            self.next += 1;
            if piece.is_whole(self.x) && Side::of(self.x) == self.side {
                let (row, k) = piece.corner();
                self.from = self.x.place(row, k);
                self.at = piece.place::<P>(self.to);
                self.left = V;
                return true;
            }
            // SAFETY: the caller's promise.
            unsafe { piece.pack::<P>(self.x, self.side, self.to) };
        }
        false
    }

    /// Packs what is left.
    ///
    /// # Safety
    ///
    /// As for [`pack`].
    pub unsafe fn finish(mut self) {
        self.due = (self.lines + 1) * self.calls;
        // SAFETY: the caller's promise.
        unsafe { self.lines() };
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

/// How the lines of a piece lie.
struct Way {
    natural: Side,
    /// Numbers from line to line.
    stride: usize,
    /// From the first vector of a line to the second.
    other: usize,
    /// From a vector to what is asked for meanwhile.
    ahead: usize,
}

impl Way {
    fn of<const P: usize>(x: Mat<'_>) -> Self {
        let natural = Side::of(x);
        let (stride, other, ahead) = match natural {
            // A piece is two cells that lie together: one and a half pieces.
            Side::Left if x.in_cells() => (x.row_stride, x.col_hop, 3 * x.col_hop),
            Side::Left => (x.row_stride, V, AHEAD),
            Side::Right if P == 1 => (2 * x.col_stride, x.col_stride, 2 * x.col_hop),
            Side::Right => (x.col_stride, x.col_hop, 2 * x.col_hop),
        };
        Self { natural, stride, other, ahead }
    }

    /// Asks for what is read later.
    #[inline(always)]
    fn fetch(&self, at: *const f32) {
        // SAFETY: prefetches may be anywhere.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(self.ahead).cast());
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(self.other + self.ahead).cast());
        }
    }
}

/// A line of which all numbers are there.
///
/// # Safety
///
/// They are, and so are the instructions.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
unsafe fn whole_line<const P: usize>(at: *const f32, way: &Way) -> [__m512i; P] {
    way.fetch(at);
    // SAFETY: the caller's promise.
    let (low, high) = unsafe { (_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(way.other))) };
    parts(way.natural, low, high)
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
    let way = Way::of::<P>(x);
    let start = x.place(row, k);
    for line in 0..V {
        let at = start.wrapping_add(line * way.stride);
        if WHOLE {
            // SAFETY: the caller's promise.
            line_is(line, unsafe { whole_line(at, &way) });
            continue;
        }
        way.fetch(at);
        let (low, high) = masks::<P>(way.natural, line, x.rows.saturating_sub(row), x.cols - k);
        // SAFETY: masked to the numbers that are there.
        let (low, high) = unsafe {
            (_mm512_maskz_loadu_ps(low, at), _mm512_maskz_loadu_ps(high, at.wrapping_add(way.other)))
        };
        line_is(line, parts(way.natural, low, high));
    }
}

/// The pairs of two vectors.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
fn parts<const P: usize>(natural: Side, low: __m512, high: __m512) -> [__m512i; P] {
    /// The upper halves of 32 bits each.
    const UPPER: u32 = 0xAAAA_AAAA;
    let mut parts = [_mm512_setzero_si512(); P];
    if P == 1 {
        parts[0] = match natural {
            Side::Left => bits(_mm512_cvtne2ps_pbh(high, low)),
            Side::Right => interleave(low, high),
        };
    } else {
        let (low, high) = (split(low), split(high));
        for (i, part) in parts.iter_mut().enumerate() {
            *part = _mm512_mask_blend_epi16(UPPER, _mm512_srli_epi32::<16>(low[i]), high[i]);
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

/// `x` as a sum of three numbers of 8 bits: f32 whose upper halves count. The lower ones are zero but where the number
/// is below the smallest normal one, which tiles take for zero.
///
/// The first is cut off, which cannot overflow, and leaves 16 bits; the second is rounded to nearest, so that the
/// third has either sign.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
fn split(x: __m512) -> [__m512i; 3] {
    let upper = _mm512_set1_epi32(0xFFFF_0000_u32 as i32);
    let half = _mm512_set1_epi32(0x8000);
    let hi = _mm512_and_si512(_mm512_castps_si512(x), upper);
    let rest = _mm512_sub_ps(x, _mm512_castsi512_ps(hi));
    let mid = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(rest), half), upper);
    let lo = _mm512_sub_ps(rest, _mm512_castsi512_ps(mid));
    [hi, mid, _mm512_castps_si512(lo)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::cells::Order;
    use crate::kernels::check::values;

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
        if !Isa::detect().tiles() {
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
            assert!(bound(mid, -7) && bound(lo, -16), "{x:e}: {hi:e} {mid:e} {lo:e}");
        }
        for x in [f32::MAX, f32::MIN, 0.0, 1.0, -3.0] {
            assert_eq!(parts_of(x).iter().map(|&p| f64::from(p)).sum::<f64>(), f64::from(x));
        }
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x7FFF_FFFF)] {
            assert!(parts_of(x)[2].is_nan(), "{x}");
        }
    }

    #[test]
    fn line_by_line_packs_the_same() {
        if !Isa::detect().tiles() {
            return;
        }
        for (rows, cols) in [(1, 1), (16, 32), (17, 33), (40, 70), (48, 80), (64, 96)] {
            let x = values(rows * cols, 1);
            let len = rows.next_multiple_of(BAND) * cols.next_multiple_of(STEP) * 3 / 2;
            let mut matrices = vec![Mat::new(&x, rows, cols), Mat::new(&x, cols, rows).t()];
            if rows % V == 0 && cols % V == 0 {
                let cells = Order::Cells;
                matrices
                    .extend([Mat::ordered(cells, &x, rows, cols), Mat::ordered(cells, &x, cols, rows).t()]);
            }
            for x in matrices {
                for (side, calls) in [(Side::Left, 1), (Side::Right, 7), (Side::Left, 5000)] {
                    let (mut wanted, mut got) = (vec![1; len], vec![2; len]);
                    // SAFETY: the instructions are there, and so is the room.
                    unsafe {
                        pack::<3>(x, side, wanted.as_mut_ptr());
                        let mut packing = Packing::<3>::new(x, side, got.as_mut_ptr(), calls);
                        (0..calls / 2).for_each(|_| packing.lines());
                        packing.finish();
                    }
                    assert_eq!(got, wanted, "{side:?}, {rows} × {cols} in {calls}");
                }
            }
        }
    }
}
