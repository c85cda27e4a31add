//! `kill -9` at any moment, a full disk, a damaged checkpoint: nothing that was saved is lost.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::lab::{Lab, Random};

/// Kills, half of them while a checkpoint is written.
const KILLS: usize = 50;
/// Steps between checkpoints.
const INTERVAL: u64 = 20;
const RUN: [&str; 8] = ["--steps", "200", "--save-every", "20", "--eval-every", "50", "--sample-every", "90"];
/// The steps of saving that a kill can be aimed at.
const POINTS: [&str; 6] = ["mkdir", "write", "fsync", "sync_dir", "rename", "delete"];

fn checkpoints(run: &Path) -> Vec<u64> {
    let names =
        fs::read_dir(run).into_iter().flatten().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut steps: Vec<u64> = names.filter_map(|n| n.strip_prefix("step-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

/// The step that `latest` names.
fn named(run: &Path) -> Option<u64> {
    let text = fs::read_to_string(run.join("latest")).ok()?;
    Some(text.trim().strip_prefix("step-").unwrap().parse().unwrap())
}

fn being_saved(run: &Path, pid: u32) -> bool {
    let entries = fs::read_dir(run).into_iter().flatten().flatten();
    let end = format!("-{pid}");
    entries.map(|e| e.file_name().into_string().unwrap()).any(|n| n.starts_with(".tmp-") && n.ends_with(&end))
}

/// Demands that a run that was killed before went on from what was there then.
fn went_on(said: &str, before: &[u64], what: &str) {
    for bad in ["warning", "damaged", "panicked", "error"] {
        assert!(!said.contains(bad), "{what}: {said}");
    }
    let resumed =
        said.lines().find_map(|l| l.strip_prefix("resuming at step ")).map(|n| n.parse::<u64>().unwrap());
    match (resumed, before.last()) {
        // A kill between the checkpoint's rename and that of `latest` costs one interval.
        (Some(step), Some(&newest)) => {
            assert!(before.contains(&step) && step + INTERVAL >= newest, "{what}: {step} of {before:?}")
        }
        (Some(step), None) => panic!("{what}: resumed at {step} from nothing"),
        (None, Some(_)) => assert!(!said.contains("\nstep "), "{what}: began anew over {before:?}: {said}"),
        (None, None) => {}
    }
}

#[test]
fn no_kill_costs_a_checkpoint_or_changes_a_bit() {
    let lab = Lab::new();
    let begin = Instant::now();
    lab.trained("whole", &RUN);
    let whole = begin.elapsed().as_millis() as u64;
    let mut random = Random(20_261_120);
    let (mut run, mut number) = (String::from("run-0"), 0);
    let (mut kills, mut inside, mut resumed) = (0, 0, 0);
    while kills < KILLS {
        let dir = lab.path(&run);
        let (before, named_before) = (checkpoints(&dir), named(&dir));
        let mut command = lab.training(&run, &RUN);
        let aimed = kills % 2 == 1;
        let mut what = format!("kill {kills} of {run}");
        if aimed {
            let point = POINTS[random.below(6) as usize];
            let passed = random.below(12);
            let aim = format!("checkpoint::{point}={passed}*off->sleep(15)");
            what = format!("{what} {aim}");
            command.env("FAILPOINTS", aim);
        }
        let mut child = lab.start(&mut command);
        let pid = child.0.id();
        let mut ended = false;
        if aimed {
            // Some saves later, and then in the middle of one: however quick this machine is.
            let pause = Duration::from_micros(random.below(120_000));
            for pause in [pause, Duration::ZERO] {
                while !being_saved(&dir, pid) && !ended {
                    ended = child.0.try_wait().unwrap().is_some();
                    std::thread::sleep(Duration::from_micros(300));
                }
                std::thread::sleep(pause);
            }
        } else {
            std::thread::sleep(Duration::from_millis(random.below(whole)));
        }
        ended |= child.0.try_wait().unwrap().is_some();
        child.0.kill().unwrap();
        let status = child.0.wait().unwrap();
        let said = lab.said();
        if !said.contains("is a finished run") {
            went_on(&said, &before, &what);
        }
        resumed += usize::from(said.contains("resuming"));
        if ended {
            assert!(status.success(), "{what}: {status}: {said}");
            lab.same("whole", &run);
            number += 1;
            run = format!("run-{number}");
        } else {
            kills += 1;
            inside += usize::from(being_saved(&dir, pid));
            // A step that was written but not named yet may give way to its repetition for a moment.
            let (after, named_after) = (checkpoints(&dir), named(&dir));
            assert!(named_after >= named_before, "{what}: {named_before:?} became {named_after:?}");
            assert!(
                named_after.is_none_or(|step| after.contains(&step)),
                "{what}: {named_after:?} of {after:?}"
            );
        }
    }
    lab.trained(&run, &RUN);
    lab.same("whole", &run);
    assert!(inside >= KILLS * 2 / 5, "only {inside} of {KILLS} kills met a checkpoint being written");
    assert!(resumed >= KILLS / 2, "only {resumed} of {KILLS} runs had something to go on from");
}

fn count(text: &str, piece: &str) -> usize {
    text.matches(piece).count()
}

/// `No space left on device` at every save, at the first saves, at all but the first.
#[test]
fn a_full_disk_stops_no_training_and_loses_no_checkpoint() {
    let lab = Lab::new();
    let short = ["--steps", "50", "--save-every", "10", "--eval-every", "25", "--sample-every", "0"];
    lab.trained("whole", &short);
    let train = |run: &str, failpoints: &str| {
        crate::support::run(lab.training(run, &short).env("FAILPOINTS", failpoints))
    };
    let warning = "warning: not saved, training goes on: cannot create run";
    let full = "No space left on device (os error 28)";

    let ran = train("run-a", "checkpoint::write=return(28)");
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert_eq!((count(&ran.err, warning), count(&ran.err, full)), (5, 6), "{}", ran.err);
    assert!(
        ran.err.contains("\nerror: the last checkpoint could not be saved: cannot create run-a/"),
        "{}",
        ran.err
    );
    assert_eq!(lab.metrics("run-a"), lab.metrics("whole"), "training went on");
    assert!(checkpoints(&lab.path("run-a")).is_empty());
    assert!(
        !fs::read_dir(lab.path("run-a")).unwrap().any(|e| e
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with(".tmp"))
    );
    // With room again, the same command does it all again.
    lab.trained("run-a", &short);
    lab.same("whole", "run-a");

    let ran = train("run-b", "checkpoint::write=3*return(28)->off");
    assert_eq!((ran.code, count(&ran.err, warning)), (0, 3), "{}", ran.err);
    assert_eq!(checkpoints(&lab.path("run-b")), [40, 50]);
    lab.same("whole", "run-b");

    // The first checkpoint takes some twenty writes.
    let ran = train("run-c", "checkpoint::write=25*off->return(28)");
    assert_eq!(ran.code, 1, "{}", ran.err);
    let kept = checkpoints(&lab.path("run-c"));
    assert!(!kept.is_empty() && kept[kept.len() - 1] < 50, "{kept:?}");
    let ran = lab.train("run-c", &short);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains(&format!("resuming at step {}\n", kept[kept.len() - 1])), "{}", ran.err);
    lab.same("whole", "run-c");

    for (point, errno) in [("mkdir", 30), ("fsync", 5), ("sync_dir", 5), ("rename", 30), ("delete", 13)] {
        let run = format!("run-{point}");
        // The folder of the run is made before anything is saved.
        let skip = u64::from(point == "mkdir") * 3;
        let ran = train(&run, &format!("checkpoint::{point}={skip}*off->2*return({errno})->off"));
        assert_eq!(ran.code, 0, "{point}: {}", ran.err);
        assert!(count(&ran.err, "warning: ") >= 1, "{point}: {}", ran.err);
        lab.same("whole", &run);
    }
}

#[test]
fn a_run_stopped_with_a_full_disk_says_that_it_is_not_saved() {
    let lab = Lab::new();
    let mut command = lab.training(
        "run",
        &["--steps", "1000000", "--save-every", "0", "--eval-every", "0", "--sample-every", "0"],
    );
    let mut child = lab.start(command.env("FAILPOINTS", "checkpoint::write=return(28)"));
    crate::train::wait("the first step", || lab.said().contains("step 1/"));
    let pid = rustix::process::Pid::from_child(&child.0);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.0.wait().unwrap().code(), Some(1), "{}", lab.said());
    let said = lab.said();
    assert!(
        said.lines()
            .last()
            .unwrap()
            .starts_with("error: the last checkpoint could not be saved: cannot create run/"),
        "{said}"
    );
}

#[test]
fn half_a_tokenizer_does_not_stand_in_the_way() {
    let lab = Lab::new();
    // Killed while the tokenizer is written: it is there whole, or not at all.
    let mut command = lab.training("run", &["--steps", "3"]);
    let ran =
        command.env("FAILPOINTS", "run::rename=panic").stderr(std::process::Stdio::null()).status().unwrap();
    assert_eq!(ran.code(), Some(101), "run::rename was never passed");
    assert!(!lab.path("run/tokenizer.json").exists());
    lab.trained("run", &["--steps", "3"]);
    let left: Vec<_> = fs::read_dir(lab.path("run")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".tmp")), "{left:?}");
}
