//! The virtual device: results, binding, limits, faults, threads, counts.

use std::collections::BTreeSet;
use std::sync::Arc;

use ane_bridge::{
    BindError, Chip, CompileError, Device, Element, Executable, Faults, Layout, Region, Request, RunError,
    Settings, SlowDown, Status, Surface, SurfaceError, VirtualAne, VirtualExecutable,
};
use half::f16;
use mil::eval::{Arithmetic, Plan, Rows, Slice, SliceMut};
use mil::verify::Family;
use mil::{Builder, DType, Program, Target, Verified, verify};

/// `y = x · w` and `z = x + x`, tokens by channels.
fn product(target: &Target, tokens: usize, dim: usize, out: usize) -> Verified {
    let mut b = Builder::new("main");
    let x = b.input("i00_x", DType::Fp16, [1, 1, tokens, dim]);
    let w = b.input("i01_w", DType::Fp16, [1, 1, dim, out]);
    let y = b.matmul(x, w);
    let z = b.add(x, x);
    b.output("o00_y", y);
    b.output("o01_z", z);
    verify(Program::new(vec![b.finish().unwrap()]), target).unwrap()
}

fn padded() -> Target {
    Target { padded_rows: true, ..Target::default() }
}

struct Bench {
    device: VirtualAne,
    exe: VirtualExecutable,
    inputs: Vec<Surface>,
    outputs: Vec<Surface>,
}

impl Bench {
    fn new(device: VirtualAne, program: &Verified) -> Self {
        let exe = device.compile("product", program).unwrap();
        let surfaces = |ports: &[ane_bridge::Port]| -> Vec<Surface> {
            ports.iter().map(|p| device.surface(p.layout).unwrap()).collect()
        };
        let (inputs, outputs) = (surfaces(exe.inputs()), surfaces(exe.outputs()));
        Self { device, exe, inputs, outputs }
    }

    fn small() -> Self {
        Self::new(VirtualAne::default(), &product(&Target::default(), 32, 64, 32))
    }

    fn with(settings: Settings) -> Self {
        Self::new(VirtualAne::new(settings), &product(&Target::default(), 32, 64, 32))
    }

    fn request(&self) -> ane_bridge::VirtualRequest {
        self.bind_as(&["i00_x", "i01_w"], &["o00_y", "o01_z"]).unwrap()
    }

    fn bind_as(&self, inputs: &[&str], outputs: &[&str]) -> Result<ane_bridge::VirtualRequest, BindError> {
        let inputs: Vec<_> = inputs.iter().copied().zip(&self.inputs).collect();
        let outputs: Vec<_> = outputs.iter().copied().zip(&self.outputs).collect();
        self.exe.bind(&inputs, &outputs)
    }

    fn fill(&self) {
        for (i, surface) in self.inputs.iter().enumerate() {
            let layout = surface.layout();
            let values = values(layout.rows() * layout.width, i);
            let all = Region::new(0..layout.rows(), 0..layout.width);
            surface.write().unwrap().write(&all, &values).unwrap();
        }
    }
}

fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| (((i + 31 * seed) * 7919 % 257) as f32 - 128.0) / 97.0).collect()
}

fn contents(surface: &Surface) -> Vec<f32> {
    let layout = surface.layout();
    let mut out = vec![0.0; layout.rows() * layout.width];
    surface.read().unwrap().read(&Region::new(0..layout.rows(), 0..layout.width), &mut out).unwrap();
    out
}

