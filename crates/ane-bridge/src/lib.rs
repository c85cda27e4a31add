//! Runs MIL programs on a device.
//!
//! [`Device`] compiles what [`mil::verify()`] accepted and makes [`Surface`]s; an [`Executable`] binds
//! surfaces by name to a [`Request`], which runs any number of times. [`VirtualAne`] is such a
//! device on every machine: it evaluates the program as the hardware would, keeps the hardware's
//! limits, and adds up in its [`Ledger`] how long a named [`Chip`] would take by [`clock`].
//! [`AppleAne`] is Apple's hardware, through the system's private framework.
//! [`predict`] applies the same clock to whole training steps.

#![deny(unsafe_code)]

mod bare;
mod device;
mod error;
mod ledger;
mod surface;

pub mod apple;
pub mod chip;
pub mod clock;
pub mod lab;
pub mod measured;
pub mod predict;
mod virtual_ane;

pub use apple::AppleAne;
pub use bare::{Bare, BareModel};
pub use chip::Chip;
pub use device::{Device, Executable, Port, Request};
pub use error::{BindError, CompileError, RunError, Status};
pub use ledger::{Entry, Ledger};
pub use surface::{
    Access, Element, Hold, Layout, Memory, ReadGuard, Region, Surface, SurfaceError, WriteGuard,
};
pub use virtual_ane::{
    Faults, Settings, SlowDown, Threads, VirtualAne, VirtualBare, VirtualExecutable, VirtualRequest,
};
