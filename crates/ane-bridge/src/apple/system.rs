//! What macOS says of itself: its build and its chip.

use std::ffi::CStr;
use std::ptr;

use super::sys;

/// The build of macOS, such as `25D125`: changes with every update.
pub fn build() -> Option<String> {
    text(c"kern.osversion")
}

/// The version, such as `26.3`.
pub fn version() -> Option<String> {
    text(c"kern.osproductversion")
}

/// The chip, such as `Apple M4 Max`.
pub fn chip() -> Option<String> {
    text(c"machdep.cpu.brand_string")
}

/// A value of sysctl that is a number of 4 or 8 bytes.
#[cfg(target_os = "macos")]
pub fn number(name: &CStr) -> Option<u64> {
    let mut value = [0u8; 8];
    let mut bytes = value.len();
    // SAFETY: the name is a C string; the buffer has the `bytes` that are announced.
    let code =
        unsafe { sys::sysctlbyname(name.as_ptr(), value.as_mut_ptr().cast(), &mut bytes, ptr::null(), 0) };
    // A shorter number leaves zeros above it, on these little-endian machines.
    (code == 0 && matches!(bytes, 4 | 8)).then(|| u64::from_le_bytes(value))
}

/// A value of sysctl that is text.
fn text(name: &CStr) -> Option<String> {
    let mut bytes = 0usize;
    // SAFETY: the name is a C string; a null buffer asks for the length only.
    let code = unsafe { sys::sysctlbyname(name.as_ptr(), ptr::null_mut(), &mut bytes, ptr::null(), 0) };
    if code != 0 || bytes == 0 {
        return None;
    }
    let mut buffer = vec![0u8; bytes];
    // SAFETY: the buffer has the `bytes` that are announced, and lives through the call.
    let code =
        unsafe { sys::sysctlbyname(name.as_ptr(), buffer.as_mut_ptr().cast(), &mut bytes, ptr::null(), 0) };
    buffer.truncate(bytes);
    let value = CStr::from_bytes_until_nul(&buffer).ok()?.to_str().ok()?;
    (code == 0 && !value.is_empty()).then(|| value.to_owned())
}
