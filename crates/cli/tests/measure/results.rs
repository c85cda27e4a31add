//! `rustane results`, `bench compare`, and what benchmarks write.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::out;
use crate::support::rustane;

fn repository() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap().display().to_string()
}

const STEP: [&str; 12] =
    ["bench", "step", "--preset", "tiny", "--seq", "16", "--batch", "1", "--steps", "8", "--threads", "1"];

#[test]
fn benchmarks_write_the_schema_and_nothing_about_the_user() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let file = at.join("a.json").display().to_string();
    let printed = out(at, &[&STEP[..], &["--json", "--out", &file]].concat());
    let results: Value = serde_json::from_str(&printed).unwrap();
    let written = fs::read_to_string(&file).unwrap();
    assert_eq!(results, serde_json::from_str::<Value>(&written).unwrap());
    assert_eq!(results["schema"], "rustane-results/1");
    assert_eq!(
        results["commands"][0],
        "rustane bench step --preset tiny --seq 16 --batch 1 --steps 8 --threads 1"
    );
    let case = &results["cases"][0];
    assert_eq!(case["name"], "step/tiny/seq16/batch1/f32");
    assert_eq!((case["values"].as_array().unwrap().len(), &case["summary"]["repeats"]), (8, &8.into()));
    assert!(case["summary"]["decay"].as_f64().is_some_and(|x| x > 0.0), "{case}");
    assert!(["release", "dev"].contains(&results["software"]["profile"].as_str().unwrap()));
    // Every null has its word; `check` would refuse it otherwise.
    out(at, &["results", "check", "a.json"]);
    assert!(results["not_known"]["cases.dispatches"].is_string());
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let private = [at.display().to_string(), host.trim().to_owned()];
    for private in private.into_iter().filter(|word| word.len() > 3) {
        assert!(!written.contains(&private), "{private} in {written}");
    }
    let ran = rustane(at, &[&STEP[..], &["--out", &file]].concat());
    assert!(ran.code == 2 && ran.err.contains("is there already"), "{}", ran.err);
}

#[test]
fn the_virtual_ane_proves_itself_by_its_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "bench", "step", "--preset", "tiny", "--seq", "16", "--steps", "2", "--warmup", "1", "--device",
        "ane",
    ];
    let results: Value = serde_json::from_str(&out(dir.path(), &[&args[..], &["--json"]].concat())).unwrap();
    let case = &results["cases"][0];
    // Three steps of six layers, ten dispatches each.
    assert_eq!(case["dispatches"]["virtual ANE (M4 Max)"], 3 * 6 * 10, "{case}");
}

#[test]
fn two_files_are_compared_with_intervals() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    out(at, &[&STEP[..], &["--out", "a.json"]].concat());
    let mut value: Value = serde_json::from_str(&fs::read_to_string(at.join("a.json")).unwrap()).unwrap();
    let case = &mut value["cases"][0];
    let halved: Vec<f64> =
        case["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() / 20.0).collect();
    case["values"] = serde_json::json!(halved);
    for key in ["median", "min", "max"] {
        case["summary"][key] = (case["summary"][key].as_f64().unwrap() / 20.0).into();
    }
    fs::write(at.join("b.json"), value.to_string()).unwrap();
    let text = out(at, &["bench", "compare", "a.json", "b.json"]);
    assert!(
        text.contains("step/tiny/seq16/batch1/f32") && text.contains("0.050") && text.contains("better"),
        "{text}"
    );
    let same = out(at, &["bench", "compare", "a.json", "a.json"]);
    assert!(same.contains("within noise"), "{same}");
    let json: Value =
        serde_json::from_str(&out(at, &["bench", "compare", "b.json", "a.json", "--json"])).unwrap();
    assert_eq!(json["rows"][0]["verdict"], "worse");

    fs::write(at.join("old.json"), "{\"schema\": 1}").unwrap();
    fs::write(at.join("text.json"), "hello").unwrap();
    let published = format!("{}/results/published/m4-max-forward.json", repository());
    for (args, code, wanted) in [
        (["a.json", "old.json"], 3, "error[E3100]: old.json: `schema` is 1, wanted \"rustane-results/1\""),
        (["a.json", "text.json"], 3, "text.json: not JSON"),
        (["a.json", "none.json"], 1, "cannot read none.json"),
        (["a.json", published.as_str()], 3, "have no work in common"),
    ] {
        let ran = rustane(at, &["bench", "compare", args[0], args[1]]);
        assert!(ran.code == code && ran.err.contains(wanted), "{args:?}: {} {}", ran.code, ran.err);
    }
}

#[test]
fn the_page_in_the_repository_is_that_of_its_files() {
    let results = format!("{}/results", repository());
    let ran = rustane(Path::new(&results), &["results", "index", "--dir", &results, "--check"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let html = fs::read_to_string(format!("{results}/index.html")).unwrap();
    assert!(!html.contains("<script") && !html.contains("src=") && !html.contains("http-equiv"));
    // Figures of others are marked as theirs.
    assert!(
        html.contains("class=\"theirs\"") && html.contains("published by others") && html.contains("<svg")
    );
}

#[test]
fn a_page_needs_sound_files() {
    let dir = tempfile::tempdir().unwrap();
    let ran = rustane(dir.path(), &["results", "index", "--dir", "."]);
    assert!(ran.code == 2 && ran.err.contains("holds no .json file of results"), "{}", ran.err);
    fs::create_dir(dir.path().join("m")).unwrap();
    fs::write(dir.path().join("m/x.json"), "{}").unwrap();
    let ran = rustane(dir.path(), &["results", "index", "--dir", "."]);
    assert!(ran.code == 3 && ran.err.contains("`schema` is absent"), "{}", ran.err);
    let ran = rustane(dir.path(), &["results", "index", "--dir", "nowhere"]);
    assert!(ran.code == 1 && ran.err.contains("cannot read nowhere"), "{}", ran.err);
}
