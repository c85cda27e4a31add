//! Calls below [`crate::Device`] on Apple's device.

use std::sync::PoisonError;

use mil::Weights;

use super::device::{AppleAne, Loaded, failed, wrapped};
use super::error::SystemError;
use super::iosurface;
use crate::bare::{Bare, BareModel};
use crate::error::{BindError, CompileError, RunError};
use crate::surface::{Access, Hold, Layout, Surface, SurfaceError};

const NAME: &str = "bare";

/// A text on Apple's device.
pub struct AppleBare(Loaded);

fn refused(source: SystemError) -> CompileError {
    CompileError::System { program: NAME.into(), source }
}

/// Keeps the host's guards away from surfaces.
fn held<'a>(surfaces: &[&'a Surface], access: Access) -> Result<Vec<Hold<'a>>, RunError> {
    let used = |source| RunError::Surface { program: NAME.into(), name: "a symbol".into(), source };
    surfaces.iter().map(|surface| surface.hold(access).map_err(used)).collect()
}

impl Bare for AppleAne {
    type Model = AppleBare;

    fn fresh(&self, layout: Layout) -> Result<Surface, SurfaceError> {
        iosurface::fresh(layout)
    }

    fn load(&self, text: &str, weights: &Weights, offset: u64) -> Result<AppleBare, CompileError> {
        Ok(AppleBare(self.load_text(NAME, text, Some(weights), offset)?))
    }
}

impl BareModel for AppleBare {
    fn symbols(&self) -> Option<[Vec<String>; 2]> {
        let told = self.0.device.framework.attributes(&self.0.model)?;
        Some([told.inputs, told.outputs].map(|side| side.into_iter().map(|symbol| symbol.name).collect()))
    }

    fn run(&self, inputs: &[&Surface], outputs: &[&Surface]) -> Result<(), RunError> {
        let framework = &self.0.device.framework;
        let side = |surfaces: &[&Surface]| -> Result<Vec<_>, BindError> {
            let one = |(i, surface): (usize, &&Surface)| {
                Ok((wrapped(framework, NAME, &format!("symbol {i}"), surface)?, i))
            };
            surfaces.iter().enumerate().map(one).collect()
        };
        let request = framework
            .request(&side(inputs)?, &side(outputs)?, None)
            .map_err(|source| BindError::System { program: NAME.into(), source })?;
        let device = &self.0.device;
        let _in_flight = device.engine.lock().unwrap_or_else(PoisonError::into_inner);
        let _reads = held(inputs, Access::Read)?;
        let _writes = held(outputs, Access::Write)?;
        framework
            .evaluate(&self.0.model, &request, device.settings.qos)
            .map_err(|system| failed(NAME, 0, system))
    }

    fn reload(&mut self, path: &str, bytes: &[u8]) -> Result<(), CompileError> {
        let (framework, qos) = (&self.0.device.framework, self.0.device.settings.qos);
        framework.unload(&self.0.model, qos).map_err(refused)?;
        let written = self.0.folder.weights(path, bytes);
        written.map_err(|source| CompileError::Files { program: NAME.into(), source: source.into() })?;
        framework.load(&self.0.model, qos).map_err(refused)
    }

    fn new_instance(&mut self, symbol: &str, bytes: &[u8]) -> Result<(), CompileError> {
        let (framework, qos) = (&self.0.device.framework, self.0.device.settings.qos);
        let written = self.0.folder.weights("@model_path/weights/instance.bin", bytes);
        let file =
            written.map_err(|source| CompileError::Files { program: NAME.into(), source: source.into() })?;
        let client = framework.client().map_err(refused)?;
        let inner = framework.inner(&self.0.model).map_err(refused)?;
        framework.new_instance(&client, &inner, symbol, &file, qos).map_err(refused)
    }
}
