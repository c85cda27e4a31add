//! The ANE's multiply-accumulate arithmetic, bit by bit.
//!
//! ```text
//! p = x · w                         exact product of two fp16
//! p = 0            if ex(x) + ex(w) < −16      ex: unbiased exponent, mantissa in [1, 2)
//! p = ⌊p · 2^16⌉ / 2^16             otherwise, ties away from zero
//! y = Σ p                           exact, so the order does not matter
//! y = ±∞           if |y| ≥ 32768
//! fp16(y)                           ties away from zero
//! ```
//!
//! Fitted to the relative errors that ANEForge published for N×N products with constant weights
//! on seven chips (M1 to M6), which it reproduces to all printed digits (see `tests/exact.rs`).
//! Unverified: two computed operands, fp16 subnormal operands, partial sums beyond the limit,
//! the exact limit between 32752 and 32768. The same model is used for them.

use half::f16;
use pulp::Arch;

use super::gemm::Mat;
use super::round::{MAC_LIMIT, half_away};
use super::vector::vector_fn;

/// Sums are kept in units of the grid, 2^-16.
const GRID: f32 = 65536.0;
/// Products with a smaller exponent sum are lost.
pub(crate) const FLUSH_EXPONENT: i32 = -16;

const ROWS: usize = 4;
const COLS: usize = 32;

/// Buffers that [`matmul`] keeps between calls.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// `b` by column panels, values then powers of two, `[panel][k][2][COLS]`.
    panels: Vec<f32>,
    /// Rows of `a` by blocks, values (in grid units) and powers of two, `[k][2][ROWS]`.
    block: Vec<f32>,
}

/// `out[m, n] = Σ_k a[m, k] · b[k, n]` on the grid. Operands hold fp16 values.
///
/// Sums are exact while partial sums stay below 2^37, four million times the overflow limit.
pub(crate) fn matmul(arch: Arch, a: Mat<'_>, b: Mat<'_>, out: &mut [f16], scratch: &mut Scratch) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    pack_panels(b, &mut scratch.panels);
    let largest_b = largest(arch, b.data);
    for row in (0..m).step_by(ROWS) {
        let rows = ROWS.min(m - row);
        let largest_a = pack_block(a, row, rows, &mut scratch.block);
        // Whole numbers below 2^24 add exactly in f32, so wide sums are needed only beyond that.
        let narrow = largest_a * largest_b * k as f32 + (k as f32) < 16_777_216.0;
        let columns = out[row * n..].chunks_mut(n).take(rows);
        let mut lines: [&mut [f16]; ROWS] = [&mut [], &mut [], &mut [], &mut []];
        for (line, column) in lines.iter_mut().zip(columns) {
            *line = column;
        }
        for (panel, first) in scratch.panels.chunks_exact((k * 2 * COLS).max(1)).zip((0..n).step_by(COLS)) {
            let cols = COLS.min(n - first);
            let sums = if narrow {
                tile(arch, &scratch.block, panel).map(|row| row.map(f64::from))
            } else {
                wide_tile(arch, &scratch.block, panel)
            };
            for (line, sums) in lines.iter_mut().zip(&sums).take(rows) {
                for (y, sum) in line[first..first + cols].iter_mut().zip(sums) {
                    *y = finish(*sum);
                }
            }
        }
        if k == 0 {
            lines.iter_mut().for_each(|line| line.fill(f16::ZERO));
        }
    }
}

/// A sum in grid units → fp16.
fn finish(sum: f64) -> f16 {
    let y = sum / f64::from(GRID);
    if y.abs() >= f64::from(MAC_LIMIT) {
        return f16::INFINITY.copysign(f16::from_f64(y));
    }
    f16::from_bits(half_away(y))
}

/// Rounds an exact sum as a reduction does: half away from zero, no limit but fp16's own.
pub(crate) fn round_sum(sum: f64) -> f16 {
    f16::from_bits(half_away(sum))
}

vector_fn! {
    fn tile(block: &'a [f32], panel: &'a [f32]) -> [[f32; COLS]; ROWS] {
        // Row by row: the sums of one row stay in registers.
        let mut rows = [[0f32; COLS]; ROWS];
        for (r, row) in rows.iter_mut().enumerate() {
            let mut acc = [0f32; COLS];
            for (a, b) in block.chunks_exact(2 * ROWS).zip(panel.chunks_exact(2 * COLS)) {
                let (values, powers) = b.split_at(COLS);
                for j in 0..COLS {
                    acc[j] += term(a[r], a[ROWS + r], values[j], powers[j]);
                }
            }
            *row = acc;
        }
        rows
    }
}

