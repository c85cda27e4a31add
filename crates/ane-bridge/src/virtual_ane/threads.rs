//! The host of the virtual device: the evaluator's own products, on rayon's threads.

use mil::eval::{Host, Mat, SimdGemm};
use rayon::prelude::*;

/// All threads of rayon's pool: the one that the calling thread belongs to, or the global one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Threads;

impl Host for Threads {
    fn matmul(&self, a: Mat<'_>, b: Mat<'_>, c: &mut [f32]) {
        SimdGemm::default().product(a, b, c);
    }

    fn spread(&self, work: &(dyn Fn() + Sync)) {
        (0..rayon::current_num_threads()).into_par_iter().with_max_len(1).for_each(|_| work());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_task_is_done_once_on_any_number_of_threads() {
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
            pool.install(|| {
                Threads.spread(&|| {
                    while next.fetch_add(1, Ordering::Relaxed) < 1000 {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
            assert_eq!(done.into_inner(), 1000, "{threads} threads");
        }
    }
}
