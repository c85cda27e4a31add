//! Matrices that products read and write.

use std::marker::PhantomData;

use super::Into;
use super::squares::Squares;
use crate::Isa;
use crate::cells::{CELL, Order};
use crate::kernels::vector;

/// A matrix to read.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    /// A pointer, because other rows may be [on their way](super::Left::made) while tasks read theirs.
    start: *const f32,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
    /// From a row, or column, to the one that is a [`CELL`] further.
    pub(super) row_hop: usize,
    pub(super) col_hop: usize,
    borrow: PhantomData<&'a [f32]>,
}

// SAFETY: a shared slice, read as a matrix.
unsafe impl Send for Mat<'_> {}
// SAFETY: as above.
unsafe impl Sync for Mat<'_> {}

impl<'a> Mat<'a> {
    /// Row-major, without gaps: `data` holds `rows · cols` numbers or more.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Row-major, one row every `row_stride` numbers.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        if rows > 0 && cols > 0 {
            assert!((rows - 1) * row_stride + cols <= data.len(), "a matrix ends beyond its numbers");
        }
        // SAFETY: a slice of this shape, borrowed for 'a.
        unsafe { Self::unfinished(data.as_ptr(), rows, cols, row_stride) }
    }

    /// In some order, without gaps; cells are for products in f32 on tiles.
    pub fn ordered(order: Order, data: &'a [f32], rows: usize, cols: usize) -> Self {
        let (row_stride, col_hop) = order.strides(rows, cols);
        Self { row_stride, col_hop, ..Self::new(data, rows, cols) }
    }

    /// Whether it lies in cells.
    pub(super) fn in_cells(self) -> bool {
        (self.row_hop, self.col_hop) != (CELL * self.row_stride, CELL * self.col_stride)
    }

    /// Row-major, one row every `row_stride` numbers, of numbers that may be written until tasks read them.
    ///
    /// # Safety
    ///
    /// `rows` rows of `cols` numbers from `start` on stay there for `'a`; whoever reads some of them knows that nobody
    /// writes them any more.
    pub(super) unsafe fn unfinished(start: *const f32, rows: usize, cols: usize, row_stride: usize) -> Self {
        let (row_hop, col_hop) = (CELL * row_stride, CELL);
        Self { start, rows, cols, row_stride, col_stride: 1, row_hop, col_hop, borrow: PhantomData }
    }

    /// The transposed matrix, of the same numbers.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            row_hop: self.col_hop,
            col_hop: self.row_hop,
            ..self
        }
    }

    /// Rows and columns.
    pub(crate) fn shape(self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    /// Its first number.
    pub(super) fn as_ptr(self) -> *const f32 {
        self.start
    }

    /// A part of the rows and columns; in cells, from the corner of one on.
    pub(super) fn part(self, row: usize, rows: usize, col: usize, cols: usize) -> Self {
        assert!(row + rows <= self.rows && col + cols <= self.cols);
        assert!(!self.in_cells() || (row.is_multiple_of(CELL) && col.is_multiple_of(CELL)));
        Self { start: self.place(row, col), rows, cols, ..self }
    }

    /// Where a number is, or would be.
    pub(super) fn place(self, row: usize, col: usize) -> *const f32 {
        let rows = row / CELL * self.row_hop + row % CELL * self.row_stride;
        let cols = col / CELL * self.col_hop + col % CELL * self.col_stride;
        self.start.wrapping_add(rows + cols)
    }

    /// One number of a matrix that nobody writes.
    pub(super) fn at(self, row: usize, col: usize) -> f32 {
        assert!(row < self.rows && col < self.cols);
        // SAFETY: inside the matrix.
        unsafe { *self.place(row, col) }
    }

    /// A row whose numbers lie side by side, of a matrix that nobody writes.
    pub(super) fn row(self, row: usize) -> &'a [f32] {
        assert!(row < self.rows && self.col_stride == 1 && !self.in_cells());
        // SAFETY: inside the matrix.
        unsafe { std::slice::from_raw_parts(self.place(row, 0), self.cols) }
    }
}

/// A matrix to write, row-major or [in cells](crate::cells).
#[derive(Debug)]
pub struct MatMut<'a> {
    data: *mut f32,
    pub(super) rows: usize,
    pub(super) cols: usize,
    row_stride: usize,
    row_hop: usize,
    col_hop: usize,
    pub(super) squares: Squares,
    borrow: PhantomData<&'a mut [f32]>,
}

