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
mod guard;
mod layout;

use std::any::Any;
use std::fmt;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};

use half::f16;
use mil::eval::{Slice, SliceMut};

pub use self::guard::{Hold, ReadGuard, Region, WriteGuard};
pub use self::layout::{Element, Layout};

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
