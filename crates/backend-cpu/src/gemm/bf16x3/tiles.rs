//! Products of packed bands.

use std::arch::x86_64::*;

use super::{BAND, PARTS, Side, Sides, TASK, TILE, V};
use crate::gemm::amx::{ROW_BYTES, Tiles, fetch, load, multiply, store, zero};
use crate::gemm::transpose::transpose;
use crate::gemm::{Into, Target};

/// The product of a task: all bands of its own operand with all of the shared one.
pub(super) struct Product {
    pub sides: Sides,
    /// Bands, and the rows or columns that are in them.
    pub own: (*const u32, usize),
    pub shared: (*const u32, usize),
    pub own_is_a: bool,
    pub steps: usize,
    /// Four tiles for each band of the task.
    pub sums: *mut f32,
}

impl Product {
    /// `c = alpha·a·b`, or `c += alpha·a·b`.
    ///
    /// # Safety
    ///
    /// The instructions of AMX's level are there; bands are packed, `steps` deep; `c` is writable for
    /// this product, and nobody else uses it; there is room for the sums.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    pub unsafe fn run(&self, alpha: f32, into: Into, c: Target) {
        let bands = self.own.1.div_ceil(BAND);
        // SAFETY: the instructions are there.
        let _tiles = unsafe { Tiles::new() };
        for start in (0..self.shared.1).step_by(BAND) {
            let band = self.shared.0.wrapping_add(start / BAND * self.steps * PARTS);
            let count = BAND.min(self.shared.1 - start);
            let (part, corner) = match self.own_is_a {
                true => ((self.own.1, count), (0, start)),
                false => ((count, self.own.1), (start, 0)),
            };
            // SAFETY: a part of `c`.
            let c = unsafe { c.at(corner.0, corner.1) };
            for j in 0..bands {
                let own = self.own.0.wrapping_add(j * self.steps * PARTS);
                let (left, right) = if self.sides.own == Side::Left { (own, band) } else { (band, own) };
                // SAFETY: inside the bands that the caller promised, and the sums of this band.
                unsafe {
                    let lines = self.lines(j, part, into, c);
                    multiply_bands(self.steps, left, right, self.sums.add(j * 4 * TILE), lines);
                }
            }
            // SAFETY: the sums of all bands are there, and this part of `c` is the caller's.
            unsafe {
                if self.sides.turned {
                    (0..4 * bands).for_each(|tile| turn(self.sums.add(tile * TILE)));
                }
                self.write(part, alpha, into, c);
            }
        }
        if into == Into::Stream {
            // Whoever waits for this task sees what it wrote past the caches.
            _mm_sfence();
        }
    }

    /// The lines of `c` that band `j` fills; none where they are written past the caches.
    fn lines(&self, j: usize, (rows, cols): (usize, usize), into: Into, c: Target) -> Lines {
        let (i, rows, j) = match self.own_is_a {
            true => (j * BAND, BAND.min(rows - j * BAND), 0),
            false => (0, rows, j * BAND),
        };
        let left = if into == Into::Stream || j >= cols { 0 } else { rows };
        let next = c.data.wrapping_add(i * c.row_stride + j);
        Lines { next, stride: c.row_stride, left, per_step: rows.div_ceil(self.steps) }
    }

    /// Writes sums, row by row.
    ///
    /// # Safety
    ///
    /// As for [`Product::run`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    unsafe fn write(&self, (rows, cols): (usize, usize), alpha: f32, into: Into, c: Target) {
        let whole = cols.is_multiple_of(V);
        let lines = c.data.addr().is_multiple_of(4 * V) && c.row_stride.is_multiple_of(V);
        let factor = _mm512_set1_ps(alpha);
        // SAFETY: vectors of `c`, as the caller promised, masked to its columns.
        unsafe {
            match into {
                Into::Stream if whole && lines => {
                    self.rows(rows, cols, c, |at, _, sum| {
                        let value = _mm512_mul_ps(factor, sum);
                        _mm512_stream_ps(at, value);
                        value
                    });
                }
                Into::Set | Into::Stream => self.rows(rows, cols, c, |at, mask, sum| {
                    let value = _mm512_mul_ps(factor, sum);
                    _mm512_mask_storeu_ps(at, mask, value);
                    value
                }),
                Into::Add => self.rows(rows, cols, c, |at, mask, sum| {
                    let value = _mm512_fmadd_ps(factor, sum, _mm512_maskz_loadu_ps(mask, at));
                    _mm512_mask_storeu_ps(at, mask, value);
                    value
                }),
            }
        }
    }

    /// Gives sums to `put`, row by row, with the place of each vector and which of its numbers count; adds up
    /// the squares of what it gives back.
    ///
    /// # Safety
    ///
    /// The sums of these rows and columns are there.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    unsafe fn rows(
        &self,
        rows: usize,
        cols: usize,
        c: Target,
        put: impl Fn(*mut f32, u16, __m512) -> __m512,
    ) {
        // Tiles lie one behind the other by their places on the left side, and then the right one.
        let (down, along) = if self.sides.turned { (TILE, 2 * TILE) } else { (2 * TILE, TILE) };
        // From band to band of columns; those of a task that has rows are but one.
        let (of_rows, of_cols) = if self.own_is_a { (4 * TILE, 0) } else { (0, 4 * TILE) };
        let mut squares = [_mm512_setzero_ps(); TASK / BAND];
        for i in 0..rows {
            let row = c.data.wrapping_add(i * c.row_stride);
            let sums = self.sums.wrapping_add(i / BAND * of_rows + i / V % 2 * down + i % V * V);
            for j in (0..cols).step_by(V) {
                let mask = (u32::from(u16::MAX) >> (V - (cols - j).min(V))) as u16;
                // SAFETY: a row of a tile of sums.
                let sum = unsafe { _mm512_load_ps(sums.add(j / BAND * of_cols + j / V % 2 * along)) };
                let value = put(row.wrapping_add(j), mask, sum);
                if c.squares.wanted() {
                    let squares = &mut squares[if self.own_is_a { i / BAND } else { j / BAND }];
                    *squares = _mm512_mask3_fmadd_ps(value, value, *squares, mask);
                }
            }
        }
        if c.squares.wanted() {
            for (band, squares) in squares.into_iter().enumerate().take(self.own.1.div_ceil(BAND)) {
                // SAFETY: a place of this task.
                unsafe { c.squares.of_task(band).add(f64::from(_mm512_reduce_add_ps(squares))) };
            }
        }
    }
}

