//! Every step of saving a checkpoint fails once, by an error and by a crash; the run must go on from a
//! whole checkpoint each time.

mod common;

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use common::config;
use fail::FailScenario;
use model::checkpoint::{Checkpoints, Keep, Saved, Snapshot};
use model::hf::{self, Export};
use model::{FileError, ParamId, Params, Slot, from_fn};

const POINTS: [&str; 6] = [
    "checkpoint::mkdir",
    "checkpoint::write",
    "checkpoint::fsync",
    "checkpoint::sync_dir",
    "checkpoint::rename",
    "checkpoint::delete",
];
const KEEP: Keep = Keep { last: 2, every: None };

fn value(step: u64, id: ParamId, slot: Slot) -> f32 {
    step as f32 + id.index() as f32 / 64.0 + slot as usize as f32 / 4096.0
}

fn moments(params: &Params) -> Vec<(ParamId, Slot)> {
    params.iter().flat_map(|p| [(p.id, Slot::Moment1), (p.id, Slot::Moment2)]).collect()
}

fn save(dir: &Path, step: u64) -> Result<Saved, FileError> {
    let config = config();
    let params = Params::new(&config);
    let snapshot = Snapshot {
        step,
        config: &config,
        // Several shards, so that there is an index to fail at.
        export: &Export { shard_bytes: 8000, ..Export::default() },
        moments: &moments(&params),
        state: &step,
    };
    Checkpoints::open(dir, KEEP)?.save(
        &snapshot,
        &mut from_fn(|(id, slot)| Ok(Cow::Owned(vec![value(step, id, slot); params.get(id).len()]))),
    )
}

/// The step of the checkpoint that a run would go on from, after checking every number in it.
fn loaded_step(dir: &Path) -> u64 {
    let found = Checkpoints::open(dir, KEEP).unwrap().load::<u64>().unwrap();
    assert_eq!(found.quarantined, [], "a crash must not leave a damaged checkpoint under its name");
    let checkpoint = found.checkpoint.expect("there was a checkpoint before");
    assert_eq!(checkpoint.state, checkpoint.step);
    for p in checkpoint.model().params() {
        for slot in [Slot::Weight, Slot::Moment1, Slot::Moment2] {
            let wanted = value(checkpoint.step, p.id, slot);
            assert!(checkpoint.read(p.id, slot).unwrap().iter().all(|&v| v == wanted), "{} {slot:?}", p.name);
        }
    }
    checkpoint.step
}

/// Lets the `nth` passage of `point` end in `action`, saves step 4 after 2 and 3, and looks at what is
/// there. Returns whether the point was passed that often.
fn fault(point: &str, nth: usize, action: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    for step in [1, 2, 3] {
        save(dir.path(), step).unwrap();
    }
    let what = format!("{point} #{nth} {action}");
    fail::cfg(point, &format!("{nth}*off->1*{action}->off")).unwrap();
    // A crash is played by a panic: nothing is cleaned up behind it.
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = catch_unwind(AssertUnwindSafe(|| save(dir.path(), 4)));
    let _ = std::panic::take_hook();
    fail::remove(point);
    let step = loaded_step(dir.path());
    let hit = match outcome {
        Err(_) => true,
        Ok(Err(error)) => {
            assert_eq!(error.code(), "E3000", "{what}");
            let text = error.to_string();
            assert!(text.contains(dir.path().to_str().unwrap()), "{what}: {text} names no path");
            true
        }
        Ok(Ok(saved)) => {
            assert_eq!(step, 4, "{what}: reported as saved");
            saved.deleted.is_err()
        }
    };
    assert!(step == 3 || step == 4, "{what}: went back to {step}");

    // The next interval's save works and cleans up.
    save(dir.path(), 5).unwrap();
    assert_eq!(loaded_step(dir.path()), 5, "{what}");
    let left = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name());
    assert!(!left.into_iter().any(|n| n.to_string_lossy().starts_with(".tmp-")), "{what} leaves rubbish");
    hit
}

#[test]
fn a_fault_at_any_step_leaves_a_whole_checkpoint() {
    let scenario = FailScenario::setup();
    let enospc = "return(28)";
    for action in [enospc, "return(5)", "panic"] {
        for point in POINTS {
            let passages = (0..).take_while(|&nth| fault(point, nth, action)).count();
            assert!(passages > 0, "{point} was never passed");
        }
    }
    scenario.teardown();
}

#[test]
fn a_crash_between_two_renames_of_the_same_step_keeps_the_one_before() {
    let scenario = FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    for step in [1, 2, 3] {
        save(dir.path(), step).unwrap();
    }
    // Saving step 3 again moves the old one aside first.
    for nth in 0..2 {
        fail::cfg("checkpoint::rename", &format!("{nth}*off->1*return(5)->off")).unwrap();
        save(dir.path(), 3).unwrap_err();
        assert_eq!(loaded_step(dir.path()), 3);
    }
    fail::remove("checkpoint::rename");
    scenario.teardown();
}

#[test]
fn names_the_file_and_the_reason_when_the_medium_is_read_only_or_full() {
    let scenario = FailScenario::setup();
    let dir = tempfile::tempdir().unwrap();
    for (point, errno, wanted) in [
        ("checkpoint::mkdir", 30, "Read-only file system (os error 30)"),
        ("checkpoint::write", 28, "No space left on device (os error 28)"),
    ] {
        fail::cfg(point, &format!("return({errno})")).unwrap();
        let target = dir.path().join("model");
        if point == "checkpoint::write" {
            std::fs::create_dir(&target).unwrap();
        }
        let error =
            hf::save(&target, &config(), &Export::default(), &mut from_fn(|_| unreachable!())).unwrap_err();
        let place = if errno == 28 { target.join("config.json") } else { target };
        assert_eq!(error.to_string(), format!("cannot create {}: {wanted}", place.display()));
        fail::remove(point);
    }
    scenario.teardown();
}
