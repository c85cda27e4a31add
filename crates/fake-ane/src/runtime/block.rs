//! Copies of blocks: what Apple's runtime does, instead of GNUstep's two functions, whose blocks lose
//! their captures with the first reference.
//!
//! Source of layout and flags: clang, docs/Block-ABI-Apple; references count in the low 16 bits of the
//! flags, by twos.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

#[repr(C)]
struct Block {
    class: *const c_void,
    flags: AtomicU32,
    reserved: u32,
    invoke: *const c_void,
    descriptor: *const Descriptor,
}

/// With functions only where the flags say so.
#[repr(C)]
struct Descriptor {
    reserved: usize,
    bytes: usize,
    copy: unsafe extern "C-unwind" fn(*mut Block, *const Block),
    dispose: unsafe extern "C-unwind" fn(*mut Block),
}

const ONE: u32 = 2;
const REFERENCES: u32 = 0xfffe;
const ON_HEAP: u32 = 1 << 24;
const HAS_FUNCTIONS: u32 = 1 << 25;
const GLOBAL: u32 = 1 << 28;

/// # Safety
/// `block` is null or a live block.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn _Block_copy(block: *mut Block) -> *mut Block {
    // SAFETY: the caller's promise.
    let Some(old) = (unsafe { block.as_ref() }) else { return block };
    let flags = old.flags.load(Ordering::Relaxed);
    if flags & GLOBAL != 0 {
        return block;
    }
    if flags & ON_HEAP != 0 {
        old.flags.fetch_add(ONE, Ordering::Relaxed);
        return block;
    }
    // SAFETY: a block has a descriptor that says its size; the copy is made as its own functions ask.
    unsafe {
        let bytes = (*old.descriptor).bytes;
        let new = libc::malloc(bytes).cast::<Block>();
        if new.is_null() {
            return ptr::null_mut();
        }
        new.cast::<u8>().copy_from_nonoverlapping(block.cast(), bytes);
        (*new).flags = AtomicU32::new(flags & !REFERENCES | ON_HEAP | ONE);
        if flags & HAS_FUNCTIONS != 0 {
            ((*old.descriptor).copy)(new, block);
        }
        new
    }
}

/// # Safety
/// `block` is null or a live block that the caller has a reference of.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn _Block_release(block: *mut Block) {
    // SAFETY: the caller's promise.
    let Some(old) = (unsafe { block.as_ref() }) else { return };
    if old.flags.load(Ordering::Relaxed) & (ON_HEAP | GLOBAL) != ON_HEAP {
        return;
    }
    let flags = old.flags.fetch_sub(ONE, Ordering::AcqRel);
    if flags & REFERENCES != ONE {
        return;
    }
    // SAFETY: this was the last reference, and `_Block_copy` allocated the block.
    unsafe {
        if flags & HAS_FUNCTIONS != 0 {
            ((*old.descriptor).dispose)(block);
        }
        libc::free(block.cast());
    }
}
