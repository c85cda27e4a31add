//! Memory that host and device share: rows of fp16 or fp32, each starting at a multiple of 64 bytes.
//!
//! ```text
//! pitch        = align_up(width · element bytes, 64)
//! byte(c,h,w)  = (c · height + h) · pitch + w · element bytes
//! ```
//!
//! Source: docs/ane-rules.md, `pitch` and `surface`. A [`Surface`] is a handle: clones name the same
//! memory, and requests keep clones. Its content is reached through guards only: any number of
//! [`ReadGuard`]s or one [`WriteGuard`]. A dispatch takes the same guards, so host and device never
//! touch a surface at once; who comes second gets [`SurfaceError::Busy`] instead of waiting, because
//! a wait would hide the missing order.

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use half::f16;
use half::slice::HalfFloatSliceExt;
use mil::eval::{Slice, SliceMut};
use mil::types::ROW_ALIGN;
use mil::{DType, TensorType};

/// Element type of a surface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Element {
    Fp16,
    Fp32,
}

impl Element {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Element::Fp16 => 2,
            Element::Fp32 => 4,
        }
    }
}

/// How a surface is laid out: `channels · height` rows of `width` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Element type.
    pub element: Element,
    /// Channels, times the batch where there is one.
    pub channels: usize,
    /// Rows per channel, 1 in every kernel of ours.
    pub height: usize,
    /// Elements of a row.
    pub width: usize,
}

impl Layout {
    /// `[1, channels, 1, width]` in fp16.
    pub fn fp16(channels: usize, width: usize) -> Self {
        Self { element: Element::Fp16, channels, height: 1, width }
    }

    /// The layout of a program's input or output; `None` for other types than fp16 and fp32.
    pub fn of(ty: &TensorType) -> Option<Self> {
        let element = match ty.dtype {
            DType::Fp16 => Element::Fp16,
            DType::Fp32 => Element::Fp32,
            _ => return None,
        };
        let (width, outer) = match ty.shape.split_last() {
            Some((width, outer)) => (*width, outer),
            None => (1, &[][..]),
        };
        let (height, channels) = match outer.split_last() {
            Some((height, outer)) => (*height, outer),
            None => (1, &[][..]),
        };
        let channels = channels.iter().fold(1usize, |n, &d| n.saturating_mul(d));
        Some(Self { element, channels, height, width })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.channels.saturating_mul(self.height)
    }

    /// Elements from one row to the next.
    pub fn row_step(&self) -> usize {
        self.row_pitch() / self.element.bytes()
    }

    /// Bytes from one row to the next.
    pub fn row_pitch(&self) -> usize {
        let bytes = self.width.saturating_mul(self.element.bytes());
        bytes.checked_next_multiple_of(ROW_ALIGN).unwrap_or(usize::MAX - (ROW_ALIGN - 1))
    }

    /// Bytes of the surface; saturates.
    pub fn bytes(&self) -> usize {
        self.rows().saturating_mul(self.row_pitch())
    }

    /// True when rows follow each other without padding.
    pub fn is_flat(&self) -> bool {
        self.row_step() == self.width
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let element = match self.element {
            Element::Fp16 => "fp16",
            Element::Fp32 => "fp32",
        };
        write!(f, "{element} [{}, {}, {}]", self.channels, self.height, self.width)
    }
}

/// Why a surface was not made, locked or filled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum SurfaceError {
    #[error("a surface of {layout} has no elements; give every extent at least 1")]
    Empty { layout: Layout },
    #[error("no memory for a surface of {layout}, {bytes} bytes; use a smaller model or sequence")]
    NoMemory { layout: Layout, bytes: usize },
    #[error(
        "the surface of {layout} is in use: {holder}; finish the dispatch or drop the guard before {access}"
    )]
    Busy { layout: Layout, holder: &'static str, access: Access },
    #[error("the surface of {layout} could not be locked for {access}: code {code:#x}")]
    Lock { layout: Layout, access: Access, code: i32 },
    #[error("{region} lies outside the surface of {layout}")]
    Region { region: Region, layout: Layout },
    #[error("{region} has {wanted} elements, but the buffer has {found}")]
    Length { region: Region, wanted: usize, found: usize },
    #[error("the surface is {layout}, but was used as {wanted:?}")]
    Element { layout: Layout, wanted: Element },
}

/// What a guard is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Access {
    Read,
    Write,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Access::Read => "reading",
            Access::Write => "writing",
        })
    }
}

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

/// The bytes behind a surface. Devices implement it: heap memory here, an IOSurface on Apple's.
pub trait Memory: Any + Send + Sync {
    /// Makes the content visible to the host. Called once per guard.
    ///
    /// # Errors
    /// The system's code.
    fn lock(&self, access: Access) -> Result<(), i32> {
        let _ = access;
        Ok(())
    }

    /// Ends one [`Memory::lock`] of the same access.
    fn unlock(&self, access: Access) {
        let _ = access;
    }

    /// All elements, row padding included. Called while locked.
    fn slice(&self) -> Slice<'_>;

    /// All elements, row padding included. Called while locked for writing.
    fn slice_mut(&mut self) -> SliceMut<'_>;
}

enum Heap {
    Fp16(Vec<f16>),
    Fp32(Vec<f32>),
}

impl Memory for Heap {
    fn slice(&self) -> Slice<'_> {
        match self {
            Heap::Fp16(v) => Slice::F16(v),
            Heap::Fp32(v) => Slice::F32(v),
        }
    }

    fn slice_mut(&mut self) -> SliceMut<'_> {
        match self {
            Heap::Fp16(v) => SliceMut::F16(v),
            Heap::Fp32(v) => SliceMut::F32(v),
        }
    }
}

