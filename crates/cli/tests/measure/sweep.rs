//! `rustane sweep`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::{MICRO, command, out, rustane};

fn grid(dir: &Path, steps: u64, rates: &str) {
    let mut text = format!("steps = {steps}\n[set]\n");
    for set in MICRO {
        let (key, value) = set.split_once('=').unwrap();
        text += &format!("\"{key}\" = {value}\n");
    }
    text += &format!("[grid]\n\"optimizer.lr\" = {rates}\n");
    fs::write(dir.join("g.toml"), text).unwrap();
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_grid_is_run_once_and_sorted_by_loss() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    grid(at, 6, "[1e-5, 1e-2, -1.0]");
    let first = rows(&out(at, &["sweep", "g.toml", "--jobs", "2", "--threads", "2", "--json"]));
    assert_eq!(first.len(), 3);
    assert_eq!(first[0]["settings"]["optimizer.lr"], 0.01);
    assert!(first[0]["outcome"]["val_loss"].as_f64() < first[1]["outcome"]["val_loss"].as_f64());
    // What cannot be is an outcome among the others.
    assert_eq!(first[2]["outcome"]["state"], "failed");
    assert!(first[2]["outcome"]["error"].as_str().unwrap().contains("wanted a number above 0"));

    // Once more makes nothing, a grid that grew makes only what is new.
    let ran = rustane(at, &["sweep", "g.toml", "--json"]);
    assert!(ran.err.contains("3 runs of 6 steps, 3 are there already"), "{}", ran.err);
    assert_eq!(rows(&ran.out), first);
    grid(at, 6, "[1e-2, 1e-5, 3e-3]");
    let ran = rustane(at, &["sweep", "g.toml"]);
    assert!(ran.err.contains("3 runs of 6 steps, 2 are there already"), "{}", ran.err);
    assert!(ran.out.lines().nth(1).unwrap().ends_with("lr=0.01"), "{}", ran.out);
    assert_eq!(fs::read_to_string(at.join("sweeps/g/sweep.jsonl")).unwrap().lines().count(), 4);
    let planned = out(at, &["sweep", "g.toml", "--dry-run"]);
    assert_eq!(planned.lines().count(), 3);
}

#[test]
fn an_interrupted_sweep_saves_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    grid(at, 3000, "[1e-3]");
    let whole = |args: &[&str]| rows(&out(at, args))[0]["outcome"].clone();
    let uninterrupted = {
        let mut outcome = whole(&["sweep", "g.toml", "--out", "whole", "--json"]);
        outcome["seconds"] = Value::Null;
        outcome
    };
    let mut child = command(at, &["sweep", "g.toml", "--out", "cut", "--json"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // As soon as it trains.
    let training = || {
        let runs = fs::read_dir(at.join("cut")).into_iter().flatten().flatten();
        runs.map(|e| e.path().join("metrics.jsonl")).any(|m| fs::metadata(m).is_ok_and(|m| m.len() > 2000))
    };
    while !training() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was interrupted");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!at.join("cut/sweep.jsonl").exists(), "a run that was stopped is no result");
    let mut outcome = whole(&["sweep", "g.toml", "--out", "cut", "--json"]);
    outcome["seconds"] = Value::Null;
    assert_eq!(outcome, uninterrupted, "a stopped run ends as one that was left alone");
}

#[test]
fn bad_grids_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (text, code, wanted) in [
        ("steps = 1\n", 2, "g.toml:1: missing field `grid`"),
        ("[grid]\nx = [1]\n", 2, "one of `tokens`, `seconds` and `steps`"),
        ("steps = 1\n[grid]\nx = 1\n", 2, "grid.x: wanted a list"),
    ] {
        fs::write(dir.path().join("g.toml"), text).unwrap();
        let ran = rustane(dir.path(), &["sweep", "g.toml"]);
        assert!(ran.code == code && ran.err.contains(wanted), "{text}: {} {}", ran.code, ran.err);
    }
    let ran = rustane(dir.path(), &["sweep", "none.toml"]);
    assert!(ran.code == 1 && ran.err.contains("cannot read none.toml"), "{}", ran.err);
}
