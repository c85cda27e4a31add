//! Products of packed bands.

use std::arch::x86_64::*;

use super::ahead::Ahead;
use super::operand::{Bands, Operand};
use super::pack::Packing;
use super::{BAND, PART, PRODUCTS_OF_PARTS, STEP, Side, TILE, V};
use crate::gemm::amx::{ROW_BYTES, Tiles, fetch, load, multiply, store, zero};
use crate::gemm::transpose::transpose;
use crate::gemm::{Into, Target, blocks};

/// Bands of columns whose sums are held at once: rows of `c` are written that far.
const GROUP: usize = 8;
/// Numbers of these sums: four tiles for each band.
pub(super) const SUMS: usize = GROUP * 4 * TILE;

/// Most steps that are multiplied at once. A band of bf16 that is so deep stays in the first-level cache
/// while others pass by from the second, which could not bring both in time. Six products of two parts need
/// less of it, so that sums in three parts stay in registers, unless the depth is two times what stays in that cache.
const fn deepest(parts: usize, steps: usize) -> usize {
    match parts {
        1 => 8,
        _ if steps <= 8 => 4,
        _ => usize::MAX,
    }
}

/// What becomes of the next task's part while tiles multiply that of this one. Packing three parts beside six products
/// gains a twentieth of a step in f32; packing one beside one product costs a thirtieth in bf16.
pub(super) struct Meanwhile<'a, const P: usize> {
    /// It comes into the cache.
    ahead: Ahead,
    /// It is packed.
    packing: Option<Packing<'a, P>>,
}

impl<'a, const P: usize> Meanwhile<'a, P> {
    /// Nothing.
    pub fn nothing() -> Self {
        Self { ahead: Ahead::new(None, 0), packing: None }
    }

    /// A part comes into the cache, within so many steps.
    pub fn fetch(part: &Operand<'_>, steps: usize) -> Self {
        Self { ahead: Ahead::new(Some(part.region()), steps), packing: None }
    }

    /// A part is packed, within so many steps, unless it is packed already. `to` is as for [`Operand::pack`].
    pub fn pack(part: Operand<'a>, side: Side, to: *mut u32, steps: usize) -> Self {
        Self { packing: part.packing(side, to, PAUSES * steps), ..Self::nothing() }
    }
}

/// The product of a task: all bands of its own operand with all of the shared one.
pub(super) struct Product<const P: usize> {
    pub rows: Bands,
    pub cols: Bands,
    /// Which of them is the task's own: squares are added up for each of its bands.
    pub own_is_rows: bool,
    /// Whether rows stand on the right of the instruction.
    pub turned: bool,
    pub steps: usize,
    /// [`SUMS`] numbers, or as many as there are columns for.
    pub sums: *mut f32,
}

impl<const P: usize> Product<P> {
    /// Steps of all pairs of bands.
    pub fn steps(&self) -> usize {
        self.rows.extent.div_ceil(BAND) * self.cols.extent.div_ceil(BAND) * self.steps
    }

