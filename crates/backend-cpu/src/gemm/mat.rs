//! Matrices that products read and write.

use std::marker::PhantomData;

use super::Into;
use super::squares::Squares;
use crate::Isa;
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
        Self { start: data.as_ptr(), rows, cols, row_stride, col_stride: 1, borrow: PhantomData }
    }

    /// Row-major, without gaps, of numbers that may be written until tasks read them.
    ///
    /// # Safety
    ///
    /// `rows · cols` numbers from `start` on stay there for `'a`; whoever reads some of them knows that nobody
    /// writes them any more.
    pub(super) unsafe fn unfinished(start: *const f32, rows: usize, cols: usize) -> Self {
        Self { start, rows, cols, row_stride: cols, col_stride: 1, borrow: PhantomData }
    }

    /// The transposed matrix, of the same numbers.
    pub fn t(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
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

    /// A part of the rows and columns.
    pub(super) fn part(self, row: usize, rows: usize, col: usize, cols: usize) -> Self {
        assert!(row + rows <= self.rows && col + cols <= self.cols);
        let start = self.start.wrapping_add(row * self.row_stride + col * self.col_stride);
        Self { start, rows, cols, ..self }
    }

    /// One number of a matrix that nobody writes.
    pub(super) fn at(self, row: usize, col: usize) -> f32 {
        assert!(row < self.rows && col < self.cols);
        // SAFETY: inside the matrix.
        unsafe { *self.start.add(row * self.row_stride + col * self.col_stride) }
    }

    /// A row whose numbers lie side by side, of a matrix that nobody writes.
    pub(super) fn row(self, row: usize) -> &'a [f32] {
        assert!(row < self.rows && self.col_stride == 1);
        // SAFETY: inside the matrix.
        unsafe { std::slice::from_raw_parts(self.start.add(row * self.row_stride), self.cols) }
    }
}

/// A row-major matrix to write.
#[derive(Debug)]
pub struct MatMut<'a> {
    data: *mut f32,
    pub(super) rows: usize,
    pub(super) cols: usize,
    row_stride: usize,
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
        Self { data, rows, cols, row_stride, squares: Squares::NONE, borrow: PhantomData }
    }

    /// The sum of no products.
    pub(super) fn clear(&mut self, into: Into) {
        for i in 0..if into == Into::Add { 0 } else { self.rows } {
            // SAFETY: row `i` of a matrix that we alone may write; zero bytes are zeros.
            unsafe { self.target().at(i, 0).data.write_bytes(0, self.cols) };
        }
    }

    pub(super) fn target(&mut self) -> Target {
        Target { data: self.data, row_stride: self.row_stride, squares: self.squares }
    }
}

/// Where a tile of the product goes; tasks write different tiles of it.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub data: *mut f32,
    pub row_stride: usize,
    /// What the kernels that can add to it do add to.
    pub squares: Squares,
}

// SAFETY: a pointer; whoever writes through it says why nobody else does.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// The same, moved.
    ///
    /// # Safety
    ///
    /// `(row, col)` is inside the matrix.
    pub unsafe fn at(self, row: usize, col: usize) -> Self {
        // SAFETY: the caller's promise.
        Self { data: unsafe { self.data.add(row * self.row_stride + col) }, ..self }
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
