//! Operands of products, as they come and as tiles want them.

use super::ahead::Region;
use super::pack::Packing;
use super::{BAND, PART, STEP, Side, pack, turn};
use crate::gemm::Mat;
use crate::gemm::bf16::{Packed, Right};

/// An operand, or a part of one. Its *extent* are the rows of the left operand, the columns of the right one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operand<'a> {
    /// Numbers in memory; columns are the depth.
    Plain(Mat<'a>),
    /// Rows of packed weights.
    Rows(Weights<'a>),
    /// Columns of packed weights, as if the matrix were transposed.
    Columns(Weights<'a>),
}

/// A part of a packed matrix: bands of rows, and steps of columns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weights<'a> {
    data: &'a [u32],
    rows: usize,
    cols: usize,
    /// Numbers from band to band.
    stride: usize,
}

impl<'a> Weights<'a> {
    fn new(w: Packed<'a>) -> Self {
        Self { data: w.data, rows: w.rows, cols: w.cols, stride: w.cols.div_ceil(STEP) * PART }
    }

    /// A part that starts at a band and at a step.
    fn part(self, row: usize, rows: usize, col: usize, cols: usize) -> Self {
        assert!(row.is_multiple_of(BAND) && col.is_multiple_of(STEP));
        assert!(row + rows <= self.rows && col + cols <= self.cols);
        let start = row / BAND * self.stride + col / STEP * PART;
        let part = Self { data: &self.data[start..], rows, cols, ..self };
        assert!(part.data.len() >= (rows.div_ceil(BAND) - 1) * self.stride + cols.div_ceil(STEP) * PART);
        part
    }
}

/// A packed operand.
#[derive(Clone, Copy)]
pub(super) struct Bands {
    start: *const u32,
    /// Numbers from band to band.
    stride: usize,
    /// Rows, or columns, in all bands.
    pub extent: usize,
}

impl Bands {
    /// Where step `step` of the band of row `row` is.
    pub fn at<const P: usize>(&self, row: usize, step: usize) -> *const u32 {
        self.start.wrapping_add(row / BAND * self.stride + step * P * PART)
    }
}

impl<'a> Operand<'a> {
    /// The right operand of a product.
    pub fn right(b: Right<'a>) -> Self {
        match b {
            Right::Plain(b) => Self::Plain(b.t()),
            Right::PackedT(w) => Self::Rows(Weights::new(w)),
            Right::Packed(w) => Self::Columns(Weights::new(w)),
        }
    }

    pub fn extent(&self) -> usize {
        match self {
            Self::Plain(x) => x.rows,
            Self::Rows(w) => w.rows,
            Self::Columns(w) => w.cols,
        }
    }

    pub fn depth(&self) -> usize {
        match self {
            Self::Plain(x) => x.cols,
            Self::Rows(w) => w.cols,
            Self::Columns(w) => w.rows,
        }
    }

    /// Some of the extent, and some of the depth.
    pub fn part(&self, start: usize, extent: usize, p0: usize, depth: usize) -> Self {
        match self {
            Self::Plain(x) => Self::Plain(x.part(start, extent, p0, depth)),
            Self::Rows(w) => Self::Rows(w.part(start, extent, p0, depth)),
            Self::Columns(w) => Self::Columns(w.part(p0, depth, start, extent)),
        }
    }

    /// Whether it is used as it is.
    pub fn is_packed(&self) -> bool {
        matches!(self, Self::Rows(_))
    }

    /// Exchanges of rows and columns, in numbers, for numbers of so many parts to stand on a side.
    pub fn exchanges(&self, parts: usize, side: Side) -> usize {
        match self {
            Self::Plain(x) if Side::of(*x) == side => 0,
            Self::Plain(x) => parts * x.rows * x.cols,
            // Weights are packed for the right.
            _ if side == Side::Right => 0,
            _ => usize::MAX / 4,
        }
    }

    /// Packs it at `to`, unless it is packed.
    ///
    /// # Safety
    ///
    /// The instructions of AMX's level are there; `to` is writable for the extent rounded up to a band, times
    /// the depth rounded up to a step, times half the parts.
    pub unsafe fn pack<const P: usize>(&self, side: Side, to: *mut u32) {
        // SAFETY: the caller's promise.
        unsafe {
            match self {
                Self::Plain(x) => pack::pack::<P>(*x, side, to),
                Self::Rows(_) => {}
                Self::Columns(w) => {
                    assert!(P == 1 && side == Side::Right, "packed weights are of bf16, and on the right");
                    let steps = w.rows.div_ceil(STEP);
                    for (step, band) in w.data.chunks(w.stride).take(steps).enumerate() {
                        for (i, from) in band.chunks_exact(PART).take(w.cols.div_ceil(BAND)).enumerate() {
                            turn::turn(from.as_ptr(), to.add((i * steps + step) * PART));
                        }
                    }
                }
            }
        }
    }

    /// Its bands, of which those that are not packed were packed at `at`.
    pub fn packed<const P: usize>(&self, at: *const u32) -> Bands {
        match self {
            Self::Rows(w) => Bands { start: w.data.as_ptr(), stride: w.stride, extent: w.rows },
            _ => {
                let stride = self.depth().div_ceil(STEP) * P * PART;
                Bands { start: at, stride, extent: self.extent() }
            }
        }
    }

    /// [`Operand::pack`] and [`Operand::packed`].
    ///
    /// # Safety
    ///
    /// As for [`Operand::pack`].
    pub unsafe fn bands<const P: usize>(&self, side: Side, to: *mut u32) -> Bands {
        // SAFETY: the caller's promise.
        unsafe { self.pack::<P>(side, to) };
        self.packed::<P>(to)
    }

    /// [`Operand::pack`] in so many calls; `None` for weights that are packed.
    pub fn packing<const P: usize>(self, side: Side, to: *mut u32, calls: usize) -> Option<Packing<'a, P>> {
        match self {
            Self::Plain(x) => Some(Packing::new(x, side, to, calls)),
            Self::Rows(_) | Self::Columns(_) => None,
        }
    }

    /// The memory that packing it, or using it, reads.
    pub fn region(&self) -> Region {
        match self {
            Self::Plain(x) => {
                assert!(!x.in_cells(), "cells are packed ahead instead");
                let (rows, len, stride) = match Side::of(*x) {
                    Side::Left => (x.rows, x.cols, x.row_stride),
                    Side::Right => (x.cols, x.rows, x.col_stride),
                };
                Region::new(x.as_ptr(), len, rows, stride)
            }
            Self::Rows(w) | Self::Columns(w) => {
                let (start, len) = (w.data.as_ptr(), w.cols.div_ceil(STEP) * PART);
                Region::new(start, len, w.rows.div_ceil(BAND), w.stride)
            }
        }
    }
}

impl Side {
    /// What costs nothing to pack; rows are the numbers side by side, columns the depth.
    pub(super) fn of(x: Mat<'_>) -> Self {
        if x.col_stride == 1 { Side::Left } else { Side::Right }
    }
}
