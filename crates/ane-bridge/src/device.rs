//! What a device does: compile verified programs, make surfaces, run bound requests.

use mil::Verified;

use crate::chip::Chip;
use crate::error::{BindError, CompileError, RunError};
use crate::ledger::Ledger;
use crate::surface::{Layout, Surface, SurfaceError};

/// Something that runs MIL programs: the Apple Neural Engine or the virtual one.
///
/// A device value may be used from several threads; evaluations of one device run one at a time,
/// as on hardware (ANEForge, docs/developer/optimizer-and-cost.md).
pub trait Device: Send + Sync {
    /// A compiled and loaded program.
    type Executable: Executable;

    /// The chip that the device is, or stands for.
    fn chip(&self) -> &'static Chip;

    /// How results of this device must be labelled: `virtual ANE (M4 Max)`, or `ANE (M4 Max)` when
    /// silicon ran them.
    fn label(&self) -> String;

    /// Compiles and loads a program. `name` stands in errors and in the ledger.
    ///
    /// The weights travel inside the program ([`mil::Program::with_weights`]). Every call counts
    /// against the compile budget, failed ones too. Dropping the executable and its requests unloads it.
    ///
    /// # Errors
    /// [`CompileError`] when the program was verified for another chip family, the budget or the load
    /// limit is exhausted, or the compiler refuses.
    fn compile(&self, name: &str, program: &Verified) -> Result<Self::Executable, CompileError>;

    /// A new surface, filled with zeros.
    ///
    /// # Errors
    /// [`SurfaceError`] when an extent is zero or the memory is not to be had.
    fn surface(&self, layout: Layout) -> Result<Surface, SurfaceError>;

    /// Compiles that this process may still do; `None` when the device knows no budget.
    fn compiles_left(&self) -> Option<u32>;

    /// What ran so far: a copy.
    fn ledger(&self) -> Ledger;
}

/// A loaded program.
pub trait Executable: Send + Sync {
    /// Surfaces bound to the program.
    type Request: Request;

    /// The name that [`Device::compile`] was given.
    fn name(&self) -> &str;

    /// Inputs in byte order of their names, the order in which hardware binds them.
    fn inputs(&self) -> &[Port];

    /// Outputs in byte order of their names.
    fn outputs(&self) -> &[Port];

    /// Time of one dispatch by [`crate::clock`], seconds.
    fn predicted_s(&self) -> f64;

    /// Binds one surface to every input and output, by name and in any order. The request keeps the
    /// surfaces alive; it is made once and run often.
    ///
    /// A surface fits when its element type and width are those of the port and it has at least as
    /// many rows. An input surface may serve several inputs and programs.
    ///
    /// # Errors
    /// [`BindError`] for a name that is unknown, missing or given twice, for a surface that is too
    /// small (status 0x1d on hardware) or laid out otherwise, and for an output surface that is bound
    /// a second time.
    fn bind(
        &self,
        inputs: &[(&str, &Surface)],
        outputs: &[(&str, &Surface)],
    ) -> Result<Self::Request, BindError>;

    /// Binds and runs once. Loops bind themselves.
    ///
    /// # Errors
    /// As [`Executable::bind`] and [`Request::run`].
    fn run(&self, inputs: &[(&str, &Surface)], outputs: &[(&str, &Surface)]) -> Result<(), RunError> {
        self.bind(inputs, outputs)?.run()
    }
}

/// Surfaces bound to a loaded program.
pub trait Request: Send + Sync {
    /// Runs once and returns when the outputs are written.
    ///
    /// # Errors
    /// [`RunError`] when a guard of one of the surfaces is alive in the way, or the evaluation fails.
    fn run(&self) -> Result<(), RunError>;
}

/// An input or output of an executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Name in the program.
    pub name: String,
    /// The layout of its surface.
    pub layout: Layout,
}

/// Puts named surfaces into the order of the ports and checks them.
pub(crate) fn arrange(
    program: &str,
    side: &'static str,
    ports: &[Port],
    given: &[(&str, &Surface)],
) -> Result<Vec<Surface>, BindError> {
    let mut bound: Vec<Option<&Surface>> = vec![None; ports.len()];
    for &(name, surface) in given {
        let Some(at) = ports.iter().position(|p| p.name == name) else {
            return Err(BindError::Unknown {
                program: program.into(),
                side,
                name: name.into(),
                has: ports.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", "),
            });
        };
        if bound[at].replace(surface).is_some() {
            return Err(BindError::Twice { program: program.into(), side, name: name.into() });
        }
    }
    let checked = ports.iter().zip(bound).map(|(port, surface)| {
        let surface = surface.ok_or_else(|| BindError::Missing {
            program: program.into(),
            side,
            name: port.name.clone(),
            wanted: port.layout,
        })?;
        fits(program, port, surface.layout())?;
        Ok(surface.clone())
    });
    checked.collect()
}

/// Refuses an output surface that another output or an input has too.
pub(crate) fn distinct(
    program: &str,
    inputs: (&[Port], &[Surface]),
    outputs: (&[Port], &[Surface]),
) -> Result<(), BindError> {
    for (i, (port, surface)) in outputs.0.iter().zip(outputs.1).enumerate() {
        let earlier = outputs.0[..i].iter().zip(outputs.1);
        let other = inputs.0.iter().zip(inputs.1).chain(earlier).find(|(_, s)| s.same(surface));
        if let Some((other, _)) = other {
            return Err(BindError::Aliased {
                program: program.into(),
                output: port.name.clone(),
                other: other.name.clone(),
                status: crate::Status::ALIASED,
            });
        }
    }
    Ok(())
}

fn fits(program: &str, port: &Port, found: Layout) -> Result<(), BindError> {
    let wanted = port.layout;
    if found.bytes() < wanted.bytes() {
        return Err(BindError::TooSmall {
            program: program.into(),
            name: port.name.clone(),
            found: found.bytes(),
            wanted,
            need: wanted.bytes(),
            status: crate::Status::INFERENCE,
        });
    }
    if found.element != wanted.element || found.width != wanted.width {
        return Err(BindError::Layout { program: program.into(), name: port.name.clone(), found, wanted });
    }
    Ok(())
}
