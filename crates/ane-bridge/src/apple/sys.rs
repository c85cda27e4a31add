//! Functions and values of the system, as C declares them.
//!
//! IOSurface, Metal, CoreFoundation, the loader and sysctl are public. On Linux, tests link `fake_ane`,
//! which defines the same names. Sources: the headers IOSurface/IOSurfaceRef.h, Metal/MTLDevice.h,
//! CoreFoundation/CFBase.h, dlfcn.h and sys/sysctl.h.

use std::ffi::{c_char, c_int, c_void};

use objc2::runtime::AnyObject;
use objc2_foundation::NSString;

use super::table::IOSurface;

/// `kIOSurfaceLockReadOnly`: nothing is written while the lock is held.
pub const LOCK_READ_ONLY: u32 = 1;
/// `RTLD_NOW`: resolve everything at once. The value is the same on macOS and Linux.
pub const RTLD_NOW: c_int = 2;

/// A constant `CFStringRef`, which is an `NSString` too.
pub type Key = *const NSString;

#[cfg_attr(target_os = "macos", link(name = "IOSurface", kind = "framework"))]
unsafe extern "C" {
    pub static kIOSurfaceWidth: Key;
    pub static kIOSurfaceHeight: Key;
    pub static kIOSurfaceBytesPerElement: Key;
    pub static kIOSurfaceBytesPerRow: Key;
    pub static kIOSurfaceAllocSize: Key;
    pub static kIOSurfacePixelFormat: Key;

    /// A new surface that the caller owns; null when there is no memory for it.
    pub fn IOSurfaceCreate(properties: *const c_void) -> *mut IOSurface;
    /// Zero on success.
    pub fn IOSurfaceLock(surface: *mut IOSurface, options: u32, seed: *mut u32) -> i32;
    /// Takes the options of the lock that it ends.
    pub fn IOSurfaceUnlock(surface: *mut IOSurface, options: u32, seed: *mut u32) -> i32;
    /// Valid while locked.
    pub fn IOSurfaceGetBaseAddress(surface: *mut IOSurface) -> *mut c_void;
    pub fn IOSurfaceGetAllocSize(surface: *mut IOSurface) -> usize;
}

#[cfg_attr(target_os = "macos", link(name = "CoreFoundation", kind = "framework"))]
unsafe extern "C" {
    pub fn CFRelease(object: *const c_void);
}

#[cfg_attr(target_os = "macos", link(name = "Metal", kind = "framework"))]
unsafe extern "C" {
    /// An `MTLDevice` that the caller owns; nil where there is none.
    pub fn MTLCreateSystemDefaultDevice() -> *mut AnyObject;
}

unsafe extern "C" {
    pub fn dlopen(path: *const c_char, mode: c_int) -> *mut c_void;
    pub fn dlerror() -> *const c_char;
    pub fn sysctlbyname(
        name: *const c_char,
        old: *mut c_void,
        old_bytes: *mut usize,
        new: *const c_void,
        new_bytes: usize,
    ) -> c_int;
}
