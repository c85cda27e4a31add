//! Apple's private framework, IOSurface and Metal, as far as the bridge calls them, on GNUstep's Objective-C
//! runtime: the bridge's own message sends run on Linux, and its models are evaluated by `mil::eval`.
//!
//! What is here follows the bridge's notes of Apple's framework, so it shows that bridge and notes
//! agree, and that memory, locks, threads and errors are handled; it does not show that the notes are
//! right. Foundation (strings, dictionaries, errors, autorelease pools) is GNUstep's, unmodified.
//! Faults are asked for by the program itself, see [`Fault`], so that tests do not disturb each other.
//!
//! For tests on x86-64 Linux with glibc only; without the feature `gnustep` the crate is empty.

#![cfg(feature = "gnustep")]

mod framework;
mod iosurface;
mod live;
mod metal;
mod runtime;
mod sysctl;

pub use framework::{Fault, compiles, install, install_changed, loaded, most_at_once, temporary_folder};
pub use live::live;
pub use metal::{MetalFault, WORKING_SET, metal_fails_next};
pub use runtime::catch;
