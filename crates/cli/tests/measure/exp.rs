//! `rustane exp`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::Ran;
use crate::{MICRO, out, rustane};

/// An experiment of the tiny model on two seeds.
fn experiment(dir: &Path, desc: &str, more: &[&str]) -> Ran {
    let mut args = vec!["exp", "run", "--desc", desc, "--steps", "8", "--seeds", "1,2", "--threads", "1"];
    MICRO.iter().chain(more).for_each(|set| args.extend(["--set", set]));
    rustane(dir, &args)
}

#[test]
fn experiments_are_recorded_ranked_compared_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let ran = experiment(at, "hardly any steps", &["optimizer.lr=1e-6"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.starts_with("experiment: 0001\nval_bpb: ") && ran.out.ends_with("verdict: baseline\n"));
    let ran = experiment(at, "learns", &["optimizer.lr=1e-2"]);
    assert!(ran.out.contains("best_before: 0001\n") && ran.out.contains("verdict: keep\n"), "{}", ran.out);
    let ran = experiment(at, "the same as before", &["optimizer.lr=1e-2"]);
    assert!(ran.out.contains("difference: +0.000000\n"), "equal seeds give equal bits: {}", ran.out);
    assert!(ran.out.contains("verdict: discard\n"), "{}", ran.out);

    let log = out(at, &["exp", "log"]);
    assert!(
        log.contains("0002") && log.contains("best") && log.contains("8 steps per run; ranked on seeds 1, 2")
    );
    let best: Value = serde_json::from_str(&out(at, &["exp", "best", "--json"])).unwrap();
    assert_eq!((&best["id"], &best["settings"]["optimizer.lr"]), (&"0002".into(), &0.01.into()));
    let compared: Value =
        serde_json::from_str(&out(at, &["exp", "compare", "0001", "0002", "--json"])).unwrap();
    // Two seeds that agree are much, and not certainty.
    assert!((0.95..1.0).contains(&compared["p_better"].as_f64().unwrap()), "{compared}");
    assert_eq!(compared["seeds"], serde_json::json!([1, 2]));
    assert!(compared["difference"].as_f64().unwrap() < -0.1);
    // The weights are gone, what was measured is kept.
    let run = at.join("experiments/runs/0002-seed1");
    assert!(run.join("metrics.jsonl").exists());
    assert!(
        !fs::read_dir(&run).unwrap().any(|e| e.unwrap().file_name().to_string_lossy().starts_with("step-"))
    );

    out(at, &["exp", "plot"]);
    let svg = fs::read_to_string(at.join("experiments.svg")).unwrap();
    assert!(
        svg.contains("best so far")
            && svg.contains("bits per byte, mean of 2 seeds")
            && svg.contains("learns")
    );

    // The best settings are a file to go on from.
    fs::write(at.join("best.toml"), out(at, &["exp", "best", "--toml"])).unwrap();
    let ran = rustane(
        at,
        &["exp", "run", "--desc", "again", "--steps", "8", "--seeds", "1,2", "--config", "best.toml"],
    );
    assert!(ran.out.contains("difference: +0.000000\n"), "{} {}", ran.out, ran.err);
}

#[test]
fn a_run_that_fails_is_kept_with_its_error() {
    let dir = tempfile::tempdir().unwrap();
    let ran = experiment(dir.path(), "too fast", &["optimizer.lr=1e30", "optimizer.clip=0"]);
    assert_eq!(ran.code, 1, "{} {}", ran.out, ran.err);
    assert!(ran.out.contains("verdict: failed"), "{}", ran.out);
    let log = out(dir.path(), &["exp", "log"]);
    assert!(log.contains("failed") && log.contains("0/2") && log.contains("too fast: error"), "{log}");
    let ran = rustane(dir.path(), &["exp", "best"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("no experiment of the newest budget reached its end"), "{}", ran.err);
}

#[test]
fn what_cannot_be_is_refused_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    for (args, code, wanted) in [
        (&["run", "--desc", "x", "--set", "model.dimm=3"][..], 2, "did you mean `dim`?"),
        (&["run", "--desc", " "], 2, "--desc is empty"),
        (&["run", "--desc", "x", "--preset", "tinny"], 2, "did you mean `tiny`"),
        (&["run", "--desc", "x", "--config", "none.toml"], 1, "none.toml"),
        (&["run", "--desc", "x", "--tokens", "1", "--steps", "1"], 2, "cannot be used with"),
        (&["log"], 2, "ledger.jsonl holds no experiment; `rustane exp run` makes one"),
        (&["best"], 2, "holds no experiment"),
    ] {
        let ran = rustane(at, &[&["exp"], args].concat());
        assert!(ran.code == code && ran.err.contains(wanted), "{args:?}: {} {}", ran.code, ran.err);
    }
    assert!(!at.join("experiments/ledger.jsonl").exists());
    fs::create_dir_all(at.join("experiments")).unwrap();
    fs::write(at.join("experiments/ledger.jsonl"), "{\"v\":1}\n{\"half").unwrap();
    let ran = rustane(at, &["exp", "log"]);
    assert_eq!(ran.code, 3);
    let start = "error[E3101]: experiments/ledger.jsonl: line 1 is no record of version 1: missing field";
    assert!(ran.err.starts_with(start), "{}", ran.err);
}

#[test]
fn the_guide_names_commands_that_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let guide = out(dir.path(), &["exp", "guide", "--tokens", "1000"]);
    assert!(guide.contains("rustane exp run --tokens 1000 --seeds 1,2,3 --config exp.toml"));
    out(dir.path(), &["presets", "cp", "tiny", "exp.toml"]);
}
