//! Copies past the caches, for numbers that no cache keeps until somebody reads them: an ordinary store
//! brings each line from memory first, only to overwrite it.

/// Copies all of `from`, past the caches where the processor can.
pub fn copy(from: &[u32], to: &mut [u32]) {
    assert_eq!(from.len(), to.len());
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
        // SAFETY: any bits are numbers.
        let (before, whole, after) = unsafe { to.align_to_mut::<__m128i>() };
        let (first, rest) = from.split_at(before.len());
        let (middle, last) = rest.split_at(4 * whole.len());
        before.copy_from_slice(first);
        after.copy_from_slice(last);
        for (to, from) in whole.iter_mut().zip(middle.as_chunks::<4>().0) {
            // SAFETY: 16 bytes that are read, and as many at a multiple of 16 that are ours to write.
            unsafe { _mm_stream_si128(to, _mm_loadu_si128(from.as_ptr().cast())) };
        }
        // SAFETY: every x86-64 processor has it. Whoever waits for this thread sees what it wrote.
        unsafe { _mm_sfence() };
    }
    #[cfg(not(target_arch = "x86_64"))]
    to.copy_from_slice(from);
}

#[cfg(test)]
mod tests {
    #[test]
    fn copies_from_any_place_to_any_place() {
        let from: Vec<u32> = (0..200).collect();
        for (start, len) in [(0, 0), (0, 1), (1, 3), (2, 64), (3, 150), (0, 200)] {
            let mut to = vec![u32::MAX; 200];
            super::copy(&from[start..start + len], &mut to[200 - len..]);
            assert_eq!(to[200 - len..], from[start..start + len]);
            assert!(to[..200 - len].iter().all(|&x| x == u32::MAX));
        }
    }
}
