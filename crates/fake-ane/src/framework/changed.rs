//! The framework as another macOS might have it: with calls that are not those of the notes.

use std::sync::Once;

use objc2::runtime::{AnyClass, AnyObject, Bool, ClassBuilder, NSObject, Sel};
use objc2::{ClassType, sel};
use objc2_foundation::NSError;

use crate::{iosurface, runtime};

extern "C-unwind" fn wide_compile(
    _: &AnyObject,
    _: Sel,
    _qos: u64,
    _options: *mut AnyObject,
    _error: *mut *mut NSError,
) -> Bool {
    Bool::NO
}

extern "C-unwind" fn nothing(_: &AnyClass, _: Sel, _: *mut AnyObject) -> *mut AnyObject {
    std::ptr::null_mut()
}

/// Registers `_ANEInMemoryModel` with a compile that takes 64 bits of priority, and without the other
/// methods; nothing else. Instead of [`super::install`], in a process of its own.
pub fn install_changed() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        runtime::ready();
        iosurface::set_keys();
        let mut class = ClassBuilder::new(c"_ANEInMemoryModel", NSObject::class()).expect("the class is new");
        // SAFETY: the functions have the types of their selectors' colons.
        unsafe {
            class.add_method(
                sel!(compileWithQoS:options:error:),
                wide_compile as extern "C-unwind" fn(_, _, _, _, _) -> _,
            );
            class.add_class_method(
                sel!(inMemoryModelWithDescriptor:),
                nothing as extern "C-unwind" fn(_, _, _) -> _,
            );
        }
        class.register();
    });
}
