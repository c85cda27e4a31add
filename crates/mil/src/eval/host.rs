//! The seam to the machine that evaluates: matrix products and threads.

use std::cell::RefCell;
use std::sync::{Mutex, PoisonError};

use half::f16;

use super::gemm::{Mat, SimdGemm};
use super::{SliceMut, Stats};

/// What the evaluator takes from the machine. The virtual device passes its threads.
pub trait Host: Send + Sync {
    /// `c[i, j] = Σ_k a[i, k] · b[k, j]` in f32 on the calling thread, `c` row-major;
    /// `a.cols == b.rows`.
    fn matmul(&self, a: Mat<'_>, b: Mat<'_>, c: &mut [f32]);

    /// Calls `work` once or more, on as many threads at once as there are, and returns when all calls
    /// have. Each call takes tasks from a queue until none is left.
    fn spread(&self, work: &(dyn Fn() + Sync));
}

/// The default host: the calling thread.
impl Host for SimdGemm {
    fn matmul(&self, a: Mat<'_>, b: Mat<'_>, c: &mut [f32]) {
        self.product(a, b, c);
    }

    fn spread(&self, work: &(dyn Fn() + Sync)) {
        work();
    }
}

/// Elements of a task of a few operations each: long beside handing it out, short beside a cache.
pub(crate) const TASK: usize = 1 << 14;

/// Calls `f(first element, part)` for parts of `chunk` elements of a result, on the host's threads.
/// The parts do not depend on the threads, so neither do results.
pub(crate) fn parts(
    host: &dyn Host,
    out: &mut SliceMut<'_>,
    chunk: usize,
    f: impl Fn(usize, &mut SliceMut<'_>, &mut Stats) + Sync,
) -> Stats {
    match out {
        SliceMut::F16(v) => {
            chunks(host, v, chunk, |at, part: &mut [f16], stats| f(at, &mut SliceMut::F16(part), stats))
        }
        SliceMut::F32(v) => {
            chunks(host, v, chunk, |at, part: &mut [f32], stats| f(at, &mut SliceMut::F32(part), stats))
        }
    }
}

/// [`parts`] of one element type.
pub(crate) fn chunks<T: Send>(
    host: &dyn Host,
    out: &mut [T],
    chunk: usize,
    f: impl Fn(usize, &mut [T], &mut Stats) + Sync,
) -> Stats {
    let mut total = Stats::default();
    if out.len() <= chunk {
        if !out.is_empty() {
            f(0, out, &mut total);
        }
        return total;
    }
    let queue = Mutex::new((out.chunks_mut(chunk).enumerate(), total));
    let lock = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    host.spread(&|| {
        let mut stats = Stats::default();
        loop {
            let Some((i, part)) = lock().0.next() else { break };
            f(i * chunk, part, &mut stats);
        }
        lock().1 += stats;
    });
    lock().1
}

thread_local! {
    static LINES: RefCell<[Vec<f32>; 3]> = const { RefCell::new([Vec::new(), Vec::new(), Vec::new()]) };
}

/// Memory of the calling thread for a task, of these lengths. Tasks do not nest.
pub(crate) fn with_lines<R>(lens: [usize; 3], f: impl FnOnce([&mut [f32]; 3]) -> R) -> R {
    LINES.with_borrow_mut(|lines| {
        for (line, len) in lines.iter_mut().zip(lens) {
            line.resize(line.len().max(len), 0.0);
        }
        let [a, b, c] = lines;
        f([&mut a[..lens[0]], &mut b[..lens[1]], &mut c[..lens[2]]])
    })
}
