//! The instructions that multiply panels of bf16.

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::emulated;
use crate::Isa;
use crate::gemm::{Into, Mat, Target};
#[cfg(target_arch = "x86_64")]
use crate::isa::Level;

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// AVX-512 BF16: made only where it was detected.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Plain Rust.
    Emulated,
}

impl Unit {
    pub(super) fn new(isa: Isa) -> Self {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Amx if avx512::detected() => Unit::Avx512,
            _ => Unit::Emulated,
        }
    }

    /// Packs rows into panels, one after the other.
    ///
    /// # Safety
    ///
    /// `to` is writable for `a.rows` rounded up to [`super::MR`], times the pairs of `a.cols`.
    pub(super) unsafe fn pack_rows(self, a: Mat<'_>, to: *mut u32) {
        // SAFETY: the caller's promise; this unit is there.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Unit::Avx512 => avx512::pack_rows(a, to),
                Unit::Emulated => emulated::pack_rows(a, to),
            }
        }
    }

    /// Packs columns into panels, one after the other.
    ///
    /// # Safety
    ///
    /// `to` is writable for the pairs of `b.rows`, times `b.cols` rounded up to [`super::V`].
    pub(super) unsafe fn pack_columns(self, b: Mat<'_>, to: *mut u32) {
        // SAFETY: the caller's promise; this unit is there.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Unit::Avx512 => avx512::pack_columns(b, to),
                Unit::Emulated => emulated::pack_columns(b, to),
            }
        }
    }

    /// Turns `pairs` vectors of 16 rows, each a pair of neighbouring columns, into 8 vectors of
    /// columns, each a pair of neighbouring rows.
    ///
    /// # Safety
    ///
    /// `from` holds the vectors, `stride` numbers apart; `to` is writable for 8 times
    /// [`super::panels::turned_width`] numbers. `next` may be anywhere: where the vectors of a later call are.
    pub(super) unsafe fn turn(
        self,
        from: *const u32,
        stride: usize,
        pairs: usize,
        next: *const u32,
        to: *mut u32,
    ) {
        // SAFETY: the caller's promise; this unit is there.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Unit::Avx512 => avx512::turn(from, stride, pairs, next, to),
                Unit::Emulated => {
                    let _ = next;
                    emulated::turn(from, stride, pairs, to);
                }
            }
        }
    }

    /// The product of packed operands, `pairs` deep. `a` and `b` come with the numbers from one
    /// row, or column, of a panel border to the next: `a.1` times [`super::MR`] from panel to panel.
    ///
    /// # Safety
    ///
    /// `a` and `b` hold panels of this shape; `c` is writable for `rows` rows of `cols` numbers
    /// and nobody else uses it.
    #[allow(clippy::too_many_arguments)]
    pub(super) unsafe fn panels(
        self,
        rows: usize,
        cols: usize,
        pairs: usize,
        a: (*const u32, usize),
        b: (*const u32, usize),
        c: Target,
        alpha: f32,
        into: Into,
    ) {
        // SAFETY: the caller's promise; this unit is there.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Unit::Avx512 => avx512::panels(rows, cols, pairs, a, b, c, alpha, into),
                Unit::Emulated => emulated::panels(rows, cols, pairs, a, b, c, alpha, into),
            }
        }
    }
}
