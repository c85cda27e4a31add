//! Surfaces in memory that the Neural Engine shares: IOSurfaces of one long row of bytes.
//!
//! The engine does not look at an IOSurface's own rows; it takes the bytes at their places by the rule
//! of [`crate::Layout`]. So width is the number of bytes, height 1, one byte per element. Sources:
//! maderix/ANE, bridge/ane_bridge.m; computer-graphics-tools/ane, io_surface.rs.

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::time::Duration;

use half::f16;
use mil::eval::{Slice, SliceMut};
use objc2::rc::{Retained, autoreleasepool};
use objc2_foundation::{NSDictionary, NSNumber, NSString};

use super::sys;
use super::table::IOSurface;
use crate::surface::{Access, Element, Layout, Memory, Surface, SurfaceError};

/// Bytes of a page on Apple silicon. IOSurfaces take whole pages, the smallest one (smaller ones were
/// refused on an M3 Pro, jafreck/ironmill); asking for whole ones lets Metal share the memory.
pub const PAGE: usize = 16 << 10;
/// Tries before a surface is not to be had. `IOSurfaceCreate` failed now and then when much was
/// allocated (whiskeypolitik/rustane, docs/iosurface-error).
const TRIES: u32 = 3;

/// An IOSurface that this value owns a reference of.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Owned>);

#[derive(Debug)]
struct Owned(NonNull<IOSurface>);

// SAFETY: IOSurface functions may be called from any thread; the content is guarded by `Surface`.
unsafe impl Send for Owned {}
// SAFETY: as above.
unsafe impl Sync for Owned {}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: `create` took over the one reference that IOSurfaceCreate returned.
        unsafe { sys::CFRelease(self.0.as_ptr().cast::<c_void>()) };
    }
}

impl Handle {
    /// The IOSurface, live as long as the handle.
    pub fn raw(&self) -> NonNull<IOSurface> {
        self.0.0
    }
}

/// A surface that is locked for the processor, and so mapped, until this value drops.
#[derive(Debug)]
pub struct Locked {
    handle: Handle,
    access: Access,
    base: NonNull<c_void>,
}

impl Handle {
    /// Locks the surface until the result drops. Guards of [`Surface`] are not asked: hold the surface
    /// first.
    pub fn locked(&self, access: Access) -> Result<Locked, i32> {
        Ok(Locked { base: self.lock(access)?, handle: self.clone(), access })
    }

    /// Locks the surface, and tells where its bytes are.
    fn lock(&self, access: Access) -> Result<NonNull<c_void>, i32> {
        let surface = self.raw().as_ptr();
        // SAFETY: the surface is live; a null seed is allowed.
        let code = unsafe { sys::IOSurfaceLock(surface, options(access), ptr::null_mut()) };
        if code != 0 {
            return Err(code);
        }
        // SAFETY: the surface is live and locked.
        let base = NonNull::new(unsafe { sys::IOSurfaceGetBaseAddress(surface) });
        base.ok_or_else(|| {
            self.unlock(access);
            -1
        })
    }

    /// Ends a lock of this access.
    fn unlock(&self, access: Access) {
        // SAFETY: the surface is live, and was locked with these options. The result says only that
        // the lock was not held, which cannot be.
        unsafe { sys::IOSurfaceUnlock(self.raw().as_ptr(), options(access), ptr::null_mut()) };
    }
}

impl Locked {
    /// Where the bytes are.
    pub fn base(&self) -> NonNull<c_void> {
        self.base
    }

    /// How many there are.
    pub fn bytes(&self) -> usize {
        // SAFETY: the surface is live.
        unsafe { sys::IOSurfaceGetAllocSize(self.handle.raw().as_ptr()) }
    }
}

// SAFETY: IOSurface functions may be called from any thread, and the address is only told here.
unsafe impl Send for Locked {}
// SAFETY: as above.
unsafe impl Sync for Locked {}

impl Drop for Locked {
    fn drop(&mut self) {
        self.handle.unlock(self.access);
    }
}

/// A new surface of zeros.
pub fn create(layout: Layout) -> Result<Surface, SurfaceError> {
    let surface = fresh(layout)?;
    surface.write()?.fill(0.0);
    Ok(surface)
}