#[test]
fn results_are_the_evaluators() {
    for (arithmetic, target, sizes) in [
        (Arithmetic::Fast, Target::default(), [200, 64, 160]),
        (Arithmetic::Exact, Target::default(), [32, 64, 32]),
        (Arithmetic::Exact, padded(), [7, 5, 33]),
    ] {
        let [tokens, dim, out] = sizes;
        let program = product(&target, tokens, dim, out);
        let device = VirtualAne::new(Settings { arithmetic, ..Settings::default() });
        let bench = Bench::new(device, &program);
        bench.fill();
        bench.request().run().unwrap();

        let dense = mil::eval::Settings { arithmetic, rows: Rows::Dense, ..mil::eval::Settings::default() };
        let mut plan = Plan::new(&program, dense).unwrap();
        let x: Vec<f16> = values(tokens * dim, 0).into_iter().map(f16::from_f32).collect();
        let w: Vec<f16> = values(dim * out, 1).into_iter().map(f16::from_f32).collect();
        let (mut y, mut z) = (vec![f16::NAN; tokens * out], vec![f16::NAN; tokens * dim]);
        let mut outputs = [SliceMut::F16(&mut y), SliceMut::F16(&mut z)];
        let stats = plan.run(&[Slice::F16(&x), Slice::F16(&w)], &mut outputs).unwrap();

        assert_eq!(contents(&bench.outputs[0]), y.iter().map(|v| v.to_f32()).collect::<Vec<_>>());
        assert_eq!(contents(&bench.outputs[1]), z.iter().map(|v| v.to_f32()).collect::<Vec<_>>());
        assert_eq!(bench.device.ledger().of("product").stats.products, stats.products);
        assert_eq!(bench.device.ledger().of("product").stats.flushed, stats.flushed);
    }
}

#[test]
fn surfaces_bind_by_name_in_any_order() {
    let bench = Bench::small();
    bench.fill();
    bench.request().run().unwrap();
    let straight = contents(&bench.outputs[0]);
    let [x, w] = [&bench.inputs[0], &bench.inputs[1]];
    let [y, z] = [&bench.outputs[0], &bench.outputs[1]];
    y.write().unwrap().fill(0.0);
    bench.exe.run(&[("i01_w", w), ("i00_x", x)], &[("o01_z", z), ("o00_y", y)]).unwrap();
    assert_eq!(contents(y), straight);
    assert!(straight.iter().any(|&v| v != 0.0));
}

#[test]
fn ports_are_in_byte_order() {
    let bench = Bench::small();
    let names: Vec<_> = bench.exe.inputs().iter().map(|p| p.name.clone()).collect();
    assert_eq!(names, ["i00_x", "i01_w"]);
    assert_eq!(bench.exe.inputs()[1].layout, Layout { height: 64, ..Layout::fp16(1, 32) });
}

#[test]
fn wrong_names_do_not_bind() {
    let bench = Bench::small();
    let outputs = ["o00_y", "o01_z"];
    let refusal = |inputs: &[&str]| bench.bind_as(inputs, &outputs).unwrap_err();
    assert!(matches!(refusal(&["i00_x", "w"]), BindError::Unknown { name, .. } if name == "w"));
    assert!(matches!(refusal(&["i00_x", "i00_x"]), BindError::Twice { name, .. } if name == "i00_x"));
    assert!(matches!(refusal(&["i00_x"]), BindError::Missing { name, .. } if name == "i01_w"));
    let missing = bench.bind_as(&["i00_x", "i01_w"], &["o00_y"]).unwrap_err();
    assert!(missing.to_string().contains("output `o01_z` of `product` has no surface"), "{missing}");
}

#[test]
fn wrong_sizes_do_not_bind() {
    let bench = Bench::small();
    let bind = |x: Layout| {
        let x = bench.device.surface(x).unwrap();
        let outputs = [("o00_y", &bench.outputs[0]), ("o01_z", &bench.outputs[1])];
        bench.exe.bind(&[("i00_x", &x), ("i01_w", &bench.inputs[1])], &outputs).err()
    };
    let x = bench.exe.inputs()[0].layout;
    let small = bind(Layout { height: 31, ..x }).unwrap();
    assert!(matches!(small, BindError::TooSmall { status: Status::INFERENCE, need: 4096, found: 3968, .. }));
    assert!(small.to_string().contains("status 0x1d"), "{small}");
    assert!(matches!(bind(Layout { width: 96, ..x }), Some(BindError::Layout { .. })));
    let fp32 = Layout { element: Element::Fp32, ..x };
    assert!(matches!(bind(fp32), Some(BindError::Layout { .. })));
    // More rows than needed, and the same rows counted as channels, are the same bytes.
    assert_eq!(bind(Layout::fp16(40, 64)), None);
}

