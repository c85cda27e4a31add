//! Zeroed memory whose allocation can fail.

use std::alloc::{Layout, alloc_zeroed};
use std::ops::{Deref, DerefMut, Range};

use crate::footprint;

/// Why the CPU backend could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// Not enough memory.
    #[error(
        "no memory for {what}: {bytes} bytes; use a smaller micro-batch, recomputation or a smaller model"
    )]
    OutOfMemory {
        /// What it was for.
        what: &'static str,
        /// Size of this one piece.
        bytes: u128,
    },
    /// A shape that is no model.
    #[error("the model configuration is not valid")]
    Config(#[from] model::ConfigError),
    /// Products in f32 of weights in bf16.
    #[error("weights in bf16 want products in bf16, got f32; ask for both, or for weights in f32")]
    WeightsWantBf16,
    /// Weights cannot be held in few bits.
    #[error("`{name}` cannot be held in few bits")]
    Weight {
        /// The parameter.
        name: String,
        /// Which weight, and why.
        #[source]
        source: model::quant::QuantError,
    },
    /// A format that no kernel here reads.
    #[error("the CPU does not hold weights as {format}; wanted f32, bf16, q8_0 or q4_0")]
    Format {
        /// It.
        format: model::quant::Format,
    },
    /// The system gave no thread.
    #[error("cannot start thread {number} of {wanted}; ask for fewer threads")]
    Thread {
        /// Which one.
        number: usize,
        /// Threads asked for.
        wanted: usize,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Result of what happens before there is a backend.
pub(crate) type CpuResult<T> = Result<T, CpuError>;

impl From<CpuError> for backend::Error {
    fn from(error: CpuError) -> Self {
        backend::Error::Device { device: "cpu", source: Box::new(error) }
    }
}

/// Types of which all bit patterns are values, zero bytes among them.
///
/// # Safety
///
/// That promise.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}

// SAFETY: numbers.
unsafe impl Plain for f32 {}
// SAFETY: numbers.
unsafe impl Plain for u32 {}
// SAFETY: numbers.
unsafe impl Plain for u16 {}
// SAFETY: numbers.
unsafe impl Plain for u8 {}
// SAFETY: numbers.
unsafe impl Plain for i8 {}
// SAFETY: numbers.
unsafe impl Plain for i32 {}

/// Numbers at a 64-byte boundary (large ones in huge pages where there are any), zero at first. Pages that are never touched cost nothing.
#[derive(Debug)]
pub struct Buffer<T = f32> {
    memory: Vec<T>,
    start: usize,
    len: usize,
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Self { memory: Vec::new(), start: 0, len: 0 }
    }
}

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Bytes from which a buffer lies in huge pages.
pub(crate) const HUGE_FROM: usize = 2 * HUGE;

/// Bytes of the pages of a buffer: large ones lie in huge pages, where the system gives any.
pub(crate) fn page_of(bytes: usize) -> usize {
    if bytes >= HUGE_FROM { HUGE } else { 4096 }
}

impl<T: Plain> Buffer<T> {
    /// `len` zeros; `what` names them when there is no memory.
    pub fn zeros(what: &'static str, len: usize) -> Result<Self, CpuError> {
        if len == 0 {
            return Ok(Self::default());
        }
        let size = size_of::<T>();
        if footprint::counts(what, (len as u64).saturating_mul(size as u64)) {
            return Ok(Self { memory: Vec::new(), start: 0, len });
        }
        let error = || CpuError::OutOfMemory { what, bytes: len as u128 * size as u128 };
        let align = if page_of(len.saturating_mul(size)) == HUGE { HUGE } else { LINE };
        let room = len.checked_add(align / size).ok_or_else(error)?;
        let mut memory = zeroed::<T>(room).ok_or_else(error)?;
        let start = memory.as_ptr().align_offset(align).min(align / size);
        if align == HUGE {
            ask_for_huge_pages(&mut memory[start..][..len]);
        }
        Ok(Self { memory, start, len })
    }

    /// `a · b` zeros, with the product checked.
    pub fn zeros_2d(what: &'static str, a: usize, b: usize) -> Result<Self, CpuError> {
        let bytes = size_of::<T>() as u128 * a as u128 * b as u128;
        Self::zeros(what, a.checked_mul(b).ok_or(CpuError::OutOfMemory { what, bytes })?)
    }

    /// How many numbers.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of the numbers.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }
}

impl<T> Buffer<T> {
    /// Some of the numbers, and no reference to the others: those may be written meanwhile.
    pub fn part(&self, place: Range<usize>) -> &[T] {
        self.check(&place);
        // SAFETY: inside the memory (checked), borrowed with `self`.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(self.start + place.start), place.len()) }
    }

    /// The same, to write.
    pub fn part_mut(&mut self, place: Range<usize>) -> &mut [T] {
        self.check(&place);
        let start = self.memory.as_mut_ptr();
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(start.add(self.start + place.start), place.len()) }
    }

    fn check(&self, place: &Range<usize>) {
        let there =
            place.start <= place.end && place.end <= self.len && self.start + self.len <= self.memory.len();
        assert!(there, "{place:?} of {} numbers", self.len);
    }
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.memory[self.start..][..self.len]
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.start..][..self.len]
    }
}