/// A new surface with the content that the system gives it.
pub fn fresh(layout: Layout) -> Result<Surface, SurfaceError> {
    if layout.rows() == 0 || layout.width == 0 {
        return Err(SurfaceError::Empty { layout });
    }
    let no_memory = || SurfaceError::NoMemory { layout, bytes: layout.bytes() };
    // A number in a property is signed.
    let whole = layout.bytes().checked_next_multiple_of(PAGE).filter(|bytes| isize::try_from(*bytes).is_ok());
    let bytes = whole.ok_or_else(no_memory)?;
    let surface = (0..TRIES).find_map(|attempt| {
        std::thread::sleep(Duration::from_millis(u64::from(10 * attempt)));
        allocate(bytes)
    });
    let handle = Handle(Arc::new(Owned(surface.ok_or_else(no_memory)?)));
    let memory = Mapped {
        handle: handle.clone(),
        base: AtomicPtr::new(ptr::null_mut()),
        elements: layout.bytes() / layout.element.bytes(),
        element: layout.element,
    };
    Ok(Surface::with_native(layout, Box::new(memory), Box::new(handle)))
}

fn allocate(bytes: usize) -> Option<NonNull<IOSurface>> {
    autoreleasepool(|_| {
        // SAFETY: the keys are constants of the framework, set before any code of ours runs.
        let properties = unsafe {
            [
                (sys::kIOSurfaceWidth, bytes),
                (sys::kIOSurfaceHeight, 1),
                (sys::kIOSurfaceBytesPerElement, 1),
                (sys::kIOSurfaceBytesPerRow, bytes),
                (sys::kIOSurfaceAllocSize, bytes),
                (sys::kIOSurfacePixelFormat, 0),
            ]
        };
        // SAFETY: as above; constants live for ever.
        let keys: Vec<&NSString> = properties.iter().filter_map(|(key, _)| unsafe { key.as_ref() }).collect();
        let values: Vec<_> = properties.iter().map(|(_, value)| NSNumber::new_usize(*value)).collect();
        let properties: Retained<NSDictionary<NSString, NSNumber>> =
            NSDictionary::from_retained_objects(&keys, &values);
        // SAFETY: an NSDictionary is a CFDictionary, and it lives through the call.
        let surface = unsafe { sys::IOSurfaceCreate(Retained::as_ptr(&properties).cast::<c_void>()) };
        let surface = NonNull::new(surface)?;
        // SAFETY: the surface was just made.
        if unsafe { sys::IOSurfaceGetAllocSize(surface.as_ptr()) } < bytes {
            // SAFETY: this is the one reference.
            unsafe { sys::CFRelease(surface.as_ptr().cast::<c_void>()) };
            return None;
        }
        Some(surface)
    })
}

/// The bytes of an IOSurface, mapped while locked.
struct Mapped {
    handle: Handle,
    /// Where the bytes are; null until the first lock.
    base: AtomicPtr<u8>,
    elements: usize,
    element: Element,
}

fn options(access: Access) -> u32 {
    match access {
        Access::Read => sys::LOCK_READ_ONLY,
        Access::Write => 0,
    }
}

impl Mapped {
    fn base<T>(&self) -> *mut T {
        let base = self.base.load(Ordering::Acquire);
        assert!(!base.is_null(), "content is reached while locked");
        base.cast()
    }
}

impl Memory for Mapped {
    fn lock(&self, access: Access) -> Result<(), i32> {
        let base = self.handle.lock(access)?;
        self.base.store(base.as_ptr().cast(), Ordering::Release);
        Ok(())
    }

    fn unlock(&self, access: Access) {
        self.handle.unlock(access);
    }

    fn slice(&self) -> Slice<'_> {
        // SAFETY: a guard keeps the surface locked, so its bytes, at least `elements` elements of the
        // page-aligned allocation, are mapped and initialised; writers need `&mut self`.
        unsafe {
            match self.element {
                Element::Fp16 => Slice::F16(slice::from_raw_parts(self.base::<f16>(), self.elements)),
                Element::Fp32 => Slice::F32(slice::from_raw_parts(self.base::<f32>(), self.elements)),
            }
        }
    }

    fn slice_mut(&mut self) -> SliceMut<'_> {
        // SAFETY: as for `slice`; `&mut self` rules out every other slice.
        unsafe {
            match self.element {
                Element::Fp16 => SliceMut::F16(slice::from_raw_parts_mut(self.base::<f16>(), self.elements)),
                Element::Fp32 => SliceMut::F32(slice::from_raw_parts_mut(self.base::<f32>(), self.elements)),
            }
        }
    }
}
