//! What a process has only so much of: compiles, loaded programs, memory (the GPU's too), the engine, the
//! folder of temporary files; and the lab, which leaves none of it behind. These tests count over the process, so one runs at a time.

#![cfg(feature = "gnustep")]

#[path = "apple_limits/lab.rs"]
mod lab;
#[path = "apple_limits/metal.rs"]
mod metal;
mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};

use ane_bridge::apple::{Budget, Settings};
use ane_bridge::{AppleAne, CompileError, Device, Executable, Request};
use fake_ane::Fault;
use support::{bind, contents, device, fill, program, results, settings, surfaces, verified};

fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes of the C heap in use, which Foundation's objects live in.
fn heap_bytes() -> usize {
    // SAFETY: no argument, no state of ours.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

/// Files of programs, and their locks.
fn files() -> usize {
    std::fs::read_dir(fake_ane::temporary_folder()).map_or(0, |dir| {
        dir.flatten().filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).count()
    })
}

#[test]
fn nothing_leaks_over_ten_thousand_evaluations() {
    let _alone = alone();
    fake_ane::install();
    let (before, files_before) = (fake_ane::live(), files());
    {
        let device = AppleAne::open(Settings { statistics: true, ..settings() }).unwrap();
        let executable = device.compile("small", &verified(program(32, 32, 32, 1))).unwrap();
        let failing =
            device.compile("failing", &verified(Fault::Evaluate.asked_by(program(32, 32, 32, 1)))).unwrap();
        let throwing = Fault::EvaluateThrows.asked_by(program(32, 32, 32, 1));
        let throwing = device.compile("throwing", &verified(throwing)).unwrap();
        let (inputs, outputs) =
            (surfaces(&device, executable.inputs()), surfaces(&device, executable.outputs()));
        let request = bind(&executable, &inputs, &outputs).unwrap();
        let refused = bind(&failing, &inputs, &outputs).unwrap();
        let thrown = bind(&throwing, &inputs, &outputs).unwrap();
        let held = fake_ane::live();
        assert!(held > before && files() > files_before);
        let round = |times: usize| {
            for i in 0..times {
                request.run().unwrap();
                if i % 10 == 0 {
                    refused.run().unwrap_err();
                    thrown.run().unwrap_err();
                    drop(bind(&executable, &inputs, &outputs).unwrap());
                }
            }
        };
        // Caches of Foundation fill in the first rounds.
        round(500);
        let heap = heap_bytes();
        round(10_000);
        assert_eq!(fake_ane::live(), held, "objects of the framework are left");
        let grown = heap_bytes().saturating_sub(heap);
        // A string, number or error of 16 bytes per evaluation would be 160 kB.
        assert!(grown < 40_000, "{grown} bytes of objects are left");
    }
    assert_eq!((fake_ane::live(), fake_ane::loaded(), files()), (before, 0, files_before));
}

#[test]
fn failed_compiles_leave_nothing() {
    let _alone = alone();
    let device = device();
    let (before, files_before) = (fake_ane::live(), files());
    for fault in [
        Fault::Describe,
        Fault::Compile,
        Fault::CompileThrows,
        Fault::Load,
        Fault::OtherName,
        Fault::WideRows,
    ] {
        device.compile("refused", &verified(fault.asked_by(program(32, 32, 32, 2)))).unwrap_err();
        assert_eq!((fake_ane::live(), fake_ane::loaded(), files()), (before, 0, files_before), "{fault:?}");
        assert_eq!(device.loaded(), 0, "{fault:?}");
    }
}

#[test]
fn the_compile_budget_is_kept() {
    let _alone = alone();
    fake_ane::install();
    let spent = device().compiles();
    let device = AppleAne::open(Settings { compile_budget: Budget::Of(spent + 3), ..settings() }).unwrap();
    let asked = fake_ane::compiles();
    let good = verified(program(32, 32, 32, 3));
    let bad = verified(Fault::Compile.asked_by(program(32, 32, 32, 3)));
    assert_eq!(device.compiles_left(), Some(3));
    device.compile("one", &good).unwrap();
    device.compile("two", &bad).unwrap_err();
    device.compile("three", &good).unwrap();
    assert_eq!(device.compiles_left(), Some(0));
    for _ in 0..3 {
        let error = device.compile("four", &good).unwrap_err();
        let CompileError::Budget { needed, budget, .. } = error else { panic!("{error}") };
        assert_eq!((needed, budget), (spent + 4, spent + 3));
    }
    assert_eq!(fake_ane::compiles() - asked, 3, "the framework was asked although the budget was spent");
}

#[test]
fn loaded_programs_are_limited_and_come_back() {
    let _alone = alone();
    fake_ane::install();
    let device = AppleAne::open(Settings { load_limit: 2, ..settings() }).unwrap();
    let one = device.compile("one", &verified(program(32, 32, 32, 4))).unwrap();
    // The same program twice shares its folder.
    let two = device.compile("two", &verified(program(32, 32, 32, 4))).unwrap();
    let error = device.compile("three", &verified(program(32, 32, 32, 5))).unwrap_err();
    assert!(matches!(error, CompileError::Loaded { needed: 3, limit: 2, .. }), "{error}");
    assert_eq!(fake_ane::loaded(), 2);
    // A request keeps its program.
    let (inputs, outputs) = (surfaces(&device, two.inputs()), surfaces(&device, two.outputs()));
    let request = bind(&two, &inputs, &outputs).unwrap();
    drop((one, two));
    assert_eq!((fake_ane::loaded(), device.loaded()), (1, 1));
    request.run().unwrap();
    drop(request);
    assert_eq!((fake_ane::loaded(), device.loaded(), files()), (0, 0, 0));
    device.compile("three", &verified(program(32, 32, 32, 5))).unwrap();
}

#[test]
fn threads_may_share_a_device_and_the_engine_runs_one_at_a_time() {
    let _alone = alone();
    let device = device();
    // The lab runs two devices at once.
    fake_ane::most_at_once();
    let verified = verified(program(32, 64, 96, 6));
    let wanted = results(&device, &verified);
    let executable = device.compile("shared", &verified).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (inputs, outputs) =
                    (surfaces(&device, executable.inputs()), surfaces(&device, executable.outputs()));
                let request = bind(&executable, &inputs, &outputs).unwrap();
                for _ in 0..50 {
                    inputs.iter().enumerate().for_each(|(i, surface)| fill(surface, i));
                    request.run().unwrap();
                    assert_eq!(outputs.iter().map(contents).collect::<Vec<_>>(), wanted);
                }
            });
        }
        // Programs come and go meanwhile.
        scope.spawn(|| {
            for salt in 7..12 {
                let program = support::verified(program(32, 32, 32, salt));
                assert_eq!(results(&device, &program).len(), 2);
            }
        });
    });
    assert_eq!(device.ledger().of("shared").dispatches, 200);
    assert_eq!(fake_ane::most_at_once(), 1);
}
