//! Numbers from the host's f32 to the surfaces' fp16, and back.
//!
//! Activations are `[tokens, channels]` on the host and `[channels, tokens]` on the device. Columns
//! beyond the tokens of a short sequence are zeroed: what an earlier sequence left there would reach
//! the gradients of keys and values.

use std::ops::Range;

use ane_bridge::{ReadGuard, Region, Surface, SurfaceError, WriteGuard};
use half::f16;
use model::Role;

use crate::dims::Extra;
use crate::kernels::Kernel;
use crate::packing::{Part, Place};

/// Writes `[tokens, channels]` to the channels and first columns of a place.
pub(crate) fn write_tokens(surface: &Surface, place: &Place, x: &[f32]) -> Result<(), SurfaceError> {
    let mut guard = surface.write()?;
    let region = clear_padding(&mut guard, place, x.len())?;
    guard.write_transposed(&region, x)
}

/// Writes `[channels, tokens]` to the channels and first columns of a place.
pub(crate) fn write_channels(surface: &Surface, place: &Place, x: &[f32]) -> Result<(), SurfaceError> {
    let mut guard = surface.write()?;
    let region = clear_padding(&mut guard, place, x.len())?;
    guard.write(&region, x)
}

/// The part of the place that `len` numbers fill; the rest becomes zero.
fn clear_padding(guard: &mut WriteGuard<'_>, place: &Place, len: usize) -> Result<Region, SurfaceError> {
    let Region { rows, columns } = &place.region;
    let tokens = len / rows.len();
    let used = columns.start..columns.start + tokens;
    if used.end < columns.end {
        for row in rows.clone() {
            guard.row_mut(row)?[used.end..columns.end].fill(f16::ZERO);
        }
    }
    Ok(Region::new(rows.clone(), used))
}

/// Copies the rows of one fp16 surface to rows of a place in another, `first` on.
pub(crate) fn copy_rows(
    from: &Surface,
    columns: usize,
    to: &Surface,
    place: &Place,
    first: usize,
) -> Result<(), SurfaceError> {
    let (from, mut to) = (from.read()?, to.write()?);
    let start = place.region.columns.start;
    for row in 0..from.layout().rows() {
        to.row_mut(first + row)?[start..start + columns].copy_from_slice(&from.row(row)?[..columns]);
    }
    Ok(())
}

/// Reads the first `tokens` columns of an output, `[tokens, channels]`.
pub(crate) fn read_tokens(surface: &Surface, tokens: usize, out: &mut [f32]) -> Result<(), SurfaceError> {
    let guard = surface.read()?;
    guard.read_transposed(&first(&guard, tokens), out)
}

/// Reads the first `tokens` columns of an output, `[channels, tokens]`.
pub(crate) fn read_channels(surface: &Surface, tokens: usize, out: &mut [f32]) -> Result<(), SurfaceError> {
    let guard = surface.read()?;
    guard.read(&first(&guard, tokens), out)
}

fn first(guard: &ReadGuard<'_>, tokens: usize) -> Region {
    Region::new(0..guard.layout().rows(), 0..tokens)
}

/// The part of `all` that a shard has: equal ones, but for the last, which may be shorter.
pub(crate) fn part(all: usize, shard: usize, shards: usize) -> Range<usize> {
    let share = all.div_ceil(shards);
    (shard * share).min(all)..((shard + 1) * share).min(all)
}

/// Which part of a matrix a shard has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Whole,
    /// Outputs: rows of `[outputs, inputs]`.
    Outputs,
    /// Inputs: columns of it.
    Inputs,
}

/// How a weight `[outputs, inputs]` lies in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Inputs are channels: forward programs.
    Transposed,
    /// Outputs are channels: backward programs.
    AsStored,
}

/// A weight that a program takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub part: Part,
    pub role: Role,
    pub turn: Turn,
    pub cut: Cut,
}

