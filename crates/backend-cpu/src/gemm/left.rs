//! The left operand of a product.

use super::{Mat, Tasks};

/// Rows of a task that computes rows and nothing else.
const ROWS: usize = 8;

/// What computes rows: gets the first one and memory for some whole rows.
type Make<'a> = dyn Fn(usize, &mut [f32]) + Sync + 'a;

/// The left operand of a product.
pub struct Left<'a> {
    mat: Mat<'a>,
    make: Option<&'a Make<'a>>,
}

impl<'a> From<Mat<'a>> for Left<'a> {
    fn from(mat: Mat<'a>) -> Self {
        Self { mat, make: None }
    }
}

impl<'a> Left<'a> {
    /// Rows that are computed where they are packed, and so are in the cache of who packs them: a norm, a gate.
    ///
    /// `make(first, numbers)` writes some rows of `cols` numbers from row `first` on, on any thread, each row once. After
    /// a product all of `to` is written.
    pub fn made(to: &'a mut [f32], cols: usize, make: &'a Make<'a>) -> Self {
        let rows = to.len() / cols.max(1);
        // SAFETY: borrowed for 'a; rows are read behind `Left::make` of them.
        let mat = unsafe { Mat::unfinished(to.as_mut_ptr(), rows, cols, cols) };
        Self { mat, make: Some(make) }
    }

    /// The matrix, of which rows may still be missing.
    pub(super) fn mat(&self) -> Mat<'a> {
        self.mat
    }

    /// Computes some rows, if they are computed at all.
    ///
    /// # Safety
    ///
    /// Nobody else uses these rows now.
    pub(super) unsafe fn make(&self, first: usize, rows: usize) {
        if let Some(make) = self.make {
            assert!(first + rows <= self.mat.rows);
            let start = self.mat.as_ptr().wrapping_add(first * self.mat.cols).cast_mut();
            // SAFETY: rows of the slice that `made` borrowed; the caller's promise.
            make(first, unsafe { std::slice::from_raw_parts_mut(start, rows * self.mat.cols) });
        }
    }

    /// The same for a kernel whose tasks pack so many rows each: where they are fewer than the threads, rows are
    /// computed at once, by all of them.
    pub(super) fn packed_by(self, rows: usize, tasks: Tasks<'_>) -> Self {
        let few = self.mat.rows.div_ceil(rows) < tasks.threads();
        if few { Self::from(self.whole(tasks)) } else { self }
    }

    /// The whole matrix: for kernels that do not pack it row by row.
    pub(super) fn whole(&self, tasks: Tasks<'_>) -> Mat<'a> {
        if self.make.is_some() {
            let rows = self.mat.rows;
            tasks.run(rows.div_ceil(ROWS), |task, _| {
                let first = task * ROWS;
                // SAFETY: each task has rows of its own.
                unsafe { self.make(first, ROWS.min(rows - first)) };
            });
        }
        self.mat
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::kernels::check::values;
    use crate::{Exec, Into, Isa, MatMut, Plan, Precision, Right};

    /// Shapes whose left operand is shared by all threads, and each task's own; with several blocks of rows, columns
    /// and depth; and for dot products.
    const SHAPES: [(usize, usize, usize); 7] = [
        (3, 100, 70),
        (33, 200, 65),
        (300, 130, 40),
        (130, 600, 1700),
        (600, 130, 1700),
        (2500, 40, 20),
        (40, 2500, 20),
    ];

    #[test]
    fn rows_made_on_the_way_give_the_same_product() {
        let precisions = [Precision::F32, Precision::Bf16];
        for (&isa, precision) in Isa::available().iter().flat_map(|isa| precisions.map(|p| (isa, p))) {
            let plan = Plan { isa, ..Plan::new(1).with_threads(3) };
            let mut exec = Exec::new(&plan.with_precision(precision)).unwrap();
            for (m, n, k) in SHAPES {
                let (a, b) = (values(m * k, 1), values(n * k, 2));
                let b = Mat::new(&b, n, k).t();
                let mut wanted = vec![0.0; m * n];
                exec.product(
                    1.0,
                    Mat::new(&a, m, k),
                    Right::Plain(b),
                    Into::Set,
                    MatMut::new(&mut wanted, m, n),
                );

                let times: Vec<_> = (0..m).map(|_| AtomicUsize::new(0)).collect();
                let make = |first: usize, rows: &mut [f32]| {
                    rows.copy_from_slice(&a[first * k..][..rows.len()]);
                    times[first..][..rows.len() / k]
                        .iter()
                        .for_each(|t| _ = t.fetch_add(1, Ordering::Relaxed));
                };
                let (mut to, mut c) = (vec![f32::NAN; m * k], vec![0.0; m * n]);
                let left = Left::made(&mut to, k, &make);
                exec.product(1.0, left, Right::Plain(b), Into::Set, MatMut::new(&mut c, m, n));
                let case = format!("{isa:?} {precision:?} {m} × {n} × {k}");
                assert!(c == wanted && to == a, "{case}");
                assert!(times.iter().all(|t| t.load(Ordering::Relaxed) == 1), "{case}");
            }
        }
    }
}
