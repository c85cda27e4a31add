//! The two moments of every weight, in 8, 4 or 2 bytes.
//!
//! | | bytes | first moment | second moment |
//! |---|---|---|---|
//! | `F32` | 8 | f32 | f32 |
//! | `Bf16` | 4 | bf16 | bf16 |
//! | `Q8` | 2 | 8-bit float: sign, 4 bits of exponent below the largest of its [`BLOCK`], 3 of mantissa | 8-bit float of the root: 5 bits of exponent from 2⁻²⁶ on, 3 of mantissa |
//!
//! The narrow ones are rounded up or down by chance, in proportion to the distance: on the average
//! a moment then moves as it should, where rounding to nearest would keep it where it is. Chance
//! comes from the number of the update and the place of the weight, so that the same run gives the
//! same bits. Numbers that come out of a format go back in unchanged, where the matrix lies in the same order.

use std::borrow::Cow;
use std::ops::Range;

use model::Slot;

use crate::isa::simd;
use crate::{Buffer, CpuError, Isa};

/// How the moments are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MomentFormat {
    /// Exactly.
    F32,
    /// In 8 bits of precision.
    Bf16,
    /// In 4 bits of precision.
    Q8,
}

/// Numbers that share an exponent in `Q8`; every matrix starts a block.
pub const BLOCK: usize = 64;

/// The moments of all weights.
pub enum Moments {
    /// Exactly.
    F32([Buffer; 2]),
    /// The high halves of f32.
    Bf16([Buffer<u16>; 2]),
    /// See the module.
    Q8 {
        /// First moments.
        m: Buffer<u8>,
        /// Exponent of the largest first moment of each block, as in f32.
        exponents: Buffer<u8>,
        /// Roots of second moments.
        v: Buffer<u8>,
    },
}

impl Moments {
    /// Zeros for `len` weights.
    pub fn new(format: MomentFormat, len: usize) -> Result<Self, CpuError> {
        const FIRST: &str = "first moments";
        const SECOND: &str = "second moments";
        Ok(match format {
            MomentFormat::F32 => Self::F32([Buffer::zeros(FIRST, len)?, Buffer::zeros(SECOND, len)?]),
            MomentFormat::Bf16 => Self::Bf16([Buffer::zeros(FIRST, len)?, Buffer::zeros(SECOND, len)?]),
            MomentFormat::Q8 => Self::Q8 {
                m: Buffer::zeros(FIRST, len)?,
                exponents: Buffer::zeros(FIRST, len.div_ceil(BLOCK))?,
                v: Buffer::zeros(SECOND, len)?,
            },
        })
    }

    /// First or second moments of a place, as f32.
    pub fn read(&self, place: Range<usize>, slot: Slot) -> Cow<'_, [f32]> {
        let second = usize::from(slot == Slot::Moment2);
        match self {
            Self::F32(moments) => moments[second][place].into(),
            Self::Bf16(moments) => moments[second][place].iter().map(|&x| wide(x)).collect(),
            Self::Q8 { m, exponents, .. } if second == 0 => {
                place.map(|i| first(m[i], exponents[i / BLOCK])).collect()
            }
            Self::Q8 { v, .. } => v[place].iter().map(|&v| root(v) * root(v)).collect(),
        }
    }

    /// Replaces them; `chance` decides where they do not fit the format.
    pub fn write(&mut self, isa: Isa, place: Range<usize>, slot: Slot, values: &[f32], chance: Chance) {
        let second = usize::from(slot == Slot::Moment2);
        let chance = chance.at(place.start);
        match self {
            Self::F32(moments) => moments[second][place].copy_from_slice(values),
            Self::Bf16(moments) => {
                for (i, (to, &x)) in moments[second][place].iter_mut().zip(values).enumerate() {
                    *to = narrow(x, chance.draw(i));
                }
            }
            Self::Q8 { m, exponents, .. } if second == 0 => {
                // Blocks at the ends may hold other numbers as well.
                let start = place.start / BLOCK * BLOCK;
                for block in (start..place.end).step_by(BLOCK) {
                    let end = m.len().min(block + BLOCK);
                    let mut all = [0.0; BLOCK];
                    for i in block..end {
                        all[i - block] = match place.contains(&i) {
                            true => values[i - place.start],
                            false => first(m[i], exponents[block / BLOCK]),
                        };
                    }
                    let mut codes = [0; BLOCK];
                    let chance = Chance { first: block as u32, ..chance };
                    exponents[block / BLOCK] = encode_first(isa, &all, chance, &mut codes);
                    m[block..end].copy_from_slice(&codes[..end - block]);
                }
            }
            Self::Q8 { v, .. } => {
                for (i, (to, &v)) in v[place].iter_mut().zip(values).enumerate() {
                    *to = root_code(v.sqrt(), chance.draw(i));
                }
            }
        }
    }
}

