//! The Apple device against the fake framework: the bridge's own message sends, on Linux.

#![cfg(feature = "gnustep")]

mod support;

use ane_bridge::apple::{self, OpenError, Qos, Route, Settings};
use ane_bridge::{
    AppleAne, BindError, CompileError, Device, Executable, Layout, Request, RunError, Status, Surface,
    SurfaceError, VirtualAne,
};
use fake_ane::Fault;
use support::{bind, contents, device, fill, program, results, settings, surfaces, verified};

fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[test]
fn the_examination_passes_by_both_ways() {
    fake_ane::install();
    let probe = apple::probe(&settings());
    assert_eq!(probe.route, Some(Route::Direct), "{probe}");
    assert!(probe.findings.iter().all(|finding| finding.ok), "{probe}");
    assert_eq!(probe.findings.len(), 5, "{probe}");
}

#[test]
fn results_are_those_of_the_virtual_device() {
    for extents in [[32, 64, 96], [7, 5, 33]] {
        let [rows, inner, columns] = extents;
        let program = verified(program(rows, inner, columns, 1));
        let wanted = results(&VirtualAne::default(), &program);
        for route in [Route::Direct, Route::Daemon] {
            fake_ane::install();
            let device = AppleAne::open(Settings { route, ..settings() }).unwrap();
            assert_eq!(results(&device, &program), wanted, "{extents:?} {route:?}");
            let entry = device.ledger().of("program");
            assert_eq!((entry.compiles, entry.dispatches, entry.failures), (1, 1, 0));
            assert!(entry.predicted_s > 0.0 && entry.hardware.is_zero());
        }
    }
}

#[test]
fn only_silicon_is_called_ane() {
    assert_eq!(device().label(), "fake ANE framework (M4 Max)");
}

#[test]
fn every_priority_works() {
    let program = verified(program(32, 32, 32, 2));
    for qos in [Qos::Background, Qos::Utility, Qos::Default, Qos::UserInitiated, Qos::UserInteractive] {
        fake_ane::install();
        let device = AppleAne::open(Settings { qos, ..settings() }).unwrap();
        assert_eq!(results(&device, &program).len(), 2);
    }
}

/// Refusals of programs: what asks for each, and what is said.
#[test]
fn refusals_keep_domain_code_and_text_and_say_what_to_try() {
    let device = device();
    for (fault, says) in [
        (
            Fault::Describe,
            "modelWithMILText:weights:optionsPlist: failed: nothing was returned; the daemon may be",
        ),
        (
            Fault::Compile,
            "compileWithQoS:options:error: failed: _ANECompiler : ANECCompile() FAILED: InvalidMILProgram (asked for) \
             (com.apple.appleneuralengine.compiler 1); the text or an operation was not accepted: try `rustane mil \
             check` on it",
        ),
        (
            Fault::CompileSilently,
            "compileWithQoS:options:error: failed: no reason was given; the daemon may be short",
        ),
        (
            Fault::Load,
            "loadWithQoS:options:error: failed: ANERuntimeErrorCacheMiss (com.apple.appleneuralengine 4); the daemon \
             forgot the compiled program",
        ),
    ] {
        let error = device.compile("ffn", &verified(fault.asked_by(program(32, 32, 32, 3)))).unwrap_err();
        assert!(matches!(error, CompileError::System { .. }), "{error:?}");
        let text = causes(&error);
        assert!(text.starts_with(&format!("`ffn` was refused: {says}")), "{fault:?}: {text}");
    }
    for (fault, says) in [
        (Fault::OtherName, "has no input `i00_x`; it has i00_x_other, i01_w"),
        (Fault::WideRows, "reads rows of input `i00_x` 128 bytes apart, not 64"),
    ] {
        let error = device.compile("ffn", &verified(fault.asked_by(program(32, 32, 32, 3)))).unwrap_err();
        assert!(error.to_string().contains(says), "{fault:?}: {error}");
    }
}

