//! Products by Apple's Accelerate framework, which reaches the matrix units that no public
//! instruction does. On other systems nothing runs here.
//!
//! Accelerate cuts the product and picks its threads itself. No thread of ours takes part, so the
//! result does not depend on how many there are.

use super::{Into, Mat, Target};

/// Whether products go there at all.
pub(super) const HERE: bool = cfg!(target_os = "macos");

/// The whole product, or false when it is for another kernel: not on macOS, or a layout that BLAS
/// cannot name.
///
/// # Safety
///
/// `c` is writable for `a.rows` rows of `b.cols` numbers and nobody else uses it.
pub(super) unsafe fn matmul(alpha: f32, a: Mat<'_>, b: Mat<'_>, into: Into, c: Target) -> bool {
    #[cfg(target_os = "macos")]
    // SAFETY: the caller's promise.
    return unsafe { blas::sgemm(alpha, a, b, into, c) };
    #[cfg(not(target_os = "macos"))]
    {
        let _ = (alpha, a, b, into, c);
        false
    }
}

#[cfg(any(target_os = "macos", test))]
mod blas {
    use std::ffi::c_int;

    use super::{Into, Mat, Target};

    const ROW_MAJOR: c_int = 101;
    const NO_TRANS: c_int = 111;
    const TRANS: c_int = 112;

    // Source of numbers and types: the CBLAS interface of the BLAS Technical Forum standard, 2001,
    // appendix B; Accelerate's plain names take 32-bit integers.
    #[cfg_attr(target_os = "macos", link(name = "Accelerate", kind = "framework"))]
    unsafe extern "C" {
        fn cblas_sgemm(
            order: c_int,
            trans_a: c_int,
            trans_b: c_int,
            m: c_int,
            n: c_int,
            k: c_int,
            alpha: f32,
            a: *const f32,
            lda: c_int,
            b: *const f32,
            ldb: c_int,
            beta: f32,
            c: *mut f32,
            ldc: c_int,
        );
    }

    /// How BLAS reads a matrix: transposed or not, and the step between its rows or columns.
    fn layout(mat: Mat<'_>) -> Option<(c_int, c_int)> {
        let (trans, step, least) = match (mat.row_stride, mat.col_stride) {
            (step, 1) => (NO_TRANS, step, mat.cols),
            (1, step) => (TRANS, step, mat.rows),
            _ => return None,
        };
        // A single row has no next one, so its step says nothing, and BLAS insists on a valid one.
        let lines = if trans == NO_TRANS { mat.rows } else { mat.cols };
        let step = if lines == 1 { step.max(least) } else { step };
        (step >= least).then_some((trans, c_int::try_from(step).ok()?))
    }

    /// # Safety
    ///
    /// As [`super::matmul`].
    pub(super) unsafe fn sgemm(alpha: f32, a: Mat<'_>, b: Mat<'_>, into: Into, c: Target) -> bool {
        let extents = [a.rows, b.cols, a.cols, c.row_stride.max(b.cols)].map(c_int::try_from);
        let ([Ok(m), Ok(n), Ok(k), Ok(ldc)], Some((trans_a, lda)), Some((trans_b, ldb))) =
            (extents, layout(a), layout(b))
        else {
            return false;
        };
        let beta = if into == Into::Add { 1.0 } else { 0.0 };
        let (from_a, from_b) = (a.as_ptr(), b.as_ptr());
        // SAFETY: `Mat` checked that its numbers are there, `layout` that the steps describe them;
        // the caller answers for `c`, which is not read when beta is 0.
        unsafe {
            cblas_sgemm(
                ROW_MAJOR, trans_a, trans_b, m, n, k, alpha, from_a, lda, from_b, ldb, beta, c.data, ldc,
            );
        }
        true
    }

    #[cfg(test)]
    mod tests {
        use super::super::super::MatMut;
        use super::*;
        use crate::kernels::check::{assert_close, values};

