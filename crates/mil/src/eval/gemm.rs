//! Matrix products in f32, on one thread.

use std::cell::RefCell;

use pulp::{Arch, Simd, WithSimd};

/// A matrix to read: element `(i, j)` is `data[i·row_step + j·col_step]`.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the type's line says it")]
pub struct Mat<'a> {
    pub data: &'a [f32],
    pub rows: usize,
    pub cols: usize,
    pub row_step: usize,
    pub col_step: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix.
    pub fn rows(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row_step: cols, col_step: 1 }
    }

    /// A column-major matrix: `data` holds its transpose row by row.
    pub fn columns(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row_step: 1, col_step: rows }
    }

    /// Rows from `first` on.
    pub fn rows_from(self, first: usize, rows: usize) -> Self {
        Self { data: &self.data[(first * self.row_step).min(self.data.len())..], rows, ..self }
    }

    /// Element `(i, j)`.
    #[inline(always)]
    pub fn at(&self, i: usize, j: usize) -> f32 {
        self.data[i * self.row_step + j * self.col_step]
    }
}

/// The product: packed, in registers, on one thread.
#[derive(Clone, Copy, Debug)]
pub struct SimdGemm {
    arch: Arch,
}

impl Default for SimdGemm {
    fn default() -> Self {
        Self { arch: Arch::new() }
    }
}

/// Rows and vectors of a register tile.
const MR: usize = 6;
const NV: usize = 2;
/// Blocks that stay in the caches: depth, rows, columns.
const KC: usize = 256;
const MC: usize = 16 * MR;
const NC: usize = 1024;

thread_local! {
    static PACKED: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl SimdGemm {
    /// `c[i, j] = Σ_k a[i, k] · b[k, j]`, `c` row-major; `a.cols == b.rows`.
    pub fn product(&self, a: Mat<'_>, b: Mat<'_>, c: &mut [f32]) {
        PACKED.with_borrow_mut(|(pa, pb)| self.arch.dispatch(Product { a, b, c, pa, pb }));
    }
}

struct Product<'a> {
    a: Mat<'a>,
    b: Mat<'a>,
    c: &'a mut [f32],
    pa: &'a mut Vec<f32>,
    pb: &'a mut Vec<f32>,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Product { a, b, c, pa, pb } = self;
        let (m, k, n) = (a.rows, a.cols, b.cols);
        let nr = NV * S::F32_LANES;
        c[..m * n].fill(0.0);
        pa.resize(MC * KC, 0.0);
        pb.resize(NC.next_multiple_of(nr) * KC, 0.0);
        for j0 in (0..n).step_by(NC) {
            let cols = NC.min(n - j0);
            for k0 in (0..k).step_by(KC) {
                let depth = KC.min(k - k0);
                pack(
                    pb,
                    depth,
                    cols,
                    nr,
                    |k, j| (k0 + k) * b.row_step + (j0 + j) * b.col_step,
                    b,
                    b.col_step == 1,
                );
                for i0 in (0..m).step_by(MC) {
                    let rows = MC.min(m - i0);
                    let at = |k: usize, i: usize| (i0 + i) * a.row_step + (k0 + k) * a.col_step;
                    pack(pa, depth, rows, MR, at, a, a.row_step == 1);
                    for (pj, panel) in pb.chunks_exact(depth * nr).take(cols.div_ceil(nr)).enumerate() {
                        let width = nr.min(cols - pj * nr);
                        for (pi, block) in pa.chunks_exact(depth * MR).take(rows.div_ceil(MR)).enumerate() {
                            let height = MR.min(rows - pi * MR);
                            let first = (i0 + pi * MR) * n + j0 + pj * nr;
                            tile(simd, block, panel, &mut c[first..], n, height, width);
                        }
                    }
                }
            }
        }
    }
}

/// Packs `depth × count` elements as `[count / width][depth][width]`, padded with zeros.
/// `runs` says that neighbours along `count` are neighbours in memory.
#[inline(always)]
fn pack(
    out: &mut [f32],
    depth: usize,
    count: usize,
    width: usize,
    at: impl Fn(usize, usize) -> usize,
    from: Mat<'_>,
    runs: bool,
) {
    for (p, panel) in out.chunks_exact_mut(depth * width).take(count.div_ceil(width)).enumerate() {
        let first = p * width;
        let used = width.min(count - first);
        if runs {
            for (k, line) in panel.chunks_exact_mut(width).enumerate() {
                let start = at(k, first);
                line[..used].copy_from_slice(&from.data[start..start + used]);
                line[used..].fill(0.0);
            }
        } else {
            for j in 0..width {
                for k in 0..depth {
                    panel[k * width + j] = if j < used { from.data[at(k, first + j)] } else { 0.0 };
                }
            }
        }
    }
}

/// `c[..height, ..width] += block · panel`.
#[inline(always)]
fn tile<S: Simd>(
    simd: S,
    block: &[f32],
    panel: &[f32],
    c: &mut [f32],
    n: usize,
    height: usize,
    width: usize,
) {
    let mut acc = [[simd.splat_f32s(0.0); NV]; MR];
    let (vectors, _) = S::as_simd_f32s(panel);
    for (a, b) in block.chunks_exact(MR).zip(vectors.chunks_exact(NV)) {
        for i in 0..MR {
            let x = simd.splat_f32s(a[i]);
            for v in 0..NV {
                acc[i][v] = simd.mul_add_e_f32s(x, b[v], acc[i][v]);
            }
        }
    }
    for (i, acc) in acc.iter().enumerate().take(height) {
        let line = &mut c[i * n..i * n + width];
        let (full, rest) = S::as_mut_simd_f32s(line);
        for (y, x) in full.iter_mut().zip(acc) {
            *y = simd.add_f32s(*y, *x);
        }
        if !rest.is_empty() {
            let lanes: &[f32] = pulp::bytemuck::cast_slice(&acc[full.len()..=full.len()]);
            for (y, x) in rest.iter_mut().zip(lanes) {
                *y += x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_definition_on_ragged_shapes() {
        for (m, k, n) in [(1, 1, 1), (7, 300, 70), (100, 5, 33), (6, 513, 1030)] {
            let value = |i: usize| ((i * 7919) % 17) as f32 - 8.0;
            let x: Vec<f32> = (0..m * k).map(value).collect();
            let w: Vec<f32> = (0..k * n).map(|i| value(i + 3)).collect();
            let pairs = [
                (Mat::rows(&x, m, k), Mat::rows(&w, k, n)),
                (Mat::columns(&x, m, k), Mat::columns(&w, k, n)),
            ];
            for (a, b) in pairs {
                let mut c = vec![f32::NAN; m * n];
                SimdGemm::default().product(a, b, &mut c);
                for i in 0..m {
                    for j in 0..n {
                        let sum: f32 = (0..k).map(|l| a.at(i, l) * b.at(l, j)).sum();
                        assert_eq!(c[i * n + j], sum, "{m} {k} {n} at {i} {j}");
                    }
                }
            }
        }
    }
}