/// The weight matrices of a program.
pub(crate) fn sources(kernel: Kernel) -> &'static [Source] {
    use Cut::{Inputs, Outputs, Whole};
    use Turn::{AsStored, Transposed};
    const fn source(part: Part, role: Role, turn: Turn, cut: Cut) -> Source {
        Source { part, role, turn, cut }
    }
    match kernel {
        Kernel::SdpaFwd => {
            &const {
                [
                    source(Part::Wq, Role::Q, Transposed, Outputs),
                    source(Part::Wk, Role::K, Transposed, Outputs),
                    source(Part::Wv, Role::V, Transposed, Outputs),
                ]
            }
        }
        Kernel::WoFwd => &const { [source(Part::Wo, Role::O, Transposed, Whole)] },
        Kernel::FfnFwd => {
            &const {
                [
                    source(Part::W1, Role::Gate, Transposed, Outputs),
                    source(Part::W3, Role::Up, Transposed, Outputs),
                    source(Part::W2, Role::Down, AsStored, Inputs),
                ]
            }
        }
        Kernel::FfnGateUp => {
            &const {
                [
                    source(Part::W1, Role::Gate, Transposed, Outputs),
                    source(Part::W3, Role::Up, Transposed, Outputs),
                ]
            }
        }
        Kernel::FfnDown => &const { [source(Part::W2, Role::Down, Transposed, Inputs)] },
        Kernel::FfnBwdW2 => &const { [source(Part::W2, Role::Down, AsStored, Inputs)] },
        Kernel::FfnBwdW13 => {
            &const {
                [
                    source(Part::W1, Role::Gate, AsStored, Outputs),
                    source(Part::W3, Role::Up, AsStored, Outputs),
                ]
            }
        }
        Kernel::WoBwd => &const { [source(Part::Wo, Role::O, AsStored, Whole)] },
        Kernel::SdpaBwdV | Kernel::SdpaBwdQk => &[],
        Kernel::QBwd => &const { [source(Part::Wq, Role::Q, AsStored, Whole)] },
        Kernel::KvBwd => {
            &const { [source(Part::Wk, Role::K, AsStored, Whole), source(Part::Wv, Role::V, AsStored, Whole)] }
        }
        Kernel::HeadFwd => &const { [source(Part::Wh, Role::Head, Transposed, Outputs)] },
        Kernel::HeadBwd => &const { [source(Part::Wh, Role::Head, AsStored, Outputs)] },
    }
}

impl Source {
    /// Writes the part of shard `shard` of `shards` of a matrix `[outputs, inputs]`, times `factor`,
    /// row by row of the surface's memory; `scratch` holds it once.
    pub fn write(
        &self,
        w: &[f32],
        outputs: usize,
        (shard, shards): (usize, usize),
        factor: f32,
        (surface, place): (&Surface, &Place),
        scratch: &mut Vec<f32>,
    ) -> Result<(), SurfaceError> {
        let inputs = w.len() / outputs;
        let part = |all| part(all, shard, shards);
        let (rows, columns) = match self.cut {
            Cut::Whole => (0..outputs, 0..inputs),
            Cut::Outputs => (part(outputs), 0..inputs),
            Cut::Inputs => (0..outputs, part(inputs)),
        };
        scratch.clear();
        for row in w[rows.start * inputs..rows.end * inputs].chunks_exact(inputs) {
            scratch.extend(row[columns.clone()].iter().map(|w| factor * w));
        }
        let mut guard = surface.write()?;
        // The last shard of a vocabulary may be shorter than its place, whose rest stays zero.
        let Region { rows: first_row, columns: first_column } = &place.region;
        let region = |height: usize, width: usize| {
            let (row, column) = (first_row.start, first_column.start);
            Region::new(row..row + height, column..column + width)
        };
        match self.turn {
            Turn::Transposed => guard.write_transposed(&region(columns.len(), rows.len()), scratch),
            Turn::AsStored => guard.write(&region(rows.len(), columns.len()), scratch),
        }
    }
}

/// The vectors beside the matrices of `sdpa_fwd`: part, and for each of its columns the roles whose
/// vectors follow each other in it.
pub(crate) fn vectors(extra: Extra) -> Option<(Part, &'static [&'static [Role]])> {
    match extra {
        Extra::None => None,
        Extra::QkvBias => Some((Part::Bias, &[&[Role::QBias, Role::KBias, Role::VBias]])),
        Extra::QkNorm => Some((Part::Gains, &[&[Role::QNorm], &[Role::KNorm]])),
    }
}

