//! The Neural Engine of a Mac, through Apple's private framework `AppleNeuralEngine`.
//!
//! ```text
//! table      every call: class, selector, types, source
//! sys        the public C functions: IOSurface, loader, sysctl
//! framework  the loaded framework, one Result per call; attributes: what its compiler tells
//! iosurface  surfaces in memory that the engine shares; metal: the same memory for the GPU
//! folder     the files that the compiler reads, and their removal
//! device     AppleAne: the safe Device; bare: what the lab asks below it
//! machine    what the Mac says of itself
//! probe      whether all this works on this machine
//! ```
//!
//! The framework is loaded at run time, and each of its calls is compared with [`table`] before the
//! first one is made. On systems that are not macOS the same names exist, and opening says so. The
//! feature `gnustep` builds this module on Linux, for tests against the crate `fake_ane`; what runs
//! there is called a fake framework, never ANE.

mod error;
mod machine;
mod probe;
mod settings;

pub use error::{Mismatch, OpenError, ShareError, SystemError};
pub use machine::{Machine, Thermal, machine};
pub use probe::{Finding, Probe, probe};
pub use settings::{Budget, FRAMEWORK, Qos, Route, Settings};

/// Whether this build is for a system that has Neural Engines.
pub const BUILT: bool = cfg!(target_os = "macos");

#[cfg(all(target_os = "macos", feature = "gnustep"))]
compile_error!("the feature `gnustep` is for tests on Linux; build without it on macOS");

#[cfg(any(target_os = "macos", feature = "gnustep"))]
mod attributes;
#[cfg(any(target_os = "macos", feature = "gnustep"))]
mod bare;
#[cfg(any(target_os = "macos", feature = "gnustep"))]
#[allow(unsafe_code, reason = "device.rs promises that live surfaces are wrapped")]
mod device;
#[cfg(any(target_os = "macos", feature = "gnustep"))]
mod folder;
#[cfg(any(target_os = "macos", feature = "gnustep"))]
#[allow(unsafe_code, reason = "sends messages")]
mod framework;
#[cfg(any(target_os = "macos", feature = "gnustep"))]
#[allow(unsafe_code, reason = "calls IOSurface")]
mod iosurface;
#[cfg(any(target_os = "macos", feature = "gnustep"))]
#[allow(unsafe_code, reason = "sends messages to Metal")]
mod metal;
#[cfg(any(target_os = "macos", feature = "gnustep"))]
#[allow(unsafe_code, non_upper_case_globals, reason = "declares C functions under their own names")]
mod sys;
#[cfg(any(target_os = "macos", feature = "gnustep"))]
#[allow(unsafe_code, reason = "calls sysctl")]
mod system;
#[cfg(any(target_os = "macos", feature = "gnustep"))]
#[allow(unsafe_code, reason = "reads the runtime's types")]
pub mod table;
#[cfg(any(target_os = "macos", feature = "gnustep"))]
pub use bare::AppleBare;
#[cfg(any(target_os = "macos", feature = "gnustep"))]
pub use device::{AppleAne, AppleExecutable, AppleRequest};
#[cfg(any(target_os = "macos", feature = "gnustep"))]
pub use metal::{Gpu, SharedBuffer};
#[cfg(any(target_os = "macos", feature = "gnustep"))]
pub use system::{build as system_build, chip as system_chip};

#[cfg(not(any(target_os = "macos", feature = "gnustep")))]
mod absent;
#[cfg(not(any(target_os = "macos", feature = "gnustep")))]
pub use absent::{AppleAne, AppleBare, AppleExecutable, AppleRequest, system_build, system_chip};

/// On Linux, what the calls of [`sys`] and the Objective-C runtime are linked with.
#[cfg(feature = "gnustep")]
use fake_ane as _;