vector_fn! {
    fn wide_tile(block: &'a [f32], panel: &'a [f32]) -> [[f64; COLS]; ROWS] {
        let mut rows = [[0f64; COLS]; ROWS];
        for (r, row) in rows.iter_mut().enumerate() {
            let mut acc = [0f64; COLS];
            for (a, b) in block.chunks_exact(2 * ROWS).zip(panel.chunks_exact(2 * COLS)) {
                let (values, powers) = b.split_at(COLS);
                for j in 0..COLS {
                    acc[j] += f64::from(term(a[r], a[ROWS + r], values[j], powers[j]));
                }
            }
            *row = acc;
        }
        rows
    }
}

/// One product in grid units. `x` is in grid units already; `px`, `pw` are the powers of two of
/// the operands. The product has 22 bits, so f32 holds it, and its half, exactly.
#[inline(always)]
fn term(x: f32, px: f32, w: f32, pw: f32) -> f32 {
    let p = x * w;
    let rounded = (p + 0.5f32.copysign(p)).trunc();
    if px * pw >= 1.0 { rounded } else { 0.0 }
}

/// The power of two below `|x|`, or 0.
#[inline(always)]
fn power(x: f32) -> f32 {
    f32::from_bits(x.to_bits() & 0x7f80_0000)
}

/// Values and powers of up to `ROWS` rows; returns the largest magnitude, in grid units.
fn pack_block(a: Mat<'_>, row: usize, rows: usize, block: &mut Vec<f32>) -> f32 {
    block.clear();
    block.resize(a.cols * 2 * ROWS, 0.0);
    let mut largest = 0f32;
    for (k, line) in block.chunks_exact_mut(2 * ROWS).enumerate() {
        for r in 0..rows {
            let x = a.at(row + r, k);
            line[r] = x * GRID;
            // 2^16 times the power: the flush test compares with 1.
            line[ROWS + r] = power(x) * GRID;
            largest = largest.max(x.abs() * GRID);
        }
    }
    largest
}

fn pack_panels(b: Mat<'_>, panels: &mut Vec<f32>) {
    let (k, n) = (b.rows, b.cols);
    panels.clear();
    panels.resize(n.div_ceil(COLS) * k * 2 * COLS, 0.0);
    for (p, panel) in panels.chunks_exact_mut((k * 2 * COLS).max(1)).enumerate() {
        let first = p * COLS;
        let cols = COLS.min(n - first);
        for (k, line) in panel.chunks_exact_mut(2 * COLS).enumerate() {
            let (values, powers) = line.split_at_mut(COLS);
            for j in 0..cols {
                values[j] = b.at(k, first + j);
                powers[j] = power(values[j]);
            }
        }
    }
}

vector_fn! {
    fn largest(values: &'a [f32]) -> f32 {
        let mut lanes = [0f32; 32];
        let chunks = values.chunks_exact(32);
        let rest = chunks.remainder().iter().fold(0f32, |m, x| m.max(x.abs()));
        for chunk in chunks {
            for (m, x) in lanes.iter_mut().zip(chunk) {
                *m = if x.abs() > *m { x.abs() } else { *m };
            }
        }
        lanes.iter().fold(rest, |m, x| m.max(*x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(x: &[f32], w: &[f32]) -> f32 {
        let mut out = [f16::ZERO];
        let (a, b) = (Mat::rows(x, 1, x.len()), Mat::rows(w, w.len(), 1));
        matmul(Arch::new(), a, b, &mut out, &mut Scratch::default());
        out[0].to_f32()
    }

    #[test]
    fn products_are_rounded_to_the_grid() {
        let grid = 2f32.powi(-16);
        // Exponents −8 and −8 reach the grid, −8 and −9 do not, though the product is almost 2^-15.
        assert_eq!(dot(&[2f32.powi(-8)], &[2f32.powi(-8)]), grid);
        assert_eq!(dot(&[1.998 * 2f32.powi(-8)], &[1.998 * 2f32.powi(-9)]), 0.0);
        // 1.5 grid steps: away from zero, on both sides.
        assert_eq!(dot(&[1.5 * 2f32.powi(-8)], &[2f32.powi(-8)]), 2.0 * grid);
        assert_eq!(dot(&[-1.5 * 2f32.powi(-8)], &[2f32.powi(-8)]), -2.0 * grid);
    }

    #[test]
    fn sums_are_exact_and_limited_to_half_of_fp16() {
        assert_eq!(dot(&[16384.0, 16352.0], &[1.0, 1.0]), 32736.0);
        assert_eq!(dot(&[16384.0, 16384.0], &[1.0, 1.0]), f32::INFINITY);
        assert_eq!(dot(&[-16384.0, -16384.0], &[1.0, 1.0]), f32::NEG_INFINITY);
        assert_eq!(dot(&[20000.0, 20000.0, -20000.0, -20000.0], &[1.0; 4]), 0.0);
        // 2049 lies between 2048 and 2050.
        assert_eq!(dot(&[2048.0, 1.0], &[1.0, 1.0]), 2050.0);
    }
}