impl<'a> MatMut<'a> {
    /// Without gaps.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// One row every `row_stride` numbers.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        if rows > 0 && cols > 0 {
            assert!(cols <= row_stride || rows == 1, "rows overlap");
            assert!((rows - 1) * row_stride + cols <= data.len(), "a matrix ends beyond its numbers");
        }
        // SAFETY: a slice of this shape, borrowed for 'a.
        unsafe { Self::columns(data.as_mut_ptr(), rows, cols, row_stride) }
    }

    /// Some columns of a larger matrix, whose other columns may be in use elsewhere.
    ///
    /// # Safety
    ///
    /// For `'a`, `rows` rows of `cols` numbers, `row_stride` apart from `data` on, are writable and
    /// used by nobody else.
    pub(crate) unsafe fn columns(data: *mut f32, rows: usize, cols: usize, row_stride: usize) -> Self {
        let (row_hop, col_hop) = (CELL * row_stride, CELL);
        Self { data, rows, cols, row_stride, row_hop, col_hop, squares: Squares::NONE, borrow: PhantomData }
    }

    /// In some order, without gaps; cells are for products in f32 on tiles.
    pub fn ordered(order: Order, data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        let (row_stride, col_hop) = order.strides(rows, cols);
        Self { row_stride, col_hop, ..Self::new(data, rows, cols) }
    }

    /// Whether it lies in cells.
    pub(super) fn in_cells(&self) -> bool {
        self.col_hop != CELL
    }

    /// The sum of no products.
    pub(super) fn clear(&mut self, into: Into) {
        for i in 0..if into == Into::Add { 0 } else { self.rows } {
            for j in (0..self.cols).step_by(CELL) {
                // SAFETY: a piece of row `i` of a matrix that we alone may write; zero bytes are zeros.
                unsafe { self.target().place(i, j).write_bytes(0, CELL.min(self.cols - j)) };
            }
        }
    }

    pub(super) fn target(&mut self) -> Target {
        let (row_hop, col_hop) = (self.row_hop, self.col_hop);
        Target { data: self.data, row_stride: self.row_stride, row_hop, col_hop, squares: self.squares }
    }
}

/// Where a tile of the product goes; tasks write different tiles of it.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub data: *mut f32,
    pub row_stride: usize,
    /// From a row, or column, to the one that is a [`CELL`] further.
    pub row_hop: usize,
    pub col_hop: usize,
    /// What the kernels that can add to it do add to.
    pub squares: Squares,
}

// SAFETY: a pointer; whoever writes through it says why nobody else does.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// The same, moved; in cells, to the corner of one.
    pub fn at(self, row: usize, col: usize) -> Self {
        debug_assert!(self.col_hop == CELL || row.is_multiple_of(CELL) && col.is_multiple_of(CELL));
        Self { data: self.place(row, col), ..self }
    }

    /// Where a number is, or would be.
    #[inline(always)]
    pub fn place(self, row: usize, col: usize) -> *mut f32 {
        let row = row / CELL * self.row_hop + row % CELL * self.row_stride;
        self.data.wrapping_add(row + col / CELL * self.col_hop + col % CELL)
    }

    /// Adds up the squares of these rows and columns, if somebody asks: for kernels that do not on their way,
    /// while what they wrote is in the cache.
    ///
    /// # Safety
    ///
    /// `c` was written there, and nobody else does now.
    pub unsafe fn add_squares(self, isa: Isa, rows: usize, cols: usize) {
        if !self.squares.wanted() {
            return;
        }
        // SAFETY: rows of the matrix, as the caller promised.
        let row = |i| unsafe { std::slice::from_raw_parts(self.data.add(i * self.row_stride), cols) };
        let sum = (0..rows).map(|i| vector::sum_of_squares(isa, row(i))).sum();
        // SAFETY: the place of this task.
        unsafe { self.squares.add(sum) };
    }

    /// The same for one task; squares are those of the last numbers that it writes.
    pub fn of_task(self, task: usize, last: bool) -> Self {
        Self { squares: if last { self.squares.of_task(task) } else { Squares::NONE }, ..self }
    }
}