#[test]
fn what_the_framework_throws_is_an_error() {
    let device = device();
    let error =
        device.compile("ffn", &verified(Fault::CompileThrows.asked_by(program(32, 32, 32, 11)))).unwrap_err();
    assert!(
        causes(&error).starts_with(
            "`ffn` was refused: compileWithQoS:options:error: failed: NSInternalInconsistencyException: the compiler was \
             asked to throw (NSException"
        ),
        "{}",
        causes(&error)
    );
    let throws = verified(Fault::EvaluateThrows.asked_by(program(32, 32, 32, 11)));
    for route in [Route::Direct, Route::Daemon] {
        let device = AppleAne::open(Settings { route, ..settings() }).unwrap();
        let executable = device.compile("ffn", &throws).unwrap();
        let (inputs, outputs) =
            (surfaces(&device, executable.inputs()), surfaces(&device, executable.outputs()));
        let request = bind(&executable, &inputs, &outputs).unwrap();
        // Again and again: nothing is left locked or held.
        for dispatch in 1..=3 {
            let error = request.run().unwrap_err();
            let RunError::Failed { dispatch: at, system: Some(system), .. } = &error else {
                panic!("{error:?}")
            };
            assert_eq!((*at, system.domain.as_str()), (dispatch, "NSException"));
            assert!(system.text.ends_with("the engine was asked to throw"), "{system}");
            inputs.iter().enumerate().for_each(|(i, surface)| fill(surface, i));
        }
        assert_eq!(device.ledger().of("ffn").failures, 3);
    }
}

#[test]
fn a_load_that_fails_once_is_tried_again() {
    let program = verified(Fault::LoadOnce.asked_by(program(32, 32, 32, 4)));
    assert_eq!(results(&device(), &program).len(), 2);
}

/// Binding is by name: the compiler's order does not matter, told or not.
#[test]
fn symbols_are_bound_by_name() {
    let wanted = results(&VirtualAne::default(), &verified(program(32, 64, 96, 5)));
    for fault in [Fault::Backwards, Fault::NoAttributes] {
        let program = verified(fault.asked_by(program(32, 64, 96, 5)));
        assert_eq!(results(&device(), &program), wanted, "{fault:?}");
    }
}

