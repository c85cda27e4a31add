//! A program on a device with its surfaces, and the same program by the evaluator.

use half::f16;
use mil::eval::{Arithmetic, Plan, Settings, Slice, SliceMut};
use mil::{Builder, DType, Program, Target, Verified, Weights, verify};

use super::LabError;
use crate::bare::{Bare, BareModel};
use crate::device::{Device, Executable, Port, Request};
use crate::surface::{Layout, Region, Surface};

/// Tensors of a run, row-major without gaps.
pub type Tensors = Vec<Vec<f32>>;

/// Verifies a program of ours for a device. Rows may have any width: the lab lays them out.
pub fn checked(device: &impl Device, program: Program) -> Verified {
    let target = Target { padded_rows: true, ..device.chip().target() };
    verify(program, &target).unwrap_or_else(|found| panic!("a program of the lab breaks rules: {found:?}"))
}

/// A program of one function.
pub fn build(fill: impl FnOnce(&mut Builder)) -> Program {
    let mut b = Builder::new("main");
    fill(&mut b);
    Program::new(vec![b.finish().unwrap_or_else(|found| panic!("a program of the lab: {found:?}"))])
}

/// A program of one function with one file of weights, which the function reads at the given offset.
pub fn build_with_weights(values: &[f32], fill: impl FnOnce(&mut Builder, &str, u64)) -> Program {
    const PATH: &str = "@model_path/weights/lab.bin";
    let mut blob = mil::blob::BlobWriter::new();
    let offset = blob.write_fp16(&halves(values));
    let mut weights = Weights::new();
    weights.insert(PATH, blob.finish());
    build(|b| fill(b, PATH, offset)).with_weights(weights)
}

fn halves(values: &[f32]) -> Vec<f16> {
    values.iter().map(|&v| f16::from_f32(v)).collect()
}

/// A loaded program with a surface for every port.
pub struct Rig<D: Device> {
    /// The program.
    pub executable: D::Executable,
    /// Surfaces of the inputs.
    pub inputs: Vec<Surface>,
    /// Surfaces of the outputs.
    pub outputs: Vec<Surface>,
}

impl<D: Device> Rig<D> {
    /// Compiles a program and makes its surfaces.
    pub fn new(device: &D, name: &str, program: &Verified) -> Result<Self, LabError> {
        let executable = device.compile(name, program)?;
        let surfaces = |ports: &[Port]| -> Result<Vec<Surface>, LabError> {
            ports.iter().map(|port| Ok(device.surface(port.layout)?)).collect()
        };
        let (inputs, outputs) = (surfaces(executable.inputs())?, surfaces(executable.outputs())?);
        Ok(Self { executable, inputs, outputs })
    }

    /// Runs on what the surfaces hold.
    pub fn dispatch(&self) -> Result<(), LabError> {
        Ok(self.request()?.run()?)
    }

    /// The surfaces, bound.
    pub fn request(&self) -> Result<<D::Executable as Executable>::Request, LabError> {
        let named = |ports: &[Port]| ports.iter().map(|port| port.name.clone()).collect::<Vec<_>>();
        let (inputs, outputs) = (named(self.executable.inputs()), named(self.executable.outputs()));
        let inputs: Vec<_> = inputs.iter().map(String::as_str).zip(&self.inputs).collect();
        let outputs: Vec<_> = outputs.iter().map(String::as_str).zip(&self.outputs).collect();
        Ok(self.executable.bind(&inputs, &outputs).map_err(crate::RunError::from)?)
    }

    /// Writes the inputs.
    pub fn fill(&self, inputs: &[Vec<f32>]) -> Result<(), LabError> {
        for (surface, values) in self.inputs.iter().zip(inputs) {
            surface.write()?.write(&whole(surface.layout()), values)?;
        }
        Ok(())
    }

    /// Reads the outputs.
    pub fn results(&self) -> Result<Tensors, LabError> {
        let read = |surface: &Surface| {
            let region = whole(surface.layout());
            let mut out = vec![0.0; region.elements()];
            surface.read()?.read(&region, &mut out)?;
            Ok(out)
        };
        self.outputs.iter().map(read).collect()
    }

