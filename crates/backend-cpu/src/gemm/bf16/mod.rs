//! Matrix products in bf16: operands rounded to 8 bits of precision, products added up in f32.
//!
//! Two numbers that follow each other in the depth of the product lie together in 32 bits, a
//! *pair*. With AMX products run on [`super::tiles`]. Elsewhere `a` is cut into panels of [`MR`] rows,
//! stored `[pairs][MR]`; `b` into panels of [`NR`] columns, stored `[pairs][columns]`, columns padded with
//! zeros to whole vectors of [`V`]; driver, layouts and the order of all sums are the same with
//! AVX-512 BF16 and without it.
//!
//! A weight matrix is packed once per update ([`Packed`]) as the right operand of `x·wᵀ`. The way
//! back wants `dy·w`, in which other numbers are neighbours: each task turns the blocks that it
//! needs on their way into the second-level cache, where a second copy would cost 2 bytes per weight.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
mod emulated;
mod panels;
#[cfg(test)]
mod tests;
mod unit;
mod weights;

pub(super) use panels::{Packs, SCRATCH, squares};
use unit::Unit;
pub(crate) use weights::panel_rows;
pub use weights::{Packed, Right, pack, packed_len};

use super::{Into, Mat, Target};
use crate::Isa;

/// Rows of a panel of `a`.
const MR: usize = 8;
/// Pairs of a vector.
const V: usize = 16;
/// Columns of a panel of `b`.
const NR: usize = 3 * V;

/// Whether products in bf16 have instructions of their own at this level.
pub fn in_hardware(isa: Isa) -> bool {
    isa.tiles() || Unit::new(isa) != Unit::Emulated
}

/// `steps` rounds of products without memory, for the peak: the floating-point operations of all of
/// them, none without the instructions.
pub(crate) fn spin(isa: Isa, steps: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if isa.tiles() {
        // SAFETY: tiles are there.
        unsafe { super::tiles::spin(steps) };
        return 2 * steps * super::tiles::SPIN;
    }
    match Unit::new(isa) {
        #[cfg(target_arch = "x86_64")]
        Unit::Avx512 => {
            // SAFETY: this unit is there.
            unsafe { crate::spin::bf16(steps) };
            2 * steps * crate::spin::BF16
        }
        Unit::Emulated => {
            let _ = steps;
            0
        }
    }
}

/// One small product on this thread.
///
/// # Safety
///
/// `c` is writable for `a.rows` rows of `b.cols` numbers and nobody else uses it.
pub(super) unsafe fn small(
    isa: Isa,
    alpha: f32,
    a: Mat<'_>,
    b: Mat<'_>,
    into: Into,
    c: Target,
    scratch: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if isa.tiles() {
        // SAFETY: tiles are there; the rest is the caller's promise.
        return unsafe { super::tiles::small(alpha, a, b, into, c, scratch) };
    }
    let unit = Unit::new(isa);
    let (rows, cols, pairs) = (a.rows, b.cols, a.cols.div_ceil(2));
    let room = rows.next_multiple_of(MR) * pairs;
    assert!(scratch.len() >= room + cols.next_multiple_of(V) * pairs, "scratch for a small product");
    let pack_a = scratch.as_mut_ptr().cast::<u32>();
    let pack_b = pack_a.wrapping_add(room);
    // SAFETY: the packed operands fit (asserted), and `c` is the caller's. Panels of `b` follow each
    // other: only the last one may be narrower.
    unsafe {
        unit.pack_rows(a, pack_a);
        unit.pack_columns(b, pack_b);
        unit.panels(rows, cols, pairs, (pack_a, pairs), (pack_b, pairs), c, alpha, into);
    }
}
