//! `rustane doctor`, through the binary.

mod support;

use support::{command, run, rustane};

#[test]
fn every_line_has_a_mark_and_this_machine_can_train() {
    let dir = tempfile::tempdir().unwrap();
    let ran = rustane(dir.path(), &["doctor"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    for name in
        ["system", "processor", "vector", "cores", "memory", "runs", "cache", "hub cache", "device cpu"]
    {
        let line = ran.out.lines().find(|line| line.get(6..).is_some_and(|l| l.starts_with(name)));
        let line = line.unwrap_or_else(|| panic!("no line about {name}:\n{}", ran.out));
        assert!(line.starts_with("ok ") || line.starts_with("warn "), "{line}");
    }
    // What this build does not have is said, and claims nothing.
    for name in ["ANE", "CUDA"] {
        assert!(ran.out.contains(&format!("\n-     {name:<12} not in this build")), "{}", ran.out);
    }
    for name in ["Metal", "Vulkan"] {
        assert!(ran.out.contains(&format!("\n-     {name:<12} for writing")), "{}", ran.out);
    }
    // Measured where this machine tells, and said where it does not.
    for name in ["GPU memory", "power", "thermal"] {
        let line = ran.out.lines().find(|line| line.get(6..).is_some_and(|l| l.starts_with(name)));
        let line = line.unwrap_or_else(|| panic!("no line about {name}:\n{}", ran.out));
        assert_eq!(line.starts_with('-'), line.contains(" not measured: "), "{line}");
    }
    assert!(ran.out.contains("a training step of a very small model works"), "{}", ran.out);
    assert!(
        ran.out.lines().last().unwrap().starts_with("everything that training needs works"),
        "{}",
        ran.out
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the examination leaves nothing behind");
}

#[test]
fn json_has_every_check() {
    let dir = tempfile::tempdir().unwrap();
    let ran = rustane(dir.path(), &["doctor", "--json"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let value: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(value["ok"], true);
    let checks = value["checks"].as_array().unwrap();
    let mark = |name: &str| checks.iter().find(|c| c["name"] == name).unwrap()["mark"].as_str().unwrap();
    assert_eq!(mark("device cpu"), "ok");
    assert_eq!(mark("CUDA"), "none");
    assert!(checks.iter().all(|c| !c["found"].as_str().unwrap().is_empty()));
}

#[test]
fn a_cache_that_cannot_be_written_is_a_failure_with_advice() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let ran = run(command(dir.path(), &["doctor"]).env("RUSTANE_CACHE", file.join("cache")));
    assert_eq!(ran.code, 1);
    let line =
        format!("FAIL  cache        {}: {} is no folder\n", file.join("cache").display(), file.display());
    assert!(ran.out.contains(&line), "{}", ran.out);
    assert!(ran.out.contains("make it writable, or set RUSTANE_CACHE to another folder"), "{}", ran.out);
    assert!(ran.out.ends_with("1 of the things that training needs do not work\n"), "{}", ran.out);
}
