//! Tiles of AMX: whether this machine and system have them, and their configuration.
//!
//! A tile is a register of 16 rows of 64 bytes, and a core has eight. Compilers know nothing of
//! them on stable Rust, so they are named in assembly; nothing else touches them. Source: Intel 64
//! and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::sync::OnceLock;

/// Rows of a tile.
pub(crate) const ROWS: usize = 16;
/// Bytes of a row.
pub(crate) const ROW_BYTES: usize = 64;

/// Whether this machine has tiles that multiply bf16, and the system lets this process use them.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| detected() && permitted())
}

/// The bits of the processor: leaf 7, EDX, 22 for bf16 and 24 for tiles.
fn detected() -> bool {
    const BITS: u32 = 1 << 22 | 1 << 24;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & BITS == BITS
}

/// Asks for the permission that Linux wants of a process before it keeps tiles for its threads.
/// Source: the kernel's Documentation/arch/x86/xstate.rst.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: usize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    let status: isize;
    // SAFETY: a system call of two numbers, which changes nothing but that permission.
    unsafe {
        asm!(
            "syscall",
            inout("rax") ARCH_PRCTL => status,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    status == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// All eight tiles of this thread, in full size, until it drops.
pub(crate) struct Tiles(());

impl Tiles {
    /// Configures the tiles; they hold zeros.
    ///
    /// # Safety
    ///
    /// [`available`].
    pub(crate) unsafe fn new() -> Self {
        #[repr(C, align(64))]
        struct Config {
            palette: u8,
            start: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        const CONFIG: Config = Config {
            palette: 1,
            start: 0,
            reserved: [0; 14],
            row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
            rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
        };
        // SAFETY: the instruction is there; it reads 64 bytes that are there.
        unsafe {
            asm!("ldtilecfg [{0}]", in(reg) &CONFIG, options(readonly, nostack, preserves_flags));
        }
        Self(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: whoever made this has the instruction. Without it the system would go on saving
        // eight kilobytes at every switch of threads.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// Brings a line that will be written.
#[inline(always)]
pub(crate) fn fetch(at: *const f32) {
    // SAFETY: a prefetch may be anywhere.
    unsafe { asm!("prefetchw [{0}]", in(reg) at, options(nostack, preserves_flags, readonly)) };
}

/// Loads a tile: its number, its start, the bytes from row to row.
macro_rules! load {
    ($tile:literal, $at:expr, $stride:expr) => {
        ::std::arch::asm!(
            concat!("tileloadd tmm", $tile, ", [{0} + {1}*1]"),
            in(reg) $at,
            in(reg) $stride,
            options(readonly, nostack, preserves_flags),
        )
    };
}

/// Stores a tile likewise.
macro_rules! store {
    ($tile:literal, $at:expr, $stride:expr) => {
        ::std::arch::asm!(
            concat!("tilestored [{0} + {1}*1], tmm", $tile),
            in(reg) $at,
            in(reg) $stride,
            options(nostack, preserves_flags),
        )
    };
}

/// Clears a tile.
macro_rules! zero {
    ($tile:literal) => {
        ::std::arch::asm!(concat!("tilezero tmm", $tile), options(nomem, nostack, preserves_flags))
    };
}

/// `c += a·b` of tiles.
macro_rules! multiply {
    ($c:literal, $a:literal, $b:literal) => {
        ::std::arch::asm!(
            concat!("tdpbf16ps tmm", $c, ", tmm", $a, ", tmm", $b),
            options(nomem, nostack, preserves_flags),
        )
    };
}

pub(crate) use {load, multiply, store, zero};
