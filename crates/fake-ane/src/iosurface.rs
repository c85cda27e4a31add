//! IOSurface: objects of a class of our own behind the C functions' names.
//!
//! New memory holds NaNs, so that whoever relies on zeros is seen. Two rules are enforced: content is
//! reached between a lock and its unlock only, and nobody writes what another reads, host or engine.
//! Who breaks one gets an error code, or a null address.

use std::alloc::{self, Layout};
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, PoisonError};

use objc2::encode::{Encoding, RefEncode};
use objc2::rc::{Allocated, Retained};
use objc2::runtime::{AnyObject, NSObject};
use objc2::{AnyThread, ClassType, DefinedClass, define_class, msg_send};
use objc2_foundation::{NSDictionary, NSNumber, NSObjectProtocol, NSString};

use crate::live::Counted;

/// What `IOSurfaceRef` points to.
#[repr(C)]
pub(crate) struct IOSurface {
    opaque: [u8; 0],
}

// SAFETY: an `IOSurfaceRef` is a pointer to the C struct `__IOSurface`, whose fields are hidden.
unsafe impl RefEncode for IOSurface {
    const ENCODING_REF: Encoding = Encoding::Pointer(&Encoding::Struct("__IOSurface", &[]));
}

/// Codes of IOKit. Source: IOKit/IOReturn.h.
const BAD_ARGUMENT: i32 = 0xe000_02c2_u32 as i32;
const NOT_OPEN: i32 = 0xe000_02cd_u32 as i32;
const BUSY: i32 = 0xe000_02d5_u32 as i32;
const READ_ONLY: u32 = 1;
/// A quiet NaN of fp16, and in pairs one of fp32.
const FRESH: u8 = 0x7f;
/// More than this is "no memory", so that tests can run out of it.
const MOST_BYTES: usize = 1 << 30;
const PAGE: usize = 16 << 10;

#[derive(Default)]
struct Locks {
    readers: u32,
    writers: u32,
    engine: Option<Use>,
}

/// What the engine does with a surface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Reads,
    Writes,
}

pub(crate) struct Ivars {
    bytes: usize,
    base: NonNull<u8>,
    locks: Mutex<Locks>,
    _counted: Counted,
}

impl Drop for Ivars {
    fn drop(&mut self) {
        // SAFETY: allocated by `IOSurfaceCreate` with this layout.
        unsafe { alloc::dealloc(self.base.as_ptr(), page_layout(self.bytes)) };
    }
}

define_class!(
    // SAFETY: NSObject asks nothing of subclasses; `Drop` is on the instance variables.
    #[unsafe(super(NSObject))]
    #[name = "FakeIOSurface"]
    #[ivars = Ivars]
    pub(crate) struct Surface;

    // SAFETY: NSObject's methods are inherited.
    unsafe impl NSObjectProtocol for Surface {}
);

impl Surface {
    fn locks(&self) -> MutexGuard<'_, Locks> {
        self.ivars().locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn bytes(&self) -> usize {
        self.ivars().bytes
    }

    pub fn base(&self) -> NonNull<u8> {
        self.ivars().base
    }

    /// Gives the memory to the engine; false when the host's locks do not allow it.
    pub fn engine_takes(&self, wanted: Use) -> bool {
        let mut locks = self.locks();
        let free = locks.writers == 0 && (wanted == Use::Reads || locks.readers == 0);
        if free {
            locks.engine = Some(wanted);
        }
        free
    }

    pub fn engine_leaves(&self) {
        self.locks().engine = None;
    }
}

fn page_layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes.max(1), PAGE).expect("sizes are below the limit")
}

pub(crate) fn register() {
    Surface::class();
}

macro_rules! keys {
    ($($name:ident = $text:literal;)*) => {
        $(
            /// A key of `IOSurfaceCreate`; set by [`set_keys`].
            #[unsafe(no_mangle)]
            #[allow(non_upper_case_globals, reason = "the name is Apple's")]
            static mut $name: *const NSString = ptr::null();
        )*

        /// Makes the keys. Called once, before any surface is made.
        pub(crate) fn set_keys() {
            // SAFETY: the caller's promise; the strings live for ever.
            unsafe { $($name = Retained::into_raw(NSString::from_str($text));)* }
        }
    };
}

keys! {
    kIOSurfaceWidth = "IOSurfaceWidth";
    kIOSurfaceHeight = "IOSurfaceHeight";
    kIOSurfaceBytesPerElement = "IOSurfaceBytesPerElement";
    kIOSurfaceBytesPerRow = "IOSurfaceBytesPerRow";
    kIOSurfaceAllocSize = "IOSurfaceAllocSize";
    kIOSurfacePixelFormat = "IOSurfacePixelFormat";
}

