//! `rustane ane lab` through the binary: reports, lost answers, merging.

use std::fs;

use serde_json::Value;

mod support;

use support::rustane;

fn report(dir: &std::path::Path, name: &str) -> Value {
    serde_json::from_slice(&fs::read(dir.join(name)).unwrap()).unwrap()
}

#[test]
fn the_virtual_device_is_asked_and_never_called_hardware() {
    let dir = tempfile::tempdir().unwrap();
    let ran = rustane(dir.path(), &["ane", "lab", "--virtual", "--only", "1,9", "--report", "r.json"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.starts_with("virtual ANE (M4 Max): 2 questions"), "{}", ran.out);
    assert!(ran.out.contains("\n     grid, as assumed\n"), "{}", ran.out);
    assert!(ran.out.ends_with(
        "2 of 2 answered, 2 as the model assumes; nothing of this says anything about hardware\n"
    ));
    let report = report(dir.path(), "r.json");
    assert_eq!(report["hardware"], false);
    assert_eq!(report["outcomes"][1]["verdict"], "byte order");

    fs::write(dir.path().join("rules.md"), "").unwrap();
    let ran = rustane(dir.path(), &["ane", "lab", "merge", "r.json", "--rules", "rules.md"]);
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("only reports of hardware count"), "{}", ran.err);
}

#[cfg(not(target_vendor = "apple"))]
#[test]
fn without_a_neural_engine_nothing_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let ran = rustane(dir.path(), &["ane", "lab", "--report", "r.json"]);
    assert_eq!(ran.code, 5, "{}", ran.err);
    assert!(ran.err.contains("--virtual asks the virtual one"), "{}", ran.err);
    assert!(!dir.path().join("r.json").exists());
    for (only, said) in [("25", "there is no question 25"), ("22", "question 22 is not asked: ")] {
        let ran = rustane(dir.path(), &["ane", "lab", "--virtual", "--only", only]);
        assert_eq!(ran.code, 2, "{}", ran.err);
        assert!(ran.err.contains(said), "{}", ran.err);
    }
}

#[cfg(feature = "failpoints")]
#[test]
fn a_crash_or_a_hang_costs_one_answer() {
    let dir = tempfile::tempdir().unwrap();
    for (fault, said) in [
        ("sleep(60000)", "no answer within 1 s"),
        ("panic(the driver)", "the process ended with exit status: 101"),
    ] {
        let args = ["ane", "lab", "--virtual", "--only", "1", "--timeout", "1", "--report", "r.json"];
        let ran = support::run(
            support::command(dir.path(), &args).env("FAILPOINTS", format!("ane::question={fault}")),
        );
        assert_eq!(ran.code, 0, "{}", ran.err);
        let report = report(dir.path(), "r.json");
        let outcome = &report["outcomes"][0];
        assert!(outcome["verdict"].is_null());
        assert!(outcome["failed"].as_str().unwrap().starts_with(said), "{outcome}");
        assert!(ran.out.contains("0 of 1 answered"), "{}", ran.out);
    }
}

#[test]
fn reports_of_macs_become_a_table() {
    let dir = tempfile::tempdir().unwrap();
    let rules = include_str!("../../../docs/ane-rules.md");
    fs::write(dir.path().join("rules.md"), rules).unwrap();
    let text = r#"{"lab": 1, "device": "ANE (M4 Max)", "hardware": true, "chip": "M4 Max", "os": "26.3 (25D125)",
        "rustane": "0.1.0", "outcomes": [{"question": 8, "verdict": "packed", "assumed": "64 bytes"}]}"#;
    fs::write(dir.path().join("mac.json"), text).unwrap();
    let ran = rustane(dir.path(), &["ane", "lab", "merge", "mac.json", "--rules", "rules.md"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let page = fs::read_to_string(dir.path().join("rules.md")).unwrap();
    let row = page.lines().find(|line| line.starts_with("| 8. ")).unwrap();
    assert!(
        row.ends_with("| `pitch`, `surface` | 64 bytes | **packed** (M4 Max, macOS 26.3 (25D125)) |"),
        "{row}"
    );
    // Everything else stays.
    let before = |page: &str| page.split("<!-- answers").next().unwrap().to_owned();
    assert_eq!(before(&page), before(rules));
    fs::write(dir.path().join("mac.json"), text.replace("\"lab\": 1", "\"lab\": 9")).unwrap();
    let ran = rustane(dir.path(), &["ane", "lab", "merge", "mac.json", "--rules", "rules.md"]);
    assert!(ran.code != 0 && ran.err.contains("version 9, wanted 1"), "{}", ran.err);
}