/// Lets the system map 2 MiB at once: a matrix of many pages otherwise waits for address
/// translation, which costs twice under a hypervisor. A refusal changes nothing but speed.
fn ask_for_huge_pages<T>(memory: &mut [T]) {
    #[cfg(target_os = "linux")]
    // SAFETY: whole memory of ours, at a page boundary; the advice changes no contents.
    unsafe {
        let _ = rustix::mm::madvise(
            memory.as_mut_ptr().cast(),
            size_of_val(memory),
            rustix::mm::Advice::LinuxHugepage,
        );
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

/// `None` when the system has no such memory; the standard way to make a zeroed `Vec` aborts then.
fn zeroed<T: Plain>(len: usize) -> Option<Vec<T>> {
    let layout = Layout::array::<T>(len).ok()?;
    if layout.size() == 0 {
        return Some(Vec::new());
    }
    // SAFETY: the layout is not empty.
    let start = unsafe { alloc_zeroed(layout) }.cast::<T>();
    if start.is_null() {
        return None;
    }
    // SAFETY: `start` comes from the global allocator with the layout of `len` values, and all of
    // them are initialised: zero bytes are one, as `Plain` promises.
    Some(unsafe { Vec::from_raw_parts(start, len, len) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_zero_and_aligned() {
        for len in [0, 1, 15, 1000, 3 << 20] {
            let mut b = Buffer::<f32>::zeros("test", len).unwrap();
            assert_eq!(b.len(), len);
            assert!(b.iter().all(|&v| v == 0.0));
            assert!(len == 0 || b.as_ptr().addr().is_multiple_of(64));
            b.fill(1.0);
        }
    }

    #[test]
    fn parts_are_those_of_the_whole() {
        let mut b = Buffer::<f32>::zeros("test", 1000).unwrap();
        b.part_mut(10..20).fill(1.0);
        assert_eq!(b.iter().sum::<f32>(), 10.0);
        assert_eq!(b.part(19..21), [1.0, 0.0]);
        assert!(b.part(1000..1000).is_empty() && Buffer::<f32>::default().part(0..0).is_empty());
        for place in [999..1001, 1001..1001] {
            assert!(std::panic::catch_unwind(|| b.part(place.clone()).len()).is_err(), "{place:?}");
        }
    }

    #[test]
    fn too_much_is_an_error_that_names_the_bytes() {
        let error = Buffer::<f32>::zeros("activations", 1 << 58).unwrap_err();
        let wanted = format!("no memory for activations: {} bytes", 1u64 << 60);
        assert!(error.to_string().starts_with(&wanted), "{error}");
        assert!(Buffer::<u16>::zeros_2d("x", usize::MAX, 2).is_err());
        assert!(Buffer::<f32>::zeros("x", usize::MAX).is_err());
    }
}