#[test]
fn an_output_shares_its_surface_with_nothing() {
    let bench = Bench::new(VirtualAne::default(), &product(&Target::default(), 32, 32, 32));
    let [x, w, y] = [&bench.inputs[0], &bench.inputs[1], &bench.outputs[0]];
    let inputs = [("i00_x", x), ("i01_w", w)];
    let twice = bench.exe.bind(&inputs, &[("o00_y", y), ("o01_z", y)]).unwrap_err();
    assert!(matches!(twice, BindError::Aliased { status: Status::ALIASED, .. }));
    let in_place = bench.exe.bind(&inputs, &[("o00_y", y), ("o01_z", x)]).unwrap_err();
    assert!(matches!(in_place, BindError::Aliased { other, .. } if other == "i00_x"));
    // One surface may be read twice.
    assert!(bench.exe.bind(&[("i00_x", x), ("i01_w", x)], &[("o00_y", y), ("o01_z", w)]).is_ok());
}

#[test]
fn a_guard_in_the_way_is_an_error_not_a_wait() {
    let bench = Bench::small();
    let request = bench.request();
    {
        let _reading = bench.inputs[0].read().unwrap();
        request.run().unwrap();
        let _writing = bench.outputs[0].write().unwrap();
        let busy = request.run().unwrap_err();
        assert!(
            matches!(busy, RunError::Surface { name, source: SurfaceError::Busy { .. }, .. } if name == "o00_y")
        );
    }
    request.run().unwrap();
    let entry = bench.device.ledger().of("product");
    assert_eq!((entry.dispatches, entry.failures), (2, 1));
}

#[test]
fn a_program_for_another_family_does_not_compile() {
    let device = VirtualAne::default();
    let program = product(&Target::new(Family::M1), 32, 64, 32);
    let refused = device.compile("p", &program).unwrap_err();
    assert!(matches!(refused, CompileError::Family { found: Family::M1, wanted: Family::M4, .. }));
    let m1 = VirtualAne::new(Settings::of(Chip::find("M1").unwrap()));
    assert!(m1.compile("p", &program).is_ok());
    assert_eq!(m1.label(), "virtual ANE (M1)");
}

#[test]
fn several_functions_do_not_compile() {
    let one = product(&Target::default(), 32, 64, 32).into_program();
    let mut other = one.functions[0].clone();
    other.name = "other".into();
    let two = Program::new(vec![one.functions[0].clone(), other]);
    let two = verify(two, &Target::default()).unwrap();
    let refused = VirtualAne::default().compile("two", &two).unwrap_err();
    assert!(matches!(refused, CompileError::Functions { count: 2, .. }));
}

#[test]
fn compiles_are_budgeted_failed_ones_too() {
    let program = product(&Target::default(), 32, 64, 32);
    let faults = Faults { compile_fails: BTreeSet::from([2]), ..Faults::default() };
    let device = VirtualAne::new(Settings { compile_budget: Some(3), faults, ..Settings::default() });
    assert_eq!(device.compiles_left(), Some(3));
    assert!(device.compile("p", &program).is_ok());
    assert!(matches!(device.compile("p", &program), Err(CompileError::Rejected { .. })));
    assert!(device.compile("p", &program).is_ok());
    assert_eq!(device.compiles_left(), Some(0));
    let spent = device.compile("p", &program).unwrap_err();
    assert!(matches!(spent, CompileError::Budget { needed: 4, budget: 3, .. }));
    assert_eq!((device.compiles(), device.ledger().of("p").compiles), (3, 2));
    let fresh = VirtualAne::new(Settings { compile_budget: None, ..Settings::default() });
    assert_eq!(fresh.compiles_left(), None);
    assert_eq!(VirtualAne::default().compiles_left(), Some(119));
}

#[test]
fn loaded_programs_are_limited_until_they_drop() {
    let program = product(&Target::default(), 32, 64, 32);
    let bench = Bench::new(VirtualAne::new(Settings { load_limit: 2, ..Settings::default() }), &program);
    let second = bench.device.compile("second", &program).unwrap();
    let refused = bench.device.compile("third", &program).unwrap_err();
    assert!(matches!(refused, CompileError::Loaded { needed: 3, limit: 2, .. }));
    drop(second);
    assert_eq!(bench.device.loaded(), 1);
    // A request keeps its program loaded.
    let request = bench.request();
    let Bench { device, exe, .. } = bench;
    drop(exe);
    assert_eq!(device.loaded(), 1);
    request.run().unwrap();
    drop(request);
    assert_eq!(device.loaded(), 0);
}

