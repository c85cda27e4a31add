//! The entry points of automatic reference counting, as the messages that they stand for.
//!
//! Source: clang, docs/AutomaticReferenceCounting, "Runtime support". GCC's runtime has none of them;
//! GNUstep's NSObject and NSAutoreleasePool do the work.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem;

pub(super) type Id = *mut c_void;
type Sel = *const c_void;
type Imp = unsafe extern "C-unwind" fn();

#[link(name = "objc", kind = "dylib")]
unsafe extern "C-unwind" {
    fn objc_msg_lookup(receiver: Id, selector: Sel) -> Option<Imp>;
    fn sel_registerName(name: *const c_char) -> Sel;
    pub(super) fn objc_getClass(name: *const c_char) -> Id;
    fn objc_getClassList(buffer: *mut Id, count: c_int) -> c_int;
}

/// Sends a message without arguments that returns an object, or nothing.
///
/// # Safety
/// `receiver` is nil or a live object with such a method.
unsafe fn send(receiver: Id, name: &CStr) -> Id {
    if receiver.is_null() {
        return receiver;
    }
    // SAFETY: a C string; then a receiver that the caller vouches for.
    let imp = unsafe { objc_msg_lookup(receiver, sel_registerName(name.as_ptr())) };
    let imp = imp.expect("the runtime answers every lookup");
    // SAFETY: the method takes receiver and selector, and returns an object or nothing.
    unsafe {
        let method: unsafe extern "C-unwind" fn(Id, Sel) -> Id = mem::transmute::<Imp, _>(imp);
        method(receiver, sel_registerName(name.as_ptr()))
    }
}

macro_rules! entry_points {
    ($($name:ident($object:ident) = $body:expr;)*) => {
        $(
            /// # Safety
            /// The argument is nil or a live object or class.
            #[unsafe(no_mangle)]
            unsafe extern "C-unwind" fn $name($object: Id) -> Id {
                // SAFETY: the caller's promise.
                unsafe { $body }
            }
        )*
    };
}

entry_points! {
    objc_retain(o) = send(o, c"retain");
    objc_autorelease(o) = send(o, c"autorelease");
    objc_retainAutorelease(o) = objc_autorelease(objc_retain(o));
    objc_retainAutoreleasedReturnValue(o) = objc_retain(o);
    objc_claimAutoreleasedReturnValue(o) = objc_retain(o);
    objc_autoreleaseReturnValue(o) = objc_autorelease(o);
    objc_retainAutoreleaseReturnValue(o) = objc_autorelease(objc_retain(o));
    objc_alloc(class) = send(class, c"alloc");
    objc_alloc_init(class) = send(send(class, c"alloc"), c"init");
    objc_opt_self(o) = send(o, c"self");
    // An object begins with the pointer to its class.
    object_getClass(o) = if o.is_null() { o } else { *o.cast::<Id>() };
}

/// # Safety
/// The argument is nil or a live object that the caller has a reference of.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn objc_release(object: Id) {
    // SAFETY: the caller's promise.
    unsafe { send(object, c"release") };
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_autoreleasePoolPush() -> Id {
    // SAFETY: the class is Foundation's; `new` returns a pool.
    unsafe { send(objc_getClass(c"NSAutoreleasePool".as_ptr()), c"new") }
}

/// # Safety
/// The pool is of [`objc_autoreleasePoolPush`], on this thread, and the innermost.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn objc_autoreleasePoolPop(pool: Id) {
    // SAFETY: the caller's promise.
    unsafe { send(pool, c"release") };
}

/// # Safety
/// `count` is null or takes a number. The caller frees the list.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn objc_copyClassList(count: *mut c_uint) -> *mut Id {
    // SAFETY: with no buffer the runtime only counts.
    let room = unsafe { objc_getClassList(std::ptr::null_mut(), 0) };
    let slots = usize::try_from(room).unwrap_or(0) + 1;
    // SAFETY: zeroed memory is a list of nils that ends with one.
    let list = unsafe { libc::calloc(slots, size_of::<Id>()) }.cast::<Id>();
    if list.is_null() {
        return list;
    }
    // SAFETY: the list has room for as many classes.
    let found = unsafe { objc_getClassList(list, room) };
    if !count.is_null() {
        // SAFETY: the caller's promise.
        unsafe { *count = found.clamp(0, room) as c_uint };
    }
    list
}
