//! What the next task reads, asked for while this one multiplies.

use std::arch::x86_64::*;

use crate::memory::LINE;

/// Lines of memory, one row every `stride` bytes.
#[derive(Clone, Copy)]
pub(super) struct Region {
    start: *const u8,
    /// Lines of a row.
    len: usize,
    rows: usize,
    stride: usize,
}

impl Region {
    /// Rows of `len` numbers, of which one starts every `stride` numbers.
    pub fn new<T>(start: *const T, len: usize, rows: usize, stride: usize) -> Self {
        let bytes = size_of::<T>();
        Self { start: start.cast(), len: (bytes * len).div_ceil(LINE), rows, stride: bytes * stride }
    }
}

/// Brings a region into the second-level cache, some lines per step.
pub(super) struct Ahead {
    region: Region,
    next: *const u8,
    left: usize,
    per_step: usize,
}

impl Ahead {
    /// All of the region in so many steps.
    pub fn new(region: Option<Region>, steps: usize) -> Self {
        let region = region.unwrap_or(Region { start: std::ptr::null(), len: 0, rows: 0, stride: 0 });
        let per_step = (region.len * region.rows).div_ceil(steps.max(1));
        Self { next: region.start, left: region.len, region, per_step }
    }

    /// One step.
    #[inline(always)]
    pub fn step(&mut self) {
        for _ in 0..self.per_step {
            if self.left == 0 {
                if self.region.rows <= 1 {
                    self.per_step = 0;
                    return;
                }
                self.region.rows -= 1;
                self.region.start = self.region.start.wrapping_add(self.region.stride);
                (self.next, self.left) = (self.region.start, self.region.len);
            }
            // SAFETY: a prefetch may be anywhere.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.next.cast()) };
            self.next = self.next.wrapping_add(LINE);
            self.left -= 1;
        }
    }
}
