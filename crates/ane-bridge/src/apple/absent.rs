//! The device on systems that have none: it cannot be made, and says so.

use mil::{Verified, Weights};

use super::{OpenError, Settings};
use crate::bare::{Bare, BareModel};
use crate::chip::Chip;
use crate::device::{Device, Executable, Port, Request};
use crate::error::{BindError, CompileError, RunError};
use crate::ledger::Ledger;
use crate::surface::{Layout, Surface, SurfaceError};

/// The build of macOS: there is none.
pub fn system_build() -> Option<String> {
    None
}

/// The chip of this Mac: this is none.
pub fn system_chip() -> Option<String> {
    None
}

/// Apple's Neural Engine, which this system does not have: there is no value of this type.
#[derive(Clone, Debug)]
pub enum AppleAne {}

impl AppleAne {
    /// Opens the device.
    ///
    /// # Errors
    /// [`OpenError::NotApple`], always.
    pub fn open(_: Settings) -> Result<Self, OpenError> {
        Err(OpenError::NotApple)
    }
}

impl Device for AppleAne {
    type Executable = AppleExecutable;

    fn chip(&self) -> &'static Chip {
        match *self {}
    }

    fn label(&self) -> String {
        match *self {}
    }

    fn compile(&self, _: &str, _: &Verified) -> Result<AppleExecutable, CompileError> {
        match *self {}
    }

    fn surface(&self, _: Layout) -> Result<Surface, SurfaceError> {
        match *self {}
    }

    fn compiles_left(&self) -> Option<u32> {
        match *self {}
    }

    fn ledger(&self) -> Ledger {
        match *self {}
    }
}

impl Bare for AppleAne {
    type Model = AppleBare;

    fn fresh(&self, _: Layout) -> Result<Surface, SurfaceError> {
        match *self {}
    }

    fn load(&self, _: &str, _: &Weights, _: u64) -> Result<AppleBare, CompileError> {
        match *self {}
    }
}

/// A text on a device that is not there.
#[derive(Debug)]
pub enum AppleBare {}

impl BareModel for AppleBare {
    fn symbols(&self) -> Option<[Vec<String>; 2]> {
        match *self {}
    }

    fn run(&self, _: &[&Surface], _: &[&Surface]) -> Result<(), RunError> {
        match *self {}
    }

    fn reload(&mut self, _: &str, _: &[u8]) -> Result<(), CompileError> {
        match *self {}
    }

    fn new_instance(&mut self, _: &str, _: &[u8]) -> Result<(), CompileError> {
        match *self {}
    }
}

/// A program on a device that is not there.
#[derive(Debug)]
pub enum AppleExecutable {}

impl Executable for AppleExecutable {
    type Request = AppleRequest;

    fn name(&self) -> &str {
        match *self {}
    }

    fn inputs(&self) -> &[Port] {
        match *self {}
    }

    fn outputs(&self) -> &[Port] {
        match *self {}
    }

    fn predicted_s(&self) -> f64 {
        match *self {}
    }

    fn bind(&self, _: &[(&str, &Surface)], _: &[(&str, &Surface)]) -> Result<AppleRequest, BindError> {
        match *self {}
    }
}

/// Surfaces bound on a device that is not there.
#[derive(Debug)]
pub enum AppleRequest {}

impl Request for AppleRequest {
    fn run(&self) -> Result<(), RunError> {
        match *self {}
    }
}
