//! The weights, in 4 bytes each or in 2.
//!
//! | | matrices | gains and biases |
//! |---|---|---|
//! | `F32` | f32 | f32 |
//! | `Bf16` | bf16, rounded up or down by chance after every update | f32 |
//!
//! Rounding by chance, in proportion to the distance, moves a weight on the average as it should move
//! where the step is less than the distance to the next number; rounding to nearest would leave it
//! where it is. Source: Gupta et al. 2015, arXiv:1502.02551.

use std::borrow::Cow;
use std::ops::Range;

use model::TokenId;

use crate::cells::Order;
use crate::isa::simd;
use crate::kernels::embedding;
use crate::moments::{Chance, narrow, wide};
use crate::params::{Layout, ParamIndex};
use crate::pool::Split;
use crate::{Buffer, CpuError, Isa, Pool, RowsMut};

/// How the weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// Exactly.
    F32,
    /// Matrices in 8 bits of precision; wants products in bf16.
    Bf16,
}

/// All weights of a model.
pub enum Weights {
    /// At their places.
    F32(Buffer),
    /// See the module.
    Bf16 {
        /// Matrices at their places.
        matrices: Buffer<u16>,
        /// Vectors, one behind the other.
        vectors: Buffer,
        /// Where the vector of each parameter starts; a matrix starts where the next vector does.
        starts: Vec<usize>,
    },
}

/// Weights that an update moves.
pub enum WeightsMut<'a> {
    /// In f32.
    F32(&'a mut [f32]),
    /// In bf16.
    Bf16(&'a mut [u16]),
}

/// Parts of them, as many weights in each but the last.
pub enum Parts<'a> {
    /// In f32.
    F32(RowsMut<'a>),
    /// In bf16.
    Bf16(RowsMut<'a, u16>),
}

impl Weights {
    /// Zeros.
    pub fn new(format: WeightFormat, layout: &Layout) -> Result<Self, CpuError> {
        if format == WeightFormat::F32 {
            return Ok(Self::F32(Buffer::zeros("weights", layout.len())?));
        }
        let (mut starts, mut end) = (Vec::new(), 0);
        for p in layout.table() {
            starts.push(end);
            end += if p.shape.len() == 1 { p.len() } else { 0 };
        }
        let vectors = Buffer::zeros("weights", end)?;
        Ok(Self::Bf16 { matrices: Buffer::zeros("weights", layout.len())?, vectors, starts })
    }

    /// Whether matrices are not f32.
    pub fn narrow(&self) -> bool {
        matches!(self, Self::Bf16 { .. })
    }

    /// The weights of a place that starts with this parameter, and no reference to others.
    ///
    /// # Panics
    ///
    /// For matrices that are not f32.
    pub fn exact(&self, first: ParamIndex, place: Range<usize>) -> &[f32] {
        match self {
            Self::F32(weights) => weights.part(place),
            Self::Bf16 { vectors, starts, .. } => vectors.part(starts[first]..starts[first] + place.len()),
        }
    }

    /// The weights of one parameter.
    pub fn read(&self, index: ParamIndex, place: Range<usize>, vector: bool) -> Cow<'_, [f32]> {
        match self {
            Self::Bf16 { matrices, .. } if !vector => matrices[place].iter().map(|&w| wide(w)).collect(),
            _ => self.exact(index, place).into(),
        }
    }

    /// Replaces the weights of one parameter; those of a matrix in bf16 are rounded to nearest.
    pub fn write(&mut self, index: ParamIndex, place: Range<usize>, vector: bool, values: &[f32]) {
        match self.part(index, place, vector) {
            WeightsMut::F32(to) => to.copy_from_slice(values),
            WeightsMut::Bf16(to) => {
                for (to, &x) in to.iter_mut().zip(values) {
                    *to = half::bf16::from_f32(x).to_bits();
                }
            }
        }
    }

    /// What an update of a place moves: vectors, or matrices.
    pub fn part(&mut self, first: ParamIndex, place: Range<usize>, vector: bool) -> WeightsMut<'_> {
        match self {
            Self::F32(weights) => WeightsMut::F32(weights.part_mut(place)),
            Self::Bf16 { vectors, starts, .. } if vector => {
                WeightsMut::F32(vectors.part_mut(starts[first]..starts[first] + place.len()))
            }
            Self::Bf16 { matrices, .. } => WeightsMut::Bf16(matrices.part_mut(place)),
        }
    }

    /// Some numbers of a matrix in f32, from the place or through `scratch`.
    pub fn piece<'a>(&'a self, isa: Isa, place: Range<usize>, scratch: &'a mut [f32]) -> &'a [f32] {
        match self {
            Self::F32(weights) => &weights[place],
            Self::Bf16 { matrices, .. } => {
                let scratch = &mut scratch[..place.len()];
                widen(isa, &matrices[place], scratch);
                scratch
            }
        }
    }

    /// The rows of `tokens` of the matrix at `place`, `[tokens, dim]`; matrices in bf16 lie by rows.
    pub fn rows(
        &self,
        pool: &Pool,
        tokens: &[TokenId],
        place: Range<usize>,
        order: Order,
        dim: usize,
        x: &mut [f32],
    ) {
        match self {
            Self::F32(weights) => embedding::forward(pool, tokens, &weights[place], order, dim, x),
            Self::Bf16 { matrices, .. } => {
                for (token, x) in tokens.iter().zip(x.chunks_exact_mut(dim)) {
                    let row = &matrices[place.clone()][token.0 as usize * dim..][..dim];
                    x.iter_mut().zip(row).for_each(|(x, &w)| *x = wide(w));
                }
            }
        }
    }
}