    /// Writes, runs and reads.
    pub fn run(&self, inputs: &[Vec<f32>]) -> Result<Tensors, LabError> {
        self.fill(inputs)?;
        self.dispatch()?;
        self.results()
    }
}

fn whole(layout: Layout) -> Region {
    Region::new(0..layout.rows(), 0..layout.width)
}

/// Compiles and runs a program once.
pub fn run_once<D: Device>(
    device: &D,
    name: &str,
    program: &Verified,
    inputs: &[Vec<f32>],
) -> Result<Tensors, LabError> {
    Rig::new(device, name, program)?.run(inputs)
}

/// What the evaluator gives for a program whose inputs and outputs are fp16.
pub fn evaluate(program: &Verified, arithmetic: Arithmetic, inputs: &[Vec<f32>]) -> Tensors {
    let settings = Settings { arithmetic, ..Settings::default() };
    let mut plan = Plan::new(program, settings).expect("the evaluator has the operations of the lab");
    let given: Vec<Vec<f16>> = inputs.iter().map(|values| halves(values)).collect();
    let given: Vec<Slice<'_>> = given.iter().map(|values| Slice::F16(values)).collect();
    let mut results: Vec<Vec<f16>> =
        plan.outputs().map(|port| vec![f16::ZERO; port.ty.shape.elements()]).collect();
    let mut slots: Vec<SliceMut<'_>> = results.iter_mut().map(|values| SliceMut::F16(values)).collect();
    plan.run(&given, &mut slots).expect("the buffers have the program's extents");
    results.iter().map(|values| values.iter().map(|v| v.to_f32()).collect()).collect()
}

/// How many numbers differ in their bits; every NaN equals every other.
pub fn differing(a: &[f32], b: &[f32]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits() && !(a.is_nan() && b.is_nan())).count()
}

/// A device of the lab's with one small text on it, below [`Device`].
pub struct BareRig<D: Bare> {
    /// The loaded text.
    pub model: D::Model,
    input: Surface,
    output: Surface,
}

/// The weight file of [`BareRig`].
pub const WEIGHT_PATH: &str = "@model_path/weights/lab.bin";
/// The constant of [`BareRig`].
pub const WEIGHT_NAME: &str = "w";
const ROWS: usize = 8;
const WIDE: usize = 32;

/// A file of records, each of one number throughout, for [`BareRig`].
pub fn weight_file(records: &[f32]) -> Vec<u8> {
    let mut blob = mil::blob::BlobWriter::new();
    for &value in records {
        blob.write_fp16(&halves(&[value; ROWS * WIDE]));
    }
    blob.finish()
}

impl<D: Bare> BareRig<D> {
    /// Compiles and loads `y = x · w` with the first record of the file as `w`. `offset` is what the
    /// dictionary of files says.
    pub fn new(device: &D, file: &[u8], offset: u64) -> Result<Self, LabError> {
        let program = build(|b| {
            let x = b.input("i00_x", DType::Fp16, [1, ROWS, 1, WIDE]);
            let w = b.weight(WEIGHT_NAME, DType::Fp16, [1, ROWS, 1, WIDE], WEIGHT_PATH, 64);
            let y = b.mul(x, w);
            b.output("o00_y", y);
        });
        let mut weights = Weights::new();
        weights.insert(WEIGHT_PATH, file.to_vec());
        let model = device.load(&program.to_string(), &weights, offset)?;
        let surface = || device.surface(Layout::fp16(ROWS, WIDE));
        let (input, output) = (surface()?, surface()?);
        input.write()?.fill(1.0);
        Ok(Self { model, input, output })
    }

    /// The weight that an evaluation shows.
    pub fn weight(&self) -> Result<f32, LabError> {
        self.output.write()?.fill(f32::NAN);
        self.model.run(&[&self.input], &[&self.output])?;
        Ok(self.output.read()?.row(0)?[0].to_f32())
    }
}

/// An error and its causes, in one line.
pub fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Repeatable fp16 numbers between −1 and 1, of many exponents.
pub fn random(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut next = || {
        // Numerical Recipes' 64-bit linear congruential generator; the upper bits are good.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..len).map(|_| f16::from_f32((next() - 0.5) * 2.0 * next()).to_f32()).collect()
}
