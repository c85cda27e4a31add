//! A slice whose parts different tasks write.

use std::marker::PhantomData;

use crate::MatMut;

/// A slice to write that several tasks hold at once.
pub(crate) struct Apart<'a> {
    start: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: its methods are unsafe: whoever calls them answers for the parts being apart.
unsafe impl Sync for Apart<'_> {}

impl<'a> Apart<'a> {
    pub fn new(data: &'a mut [f32]) -> Self {
        Self { start: data.as_mut_ptr(), len: data.len(), borrow: PhantomData }
    }

    /// `rows` rows of `cols` numbers, `stride` apart, from `start` on.
    ///
    /// # Safety
    ///
    /// Nobody else uses them while the result lives.
    pub unsafe fn columns(&self, start: usize, rows: usize, cols: usize, stride: usize) -> MatMut<'a> {
        assert!(start + (rows - 1) * stride + cols <= self.len);
        // SAFETY: inside the slice that `new` borrowed; apart from other uses by the caller's promise.
        unsafe { MatMut::columns(self.start.add(start), rows, cols, stride) }
    }

    /// `len` numbers from `start` on.
    ///
    /// # Safety
    ///
    /// Nobody else uses them while the result lives.
    pub unsafe fn part(&self, start: usize, len: usize) -> &'a mut [f32] {
        assert!(start + len <= self.len);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
