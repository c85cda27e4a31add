//! Counts of what fp16 and the grid lose.

use std::ops::AddAssign;

use super::exact::FLUSH_EXPONENT;
use super::gemm::Mat;

/// What a run lost, summed over its operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Products that matmuls and convolutions summed.
    pub products: u64,
    /// Products of two nonzero operands whose exponents add up to less than −16: the ANE takes them
    /// as 0. Counted in both arithmetics, though only the exact one drops them.
    pub flushed: u64,
    /// Infinite results of computing operations, those that an infinite operand caused included.
    pub overflows: u64,
    /// Results that are fp16 subnormals, below 2^-14.
    pub subnormals: u64,
}

impl AddAssign for Stats {
    fn add_assign(&mut self, other: Self) {
        self.products += other.products;
        self.flushed += other.flushed;
        self.overflows += other.overflows;
        self.subnormals += other.subnormals;
    }
}

/// Exponents of fp16 values, subnormals included, run from −24 to 15.
const SMALLEST: i32 = -24;
const BINS: usize = 40;

/// Counts flushed products without forming them: per `k`, a histogram of the exponents on both sides.
#[derive(Debug, Default)]
pub(crate) struct Exponents {
    a: Vec<u32>,
    b: Vec<u32>,
}

impl Exponents {
    /// Pairs `a[i, k] · b[k, j]` of nonzero values with an exponent sum below −16.
    /// Costs one step per operand element, not per product.
    pub(crate) fn flushed(&mut self, a: Mat<'_>, b: Mat<'_>) -> u64 {
        let depth = a.cols;
        let smallest_a = fill(&mut self.a, depth, a.rows, |k, i| i * a.row_step + k * a.col_step, a);
        let smallest_b = fill(&mut self.b, depth, b.cols, |k, j| k * b.row_step + j * b.col_step, b);
        if smallest_a + smallest_b >= FLUSH_EXPONENT {
            return 0;
        }
        let mut total = 0u64;
        for (a, b) in self.a.chunks_exact(BINS).zip(self.b.chunks_exact(BINS)) {
            // `below` counts the b exponents that are too small for the a exponent of this turn:
            // the larger the one, the fewer of the other.
            let mut below: u64 = b.iter().map(|&n| u64::from(n)).sum();
            let mut end = BINS as i32;
            for (bin, &count) in a.iter().enumerate() {
                let limit = (FLUSH_EXPONENT - (bin as i32 + SMALLEST) - SMALLEST).clamp(0, BINS as i32);
                while end > limit {
                    end -= 1;
                    below -= u64::from(b[end as usize]);
                }
                total += u64::from(count) * below;
            }
        }
        total
    }
}

/// Histograms per `k`; returns the smallest exponent of a nonzero value.
fn fill(
    bins: &mut Vec<u32>,
    depth: usize,
    count: usize,
    at: impl Fn(usize, usize) -> usize,
    m: Mat<'_>,
) -> i32 {
    bins.clear();
    bins.resize(depth * BINS, 0);
    if depth > 1 && at(1, 0) - at(0, 0) == 1 {
        // Neighbours along `k` are neighbours in memory.
        for i in 0..count {
            for (line, x) in bins.chunks_exact_mut(BINS).zip(&m.data[at(0, i)..]) {
                if let Some(n) = line.get_mut(bin(*x)) {
                    *n += 1;
                }
            }
        }
    } else {
        for (k, line) in bins.chunks_exact_mut(BINS).enumerate() {
            // Four histograms in turn: counting the same exponent twice in a row does not wait.
            let mut turns = [[0u32; ALL_BINS]; 4];
            if count > 1 && at(k, 1) - at(k, 0) == 1 {
                let values = &m.data[at(k, 0)..][..count];
                let (fours, rest) = values.as_chunks::<4>();
                for four in fours {
                    for (turn, x) in turns.iter_mut().zip(four) {
                        turn[bin(*x)] += 1;
                    }
                }
                rest.iter().for_each(|x| turns[0][bin(*x)] += 1);
            } else {
                (0..count).for_each(|i| turns[i % 4][bin(m.data[at(k, i)])] += 1);
            }
            for (i, n) in line.iter_mut().enumerate() {
                *n = turns.iter().map(|turn| turn[i]).sum();
            }
        }
    }
    let used = |bin: usize| bins.iter().skip(bin).step_by(BINS).any(|&n| n > 0);
    (0..BINS).find(|&bin| used(bin)).map_or(i32::MAX / 2, |bin| bin as i32 + SMALLEST)
}

/// Bins of every value: zero, infinities and NaN fall behind the first [`BINS`].
const ALL_BINS: usize = 64;

/// The bin of a value's exponent.
fn bin(x: f32) -> usize {
    let exponent = (x.to_bits() >> 23) & 0xff;
    exponent.wrapping_sub((127 + SMALLEST) as u32).min(ALL_BINS as u32 - 1) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_every_flushed_pair_once() {
        let value = |i: usize| {
            let sign = if i.is_multiple_of(3) { -1.0 } else { 1.0 };
            if i.is_multiple_of(7) { 0.0 } else { sign * 2f32.powi(-((i * 5 % 23) as i32)) * 1.3 }
        };
        let x: Vec<f32> = (0..5 * 9).map(value).collect();
        let w: Vec<f32> = (0..9 * 8).map(|i| value(i + 2)).collect();
        for (a, b) in
            [(Mat::rows(&x, 5, 9), Mat::rows(&w, 9, 8)), (Mat::columns(&x, 5, 9), Mat::columns(&w, 9, 8))]
        {
            let mut want = 0;
            for i in 0..5 {
                for j in 0..8 {
                    for k in 0..9 {
                        let (x, w) = (a.at(i, k), b.at(k, j));
                        let exponents = x.abs().log2().floor() + w.abs().log2().floor();
                        want += u64::from(x != 0.0 && w != 0.0 && exponents < -16.0);
                    }
                }
            }
            assert!(want > 0);
            assert_eq!(Exponents::default().flushed(a, b), want);
        }
    }
}
