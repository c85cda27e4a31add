//! What `rustane ane lab merge` writes, compiled, and the device that is made from it.

#[path = "measured/table.rs"]
mod table;

use ane_bridge::lab::{LabError, Subject, ask};
use ane_bridge::measured::Measured;
use ane_bridge::{Chip, Device, Entry, Executable, Layout, Request, Settings, Surface, VirtualAne};
use half::f16;
use mil::eval::{Arithmetic, Slice, Table};
use mil::program::Arg;
use mil::{Builder, DType, Program};

fn measured(chip: &str) -> &'static Measured {
    table::MEASURED.iter().find(|measured| measured.chip == chip).unwrap()
}

/// A virtual device with numbers of a Mac.
struct Asked(Settings);

impl Subject for Asked {
    type Device = VirtualAne;

    fn open(&self, _: ane_bridge::apple::Route) -> Result<VirtualAne, LabError> {
        Ok(VirtualAne::new(self.0.clone()))
    }

    fn seconds(&self, entry: &Entry) -> f64 {
        entry.predicted_s
    }

    fn most_surface_bytes(&self) -> usize {
        64 << 20
    }
}

#[test]
fn a_virtual_device_answers_as_the_mac_did() {
    let settings = Settings { arithmetic: Arithmetic::Exact, ..Settings::of(Chip::M4_MAX) };
    let subject = Asked(settings.with(measured("M4 Max")));
    let temporary = tempfile::tempdir().unwrap();
    for (question, verdict) in measured("M4 Max").answers {
        if *question == 19 {
            // Programs carry it: `Chip::target` has it for chips in the table that the library is built with.
            assert_eq!(measured("M4 Max").slice_clamp(), Some(true));
            continue;
        }
        let answer = ask(&subject, *question, temporary.path()).unwrap();
        assert_eq!(answer.verdict, *verdict, "question {question}: {}", answer.detail);
    }
}

#[test]
fn what_was_not_asked_stays_as_assumed() {
    let chip = Chip::find("M1").unwrap();
    let (assumed, with) = (Settings::of(chip), Settings::of(chip).with(measured("M1")));
    assert_eq!((with.compile_budget, with.load_limit), (assumed.compile_budget, 113));
    assert_eq!(measured("M1").slice_clamp(), None);
}

#[test]
fn an_operation_takes_its_results_from_a_table() {
    // No function has these results: the bits of the input, turned.
    let turned: Vec<u8> = (0..=u16::MAX).flat_map(|bits| (!bits).to_le_bytes()).collect();
    let tables: &[Table] = vec![Table { op: "tanh", results: turned.leak() }].leak();
    let device = VirtualAne::new(Settings { tables, ..Settings::of(Chip::M4_MAX) });
    let mut b = Builder::new("main");
    let x = b.input("i00_x", DType::Fp16, [1, 1, 1, 32]);
    let (tanh, exp) = (b.op("tanh", vec![("x", Arg::Value(x))]), b.op("exp", vec![("x", Arg::Value(x))]));
    b.output("o00_tanh", tanh);
    b.output("o01_exp", exp);
    let program = mil::verify(Program::new(vec![b.finish().unwrap()]), &device.chip().target()).unwrap();
    let executable = device.compile("functions", &program).unwrap();
    let surface = || device.surface(Layout::fp16(1, 32)).unwrap();
    let (x, tanh, exp) = (surface(), surface(), surface());
    x.write().unwrap().fill(1.0);
    let request = executable.bind(&[("i00_x", &x)], &[("o00_tanh", &tanh), ("o01_exp", &exp)]).unwrap();
    request.run().unwrap();
    let first = |surface: &Surface| match surface.read().unwrap().slice() {
        Slice::F16(values) => values[0],
        _ => panic!("the output is fp16"),
    };
    assert_eq!(first(&tanh).to_bits(), !f16::ONE.to_bits());
    assert_eq!(first(&exp), f16::from_f32(std::f32::consts::E), "others are computed");
}