/// The power of two that brings the largest magnitude of `x` into `[2^target, 2^(target+1))`; 1 for
/// zeros and for numbers that are not finite.
pub(crate) fn power_for(x: &[f32], target: i32) -> f32 {
    let largest = x.iter().fold(0f32, |m, x| m.max(x.abs()));
    if largest == 0.0 || !largest.is_finite() || !finite(x) {
        return 1.0;
    }
    let exponent = f64::from(largest).log2().floor() as i32;
    crate::kernels::power((target - exponent).clamp(-120, 120))
}

/// Whether every number is finite.
pub(crate) fn finite(x: &[f32]) -> bool {
    // The exponent of infinities and NaN is all ones; `max` of it vectorises.
    x.iter().fold(0, |m, x| m.max(x.to_bits() & 0x7F80_0000)) != 0x7F80_0000
}

/// Whether every number of a fp16 surface is finite.
pub(crate) fn surface_is_finite(surface: &Surface) -> Result<bool, SurfaceError> {
    let guard = surface.read()?;
    for row in 0..guard.layout().rows() {
        let exponents = guard.row(row)?.iter().fold(0, |m, x| m.max(x.to_bits() & 0x7C00));
        if exponents == 0x7C00 {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brings_the_largest_to_the_target() {
        for (x, target, wanted) in
            [(3.0, 6, 32.0), (1e-9, 6, 2f32.powi(36)), (64.0, 6, 1.0), (4096.0, 0, 2f32.powi(-12))]
        {
            assert_eq!(power_for(&[0.0, -x, x / 2.0], target), wanted);
        }
        assert_eq!(power_for(&[0.0], 6), 1.0);
        assert_eq!(power_for(&[1.0, f32::NAN], 6), 1.0);
        assert_eq!(power_for(&[f32::INFINITY, 1.0], 6), 1.0);
    }

    #[test]
    fn a_short_sequence_leaves_zeros_behind() {
        let surface = Surface::on_heap(ane_bridge::Layout::fp16(2, 64)).unwrap();
        let place = Place { port: 0, region: Region::new(0..2, 8..40) };
        surface.write().unwrap().fill(7.0);
        write_tokens(&surface, &place, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let guard = surface.read().unwrap();
        let row = |r: usize| guard.row(r).unwrap().iter().map(|x| x.to_f32()).collect::<Vec<_>>();
        assert_eq!(row(0)[7..12], [7.0, 1.0, 3.0, 5.0, 0.0]);
        assert_eq!(row(1)[7..12], [7.0, 2.0, 4.0, 6.0, 0.0]);
        assert!(row(1)[12..40].iter().all(|&x| x == 0.0) && row(1)[40] == 7.0);
    }

    #[test]
    fn shards_take_their_part_of_a_matrix() {
        let w: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let surface = Surface::on_heap(ane_bridge::Layout::fp16(6, 32)).unwrap();
        let read = |source: Source, rows: usize, columns: usize| {
            let place = Place { port: 0, region: Region::new(0..rows, 0..columns) };
            source.write(&w, 4, (1, 2), 2.0, (&surface, &place), &mut Vec::new()).unwrap();
            let mut out = vec![0.0; rows * columns];
            surface.read().unwrap().read(&place.region, &mut out).unwrap();
            out
        };
        let source = |turn, cut| Source { part: Part::W1, role: Role::Gate, turn, cut };
        // [4, 6]: the second half of the rows, then of the columns.
        assert_eq!(read(source(Turn::AsStored, Cut::Outputs), 2, 6)[..3], [24.0, 26.0, 28.0]);
        assert_eq!(read(source(Turn::Transposed, Cut::Outputs), 6, 2)[..3], [24.0, 36.0, 26.0]);
        assert_eq!(read(source(Turn::AsStored, Cut::Inputs), 4, 3)[..4], [6.0, 8.0, 10.0, 18.0]);
    }
}