/// Rows of two lines of `c` that come while tiles are multiplied, a few per step.
struct Lines {
    next: *const f32,
    stride: usize,
    left: usize,
    per_step: usize,
}

impl Lines {
    #[inline(always)]
    fn fetch(&mut self) {
        for _ in 0..self.per_step.min(self.left) {
            fetch(self.next);
            fetch(self.next.wrapping_add(V));
            self.next = self.next.wrapping_add(self.stride);
            self.left -= 1;
        }
    }
}

/// Rows and columns of a tile exchanged in place.
///
/// # Safety
///
/// A tile of numbers is there, at a 64-byte boundary.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
unsafe fn turn(tile: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let tile = &mut *tile.cast::<[__m512i; V]>();
        *tile = transpose(*tile);
    }
}

/// Six products of parts per step, of two tiles on either side. Parts follow each other so that each
/// product brings one new pair of tiles only.
///
/// # Safety
///
/// Tiles are configured; both bands hold so many steps; there is room for four tiles of sums.
#[inline]
unsafe fn multiply_bands(
    steps: usize,
    mut left: *const u32,
    mut right: *const u32,
    sums: *mut f32,
    mut lines: Lines,
) {
    const HI: usize = 0;
    const MID: usize = 2 * TILE;
    const LO: usize = 4 * TILE;
    // Another part on one side, and the four products with what is there of the other.
    macro_rules! next_left {
        ($part:ident) => {
            load!(4, left.add($part), ROW_BYTES);
            multiply!(0, 4, 6);
            multiply!(1, 4, 7);
            load!(5, left.add($part + TILE), ROW_BYTES);
            multiply!(2, 5, 6);
            multiply!(3, 5, 7);
        };
    }
    macro_rules! next_right {
        ($part:ident) => {
            load!(6, right.add($part), ROW_BYTES);
            multiply!(0, 4, 6);
            load!(7, right.add($part + TILE), ROW_BYTES);
            multiply!(1, 4, 7);
            multiply!(2, 5, 6);
            multiply!(3, 5, 7);
        };
    }
    // SAFETY: every access is inside what the caller promised.
    unsafe {
        zero!(0);
        zero!(1);
        zero!(2);
        zero!(3);
        for _ in 0..steps {
            lines.fetch();
            load!(4, left.add(HI), ROW_BYTES);
            load!(6, right.add(LO), ROW_BYTES);
            multiply!(0, 4, 6);
            load!(7, right.add(LO + TILE), ROW_BYTES);
            multiply!(1, 4, 7);
            load!(5, left.add(HI + TILE), ROW_BYTES);
            multiply!(2, 5, 6);
            multiply!(3, 5, 7);

            next_right!(MID);
            next_left!(MID);
            next_right!(HI);
            next_left!(HI);
            next_left!(LO);

            left = left.add(PARTS);
            right = right.add(PARTS);
        }
        store!(0, sums, ROW_BYTES);
        store!(1, sums.add(TILE), ROW_BYTES);
        store!(2, sums.add(2 * TILE), ROW_BYTES);
        store!(3, sums.add(3 * TILE), ROW_BYTES);
    }
}