impl<'a> WeightsMut<'a> {
    /// Parts of `len` weights.
    pub fn parts(self, len: usize) -> Parts<'a> {
        match self {
            Self::F32(weights) => Parts::F32(RowsMut::new(weights, len)),
            Self::Bf16(weights) => Parts::Bf16(RowsMut::new(weights, len)),
        }
    }

    /// Calls `change` with the weights in f32, and `then` with what is left of them. `scratch` holds
    /// as many numbers.
    pub fn change(
        self,
        isa: Isa,
        chance: Chance,
        scratch: &mut [f32],
        change: impl FnOnce(&mut [f32]),
        then: impl FnOnce(&[f32]),
    ) {
        match self {
            Self::F32(weights) => {
                change(weights);
                then(weights);
            }
            Self::Bf16(weights) => {
                let scratch = &mut scratch[..weights.len()];
                widen(isa, weights, scratch);
                change(scratch);
                round(isa, chance, scratch, weights);
                then(scratch);
            }
        }
    }
}

// SAFETY: parts are those of the member.
unsafe impl<'a> Split for Parts<'a> {
    type Part = WeightsMut<'a>;

    fn count(&self) -> usize {
        match self {
            Self::F32(rows) => rows.count(),
            Self::Bf16(rows) => rows.count(),
        }
    }

    unsafe fn part(&self, index: usize) -> WeightsMut<'a> {
        // SAFETY: the caller's promise is passed on.
        unsafe {
            match self {
                Self::F32(rows) => WeightsMut::F32(rows.part(index)),
                Self::Bf16(rows) => WeightsMut::Bf16(rows.part(index)),
            }
        }
    }
}

simd! {
    fn widen(from: &[u16], to: &mut [f32]) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to = wide(from);
        }
    }
}

simd! {
    /// Rounds by chance; `x` becomes what is kept.
    fn round(chance: Chance, x: &mut [f32], to: &mut [u16]) {
        for (i, (x, to)) in x.iter_mut().zip(to).enumerate() {
            *to = narrow(*x, chance.draw(i));
            *x = wide(*to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_steps_arrive_on_the_average() {
        // A thousandth of the distance to the next number, a thousand times.
        for &isa in Isa::available() {
            let mut kept = vec![half::bf16::from_f32(1.0).to_bits(); 4096];
            let mut scratch = vec![0.0; 4096];
            for step in 0..1000 {
                let add = |w: &mut [f32]| w.iter_mut().for_each(|w| *w += 1.0 / 128_000.0);
                WeightsMut::Bf16(&mut kept).change(isa, Chance::new(step), &mut scratch, add, |_| ());
            }
            let mean = kept.iter().map(|&w| f64::from(wide(w))).sum::<f64>() / 4096.0;
            assert!((mean - (1.0 + 1.0 / 128.0)).abs() < 5e-4, "{}: {mean}", isa.name());
        }
    }
}