    /// `c = alpha·a·b`, or `c += alpha·a·b`; with what happens meanwhile.
    ///
    /// # Safety
    ///
    /// The instructions of AMX's level are there; bands are packed, `steps` deep; `c` is writable for
    /// this product, and nobody else uses it; there is room for the sums, and for what is packed.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    pub unsafe fn run(&self, alpha: f32, into: Into, c: Target, mut meanwhile: Meanwhile<'_, P>) {
        // SAFETY: the instructions are there.
        let _tiles = unsafe { Tiles::new() };
        for col in (0..self.cols.extent).step_by(GROUP * BAND) {
            let width = (GROUP * BAND).min(self.cols.extent - col);
            for row in (0..self.rows.extent).step_by(BAND) {
                let height = BAND.min(self.rows.extent - row);
                // SAFETY: a part of `c`; inside the bands that the caller promised, and the sums.
                unsafe {
                    let own = if self.own_is_rows { row } else { col };
                    let c = Target { squares: c.squares.of_task(own / BAND), ..c.at(row, col) };
                    self.multiply((row, height), (col, width), into, c, &mut meanwhile);
                    if self.turned {
                        (0..4 * width.div_ceil(BAND)).for_each(|tile| turn(self.sums.add(tile * TILE)));
                    }
                    self.write((height, width), alpha, into, c);
                }
            }
        }
        if let Some(packing) = meanwhile.packing {
            // SAFETY: the caller's promise.
            unsafe { packing.finish() };
        }
        if into == Into::Stream {
            // Whoever waits for this task sees what it wrote past the caches.
            _mm_sfence();
        }
    }

    /// The sums of a band of rows and of a group of bands of columns; meanwhile the lines of `c` come.
    ///
    /// # Safety
    ///
    /// As for [`Product::run`]; tiles are configured.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
    unsafe fn multiply(
        &self,
        (row, height): (usize, usize),
        (col, width): (usize, usize),
        into: Into,
        c: Target,
        meanwhile: &mut Meanwhile<'_, P>,
    ) {
        for (first, steps) in blocks(self.steps, deepest(P, self.steps), 1) {
            let fetched = if into == Into::Stream || first + steps < self.steps { 0 } else { height };
            let rows = self.rows.at::<P>(row, first);
            for j in (0..width).step_by(BAND) {
                let cols = self.cols.at::<P>(col + j, first);
                let (left, right) = if self.turned { (cols, rows) } else { (rows, cols) };
                let mut lines = Lines::new(c, j, fetched, steps);
                // SAFETY: inside the bands, and the sums of this band.
                unsafe {
                    let sums = self.sums.add(j / BAND * 4 * TILE);
                    begin(sums, first == 0);
                    for step in 0..steps {
                        lines.fetch();
                        let (left, right) = (left.add(step * P * PART), right.add(step * P * PART));
                        if P == 1 {
                            meanwhile.ahead.step();
                            one_part(left, right);
                        } else {
                            three_parts(left, right, || {
                                if let Some(packing) = &mut meanwhile.packing {
                                    packing.lines();
                                }
                            });
                        }
                    }
                    store!(0, sums, ROW_BYTES);
                    store!(1, sums.add(TILE), ROW_BYTES);
                    store!(2, sums.add(2 * TILE), ROW_BYTES);
                    store!(3, sums.add(3 * TILE), ROW_BYTES);
                }
            }
        }
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
        let (down, along) = if self.turned { (TILE, 2 * TILE) } else { (2 * TILE, TILE) };
        let mut squares = [_mm512_setzero_ps(); GROUP];
        for i in 0..rows {
            let mut at = c.place(i, 0);
            let sums = self.sums.wrapping_add(i / V * down + i % V * V);
            for j in (0..cols).step_by(V) {
                let mask = (u32::from(u16::MAX) >> (V - (cols - j).min(V))) as u16;
                // SAFETY: a row of a tile of sums.
                let sum = unsafe { _mm512_loadu_ps(sums.add(j / BAND * 4 * TILE + j / V % 2 * along)) };
                let value = put(at, mask, sum);
                at = at.wrapping_add(c.col_hop);
                if c.squares.wanted() {
                    let squares = &mut squares[j / BAND];
                    *squares = _mm512_mask3_fmadd_ps(value, value, *squares, mask);
                }
            }
        }
        if c.squares.wanted() {
            for (band, squares) in squares.into_iter().enumerate().take(cols.div_ceil(BAND)) {
                let band = if self.own_is_rows { 0 } else { band };
                // SAFETY: a place of this task.
                unsafe { c.squares.of_task(band).add(f64::from(_mm512_reduce_add_ps(squares))) };
            }
        }
    }
}

/// Rows of two lines of `c` that come while tiles are multiplied, a few per step.
struct Lines {
    next: *const f32,
    /// From a row to the next one, and what is more behind the last row of a cell. In cells there are 16 or 32 rows.
    stride: usize,
    more: usize,
    /// From one line of a row to the other.
    other: usize,
    left: usize,
    per_step: usize,
}

impl Lines {
    /// Of so many rows from column `col` on, within so many steps.
    #[inline(always)]
    fn new(c: Target, col: usize, rows: usize, steps: usize) -> Self {
        let (next, more) = (c.place(0, col), c.row_hop.wrapping_sub(V * c.row_stride));
        Self {
            next,
            stride: c.row_stride,
            more,
            other: c.col_hop,
            left: rows,
            per_step: rows.div_ceil(steps),
        }
    }

