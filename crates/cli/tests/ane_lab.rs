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
    assert_eq!(report["outcomes"][1]["verdict"], "byte order, also when declared otherwise, and told so");

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
    let ran = rustane(dir.path(), &["ane", "lab", "--virtual", "--only", "25"]);
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("there is no question 25, wanted 1 to 24"), "{}", ran.err);
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

/// A report of a Mac with these outcomes, as JSON.
fn mac(chip: &str, outcomes: &str) -> String {
    format!(
        r#"{{"lab": 1, "device": "ANE ({chip})", "hardware": true, "chip": "{chip}", "os": "26.3 (25D125)",
            "rustane": "0.1.0", "outcomes": {outcomes}}}"#
    )
}

#[test]
fn reports_of_macs_become_tables_and_a_list_of_what_they_refute() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let rules = include_str!("../../../docs/ane-rules.md");
    fs::write(path("rules.md"), rules).unwrap();
    let agrees = r#"[{"question": 8, "verdict": "64 bytes", "assumed": "64 bytes"},
                     {"question": 19, "verdict": "kept", "assumed": "kept"},
                     {"question": 24, "verdict": "127", "assumed": "110"}]"#;
    let differs = r#"[{"question": 8, "verdict": "packed", "assumed": "64 bytes"},
                      {"question": 13, "verdict": null, "failed": "no answer within 120 s"}]"#;
    fs::write(path("one.json"), mac("M4 Max", agrees)).unwrap();
    fs::write(path("two.json"), mac("M5", differs)).unwrap();
    fs::create_dir(path("measured")).unwrap();
    let merge =
        ["ane", "lab", "merge", "one.json", "two.json", "--rules", "rules.md", "--measured", "measured"];
    let ran = rustane(dir.path(), &merge);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let page = fs::read_to_string(path("rules.md")).unwrap();
    let row = |start: &str| page.lines().find(|line| line.starts_with(start)).unwrap();
    let (m4, m5) = ("M4 Max, macOS 26.3 (25D125)", "M5, macOS 26.3 (25D125)");
    let wanted = format!("| `pitch`, `surface` | 64 bytes | 64 bytes ({m4}); **packed** ({m5}) |");
    assert!(row("| 8. ").ends_with(&wanted), "{}", row("| 8. "));
    let wanted = format!(
        " | error | inferred; question 8 as assumed: {m4}; question 8 **not as assumed**: {m5} | ironmill RowStride;"
    );
    assert!(row("| `pitch` ").contains(&wanted), "{}", row("| `pitch` "));
    let wanted = format!("| warning | measured; question 19 as assumed: {m4} | ");
    assert!(row("| `slice-clamp` ").contains(&wanted), "{}", row("| `slice-clamp` "));
    assert!(row("| `compile-budget` ").contains("| error | measured | "), "a question without an answer");
    assert!(
        ran.out.contains(&format!(
            "refuted: 8. How far apart are rows that are no multiple of 64 bytes?\n  {m5}: packed; the model has 64 bytes\n  \
             change crates/mil/src/types.rs, `ROW_ALIGN`\n"
        )),
        "{}",
        ran.out
    );
    // Nothing else of the page changes, the same reports change nothing, and other ones replace them.
    let prose = |page: &str| {
        let lines = page.lines().filter(|line| !line.is_empty() && !line.starts_with('|'));
        lines.filter(|line| *line != "No report was made yet.").map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(prose(&page), prose(rules));
    assert_eq!(rustane(dir.path(), &merge).code, 0);
    assert_eq!(fs::read_to_string(path("rules.md")).unwrap(), page);
    let one = ["ane", "lab", "merge", "one.json", "--rules", "rules.md", "--measured", "measured"];
    let ran = rustane(dir.path(), &one);
    // A number that the virtual device takes over needs no hand.
    assert!(
        ran.out.ends_with(&format!(
            "refuted: 24. How many programs may a process have loaded?\n  {m4}: 127; the model has 110, until rustane is \
             built again\n"
        )),
        "{}",
        ran.out
    );
    let table = fs::read_to_string(path("measured/table.rs")).unwrap();
    assert!(table.contains("chip: \"M4 Max\"") && table.contains("(24, \"127\"),"), "{table}");
    assert!(!fs::read_to_string(path("rules.md")).unwrap().contains("M5, macOS 26.3"));
    fs::write(path("one.json"), mac("M4 Max", &agrees.replace("127", "110"))).unwrap();
    let ran = rustane(dir.path(), &one);
    assert!(ran.out.ends_with("every answer is the one that the model assumes\n"), "{}", ran.out);
}

#[test]
fn damaged_reports_and_pages_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let rules = include_str!("../../../docs/ane-rules.md");
    let good = mac("M4 Max", r#"[{"question": 8, "verdict": "packed", "assumed": "64 bytes"}]"#);
    fs::create_dir(dir.path().join("measured")).unwrap();
    let merge = ["ane", "lab", "merge", "mac.json", "--rules", "rules.md", "--measured", "measured"];
    for (report, said) in [
        (good[..good.len() / 2].to_owned(), "is no report of `rustane ane lab`"),
        (good.replace("\"lab\": 1", "\"lab\": 9"), "version 9, wanted 1"),
        (
            good.replace("\"question\": 8", "\"question\": 25"),
            "answers question 25, and there are only 1 to 24",
        ),
        (good.replace("\"packed\"", "null"), "neither an answer nor a reason"),
        (good.replace("M4 Max", " "), "does not name a chip"),
        (
            mac("M5", r#"[{"question": 1, "verdict": "grid"}, {"question": 1, "verdict": "neither"}]"#),
            "answers question 1 twice",
        ),
        (mac("M5", r#"[{"question": 6, "verdict": "tables", "tables": {"exp": "3c00"}}]"#), ""),
    ] {
        fs::write(dir.path().join("rules.md"), rules).unwrap();
        fs::write(dir.path().join("mac.json"), report).unwrap();
        let ran = if said.is_empty() {
            let ran = rustane(dir.path(), &merge);
            assert!(ran.err.contains("wanted 262144 hexadecimal digits"), "{}", ran.err);
            ran
        } else {
            rustane(dir.path(), &merge)
        };
        assert!(ran.code != 0 && ran.err.contains(said), "{said}: {}", ran.err);
        assert_eq!(fs::read_to_string(dir.path().join("rules.md")).unwrap(), rules, "{said}");
        assert_eq!(fs::read_dir(dir.path().join("measured")).unwrap().count(), 0, "{said}");
    }
    fs::write(dir.path().join("mac.json"), &good).unwrap();
    for missing in ["<!-- end of rules -->", "<!-- end of answers -->"] {
        let page = rules.replace(missing, "");
        fs::write(dir.path().join("rules.md"), &page).unwrap();
        let ran = rustane(dir.path(), &merge);
        assert!(ran.code != 0 && ran.err.contains(missing), "{}", ran.err);
        assert_eq!(fs::read_to_string(dir.path().join("rules.md")).unwrap(), page);
    }
}
