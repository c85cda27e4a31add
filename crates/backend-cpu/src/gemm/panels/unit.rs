//! The instructions that multiply panels.

use super::plain_bf16;
#[cfg(target_arch = "x86_64")]
use super::{avx512_bf16, avx512_f32};
use crate::Isa;
use crate::gemm::{Into, Mat, Target};
#[cfg(target_arch = "x86_64")]
use crate::isa::Level;

/// Who computes, on what kind of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gemm) enum Unit {
    /// f32 with AVX-512: made only where it was detected.
    #[cfg(target_arch = "x86_64")]
    F32,
    /// bf16 with AVX-512 BF16: made only where it was detected.
    #[cfg(target_arch = "x86_64")]
    Bf16,
    /// bf16 in plain Rust.
    PlainBf16,
}

/// Calls a function of the module of `self`.
macro_rules! dispatch {
    ($unit:expr, $name:ident($($arg:expr),*)) => {
        match $unit {
            #[cfg(target_arch = "x86_64")]
            Unit::F32 => avx512_f32::$name($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Unit::Bf16 => avx512_bf16::$name($($arg),*),
            Unit::PlainBf16 => plain_bf16::$name($($arg),*),
        }
    };
}

impl Unit {
    /// Products in f32, where they run on panels.
    pub fn f32(isa: Isa) -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if isa.avx512() {
            return Some(Unit::F32);
        }
        let _ = isa;
        None
    }

    /// Products in bf16.
    pub fn bf16(isa: Isa) -> Self {
        match isa.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Amx if avx512_bf16::detected() => Unit::Bf16,
            _ => Unit::PlainBf16,
        }
    }

    /// Numbers of the depth that lie together in 32 bits.
    pub fn together(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Unit::F32 => 1,
            _ => 2,
        }
    }

    /// Steps of a product of this depth.
    pub fn steps(self, depth: usize) -> usize {
        depth.div_ceil(self.together())
    }

    /// Packs rows into panels, one after the other.
    ///
    /// # Safety
    ///
    /// `to` is writable for `a.rows` rounded up to [`super::MR`], times the steps of `a.cols`.
    pub unsafe fn pack_rows(self, a: Mat<'_>, to: *mut u32) {
        // SAFETY: the caller's promise; this unit is there.
        unsafe { dispatch!(self, pack_rows(a, to)) }
    }

    /// Packs columns into panels, one after the other.
    ///
    /// # Safety
    ///
    /// `to` is writable for the steps of `b.rows`, times `b.cols` rounded up to [`super::V`].
    pub unsafe fn pack_columns(self, b: Mat<'_>, to: *mut u32) {
        // SAFETY: the caller's promise; this unit is there.
        unsafe { dispatch!(self, pack_columns(b, to)) }
    }

    /// Turns `pairs` vectors of 16 rows, each a pair of neighbouring columns, into 8 vectors of
    /// columns, each a pair of neighbouring rows.
    ///
    /// # Safety
    ///
    /// `from` holds the vectors, `stride` numbers apart; `to` is writable for 8 times
    /// [`super::turned_width`] numbers. `next` may be anywhere: where the vectors of a later call are.
    pub unsafe fn turn(self, from: *const u32, stride: usize, pairs: usize, next: *const u32, to: *mut u32) {
        // SAFETY: the caller's promise; this unit is there.
        unsafe {
            match self {
                #[cfg(target_arch = "x86_64")]
                Unit::F32 => unreachable!("packed weights are of bf16"),
                #[cfg(target_arch = "x86_64")]
                Unit::Bf16 => avx512_bf16::turn(from, stride, pairs, next, to),
                Unit::PlainBf16 => {
                    let _ = next;
                    plain_bf16::turn(from, stride, pairs, to);
                }
            }
        }
    }

    /// The product of packed operands. `a` and `b` come with the numbers from one
    /// row, or column, of a panel border to the next: `a.1` times [`super::MR`] from panel to panel.
    ///
    /// # Safety
    ///
    /// `a` and `b` hold panels of this shape; `c` is writable for `rows` rows of `cols` numbers
    /// and nobody else uses it.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn panels(
        self,
        rows: usize,
        cols: usize,
        steps: usize,
        a: (*const u32, usize),
        b: (*const u32, usize),
        c: Target,
        alpha: f32,
        into: Into,
    ) {
        // SAFETY: the caller's promise; this unit is there.
        unsafe { dispatch!(self, panels(rows, cols, steps, a, b, c, alpha, into)) }
    }
}
