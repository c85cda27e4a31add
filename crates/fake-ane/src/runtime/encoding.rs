//! Type encodings as clang writes them. GCC writes some otherwise, and objc2 compares them in debug
//! builds.
//!
//! | GCC and GNUstep | clang and Apple | what |
//! |---|---|---|
//! | `^rv` | `r^v` | pointer to constant data |
//! | `I` | `i` in methods named for string encodings | objc2 declares `NSStringEncoding` a C int here |

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::Mutex;

#[link(name = "objc", kind = "dylib")]
unsafe extern "C" {
    fn sel_getName(selector: *const c_void) -> *const c_char;
}

/// The beginning of GCC's `struct objc_method`.
#[repr(C)]
struct GccMethod {
    selector: *const c_void,
    types: *const c_char,
}

/// Stands before the function of this name in `libobjc`.
///
/// # Safety
/// `method` is a method of the runtime.
#[unsafe(no_mangle)]
unsafe extern "C" fn method_getTypeEncoding(method: *const c_void) -> *const c_char {
    /// Results live as long as the process, as the runtime's own do.
    static KNOWN: Mutex<Option<HashMap<usize, CString>>> = Mutex::new(None);
    // SAFETY: the caller's promise.
    let GccMethod { selector, types } = unsafe { method.cast::<GccMethod>().read() };
    if types.is_null() {
        return types;
    }
    let mut known = KNOWN.lock().expect("nothing panics while it is held");
    let known = known.get_or_insert_default();
    let rewritten = known.entry(method as usize).or_insert_with(|| {
        // SAFETY: methods have C strings for name and types.
        let (name, types) = unsafe { (CStr::from_ptr(sel_getName(selector)), CStr::from_ptr(types)) };
        let mut text = types.to_string_lossy().replace("^r", "r^");
        if name.to_string_lossy().contains("ncoding") {
            text = text.replace('I', "i");
        }
        CString::new(text).expect("a C string has no zero inside")
    });
    rewritten.as_ptr()
}
