//! Calls below [`Device`]: programs as text that no verifier saw, surfaces bound by index, files changed
//! under a loaded program.
//!
//! [`crate::lab`] needs them for questions that a safe program cannot put; nothing else uses them. What is
//! loaded here counts against budget and load limit as everything does.

use mil::Weights;

use crate::device::Device;
use crate::error::{CompileError, RunError};
use crate::surface::{Layout, Surface, SurfaceError};

/// A device that takes what nobody checked.
pub trait Bare: Device {
    /// A loaded text.
    type Model: BareModel;

    /// A surface with the content that the system gives it.
    ///
    /// # Errors
    /// As [`Device::surface`].
    fn fresh(&self, layout: Layout) -> Result<Surface, SurfaceError>;

    /// Compiles and loads a text as it stands. `offset` is what the dictionary of weight files says of
    /// each file.
    ///
    /// # Errors
    /// [`CompileError`] when the compiler refuses.
    fn load(&self, text: &str, weights: &Weights, offset: u64) -> Result<Self::Model, CompileError>;
}

/// A loaded text.
pub trait BareModel {
    /// Names of inputs and outputs by symbol index, where the compiler tells them.
    fn symbols(&self) -> Option<[Vec<String>; 2]>;

    /// Runs once; the surface at place `i` of a side is bound to its symbol `i`.
    ///
    /// # Errors
    /// [`RunError`] when a surface is in use or the evaluation fails.
    fn run(&self, inputs: &[&Surface], outputs: &[&Surface]) -> Result<(), RunError>;

    /// Unloads, replaces the content of a weight file, and loads again without a compile.
    ///
    /// # Errors
    /// [`CompileError`] when the file cannot be written or the load is refused.
    fn reload(&mut self, path: &str, bytes: &[u8]) -> Result<(), CompileError>;

    /// Writes a weight file beside the program's and asks for a new instance of the loaded program whose
    /// constant `symbol` comes from it.
    ///
    /// # Errors
    /// [`CompileError`] when a call is not there or is refused.
    fn new_instance(&mut self, symbol: &str, bytes: &[u8]) -> Result<(), CompileError>;
}
