//! Devices and programs for tests on the fake framework.

use ane_bridge::apple::{Budget, Settings};
use ane_bridge::{AppleAne, Device, Executable, Port, Region, Surface};
use mil::blob::BlobWriter;
use mil::{Builder, DType, Program, Target, Verified, Weights, verify};

/// Any library that is there: the classes are in this program.
const LIBRARY: &str = "libobjc.so.4";

/// Settings of a device on the fake framework, without a budget: tests share the process.
pub fn settings() -> Settings {
    Settings { framework: LIBRARY.into(), compile_budget: Budget::Unlimited, ..Settings::default() }
}

/// A device on the fake framework.
pub fn device() -> AppleAne {
    fake_ane::install();
    AppleAne::open(settings()).expect("the fake framework is complete")
}

/// `y = W·(x · w)` and `z = x + x`: two inputs, two outputs, a weight file. `salt` makes programs differ.
pub fn program(rows: usize, inner: usize, columns: usize, salt: u8) -> Program {
    let mut b = Builder::new("main");
    let x = b.input("i00_x", DType::Fp16, [1, 1, rows, inner]);
    let w = b.input("i01_w", DType::Fp16, [1, 1, inner, columns]);
    let product = b.matmul(x, w);
    let product = b.transpose(product, &[0, 2, 1, 3]);
    let mut blob = BlobWriter::new();
    let values: Vec<_> =
        values(rows * rows, usize::from(salt)).into_iter().map(half::f16::from_f32).collect();
    let offset = blob.write_fp16(&values);
    let weight = b.weight("mix", DType::Fp16, [rows, rows, 1, 1], "@model_path/weights/mix.bin", offset);
    let y = b.conv1x1(product, weight);
    let z = b.add(x, x);
    b.output("o00_y", y);
    b.output("o01_z", z);
    let mut weights = Weights::new();
    weights.insert("@model_path/weights/mix.bin", blob.finish());
    Program::new(vec![b.finish().expect("a program")]).with_weights(weights)
}

/// Checked for a caller that lays out rows at their pitch.
pub fn verified(program: Program) -> Verified {
    verify(program, &Target { padded_rows: true, ..Target::default() })
        .expect("a program that keeps the rules")
}

/// Numbers without much of a pattern.
pub fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| (((i + 31 * seed) * 7919 % 257) as f32 - 128.0) / 97.0).collect()
}

/// A surface per port.
pub fn surfaces<D: Device>(device: &D, ports: &[Port]) -> Vec<Surface> {
    ports.iter().map(|port| device.surface(port.layout).expect("a surface")).collect()
}

/// Binds surfaces in the order of the ports.
pub fn bind<E: Executable>(
    executable: &E,
    inputs: &[Surface],
    outputs: &[Surface],
) -> Result<E::Request, ane_bridge::BindError> {
    fn named<'a>(ports: &'a [Port], surfaces: &'a [Surface]) -> Vec<(&'a str, &'a Surface)> {
        ports.iter().map(|port| port.name.as_str()).zip(surfaces).collect()
    }
    executable.bind(&named(executable.inputs(), inputs), &named(executable.outputs(), outputs))
}

/// Writes every element of a surface.
pub fn fill(surface: &Surface, seed: usize) {
    let layout = surface.layout();
    let all = Region::new(0..layout.rows(), 0..layout.width);
    surface.write().unwrap().write(&all, &values(layout.rows() * layout.width, seed)).unwrap();
}

/// Every element of a surface.
pub fn contents(surface: &Surface) -> Vec<f32> {
    let layout = surface.layout();
    let mut out = vec![0.0; layout.rows() * layout.width];
    surface.read().unwrap().read(&Region::new(0..layout.rows(), 0..layout.width), &mut out).unwrap();
    out
}

/// Runs a program on a device with the inputs of [`fill`], and returns its outputs.
pub fn results<D: Device>(device: &D, program: &Verified) -> Vec<Vec<f32>> {
    use ane_bridge::Request;
    let executable = device.compile("program", program).expect("a program that compiles");
    let (inputs, outputs) = (surfaces(device, executable.inputs()), surfaces(device, executable.outputs()));
    inputs.iter().enumerate().for_each(|(i, surface)| fill(surface, i));
    bind(&executable, &inputs, &outputs).unwrap().run().unwrap();
    outputs.iter().map(contents).collect()
}
