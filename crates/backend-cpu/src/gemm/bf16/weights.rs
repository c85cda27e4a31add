//! Weights in the layout of products, packed once per update.

use super::{NR, Unit, V};
use crate::Isa;
use crate::gemm::Mat;
#[cfg(target_arch = "x86_64")]
use crate::gemm::tiles;

/// A weight matrix `[rows, cols]` in the layout of the kernel: panels of [`panel_rows`].
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    pub(in crate::gemm) data: &'a [u32],
    pub(in crate::gemm) rows: usize,
    pub(in crate::gemm) cols: usize,
}

impl<'a> Packed<'a> {
    /// A matrix that [`pack`] wrote, panel by panel.
    pub fn new(isa: Isa, data: &'a [u32], rows: usize, cols: usize) -> Self {
        assert!(data.len() >= packed_len(isa, rows, cols), "a packed matrix ends beyond its numbers");
        Self { data, rows, cols }
    }
}

/// Rows of weights that are packed together.
pub(crate) fn panel_rows(isa: Isa) -> usize {
    #[cfg(target_arch = "x86_64")]
    if isa.tiles() {
        return tiles::BAND;
    }
    let _ = isa;
    NR
}

/// Numbers of a packed matrix, or of a panel of it.
pub fn packed_len(isa: Isa, rows: usize, cols: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if isa.tiles() {
        return tiles::packed_len(rows, cols);
    }
    let _ = isa;
    rows.next_multiple_of(V) * cols.div_ceil(2)
}

/// Packs a panel of at most [`panel_rows`] rows of weights.
pub fn pack(isa: Isa, w: Mat<'_>, to: &mut [u32]) {
    assert!(w.rows <= panel_rows(isa) && to.len() >= packed_len(isa, w.rows, w.cols), "room for a panel");
    #[cfg(target_arch = "x86_64")]
    if isa.tiles() {
        // SAFETY: tiles are there, and the room was checked.
        return unsafe { tiles::pack_weights(w, to.as_mut_ptr()) };
    }
    // SAFETY: the room was checked.
    unsafe { Unit::new(isa).pack_columns(w.t(), to.as_mut_ptr()) };
}

/// The right operand of a product.
#[derive(Clone, Copy, Debug)]
pub enum Right<'a> {
    /// Rounded and packed on the way.
    Plain(Mat<'a>),
    /// The transposed of packed weights.
    PackedT(Packed<'a>),
    /// Packed weights.
    Packed(Packed<'a>),
}

impl Right<'_> {
    /// Rows and columns.
    pub(in crate::gemm) fn shape(&self) -> (usize, usize) {
        match self {
            Right::Plain(b) => (b.rows, b.cols),
            Right::PackedT(w) => (w.cols, w.rows),
            Right::Packed(w) => (w.rows, w.cols),
        }
    }

    /// Whether it lies in cells.
    pub(in crate::gemm) fn in_cells(&self) -> bool {
        matches!(self, Right::Plain(b) if b.in_cells())
    }
}