    #[inline(always)]
    fn fetch(&mut self) {
        for _ in 0..self.per_step.min(self.left) {
            fetch(self.next);
            fetch(self.next.wrapping_add(self.other));
            self.left -= 1;
            let more = if self.left == V { self.more } else { 0 };
            self.next = self.next.wrapping_add(self.stride + more);
        }
    }
}

/// Rows and columns of a tile exchanged in place.
///
/// # Safety
///
/// A tile of numbers is there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
unsafe fn turn(tile: *mut f32) {
    let mut rows = [_mm512_setzero_si512(); V];
    // SAFETY: the caller's promise.
    unsafe {
        for (i, row) in rows.iter_mut().enumerate() {
            *row = _mm512_loadu_si512(tile.add(i * V).cast());
        }
        for (i, row) in transpose(rows).into_iter().enumerate() {
            _mm512_storeu_si512(tile.add(i * V).cast(), row);
        }
    }
}

/// The tiles of sums: zeros at first, and then what is there.
///
/// # Safety
///
/// Tiles are configured; four tiles of sums are there.
#[inline(always)]
unsafe fn begin(sums: *const f32, first: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        if first {
            zero!(0);
            zero!(1);
            zero!(2);
            zero!(3);
        } else {
            load!(0, sums, ROW_BYTES);
            load!(1, sums.add(TILE), ROW_BYTES);
            load!(2, sums.add(2 * TILE), ROW_BYTES);
            load!(3, sums.add(3 * TILE), ROW_BYTES);
        }
    }
}

/// A step of two tiles on either side.
///
/// # Safety
///
/// Tiles are configured; both steps are there.
#[inline(always)]
unsafe fn one_part(left: *const u32, right: *const u32) {
    // SAFETY: the caller's promise.
    unsafe {
        load!(4, left, ROW_BYTES);
        load!(6, right, ROW_BYTES);
        multiply!(0, 4, 6);
        load!(7, right.add(TILE), ROW_BYTES);
        multiply!(1, 4, 7);
        load!(5, left.add(TILE), ROW_BYTES);
        multiply!(2, 5, 6);
        multiply!(3, 5, 7);
    }
}

/// Pauses of [`three_parts`].
const PAUSES: usize = PRODUCTS_OF_PARTS;

/// The six products of parts of a step, of two tiles on either side. Parts follow each other so that each
/// product brings one new pair of tiles only. `pause` comes behind each of them: tiles take so long that
/// vectors get some work done.
///
/// # Safety
///
/// Tiles are configured; both steps are there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512bf16")]
unsafe fn three_parts(left: *const u32, right: *const u32, mut pause: impl FnMut()) {
    const HI: usize = 0;
    const MID: usize = PART;
    const LO: usize = 2 * PART;
    // Another part on one side, and the four products with what is there of the other.
    macro_rules! next_left {
        ($part:ident) => {
            load!(4, left.add($part), ROW_BYTES);
            multiply!(0, 4, 6);
            multiply!(1, 4, 7);
            load!(5, left.add($part + TILE), ROW_BYTES);
            multiply!(2, 5, 6);
            multiply!(3, 5, 7);
            pause();
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
            pause();
        };
    }
    // SAFETY: the caller's promise.
    unsafe {
        one_part(left.add(HI), right.add(LO));
        pause();
        next_right!(MID);
        next_left!(MID);
        next_right!(HI);
        next_left!(HI);
        next_left!(LO);
    }
}

/// Multiply-adds of a step of [`spin`].
pub(in crate::gemm) const SPIN: usize = 4 * V * V * STEP;

/// `steps` times four products of tiles that wait for nothing but themselves.
///
/// # Safety
///
/// The instructions are there.
pub(in crate::gemm) unsafe fn spin(steps: usize) {
    // SAFETY: the instructions are there; tiles of zeros.
    unsafe {
        let _tiles = Tiles::new();
        for _ in 0..steps {
            multiply!(0, 4, 6);
            multiply!(1, 4, 7);
            multiply!(2, 5, 6);
            multiply!(3, 5, 7);
        }
    }
}