#[test]
fn a_failed_evaluation_has_a_status_and_is_counted() {
    let device = device();
    let executable =
        device.compile("ffn", &verified(Fault::EvaluateOnce.asked_by(program(32, 32, 32, 6)))).unwrap();
    let (inputs, outputs) = (surfaces(&device, executable.inputs()), surfaces(&device, executable.outputs()));
    let request = bind(&executable, &inputs, &outputs).unwrap();
    let error = request.run().unwrap_err();
    let RunError::Failed {
        ref program,
        dispatch: 1,
        status: Status::INFERENCE,
        system: Some(ref system),
        ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!((program.as_str(), system.code, system.status()), ("ffn", 8, Some(0x1d)));
    assert!(
        causes(&error)
            .ends_with("a surface is too small, or bound in another order than the program's symbols")
    );
    request.run().unwrap();
    let entry = device.ledger().of("ffn");
    assert_eq!((entry.dispatches, entry.failures), (1, 1));
}

#[test]
fn surfaces_are_checked_when_they_are_bound() {
    let device = device();
    let executable = device.compile("ffn", &verified(program(32, 64, 96, 7))).unwrap();
    let (inputs, outputs) = (surfaces(&device, executable.inputs()), surfaces(&device, executable.outputs()));
    let heap = Surface::on_heap(inputs[0].layout()).unwrap();
    let error = bind(&executable, &[heap, inputs[1].clone()], &outputs).unwrap_err();
    assert!(matches!(&error, BindError::Foreign { name, .. } if name == "i00_x"), "{error}");
    let error = bind(&executable, &inputs, &[outputs[0].clone(), outputs[0].clone()]).unwrap_err();
    assert!(matches!(
        error,
        BindError::TooSmall { .. } | BindError::Aliased { .. } | BindError::Layout { .. }
    ));
    let error = executable.bind(&[("i00_x", &inputs[0])], &[]).unwrap_err();
    assert!(matches!(error, BindError::Missing { .. }), "{error}");
}

#[test]
fn guards_of_the_host_and_evaluations_keep_apart() {
    let device = device();
    let executable = device.compile("ffn", &verified(program(32, 64, 96, 8))).unwrap();
    let (inputs, outputs) = (surfaces(&device, executable.inputs()), surfaces(&device, executable.outputs()));
    let request = bind(&executable, &inputs, &outputs).unwrap();
    let busy = |result: Result<(), RunError>, port: &str| match result.unwrap_err() {
        RunError::Surface { name, source: SurfaceError::Busy { .. }, .. } => assert_eq!(name, port),
        other => panic!("{other}"),
    };
    let writing = inputs[1].write().unwrap();
    busy(request.run(), "i01_w");
    drop(writing);
    let reading = outputs[0].read().unwrap();
    busy(request.run(), "o00_y");
    drop(reading);
    // Inputs may be read meanwhile.
    let _reading = inputs[0].read().unwrap();
    request.run().unwrap();
}

#[test]
fn surfaces_begin_with_zeros_and_have_limits() {
    let device = device();
    let layout = Layout::fp16(3, 5);
    let surface = device.surface(layout).unwrap();
    assert_eq!(contents(&surface), vec![0.0; 15]);
    fill(&surface, 1);
    assert_eq!(contents(&surface), contents(&surface.clone()));
    let error = device.surface(Layout::fp16(1 << 20, 1 << 20)).unwrap_err();
    assert!(matches!(error, SurfaceError::NoMemory { .. }), "{error}");
    let error = device.surface(Layout::fp16(usize::MAX, 64)).unwrap_err();
    assert!(matches!(error, SurfaceError::NoMemory { .. }), "{error}");
    let error = device.surface(Layout::fp16(0, 64)).unwrap_err();
    assert!(matches!(error, SurfaceError::Empty { .. }), "{error}");
}

#[test]
fn weight_files_stay_in_the_programs_folder() {
    let device = device();
    let mut program = program(32, 32, 32, 9);
    let text = program.to_string().replace("@model_path/weights/", "@model_path/../");
    let bytes = program.weights.take().unwrap().get("@model_path/weights/mix.bin").unwrap().to_vec();
    let mut weights = mil::Weights::new();
    weights.insert("@model_path/../mix.bin", bytes);
    let program = verified(mil::parse(&text).unwrap().with_weights(weights));
    let error = device.compile("ffn", &program).unwrap_err();
    assert!(causes(&error).contains("is not below `@model_path/`"), "{error}");
}

#[test]
fn the_hardwares_own_time_is_kept_when_it_is_asked_for() {
    fake_ane::install();
    let program = verified(program(32, 32, 32, 10));
    for (route, silent) in [(Route::Direct, false), (Route::Daemon, true)] {
        let device = AppleAne::open(Settings { route, statistics: true, ..settings() }).unwrap();
        results(&device, &program);
        let entry = device.ledger().of("program");
        assert_eq!(entry.hardware.is_zero(), silent, "{route:?}");
        assert!(entry.hardware <= entry.real);
    }
}

#[test]
fn a_framework_that_is_not_there_is_named_with_the_loaders_reason() {
    let error = AppleAne::open(Settings::default()).unwrap_err();
    let OpenError::Framework { path, reason } = &error else { panic!("{error}") };
    assert_eq!(path, apple::FRAMEWORK);
    assert!(reason.contains("cannot open shared object file"), "{reason}");
    let probe = apple::probe(&Settings::default());
    assert_eq!(probe.route, None);
    assert!(probe.sentence().starts_with("the Neural Engine is not used: the framework /System/"), "{probe}");
}