/// A handle to memory that host and device share. Clones name the same memory.
#[derive(Clone)]
pub struct Surface(Arc<Inner>);

struct Inner {
    layout: Layout,
    memory: RwLock<Box<dyn Memory>>,
    /// What the device that made the surface knows it by.
    native: Option<Box<dyn Any + Send + Sync>>,
}

impl fmt::Debug for Surface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Surface({})", self.0.layout)
    }
}

impl Surface {
    /// A surface in the host's memory, filled with zeros.
    ///
    /// # Errors
    /// [`SurfaceError::Empty`], or [`SurfaceError::NoMemory`].
    pub fn on_heap(layout: Layout) -> Result<Self, SurfaceError> {
        if layout.rows() == 0 || layout.width == 0 {
            return Err(SurfaceError::Empty { layout });
        }
        let len = layout.bytes() / layout.element.bytes();
        let no_memory = |_| SurfaceError::NoMemory { layout, bytes: layout.bytes() };
        let memory = match layout.element {
            Element::Fp16 => Heap::Fp16(zeros(len, f16::ZERO).map_err(no_memory)?),
            Element::Fp32 => Heap::Fp32(zeros(len, 0.0).map_err(no_memory)?),
        };
        Ok(Self::from_memory(layout, Box::new(memory)))
    }

    /// A surface in a device's memory, which must have the layout's element type and bytes.
    pub fn from_memory(layout: Layout, memory: Box<dyn Memory>) -> Self {
        Self(Arc::new(Inner { layout, memory: RwLock::new(memory), native: None }))
    }

    /// The same with a handle, for [`Surface::native`].
    pub fn with_native(layout: Layout, memory: Box<dyn Memory>, native: Box<dyn Any + Send + Sync>) -> Self {
        Self(Arc::new(Inner { layout, memory: RwLock::new(memory), native: Some(native) }))
    }

    /// The handle of the device that made the surface, if it is of this type. It is there whoever
    /// reads or writes, and gives no access to the content.
    pub fn native<T: Any>(&self) -> Option<&T> {
        self.0.native.as_ref()?.downcast_ref()
    }

    /// How the surface is laid out.
    pub fn layout(&self) -> Layout {
        self.0.layout
    }

    /// True when both handles name the same memory.
    pub fn same(&self, other: &Surface) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Access for reading, until the guard drops.
    ///
    /// # Errors
    /// [`SurfaceError::Busy`] while a dispatch or a guard writes, [`SurfaceError::Lock`].
    pub fn read(&self) -> Result<ReadGuard<'_>, SurfaceError> {
        let memory = self.shared()?;
        memory.lock(Access::Read).map_err(|code| self.locked(Access::Read, code))?;
        Ok(ReadGuard { memory, layout: self.0.layout })
    }

    /// Access for writing, until the guard drops.
    ///
    /// # Errors
    /// [`SurfaceError::Busy`] while a dispatch or a guard reads or writes, [`SurfaceError::Lock`].
    pub fn write(&self) -> Result<WriteGuard<'_>, SurfaceError> {
        let memory = self.sole()?;
        memory.lock(Access::Write).map_err(|code| self.locked(Access::Write, code))?;
        Ok(WriteGuard { memory, layout: self.0.layout })
    }

    /// Keeps guards away while a device reads or writes the memory by itself. The memory is not locked
    /// for the host.
    ///
    /// # Errors
    /// [`SurfaceError::Busy`] while a dispatch or a guard is in the way.
    pub fn hold(&self, access: Access) -> Result<Hold<'_>, SurfaceError> {
        Ok(match access {
            Access::Read => Hold { _reader: Some(self.shared()?), _writer: None },
            Access::Write => Hold { _reader: None, _writer: Some(self.sole()?) },
        })
    }

    fn shared(&self) -> Result<RwLockReadGuard<'_, Box<dyn Memory>>, SurfaceError> {
        match self.0.memory.try_read() {
            Ok(memory) => Ok(memory),
            // The content is plain numbers: a panic while it was written leaves numbers.
            Err(TryLockError::Poisoned(e)) => Ok(e.into_inner()),
            Err(TryLockError::WouldBlock) => Err(self.busy("it is being written", Access::Read)),
        }
    }

    fn sole(&self) -> Result<RwLockWriteGuard<'_, Box<dyn Memory>>, SurfaceError> {
        match self.0.memory.try_write() {
            Ok(memory) => Ok(memory),
            Err(TryLockError::Poisoned(e)) => Ok(e.into_inner()),
            Err(TryLockError::WouldBlock) => Err(self.busy("it is being read or written", Access::Write)),
        }
    }

    fn busy(&self, holder: &'static str, access: Access) -> SurfaceError {
        SurfaceError::Busy { layout: self.0.layout, holder, access }
    }

    fn locked(&self, access: Access, code: i32) -> SurfaceError {
        SurfaceError::Lock { layout: self.0.layout, access, code }
    }
}

/// Allocates without aborting: `bytes` saturate, so an absurd layout fails here.
fn zeros<T: Copy>(len: usize, zero: T) -> Result<Vec<T>, std::collections::TryReserveError> {
    let mut v = Vec::new();
    v.try_reserve_exact(len)?;
    v.resize(len, zero);
    Ok(v)
}

/// A device's own access to a surface, see [`Surface::hold`].
pub struct Hold<'a> {
    _reader: Option<RwLockReadGuard<'a, Box<dyn Memory>>>,
    _writer: Option<RwLockWriteGuard<'a, Box<dyn Memory>>>,
}

/// Reading access to a surface.
pub struct ReadGuard<'a> {
    memory: RwLockReadGuard<'a, Box<dyn Memory>>,
    layout: Layout,
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
    memory: RwLockWriteGuard<'a, Box<dyn Memory>>,
    layout: Layout,
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
