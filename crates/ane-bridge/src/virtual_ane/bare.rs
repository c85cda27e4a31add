//! What the virtual device assumes of calls below [`Device`]: symbols lie in byte order of their names,
//! weights are frozen by the compile, whatever their dictionary says of offsets, and nothing replaces them.

use mil::{Target, Weights, parse, verify};

use super::{VirtualAne, VirtualExecutable};
use crate::bare::{Bare, BareModel};
use crate::device::{Device, Executable, Port};
use crate::error::{CompileError, RunError};
use crate::surface::{Layout, Surface, SurfaceError};

const NAME: &str = "bare";

/// A text on the virtual device.
#[derive(Debug)]
pub struct VirtualBare(VirtualExecutable);

impl Bare for VirtualAne {
    type Model = VirtualBare;

    fn fresh(&self, layout: Layout) -> Result<Surface, SurfaceError> {
        self.surface(layout)
    }

    fn load(&self, text: &str, weights: &Weights, _offset: u64) -> Result<VirtualBare, CompileError> {
        let rejected = |reason| CompileError::Rejected { program: NAME.into(), reason };
        let program = parse(text).map_err(|error| rejected(error.to_string()))?;
        let target = Target { padded_rows: true, any_order: true, ..self.chip().target() };
        let verified = verify(program.with_weights(weights.clone()), &target)
            .map_err(|found| rejected(found.first().map(ToString::to_string).unwrap_or_default()))?;
        Ok(VirtualBare(self.compile(NAME, &verified)?))
    }
}

/// Names in byte order.
fn sorted(ports: &[Port]) -> Vec<String> {
    let mut names: Vec<_> = ports.iter().map(|port| port.name.clone()).collect();
    names.sort_unstable();
    names
}

impl BareModel for VirtualBare {
    fn symbols(&self) -> Option<[Vec<String>; 2]> {
        Some([sorted(self.0.inputs()), sorted(self.0.outputs())])
    }

    fn run(&self, inputs: &[&Surface], outputs: &[&Surface]) -> Result<(), RunError> {
        let [input_names, output_names] = [sorted(self.0.inputs()), sorted(self.0.outputs())];
        let inputs: Vec<_> = input_names.iter().map(String::as_str).zip(inputs.iter().copied()).collect();
        let outputs: Vec<_> = output_names.iter().map(String::as_str).zip(outputs.iter().copied()).collect();
        self.0.run(&inputs, &outputs)
    }

    fn reload(&mut self, _path: &str, _bytes: &[u8]) -> Result<(), CompileError> {
        Ok(())
    }

    fn new_instance(&mut self, symbol: &str, _bytes: &[u8]) -> Result<(), CompileError> {
        let reason = format!("no instance is made with another weight `{symbol}`");
        Err(CompileError::Rejected { program: NAME.into(), reason })
    }
}
