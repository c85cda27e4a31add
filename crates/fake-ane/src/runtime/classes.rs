//! Puts the runtime's classes where the executable looks for them.
//!
//! objc2 takes the address of a symbol `_OBJC_CLASS_<name>`; GCC's ABI has none. `build.rs` makes a
//! library of such symbols, so that programs link and the loader fills a slot of the global offset
//! table with the address of each. When the program starts, after Foundation has registered its
//! classes and before any code of ours, [`fill`] writes the classes' own addresses into these slots.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::hint::black_box;
use std::ptr;

use super::arc::objc_getClass;

#[link(name = "objc_class_symbols", kind = "dylib")]
unsafe extern "C" {}

// One function is called, or the linker drops the library and no class is there.
#[link(name = "gnustep-base", kind = "dylib")]
unsafe extern "C" {
    fn NSStringFromClass(class: *mut c_void) -> *mut c_void;
}

#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = start;

/// Keeps this object file in the program, and so [`AT_START`].
pub fn ready() {
    black_box(&AT_START);
}

extern "C" fn start() {
    black_box(NSStringFromClass as *const ());
    // SAFETY: the program has one thread yet, and its tables are mapped.
    unsafe { libc::dl_iterate_phdr(Some(fill), ptr::null_mut()) };
}

/// Entries of the dynamic section. Source: elf.h.
#[repr(C)]
struct Dynamic {
    tag: u64,
    value: u64,
}

#[repr(C)]
struct Relocation {
    offset: u64,
    info: u64,
    addend: i64,
}

#[repr(C)]
struct Symbol {
    name: u32,
    info: u8,
    other: u8,
    section: u16,
    value: u64,
    size: u64,
}

const DT_STRTAB: u64 = 5;
const DT_SYMTAB: u64 = 6;
const DT_RELA: u64 = 7;
const DT_RELASZ: u64 = 8;
/// Kinds of relocation that hold the address of a symbol.
const R_X86_64_64: u64 = 1;
const R_X86_64_GLOB_DAT: u64 = 6;
const PREFIX: &[u8] = b"_OBJC_CLASS_";
const PAGE: usize = 4096;

/// Works on the first object, which is the executable, and stops.
///
/// # Safety
/// Called by `dl_iterate_phdr`.
unsafe extern "C" fn fill(info: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: the loader describes a mapped object: its headers, the dynamic section that they name and
    // the tables that the section names are readable, and relocations name slots inside of it.
    unsafe {
        let info = &*info;
        let headers = std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
        let Some(header) = headers.iter().find(|header| header.p_type == libc::PT_DYNAMIC) else {
            return 1;
        };
        let mut entry = (info.dlpi_addr + header.p_vaddr) as *const Dynamic;
        let (mut strings, mut symbols, mut relocations, mut bytes) = (0, 0, 0, 0);
        while (*entry).tag != 0 {
            match (*entry).tag {
                DT_STRTAB => strings = (*entry).value,
                DT_SYMTAB => symbols = (*entry).value,
                DT_RELA => relocations = (*entry).value,
                DT_RELASZ => bytes = (*entry).value,
                _ => {}
            }
            entry = entry.add(1);
        }
        if relocations == 0 {
            return 1;
        }
        let count = bytes as usize / size_of::<Relocation>();
        for relocation in std::slice::from_raw_parts(relocations as *const Relocation, count) {
            if !matches!(relocation.info & 0xffff_ffff, R_X86_64_64 | R_X86_64_GLOB_DAT) {
                continue;
            }
            let symbol = (symbols as *const Symbol).add((relocation.info >> 32) as usize);
            let name = CStr::from_ptr((strings + u64::from((*symbol).name)) as *const c_char);
            let Some(class) = name.to_bytes().strip_prefix(PREFIX) else { continue };
            let class = CString::new(class).expect("a C string has no zero inside");
            write((info.dlpi_addr + relocation.offset) as *mut *mut c_void, objc_getClass(class.as_ptr()));
        }
    }
    1
}

/// Writes a slot of a table that the loader has made read-only.
///
/// # Safety
/// `slot` is mapped and aligned, and nobody reads it meanwhile.
unsafe fn write(slot: *mut *mut c_void, class: *mut c_void) {
    let page = slot as usize & !(PAGE - 1);
    // SAFETY: the caller's promise; the page belongs to the executable's tables, which stay writable
    // because slots with and without protection may share it.
    unsafe {
        libc::mprotect(page as *mut c_void, PAGE, libc::PROT_READ | libc::PROT_WRITE);
        slot.write(class);
    }
}
