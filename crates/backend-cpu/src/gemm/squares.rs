//! Sums of the squares of what a product writes, taken while the numbers are in registers, or in the cache of
//! the task that wrote them.
//!
//! Each task adds to a place of its own, and places are added in order, so that no sum depends on the
//! number of threads. Blocks of tiles are summed in f32, all else in f64.

/// Where the tasks of a product put their sums; nowhere when nobody asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Squares {
    first: *mut f64,
    len: usize,
}

// SAFETY: a pointer; whoever writes through it says why nobody else does.
unsafe impl Send for Squares {}
// SAFETY: as above.
unsafe impl Sync for Squares {}

impl Squares {
    /// Nobody asks.
    pub const NONE: Self = Self { first: std::ptr::null_mut(), len: 0 };

    /// One place for each task. Whoever adds to a place does so before `sums` is used again.
    pub fn new(sums: &mut [f64]) -> Self {
        Self { first: sums.as_mut_ptr(), len: sums.len() }
    }

    /// Whether somebody asks.
    pub fn wanted(self) -> bool {
        self.len > 0
    }

    /// From the place of this task on.
    pub fn of_task(self, task: usize) -> Self {
        assert!(task < self.len || self.len == 0, "a place for each task");
        Self { first: self.first.wrapping_add(task), len: self.len.saturating_sub(task) }
    }

    /// Adds at the first place.
    ///
    /// # Safety
    ///
    /// The places are there, and no other thread uses this one.
    pub unsafe fn add(self, sum: f64) {
        if self.wanted() {
            // SAFETY: the caller's promise.
            unsafe { *self.first += sum };
        }
    }
}

/// The sum over `len` numbers; none where f32 may have overflowed or lost what counts.
pub(super) fn total(sums: &[f64], len: usize) -> Option<f64> {
    const MEAN: std::ops::RangeInclusive<f64> = 1e-24..=1e24;
    let total: f64 = sums.iter().sum();
    MEAN.contains(&(total / len as f64)).then_some(total)
}

#[cfg(test)]
mod tests {
    use crate::gemm::accelerate;
    use crate::kernels::check::values;
    use crate::{Exec, Into, Isa, Mat, MatMut, Plan, Precision, Right};

    /// The product of these values times `size`, and the sum that came with it.
    fn product(
        exec: &mut Exec,
        (m, n, k): (usize, usize, usize),
        into: Into,
        alpha: f32,
        size: f32,
    ) -> (Vec<f32>, Option<f64>) {
        let a: Vec<_> = values(k * m, 1).into_iter().map(|a| size * a).collect();
        let (b, mut c) = (values(k * n, 2), values(m * n, 3));
        let b = Right::Plain(Mat::new(&b, k, n));
        let a = Mat::new(&a, k, m).t();
        let squares = exec.product_and_squares(alpha, a, b, into, MatMut::new(&mut c, m, n));
        (c, squares)
    }

    #[test]
    fn sums_are_those_of_what_was_written_for_any_number_of_threads() {
        let precisions = [Precision::F32, Precision::Bf16];
        for (&isa, precision) in Isa::available().iter().flat_map(|isa| precisions.map(|p| (isa, p))) {
            let exec = |threads| {
                let plan = Plan { isa, ..Plan::new(1).with_threads(threads) };
                Exec::new(&plan.with_precision(precision)).unwrap()
            };
            let mut execs = [1, 2, 3].map(exec);
            for shape in [
                (33, 100, 65),
                (130, 600, 900),
                (700, 60, 50),
                (64, 96, 2000),
                (2100, 40, 30),
                (40, 2100, 30),
            ] {
                for (into, alpha) in
                    [(Into::Set, 1.0), (Into::Stream, 1.0), (Into::Add, 1.0), (Into::Add, 0.5)]
                {
                    let [one, rest @ ..] = &mut execs;
                    let (c, squares) = product(one, shape, into, alpha, 1.0);
                    let case = format!("{isa:?} {precision:?} {shape:?} {into:?} {alpha}");
                    for exec in rest {
                        assert!(product(exec, shape, into, alpha, 1.0) == (c.clone(), squares), "{case}");
                    }
                    assert_eq!(
                        squares.is_some(),
                        !accelerate::HERE || precision == Precision::Bf16,
                        "{case}"
                    );
                    let wanted: f64 = c.iter().map(|&x| f64::from(x).powi(2)).sum();
                    let error = squares.map_or(0.0, |squares| (squares / wanted - 1.0).abs());
                    assert!(error < 1e-6, "{case}: off by {error}");
                }
            }
        }
    }

    #[test]
    fn squares_beyond_f32_are_left_to_who_reads() {
        for precision in [Precision::F32, Precision::Bf16] {
            let mut exec = Exec::new(&Plan::new(1).with_precision(precision)).unwrap();
            for size in [1e-20, 1e25, f32::NAN] {
                let (_, squares) = product(&mut exec, (33, 100, 65), Into::Set, 1.0, size);
                assert_eq!(squares, None, "{precision:?}, numbers of {size}");
            }
        }
    }
}