/// # Safety
/// `properties` is a dictionary of strings and numbers.
#[unsafe(no_mangle)]
unsafe extern "C" fn IOSurfaceCreate(properties: *const NSDictionary<NSString, NSNumber>) -> *mut Surface {
    // SAFETY: the caller's promise.
    let Some(properties) = (unsafe { properties.as_ref() }) else { return ptr::null_mut() };
    let number = |name: &str| properties.objectForKey(&NSString::from_str(name)).map(|n| n.as_usize());
    let [width, height, element, row, bytes, format] =
        ["Width", "Height", "BytesPerElement", "BytesPerRow", "AllocSize", "PixelFormat"]
            .map(|name| number(&format!("IOSurface{name}")));
    let Some(bytes) = bytes.filter(|bytes| (1..=MOST_BYTES).contains(bytes)) else { return ptr::null_mut() };
    // The form that published engines use; another one is a mistake of the bridge.
    if (width, height, element, row, format) != (Some(bytes), Some(1), Some(1), Some(bytes), Some(0)) {
        return ptr::null_mut();
    }
    // SAFETY: the layout has at least one byte.
    let Some(base) = NonNull::new(unsafe { alloc::alloc(page_layout(bytes)) }) else {
        return ptr::null_mut();
    };
    // SAFETY: the allocation has as many bytes.
    unsafe { base.as_ptr().write_bytes(FRESH, bytes) };
    let ivars = Ivars { bytes, base, locks: Mutex::default(), _counted: Counted::new() };
    let surface: Allocated<Surface> = Surface::alloc();
    let surface = surface.set_ivars(ivars);
    // SAFETY: NSObject's designated initialiser.
    let surface: Retained<Surface> = unsafe { msg_send![super(surface), init] };
    Retained::into_raw(surface)
}

/// # Safety
/// `surface` is live.
#[unsafe(no_mangle)]
unsafe extern "C" fn IOSurfaceGetAllocSize(surface: *const Surface) -> usize {
    // SAFETY: the caller's promise.
    unsafe { (*surface).bytes() }
}

/// # Safety
/// `surface` is live.
#[unsafe(no_mangle)]
unsafe extern "C" fn IOSurfaceGetBaseAddress(surface: *const Surface) -> *mut c_void {
    // SAFETY: the caller's promise.
    let surface = unsafe { &*surface };
    let locks = surface.locks();
    if locks.readers + locks.writers == 0 {
        return ptr::null_mut();
    }
    surface.base().as_ptr().cast()
}

/// # Safety
/// `surface` is live.
#[unsafe(no_mangle)]
unsafe extern "C" fn IOSurfaceLock(surface: *const Surface, options: u32, _seed: *mut u32) -> i32 {
    // SAFETY: the caller's promise.
    let mut locks = unsafe { &*surface }.locks();
    match (locks.engine, options) {
        (None, _) | (Some(Use::Reads), READ_ONLY) => {}
        _ => return BUSY,
    }
    match options {
        0 => locks.writers += 1,
        READ_ONLY => locks.readers += 1,
        _ => return BAD_ARGUMENT,
    }
    0
}

/// # Safety
/// `surface` is live.
#[unsafe(no_mangle)]
unsafe extern "C" fn IOSurfaceUnlock(surface: *const Surface, options: u32, _seed: *mut u32) -> i32 {
    // SAFETY: the caller's promise.
    let mut locks = unsafe { &*surface }.locks();
    let count = match options {
        0 => &mut locks.writers,
        READ_ONLY => &mut locks.readers,
        _ => return BAD_ARGUMENT,
    };
    match count.checked_sub(1) {
        Some(fewer) => *count = fewer,
        None => return NOT_OPEN,
    }
    0
}

/// # Safety
/// `object` is live, and the caller gives a reference of it up.
#[unsafe(no_mangle)]
unsafe extern "C" fn CFRelease(object: *mut AnyObject) {
    // SAFETY: the caller's promise.
    unsafe { objc2::ffi::objc_release(object) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install;

    fn surface(bytes: usize) -> *mut Surface {
        install();
        let names = ["Width", "Height", "BytesPerElement", "BytesPerRow", "AllocSize", "PixelFormat"];
        let keys = names.map(|name| NSString::from_str(&format!("IOSurface{name}")));
        let values = [bytes, 1, 1, bytes, bytes, 0].map(NSNumber::new_usize);
        let properties = NSDictionary::from_retained_objects(&keys.each_ref().map(|key| &**key), &values);
        // SAFETY: a dictionary of strings and numbers.
        unsafe { IOSurfaceCreate(Retained::as_ptr(&properties)) }
    }

    #[test]
    fn rules_of_locks_are_enforced() {
        assert!(surface(0).is_null() && surface(MOST_BYTES + 1).is_null());
        let surface = surface(64);
        let seed = ptr::null_mut();
        // SAFETY: the surface is live until its release at the end.
        unsafe {
            assert_eq!(IOSurfaceGetAllocSize(surface), 64);
            assert!(IOSurfaceGetBaseAddress(surface).is_null(), "content without a lock");
            assert_eq!(IOSurfaceUnlock(surface, 0, seed), NOT_OPEN);
            assert_eq!(IOSurfaceLock(surface, READ_ONLY, seed), 0);
            assert!(!IOSurfaceGetBaseAddress(surface).is_null());
            assert_eq!(IOSurfaceUnlock(surface, 0, seed), NOT_OPEN, "another lock is ended");
            assert!(!(*surface).engine_takes(Use::Writes) && (*surface).engine_takes(Use::Reads));
            assert_eq!(IOSurfaceLock(surface, READ_ONLY, seed), 0);
            assert_eq!(IOSurfaceLock(surface, 0, seed), BUSY);
            (*surface).engine_leaves();
            assert_eq!(
                [IOSurfaceUnlock(surface, READ_ONLY, seed), IOSurfaceUnlock(surface, READ_ONLY, seed)],
                [0, 0]
            );
            assert!((*surface).engine_takes(Use::Writes));
            assert_eq!(IOSurfaceLock(surface, READ_ONLY, seed), BUSY);
            (*surface).engine_leaves();
            assert_eq!(IOSurfaceLock(surface, 2, seed), BAD_ARGUMENT);
            CFRelease(surface.cast());
        }
    }
}
