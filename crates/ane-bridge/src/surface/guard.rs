//! Access to the content of a surface, and the parts of it that are copied.

use std::fmt;
use std::ops::Range;
use std::sync::{RwLockReadGuard, RwLockWriteGuard};

use half::f16;
use half::slice::HalfFloatSliceExt;
use mil::eval::{Slice, SliceMut};

use super::{Access, Element, Layout, Memory, SurfaceError};

/// Rows and columns of a surface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Rows: channels, when the height is 1.
    pub rows: Range<usize>,
    /// Elements within a row.
    pub columns: Range<usize>,
}

impl Region {
    /// These rows and columns.
    pub fn new(rows: Range<usize>, columns: Range<usize>) -> Self {
        Self { rows, columns }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rows {:?}, columns {:?}", self.rows, self.columns)
    }
}
/// A device's own access to a surface, see [`Surface::hold`].
pub struct Hold<'a> {
    pub(super) _reader: Option<RwLockReadGuard<'a, Box<dyn Memory>>>,
    pub(super) _writer: Option<RwLockWriteGuard<'a, Box<dyn Memory>>>,
}

/// Reading access to a surface.
pub struct ReadGuard<'a> {
    pub(super) memory: RwLockReadGuard<'a, Box<dyn Memory>>,
    pub(super) layout: Layout,
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        self.memory.unlock(Access::Read);
    }
}

impl ReadGuard<'_> {
    /// How the surface is laid out.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// All elements, row padding included.
    pub fn slice(&self) -> Slice<'_> {
        self.memory.slice()
    }

    /// The device's memory, to downcast.
    pub fn memory(&self) -> &dyn Memory {
        self.memory.as_ref()
    }

    /// One row of an fp16 surface.
    ///
    /// # Errors
    /// [`SurfaceError::Element`], [`SurfaceError::Region`].
    pub fn row(&self, row: usize) -> Result<&[f16], SurfaceError> {
        match self.slice() {
            Slice::F16(all) => {
                check(self.layout, &Region::new(row..row.saturating_add(1), 0..self.layout.width))?;
                Ok(&all[row * self.layout.row_step()..][..self.layout.width])
            }
            Slice::F32(_) => Err(SurfaceError::Element { layout: self.layout, wanted: Element::Fp16 }),
        }
    }

    /// Widens a region to `out`, row-major `[rows, columns]`.
    ///
    /// # Errors
    /// [`SurfaceError::Region`], [`SurfaceError::Length`].
    pub fn read(&self, region: &Region, out: &mut [f32]) -> Result<(), SurfaceError> {
        check_with(self.layout, region, out.len())?;
        let (step, width) = (self.layout.row_step(), region.columns.len());
        if width == step {
            widen(self.slice(), region.rows.start * step, out);
            return Ok(());
        }
        for (row, out) in region.rows.clone().zip(out.chunks_exact_mut(width.max(1))) {
            widen(self.slice(), row * step + region.columns.start, out);
        }
        Ok(())
    }

    /// Widens a region to `out` the other way round, `[columns, rows]`: activations
    /// `[channels, tokens]` become `[tokens, channels]`.
    ///
    /// # Errors
    /// [`SurfaceError::Region`], [`SurfaceError::Length`].
    pub fn read_transposed(&self, region: &Region, out: &mut [f32]) -> Result<(), SurfaceError> {
        check_with(self.layout, region, out.len())?;
        let (rows, step) = (region.rows.len(), self.layout.row_step());
        let mut tile = [0f32; TILE * TILE];
        for row0 in (0..rows).step_by(TILE) {
            for col0 in (0..region.columns.len()).step_by(TILE) {
                let (high, wide) = (TILE.min(rows - row0), TILE.min(region.columns.len() - col0));
                for (i, line) in tile.chunks_exact_mut(TILE).take(high).enumerate() {
                    let at = (region.rows.start + row0 + i) * step + region.columns.start + col0;
                    widen(self.slice(), at, &mut line[..wide]);
                }
                let out = &mut out[col0 * rows + row0..];
                turn((&tile, TILE), (out, rows), high, wide);
            }
        }
        Ok(())
    }
}

/// Writing access to a surface.
pub struct WriteGuard<'a> {
    pub(super) memory: RwLockWriteGuard<'a, Box<dyn Memory>>,
    pub(super) layout: Layout,
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        self.memory.unlock(Access::Write);
    }
}

