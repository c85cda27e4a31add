//! Ctrl-C at any moment, and the same command again, end where an undisturbed run ends.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Lab, Random};
use crate::train::wait;

/// Long enough to be met at work, with checkpoints, validations and samples in between.
const RUN: [&str; 10] =
    ["--steps", "400", "--save-every", "70", "--eval-every", "45", "--sample-every", "110", "--accum", "2"];
/// Interruptions of each kind.
const TIMES: usize = 10;

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// As a shell reports it: a signal that came before anybody listened ends the process by itself.
fn code(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|s| 128 + s)).unwrap()
}

#[test]
fn a_run_interrupted_at_random_ends_as_if_it_had_not_been() {
    let lab = Lab::new();
    let begin = Instant::now();
    lab.trained("whole", &RUN);
    let whole = begin.elapsed().as_millis() as u64;
    let mut random = Random(1);
    for (signal, wanted) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let run = format!("run-{wanted}");
        let (mut stopped, mut longest) = (0, whole / 2);
        let mut finished = false;
        for _ in 0..TIMES {
            let mut child = lab.spawn(&run, &RUN);
            std::thread::sleep(Duration::from_millis(random.below(longest)));
            send(&child.0, signal);
            let code = code(child.0.wait().unwrap());
            let said = lab.said();
            if code == 0 && stopped == 0 {
                // A machine that was busy before is no longer: the run was over sooner than thought.
                fs::remove_dir_all(lab.path(&run)).unwrap();
                longest = (longest / 2).max(1);
                continue;
            }
            if code == 0 {
                finished = true;
                break;
            }
            assert_eq!(code, wanted, "{said}");
            assert!(!said.contains("warning") && !said.contains("panicked"), "{said}");
            if let Some(line) = said.lines().find(|l| l.starts_with("stopped at step ")) {
                assert!(line.ends_with(&format!("; the same command continues: --out {run}")), "{line}");
                stopped += 1;
            }
        }
        if !finished {
            lab.trained(&run, &RUN);
        }
        assert!(stopped > 0, "no signal met the run at work");
        lab.same("whole", &run);
    }
}

#[test]
fn the_step_in_hand_is_finished_and_saved() {
    let lab = Lab::new();
    let long = ["--steps", "1000000", "--save-every", "0", "--eval-every", "0", "--sample-every", "0"];
    let mut child = lab.spawn("run", &long);
    wait("the first step", || lab.said().contains("step 1/"));
    send(&child.0, Signal::INT);
    assert_eq!(child.0.wait().unwrap().code(), Some(130));
    let said = lab.said();
    let step = lab.metrics("run").last().unwrap()["step"].as_u64().unwrap();
    let end = format!("saved run/step-{step:08} (");
    assert!(said.contains(&end), "no {end} in {said}");
    assert!(
        said.ends_with(&format!("stopped at step {step}; the same command continues: --out run\n")),
        "{said}"
    );
    let mut child = lab.spawn("run", &long);
    wait("a step", || lab.said().contains(&format!("step {}/", step + 1)));
    assert!(lab.said().contains(&format!("resuming at step {step}\n")));
    send(&child.0, Signal::TERM);
    assert_eq!(child.0.wait().unwrap().code(), Some(143));
}

#[test]
fn the_second_ctrl_c_stops_at_once() {
    let lab = Lab::new();
    // A step of a minute: the first signal alone would take as long.
    let slow = ["--seq", "64", "--batch", "64", "--accum", "40000", "--steps", "2"];
    let mut child = lab.spawn("run", &slow);
    wait("the plan", || lab.said().contains("run:  "));
    std::thread::sleep(Duration::from_millis(300));
    send(&child.0, Signal::INT);
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.0.try_wait().unwrap().is_none(), "the first signal waits for the step");
    let begin = Instant::now();
    send(&child.0, Signal::INT);
    assert_eq!(child.0.wait().unwrap().code(), Some(130));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

#[test]
fn damaged_checkpoints_are_put_aside() {
    let lab = Lab::new();
    let (short, long) = (
        ["--steps", "30", "--save-every", "10", "--schedule", "constant"],
        ["--steps", "40", "--save-every", "10", "--schedule", "constant", "--allow-drift"],
    );
    lab.trained("good", &short);
    lab.trained("good", &long);
    type Damage = (&'static str, fn(&Path), &'static str);
    let damages: [Damage; 5] = [
        ("flip", |dir| flip(&dir.join("model.safetensors")), "the content of model.safetensors has changed"),
        (
            "moments",
            |dir| flip(&dir.join("training/optimizer.safetensors")),
            "the content of training/optimizer.safetensors has changed",
        ),
        ("state", |dir| cut(&dir.join("training/state.json")), "training/state.json has "),
        ("manifest", |dir| cut(&dir.join("manifest.json")), "manifest.json: "),
        ("gone", |dir| fs::remove_file(dir.join("config.json")).unwrap(), "config.json is missing"),
    ];
    for (run, damage, reason) in damages {
        lab.trained(run, &short);
        damage(&lab.path(run).join("step-00000030"));
        let said = lab.trained(run, &long);
        let line =
            said.lines().find(|l| l.starts_with("warning: ")).unwrap_or_else(|| panic!("{run}: {said}"));
        let (head, tail) = (
            format!("warning: the checkpoint {run}/step-00000030 is damaged ("),
            format!("); it is now {run}/step-00000030.corrupt"),
        );
        assert!(line.starts_with(&head) && line.ends_with(&tail) && line.contains(reason), "{line}");
        assert!(said.contains("resuming at step 20\n"), "{run}: {said}");
        lab.same("good", run);
    }
    // All of them: an error, no fresh start.
    lab.trained("all", &short);
    for step in [10, 20, 30] {
        flip(&lab.path(&format!("all/step-{step:08}/model.safetensors")));
    }
    for _ in 0..2 {
        let ran = lab.train("all", &long);
        assert_eq!(ran.code, 3, "{}", ran.err);
        assert!(
            ran.err.lines().last().unwrap().starts_with("error[E3080]: all: no usable checkpoint: "),
            "{}",
            ran.err
        );
    }
    let ran = lab.train("all", &[&short[..], &["--fresh"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
}

/// Flips a bit in the middle.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(path, bytes).unwrap();
}

/// Leaves the first half.
fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}
