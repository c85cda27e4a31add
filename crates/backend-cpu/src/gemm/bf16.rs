//! Products in bf16: operands rounded to 8 bits of precision, products added up in f32. With AMX they run on
//! [`super::tiles`], elsewhere on [`super::panels`].
//!
//! A weight matrix is packed once per update ([`Packed`]) as the right operand of `x·wᵀ`. The way
//! back wants `dy·w`, in which other numbers are neighbours: each task turns the blocks that it
//! needs on their way into the second-level cache, where a second copy would cost 2 bytes per weight.

use super::Mat;
use super::panels::{NR, Unit, V};
#[cfg(target_arch = "x86_64")]
use super::tiles;
use crate::Isa;

/// A weight matrix `[rows, cols]` in the layout of the kernel: panels of [`panel_rows`].
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    pub(super) data: &'a [u32],
    pub(super) rows: usize,
    pub(super) cols: usize,
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
    unsafe { Unit::bf16(isa).pack_columns(w.t(), to.as_mut_ptr()) };
}

/// The right operand of a product.
#[derive(Clone, Copy, Debug)]
pub enum Right<'a> {
    /// Packed on the way; rounded where products are in bf16.
    Plain(Mat<'a>),
    /// The transposed of packed weights.
    PackedT(Packed<'a>),
    /// Packed weights.
    Packed(Packed<'a>),
}

impl Right<'_> {
    /// Rows and columns.
    pub(super) fn shape(&self) -> (usize, usize) {
        match self {
            Right::Plain(b) => (b.rows, b.cols),
            Right::PackedT(w) => (w.cols, w.rows),
            Right::Packed(w) => (w.rows, w.cols),
        }
    }

    /// Whether it lies in cells.
    pub(super) fn in_cells(&self) -> bool {
        matches!(self, Right::Plain(b) if b.in_cells())
    }
}

/// Whether products in bf16 have instructions of their own at this level.
pub fn in_hardware(isa: Isa) -> bool {
    isa.tiles() || Unit::bf16(isa) != Unit::PlainBf16
}

/// `steps` rounds of products without memory, for the peak: the floating-point operations of all of
/// them, none without the instructions.
pub(crate) fn spin(isa: Isa, steps: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if isa.tiles() {
        // SAFETY: tiles are there.
        unsafe { tiles::spin(steps) };
        return 2 * steps * tiles::SPIN;
    }
    match Unit::bf16(isa) {
        #[cfg(target_arch = "x86_64")]
        Unit::Bf16 => {
            // SAFETY: this unit is there.
            unsafe { crate::spin::bf16(steps) };
            2 * steps * crate::spin::BF16
        }
        _ => {
            let _ = steps;
            0
        }
    }
}
