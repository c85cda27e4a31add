//! Rotary positions in the half-split layout.
//!
//! ```text
//! a = x[i], b = x[i + d/2], φ = position · frequency[i]
//! y[i]       = a·cos φ − b·sin φ
//! y[i + d/2] = b·cos φ + a·sin φ
//! ```
//!
//! The gradient turns back: the same with −φ. Shapes: `x` is `[heads, d]`, the heads of one token.
//! Source: Su et al. 2021, arXiv:2104.09864; frequencies from [`model::Rope::frequencies`].

use model::{ModelConfig, Rope};

use super::vector::fma;
use crate::isa::simd;
use crate::{CpuError, Isa, footprint};

/// Sines and cosines of the first positions, f32 of f64.
pub struct Table {
    frequencies: Vec<f64>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Table {
    /// For the heads of a model; holds no position yet.
    pub fn new(config: &ModelConfig) -> Self {
        Self::of(&config.rope, config.head_dim)
    }

    fn of(rope: &Rope, head_dim: usize) -> Self {
        Self { frequencies: rope.frequencies(head_dim), cos: Vec::new(), sin: Vec::new() }
    }

    /// Computes the positions below `positions` that are missing.
    pub fn reserve(&mut self, positions: usize) -> Result<(), CpuError> {
        let half = self.frequencies.len();
        let have = self.cos.len() / half;
        let more = positions.saturating_sub(have) * half;
        if footprint::counts("rotary positions", 8 * more as u64) {
            return Ok(());
        }
        for table in [&mut self.cos, &mut self.sin] {
            table.try_reserve(more).map_err(|_| CpuError::OutOfMemory {
                what: "tables of rotary positions",
                bytes: more as u128 * 4,
            })?;
        }
        for position in have..positions {
            for frequency in &self.frequencies {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                self.cos.push(cos as f32);
                self.sin.push(sin as f32);
            }
        }
        Ok(())
    }

    /// Turns the heads of a token at `position`.
    pub fn forward(&self, isa: Isa, position: usize, x: &mut [f32]) {
        let (cos, sin) = self.at(position);
        turn(isa, x, cos, sin, 1.0);
    }

    /// Turns the gradient of a token at `position` back.
    pub fn backward(&self, isa: Isa, position: usize, dx: &mut [f32]) {
        let (cos, sin) = self.at(position);
        turn(isa, dx, cos, sin, -1.0);
    }

    fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let half = self.frequencies.len();
        let row = position * half..(position + 1) * half;
        (&self.cos[row.clone()], &self.sin[row])
    }
}

simd! {
    fn turn(x: &mut [f32], cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        for head in x.chunks_exact_mut(2 * half) {
            let (low, high) = head.split_at_mut(half);
            for i in 0..half {
                let (a, b) = (low[i], high[i]);
                let sin = sign * sin[i];
                low[i] = fma::<FMA>(a, cos[i], -(b * sin));
                high[i] = fma::<FMA>(b, cos[i], a * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use backend::reference::rope as reference;

    use super::*;
    use crate::kernels::check::{assert_close, values, wide};

    #[test]
    fn agrees_with_the_reference_both_ways() {
        for &isa in Isa::available() {
            for (heads, d, seq) in [(1, 2, 3), (3, 10, 5), (2, 64, 300)] {
                let rope = Rope { theta: 500.0, scaling: None };
                let mut table = Table::of(&rope, d);
                table.reserve(2).unwrap();
                table.reserve(seq).unwrap();
                let frequencies = rope.frequencies(d);
                let x = values(seq * heads * d, 1);
                let (mut there, mut back) = (x.clone(), x.clone());
                for t in 0..seq {
                    let row = t * heads * d..(t + 1) * heads * d;
                    table.forward(isa, t, &mut there[row.clone()]);
                    table.backward(isa, t, &mut back[row]);
                }
                let (mut wanted, mut wanted_back) = (wide(&x), wide(&x));
                reference::forward(&mut wanted, &frequencies, heads * d, seq, 0);
                reference::backward(&mut wanted_back, &frequencies, heads * d, seq);
                assert_close(&there, &wanted, 1e-6);
                assert_close(&back, &wanted_back, 1e-6);
            }
        }
    }
}
