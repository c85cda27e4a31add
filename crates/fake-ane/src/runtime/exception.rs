//! Catching exceptions, for the bridge's tests: what objc2's feature `exception` does on a Mac, whose
//! helper wants a runtime that GCC's is not.

use std::ffi::c_void;
use std::ptr;

use objc2::rc::Retained;
use objc2::runtime::AnyObject;

#[link(name = "fake_ane_catch", kind = "static")]
unsafe extern "C-unwind" {
    /// In catch.m. Returns 1 when something was thrown; the caller owns it.
    fn fake_ane_catch(
        function: extern "C-unwind" fn(*mut c_void),
        context: *mut c_void,
        thrown: *mut *mut AnyObject,
    ) -> u8;
}

/// Runs `f`; what Objective-C throws meanwhile is the error. Panics pass through.
///
/// # Errors
/// The object that was thrown; `None` for nil.
pub fn catch<R, F: FnOnce() -> R>(f: F) -> Result<R, Option<Retained<AnyObject>>> {
    struct Call<F, R> {
        f: Option<F>,
        result: Option<R>,
    }
    extern "C-unwind" fn run<R, F: FnOnce() -> R>(call: *mut c_void) {
        // SAFETY: `catch` passes its own `call`, which nobody else uses meanwhile.
        let call = unsafe { &mut *call.cast::<Call<F, R>>() };
        call.result = call.f.take().map(|f| f());
    }
    let mut call = Call { f: Some(f), result: None };
    let mut thrown = ptr::null_mut();
    // SAFETY: the context is what `run` of these types expects, and lives through the call.
    let caught = unsafe { fake_ane_catch(run::<R, F>, (&raw mut call).cast(), &mut thrown) };
    match call.result {
        Some(result) if caught == 0 => Ok(result),
        // SAFETY: nil, or an object that catch.m retained for us.
        _ => Err(unsafe { Retained::from_raw(thrown) }),
    }
}