        /// BLAS by its definition, so that what we pass to Accelerate is tested where it is not.
        #[cfg(not(target_os = "macos"))]
        #[unsafe(no_mangle)]
        #[allow(clippy::too_many_arguments)]
        unsafe extern "C" fn cblas_sgemm(
            order: c_int,
            trans_a: c_int,
            trans_b: c_int,
            m: c_int,
            n: c_int,
            k: c_int,
            alpha: f32,
            a: *const f32,
            lda: c_int,
            b: *const f32,
            ldb: c_int,
            beta: f32,
            c: *mut f32,
            ldc: c_int,
        ) {
            assert_eq!(order, ROW_MAJOR);
            assert!(lda >= if trans_a == NO_TRANS { k } else { m }, "lda {lda}");
            assert!(ldb >= if trans_b == NO_TRANS { n } else { k }, "ldb {ldb}");
            assert!(ldc >= n, "ldc {ldc}");
            let at = |trans, ld, i, j| if trans == NO_TRANS { i * ld + j } else { j * ld + i } as usize;
            for i in 0..m {
                for j in 0..n {
                    // SAFETY: the arguments describe matrices that are there, which is what the
                    // caller has to get right.
                    unsafe {
                        let product = |p| *a.add(at(trans_a, lda, i, p)) * *b.add(at(trans_b, ldb, p, j));
                        let sum: f32 = (0..k).map(product).sum();
                        let c = c.add(at(NO_TRANS, ldc, i, j));
                        *c = alpha * sum + if beta == 0.0 { 0.0 } else { beta * *c };
                    }
                }
            }
        }

        #[test]
        fn every_layout_reaches_blas() {
            for (m, n, k) in [(1, 1, 1), (1, 7, 5), (6, 1, 9), (4, 5, 1), (9, 8, 7)] {
                let (a, b) = (values(m * k, 1), values(k * n, 2));
                for layout in 0..4 {
                    let a = if layout & 1 == 0 { Mat::new(&a, m, k) } else { Mat::new(&a, k, m).t() };
                    let b = if layout & 2 == 0 { Mat::new(&b, k, n) } else { Mat::new(&b, n, k).t() };
                    for into in [Into::Set, Into::Add] {
                        let mut c = vec![if into == Into::Set { f32::NAN } else { 0.25 }; m * (n + 3)];
                        let mut wanted = vec![0.0; m * n];
                        for (at, w) in wanted.iter_mut().enumerate() {
                            let term = |p: usize| f64::from(a.at(at / n, p)) * f64::from(b.at(p, at % n));
                            let old = if into == Into::Set { 0.0 } else { 0.25 };
                            *w = old - 0.5 * (0..k).map(term).sum::<f64>();
                        }
                        let target = MatMut::strided(&mut c, m, n, n + 3).target();
                        // SAFETY: `c` is that matrix, and nobody else has it.
                        assert!(unsafe { sgemm(-0.5, a, b, into, target) });
                        let got: Vec<f32> = c.chunks(n + 3).flat_map(|row| &row[..n]).copied().collect();
                        assert_close(&got, &wanted, 1e-5);
                        assert!(
                            c.chunks(n + 3)
                                .all(|row| row[n..].iter().all(|v| v.to_bits() == row[n].to_bits()))
                        );
                    }
                }
            }
        }

        #[test]
        fn rows_that_overlap_are_for_another_kernel() {
            let numbers = values(40, 1);
            let overlapping = Mat::strided(&numbers, 3, 8, 5);
            let mut c = vec![0.0; 24];
            let target = MatMut::new(&mut c, 3, 3).target();
            // SAFETY: nothing is written.
            assert!(!unsafe { sgemm(1.0, overlapping, overlapping.t(), Into::Set, target) });
            assert_eq!(c, vec![0.0; 24]);
            // A single row may have any step.
            assert_eq!(layout(Mat::strided(&numbers, 1, 8, 5)), Some((NO_TRANS, 8)));
        }
    }
}
