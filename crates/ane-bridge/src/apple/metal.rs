//! The GPU beside the Neural Engine: how much memory it may keep, and surfaces that it reads and writes
//! without a copy.
//!
//! ```text
//! Surface ─ locked ─▶ base address, whole pages ─ newBufferWithBytesNoCopy ─▶ MTLBuffer of the same bytes
//! ```
//!
//! Both processors share one memory. Metal takes bytes as they lie when they begin at a page and fill
//! whole pages (16 KiB on Apple silicon); every surface of the bridge does. Source: Apple's
//! MTLDevice.h, which says so of `newBufferWithBytesNoCopy:length:options:deallocator:`.

use std::ffi::c_void;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use block2::RcBlock;
use objc2::rc::Retained;
use objc2::runtime::AnyObject;

use super::error::{Mismatch, ShareError};
use super::framework::{Object, to};
use super::iosurface::{Handle, PAGE};
use super::sys;
use super::table::{CONTENTS, LENGTH, Method, NO_COPY, WORKING_SET, check_in};
use crate::surface::{Access, Hold, Surface};

/// `MTLResourceStorageModeShared`: the bytes are the processor's too. Source: Metal/MTLResource.h.
const STORAGE_SHARED: usize = 0;

/// The system's GPU.
#[derive(Clone, Debug)]
pub struct Gpu(Object);

impl Gpu {
    /// The GPU that Metal prefers; `None` where there is none, as on some virtual Macs.
    pub fn system() -> Option<Self> {
        // SAFETY: takes nothing; the result is nil, or an object that we own a reference of.
        let device = unsafe { Retained::from_raw(sys::MTLCreateSystemDefaultDevice()) };
        Some(Self(Object::new(device?)))
    }

    /// Bytes that it may keep resident without losing speed.
    pub fn working_set(&self) -> Option<u64> {
        has(&WORKING_SET, &self.0).ok()?;
        // SAFETY: the row was checked; it takes no argument.
        unsafe { to(&self.0, &WORKING_SET, ()) }.ok()
    }

    /// A Metal buffer over the memory of a surface of this bridge. While it lives nobody else has the
    /// access that it was given: with [`Access::Read`] guards and dispatches may read too, with
    /// [`Access::Write`] they get [`crate::SurfaceError::Busy`].
    ///
    /// # Errors
    /// [`ShareError`] when the surface is of another device, in use, not of whole pages, or Metal
    /// refuses or copies.
    pub fn share<'a>(&self, surface: &'a Surface, access: Access) -> Result<SharedBuffer<'a>, ShareError> {
        has(&NO_COPY, &self.0)?;
        let layout = surface.layout();
        let handle = surface.native::<Handle>().ok_or(ShareError::Foreign { layout })?;
        let hold = surface.hold(access)?;
        let locked = handle.locked(access).map_err(|code| ShareError::Lock { layout, access, code })?;
        let (base, bytes) = (locked.base(), locked.bytes());
        whole_pages(base.as_ptr() as usize, bytes)?;

        // The bytes stay mapped and locked until Metal, which may keep a buffer longer than we do, has
        // called this or dropped it.
        let locked = Mutex::new(Some(locked));
        let end = RcBlock::new(move |_: *mut c_void, _: usize| {
            drop(locked.lock().unwrap_or_else(PoisonError::into_inner).take());
        });
        let arguments = (base.as_ptr(), bytes, STORAGE_SHARED, RcBlock::as_ptr(&end));
        // SAFETY: the row was checked; the bytes are whole pages that stay where they are until the
        // deallocator was called, whose types are those of the header. The block may be called on any
        // thread: it holds a lock of a surface, which any thread may end.
        let buffer = unsafe { to(&self.0, &NO_COPY, arguments) }?;
        // SAFETY: `new…` returns nil or an object that the caller owns.
        let buffer = unsafe { Retained::from_raw(buffer) }.ok_or(ShareError::Refused { bytes })?;
        let buffer = Object::new(buffer);
        has(&CONTENTS, &buffer)?;
        has(&LENGTH, &buffer)?;
        // SAFETY: the rows were checked; they take no arguments.
        let (contents, length) = unsafe { (to(&buffer, &CONTENTS, ())?, to(&buffer, &LENGTH, ())?) };
        if contents != base.as_ptr() || length != bytes {
            return Err(ShareError::Copied { bytes, length });
        }
        Ok(SharedBuffer { buffer, base, bytes, _hold: hold })
    }
}

/// A Metal buffer over a surface's own memory. See [`Gpu::share`].
pub struct SharedBuffer<'a> {
    /// Dropped before the surface is given free.
    buffer: Object,
    base: NonNull<c_void>,
    bytes: usize,
    _hold: Hold<'a>,
}

impl fmt::Debug for SharedBuffer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBuffer({} bytes at {:p})", self.bytes, self.base)
    }
}

impl SharedBuffer<'_> {
    /// Bytes of the buffer: those of the surface, filled up to whole pages.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where the bytes are, for the processor too.
    pub fn base(&self) -> NonNull<c_void> {
        self.base
    }

    /// The `MTLBuffer`, to be bound to a kernel. Whoever keeps it must retain it.
    ///
    /// # Safety
    /// Commands that use the buffer write only with [`Access::Write`], and have completed when this
    /// value drops. (The memory itself lives as long as the `MTLBuffer`, whoever keeps it.)
    pub unsafe fn raw(&self) -> NonNull<AnyObject> {
        self.buffer.raw()
    }
}

/// Whether the object of this system has the method, with the types of the header.
fn has<A, R>(method: &Method<A, R>, object: &Object) -> Result<(), Mismatch> {
    check_in(&method.row, object.class())
}

/// Metal's rule for memory that is not its own.
fn whole_pages(base: usize, bytes: usize) -> Result<(), ShareError> {
    if bytes > 0 && base.is_multiple_of(PAGE) && bytes.is_multiple_of(PAGE) {
        return Ok(());
    }
    Err(ShareError::Pages { base, bytes, page: PAGE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pages_are_shared() {
        assert_eq!(whole_pages(4 * PAGE, PAGE), Ok(()));
        for (base, bytes) in [(4 * PAGE + 4096, PAGE), (PAGE, PAGE + 64), (PAGE, 0)] {
            let error = whole_pages(base, bytes).unwrap_err();
            assert_eq!(error, ShareError::Pages { base, bytes, page: PAGE });
            assert!(error.to_string().contains("16384"), "{error}");
        }
    }
}
