//! The f32 product of the fast arithmetic: the evaluator's own, blocks of rows on rayon's threads.

use mil::eval::{Gemm, Mat, SimdGemm};
use rayon::prelude::*;

/// `c = a · b` on all threads of rayon's pool.
///
/// Each block of rows is one single-threaded product, and the blocks do not depend on the number of
/// threads, so neither do the bits of the result.
#[derive(Clone, Copy, Debug, Default)]
pub struct FastGemm;

/// Rows of a block, one block of the evaluator's product. Every block packs `b` again, one element
/// for 96 multiplications.
const ROWS: usize = 96;
/// Products below this many multiplications stay on the calling thread.
const SMALL: usize = 1 << 18;

impl Gemm for FastGemm {
    fn matmul(&self, a: Mat<'_>, b: Mat<'_>, c: &mut [f32]) {
        let (m, n, k) = (a.rows, b.cols, a.cols);
        assert_eq!(k, b.rows, "the inner extents of a product agree");
        let c = &mut c[..m * n];
        if c.is_empty() {
            return;
        }
        if k == 0 {
            return c.fill(0.0);
        }
        let kernel = SimdGemm::default();
        let block = |first: usize, c: &mut [f32]| {
            let rows = c.len() / n;
            let a = Mat { data: &a.data[first * a.row_step..], rows, ..a };
            kernel.matmul(a, b, c);
        };
        if m <= ROWS || m * n * k <= SMALL {
            c.chunks_mut(ROWS * n).enumerate().for_each(|(i, c)| block(i * ROWS, c));
        } else {
            c.par_chunks_mut(ROWS * n).enumerate().for_each(|(i, c)| block(i * ROWS, c));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(len: usize, seed: usize) -> Vec<f32> {
        (0..len).map(|i| (((i + seed) * 7919) % 17) as f32 - 8.0).collect()
    }

    #[test]
    fn agrees_with_the_definition_on_ragged_shapes() {
        for (m, k, n) in [(1, 1, 1), (1, 300, 70), (300, 64, 70), (129, 5, 1), (7, 0, 3), (0, 3, 3)] {
            let (x, w) = (values(m * k, 0), values(k * n, 3));
            let pairs = [
                (Mat::rows(&x, m, k), Mat::rows(&w, k, n)),
                (Mat::columns(&x, m, k), Mat::columns(&w, k, n)),
            ];
            for (a, b) in pairs {
                let mut c = vec![f32::NAN; m * n];
                FastGemm.matmul(a, b, &mut c);
                for i in 0..m {
                    for j in 0..n {
                        let sum: f32 = (0..k).map(|l| a.at(i, l) * b.at(l, j)).sum();
                        assert_eq!(c[i * n + j], sum, "{m} {k} {n} at {i} {j}");
                    }
                }
            }
        }
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        let (m, k, n) = (400, 300, 200);
        let x: Vec<f32> = values(m * k, 1).iter().map(|v| v / 7.0).collect();
        let w: Vec<f32> = values(k * n, 2).iter().map(|v| v / 3.0).collect();
        let product = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut c = vec![0.0; m * n];
            pool.install(|| FastGemm.matmul(Mat::rows(&x, m, k), Mat::rows(&w, k, n), &mut c));
            c
        };
        let one = product(1);
        assert_eq!(one, product(2));
        assert_eq!(one, product(5));
    }
}