/// Random bits for the weights of an update.
#[derive(Clone, Copy, Debug)]
pub struct Chance {
    update: u32,
    first: u32,
}

impl Chance {
    /// For update number `step`.
    pub fn new(step: u64) -> Self {
        Self { update: mix(step as u32 ^ (step >> 32) as u32), first: 0 }
    }

    /// Other bits, for the weights themselves.
    pub fn of_weights(self) -> Self {
        Self { update: mix(self.update), ..self }
    }

    /// For weights from `index` on.
    pub fn at(self, index: usize) -> Self {
        Self { first: index as u32, ..self }
    }

    /// For weights that many further on.
    #[inline(always)]
    pub(crate) fn further(self, offset: usize) -> Self {
        Self { first: self.first.wrapping_add(offset as u32), ..self }
    }

    /// 32 bits for the weight `offset` further on.
    #[inline(always)]
    pub(crate) fn draw(self, offset: usize) -> u32 {
        mix(self.first.wrapping_add(offset as u32) ^ self.update)
    }
}

/// Spreads bits. Source: Wellons 2018, <https://nullprogram.com/blog/2018/07/31/>, `lowbias32`.
#[inline(always)]
fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7FEB_352D);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846C_A68B);
    x ^ x >> 16
}

/// bf16 to f32.
#[inline(always)]
pub(crate) fn wide(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// f32 to bf16.
#[inline(always)]
pub(crate) fn narrow(x: f32, random: u32) -> u16 {
    (x.to_bits().wrapping_add(random & 0xFFFF) >> 16) as u16
}

/// Bits of f32 below the mantissa of an 8-bit float.
const DROPPED: u32 = 20;
/// Exponents, as in f32: the smallest of a root, and how far a first moment goes below its block's.
const ROOT_EXPONENT: u32 = 127 - 26;
const FIRST_RANGE: u32 = 15;

/// A root of a second moment.
#[inline(always)]
pub(crate) fn root(code: u8) -> f32 {
    let bits = (u32::from(code) + (ROOT_EXPONENT << 3)) << DROPPED;
    f32::from_bits(if code == 0 { 0 } else { bits })
}

/// Its code. Only zero is zero: what is divided by a root must not meet one.
#[inline(always)]
pub(crate) fn root_code(root: f32, random: u32) -> u8 {
    let rounded = root.to_bits().wrapping_add(random & ((1 << DROPPED) - 1)) >> DROPPED;
    let code = (rounded as i32 - (ROOT_EXPONENT << 3) as i32).clamp(1, 255) as u8;
    if root == 0.0 { 0 } else { code }
}

/// A first moment of a block with this exponent.
#[inline(always)]
pub(crate) fn first(code: u8, exponent: u8) -> f32 {
    let (sign, size) = (u32::from(code & 0x80) << 24, u32::from(code & 0x7F));
    let bits = size.wrapping_add(u32::from(exponent).wrapping_sub(FIRST_RANGE) << 3) << DROPPED;
    f32::from_bits(sign | if size == 0 { 0 } else { bits })
}

/// Codes of a block of first moments; returns its exponent.
#[inline(always)]
pub(crate) fn first_codes(x: &[f32; BLOCK], chance: Chance, codes: &mut [u8; BLOCK]) -> u8 {
    let mut rounded = [0u32; BLOCK];
    let mut largest = 0;
    for i in 0..BLOCK {
        let random = chance.draw(i) >> (32 - DROPPED);
        rounded[i] = (x[i].to_bits() & 0x7FFF_FFFF).wrapping_add(random) >> DROPPED;
        largest = largest.max(rounded[i]);
    }
    let exponent = (largest >> 3).max(FIRST_RANGE + 1);
    let least = (exponent - FIRST_RANGE) << 3;
    for i in 0..BLOCK {
        let size = rounded[i].saturating_sub(least) as u8;
        codes[i] = size | ((x[i].to_bits() >> 24) as u8 & 0x80);
    }
    exponent as u8
}

simd! {
    fn encode_first(x: &[f32; BLOCK], chance: Chance, codes: &mut [u8; BLOCK]) -> u8 {
        first_codes(x, chance, codes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::check::values;

    const FORMATS: [MomentFormat; 3] = [MomentFormat::F32, MomentFormat::Bf16, MomentFormat::Q8];

    /// Values over many powers of two; not negative in the second slot.
    fn sample(n: usize, slot: Slot, seed: u64) -> Vec<f32> {
        let x = values(n, seed);
        let spread = x.iter().zip(values(n, seed + 1)).map(|(x, e)| x * (4.0 * e).exp2());
        spread.map(|x| if slot == Slot::Moment2 { x * x } else { x }).collect()
    }

    #[test]
    fn numbers_come_back_near_and_then_unchanged() {
        let isa = Isa::detect();
        for format in FORMATS {
            let mut moments = Moments::new(format, 500).unwrap();
            for slot in [Slot::Moment1, Slot::Moment2] {
                // The two places share a block.
                let places = [10..300, 300..500];
                for (seed, place) in places.iter().enumerate() {
                    let x = sample(place.len(), slot, seed as u64);
                    moments.write(isa, place.clone(), slot, &x, Chance::new(3));
                    let y = moments.read(place.clone(), slot).into_owned();
                    let step = match format {
                        MomentFormat::F32 => 0.0,
                        MomentFormat::Bf16 => 1.0 / 128.0,
                        MomentFormat::Q8 => 1.0 / 3.9,
                    };
                    let largest = x.iter().fold(0.0f32, |a, x| a.max(x.abs()));
                    for (x, y) in x.iter().zip(&y) {
                        let error = (x - y).abs();
                        assert!(error <= step * x.abs() + 1e-4 * largest, "{format:?} {slot:?}: {x} as {y}");
                    }
                    moments.write(isa, place.clone(), slot, &y, Chance::new(4));
                    assert_eq!(moments.read(place.clone(), slot), y, "{format:?} {slot:?}");
                }
            }
        }
    }

    #[test]
    fn rounding_is_right_on_the_average() {
        let isa = Isa::detect();
        for format in FORMATS {
            let x = [0.1001f32, -0.777, 1.9, 0.3];
            let mut sums = [0.0f64; 4];
            for step in 0..4000 {
                let mut moments = Moments::new(format, 4).unwrap();
                moments.write(isa, 0..4, Slot::Moment1, &x, Chance::new(step));
                let y = moments.read(0..4, Slot::Moment1);
                sums.iter_mut().zip(&*y).for_each(|(sum, &y)| *sum += f64::from(y) / 4000.0);
            }
            for (x, mean) in x.iter().zip(sums) {
                assert!((f64::from(*x) - mean).abs() < 3e-3, "{format:?}: {x} is {mean} on the average");
            }
        }
    }

    #[test]
    fn a_second_moment_that_is_not_zero_never_becomes_zero() {
        let mut moments = Moments::new(MomentFormat::Q8, 3).unwrap();
        moments.write(Isa::detect(), 0..3, Slot::Moment2, &[0.0, 1e-30, 1e30], Chance::new(1));
        let y = moments.read(0..3, Slot::Moment2);
        assert!(y[0] == 0.0 && y[1] > 0.0 && y[2] > 3e3 && y[2].is_finite());
    }
}
