//! `sysctlbyname`, of a machine that there is not.

use std::ffi::{CStr, c_char, c_int, c_void};

/// Values of the fake machine.
const VALUES: [(&CStr, &CStr); 3] = [
    (c"kern.osversion", c"99Z999"),
    (c"kern.osproductversion", c"26.3"),
    (c"machdep.cpu.brand_string", c"Apple M4 Max"),
];

/// # Safety
/// `name` is a C string; `bytes` takes a number; `old` is null or has as many bytes as it says.
#[unsafe(no_mangle)]
unsafe extern "C" fn sysctlbyname(
    name: *const c_char,
    old: *mut c_void,
    bytes: *mut usize,
    _new: *const c_void,
    _new_bytes: usize,
) -> c_int {
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) };
    let Some((_, value)) = VALUES.iter().find(|(known, _)| *known == name) else { return -1 };
    let value = value.to_bytes_with_nul();
    // SAFETY: the caller's promise; no more is written than it has room for.
    unsafe {
        let room = bytes.replace(value.len());
        if old.is_null() {
            return 0;
        }
        if room < value.len() {
            return -1;
        }
        old.cast::<u8>().copy_from_nonoverlapping(value.as_ptr(), value.len());
    }
    0
}