impl WriteGuard<'_> {
    /// How the surface is laid out.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// All elements, row padding included.
    pub fn slice_mut(&mut self) -> SliceMut<'_> {
        self.memory.slice_mut()
    }

    /// The device's memory, to downcast.
    pub fn memory(&self) -> &dyn Memory {
        self.memory.as_ref()
    }

    /// One row of an fp16 surface.
    ///
    /// # Errors
    /// [`SurfaceError::Element`], [`SurfaceError::Region`].
    pub fn row_mut(&mut self, row: usize) -> Result<&mut [f16], SurfaceError> {
        let layout = self.layout;
        match self.slice_mut() {
            SliceMut::F16(all) => {
                check(layout, &Region::new(row..row.saturating_add(1), 0..layout.width))?;
                Ok(&mut all[row * layout.row_step()..][..layout.width])
            }
            SliceMut::F32(_) => Err(SurfaceError::Element { layout, wanted: Element::Fp16 }),
        }
    }

    /// Fills every element, row padding included.
    pub fn fill(&mut self, value: f32) {
        match self.slice_mut() {
            SliceMut::F16(all) => all.fill(f16::from_f32(value)),
            SliceMut::F32(all) => all.fill(value),
        }
    }

    /// Writes `from`, row-major `[rows, columns]`, to a region: to nearest, ties to even, magnitudes
    /// of 65520 and more to infinity. One pass over the memory when the region spans flat rows.
    ///
    /// # Errors
    /// [`SurfaceError::Region`], [`SurfaceError::Length`].
    pub fn write(&mut self, region: &Region, from: &[f32]) -> Result<(), SurfaceError> {
        check_with(self.layout, region, from.len())?;
        let (step, width) = (self.layout.row_step(), region.columns.len());
        let mut to = self.slice_mut();
        if width == step {
            narrow(&mut to, region.rows.start * step, from);
            return Ok(());
        }
        for (row, from) in region.rows.clone().zip(from.chunks_exact(width.max(1))) {
            narrow(&mut to, row * step + region.columns.start, from);
        }
        Ok(())
    }

    /// Writes `from`, row-major `[columns, rows]`, to a region: activations `[tokens, channels]`
    /// become `[channels, tokens]`. Rounds as [`WriteGuard::write`].
    ///
    /// # Errors
    /// [`SurfaceError::Region`], [`SurfaceError::Length`].
    pub fn write_transposed(&mut self, region: &Region, from: &[f32]) -> Result<(), SurfaceError> {
        check_with(self.layout, region, from.len())?;
        let (rows, step) = (region.rows.len(), self.layout.row_step());
        let mut to = self.slice_mut();
        let mut tile = [0f32; TILE * TILE];
        for row0 in (0..rows).step_by(TILE) {
            for col0 in (0..region.columns.len()).step_by(TILE) {
                let (high, wide) = (TILE.min(rows - row0), TILE.min(region.columns.len() - col0));
                let from = &from[col0 * rows + row0..];
                turn((from, rows), (&mut tile, TILE), wide, high);
                for (i, line) in tile.chunks_exact(TILE).take(high).enumerate() {
                    let at = (region.rows.start + row0 + i) * step + region.columns.start + col0;
                    narrow(&mut to, at, &line[..wide]);
                }
            }
        }
        Ok(())
    }
}

/// Side of a transposed block: 32² f32 are 4 KiB, and a row of 32 fp16 is a cache line.
const TILE: usize = 32;

/// `to[j, i] = from[i, j]` for `rows` × `columns` of `from`; both come with their row steps.
fn turn(from: (&[f32], usize), to: (&mut [f32], usize), rows: usize, columns: usize) {
    for (i, line) in from.0.chunks(from.1).take(rows).enumerate() {
        line[..columns].iter().enumerate().for_each(|(j, x)| to.0[j * to.1 + i] = *x);
    }
}

fn widen(from: Slice<'_>, at: usize, out: &mut [f32]) {
    match from {
        Slice::F16(all) => all[at..at + out.len()].convert_to_f32_slice(out),
        Slice::F32(all) => out.copy_from_slice(&all[at..at + out.len()]),
    }
}

fn narrow(to: &mut SliceMut<'_>, at: usize, from: &[f32]) {
    match to {
        SliceMut::F16(all) => all[at..at + from.len()].convert_from_f32_slice(from),
        SliceMut::F32(all) => all[at..at + from.len()].copy_from_slice(from),
    }
}

fn check(layout: Layout, region: &Region) -> Result<(), SurfaceError> {
    let inside = |r: &Range<usize>, end: usize| r.start <= r.end && r.end <= end;
    if inside(&region.rows, layout.rows()) && inside(&region.columns, layout.width) {
        return Ok(());
    }
    Err(SurfaceError::Region { region: region.clone(), layout })
}

fn check_with(layout: Layout, region: &Region, found: usize) -> Result<(), SurfaceError> {
    check(layout, region)?;
    let wanted = region.elements();
    if found == wanted {
        return Ok(());
    }
    Err(SurfaceError::Length { region: region.clone(), wanted, found })
}