#[test]
fn a_dispatch_fails_where_it_is_told_to() {
    let faults = Faults { evaluate_fails_at: Some(2), ..Faults::default() };
    let bench = Bench::with(Settings { faults, ..Settings::default() });
    let request = bench.request();
    request.run().unwrap();
    let failed = request.run().unwrap_err();
    assert!(matches!(failed, RunError::Failed { dispatch: 2, status: Status::INFERENCE, .. }));
    assert!(
        failed.to_string().contains("dispatch 2 of the device, `product`, failed: status 0x1d"),
        "{failed}"
    );
    request.run().unwrap();
    assert_eq!(bench.device.dispatches(), 3);
}

#[test]
fn throughput_decays_until_the_program_is_compiled_anew() {
    let slow = Some(SlowDown { after: 2, factor: 3.0 });
    let bench = Bench::with(Settings {
        faults: Faults { slow_down: slow, ..Faults::default() },
        ..Settings::default()
    });
    let predicted = |bench: &Bench| bench.device.ledger().of("product").predicted_s;
    let dispatch = bench.exe.predicted_s();
    let request = bench.request();
    request.run().unwrap();
    request.run().unwrap();
    assert_eq!(predicted(&bench), 2.0 * dispatch);
    request.run().unwrap();
    assert!((predicted(&bench) / dispatch - 5.0).abs() < 1e-9);
    let again = Bench::new(bench.device.clone(), &product(&Target::default(), 32, 64, 32));
    again.request().run().unwrap();
    assert!((predicted(&bench) / dispatch - 6.0).abs() < 1e-9);
    bench.device.inject(Faults::default());
    request.run().unwrap();
    assert!((predicted(&bench) / dispatch - 7.0).abs() < 1e-9);
}

#[test]
fn threads_share_a_device() {
    let program = Arc::new(product(&Target::default(), 64, 64, 64));
    let device = VirtualAne::default();
    let want = {
        let bench = Bench::new(device.clone(), &program);
        bench.fill();
        bench.request().run().unwrap();
        contents(&bench.outputs[0])
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let bench = Bench::new(device.clone(), &program);
                    bench.fill();
                    let request = bench.request();
                    for _ in 0..25 {
                        request.run().unwrap();
                        assert_eq!(contents(&bench.outputs[0]), want);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
    let entry = device.ledger().of("product");
    assert_eq!((entry.compiles, entry.dispatches, entry.failures), (5, 101, 0));
    assert_eq!(device.loaded(), 0);
}

#[test]
fn one_request_runs_from_several_threads() {
    let bench = Bench::small();
    let request = bench.request();
    std::thread::scope(|scope| {
        let run = || (0..20).for_each(|_| request.run().unwrap());
        scope.spawn(run);
        scope.spawn(run);
    });
    assert_eq!(bench.device.ledger().total().dispatches, 40);
}

#[test]
fn the_ledger_counts_by_program() {
    let program = product(&Target::default(), 32, 64, 32);
    let bench = Bench::small();
    bench.request().run().unwrap();
    let other = bench.device.compile("other", &program).unwrap();
    let ledger = bench.device.ledger();
    let names: Vec<_> =
        ledger.entries().map(|(name, e)| (name.to_string(), e.compiles, e.dispatches)).collect();
    assert_eq!(names, [("other".to_string(), 1, 0), ("product".to_string(), 1, 1)]);
    assert_eq!(ledger.total().predicted_s, other.predicted_s());
    assert!(ledger.of("product").real > std::time::Duration::ZERO);
    assert_eq!(ledger.of("never"), ane_bridge::Entry::default());
}

#[test]
fn lost_values_are_counted() {
    let bench = Bench::small();
    // 64 products of 2^5 · 2^5 each sum to 2^16: infinite. 2^-9 · 2^-9 falls below the grid.
    bench.inputs[0].write().unwrap().fill(32.0);
    bench.inputs[1].write().unwrap().fill(32.0);
    let request = bench.request();
    request.run().unwrap();
    assert_eq!(contents(&bench.outputs[0]), vec![f32::INFINITY; 32 * 32]);
    assert_eq!(bench.device.ledger().of("product").stats.overflows, 32 * 32);
    bench.inputs[0].write().unwrap().fill(1.0 / 512.0);
    bench.inputs[1].write().unwrap().fill(1.0 / 512.0);
    request.run().unwrap();
    assert_eq!(bench.device.ledger().of("product").stats.flushed, 32 * 32 * 64);
}
