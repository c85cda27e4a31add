//! `rustane bench kernels`.

use serde_json::Value;

use crate::out;
use crate::support::rustane;

const TINY: [&str; 12] = [
    "bench",
    "kernels",
    "--device",
    "cpu",
    "--preset",
    "tiny",
    "--seq",
    "32",
    "--runs",
    "2",
    "--only",
    "gemm/down/forward/f32",
];

#[test]
fn kernels_of_the_cpu_stand_beside_the_peaks_of_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    let more = ["--only", "adamw/q8", "--threads", "1", "--json", "--out", "kernels.json"];
    let results: Value = serde_json::from_str(&out(dir.path(), &[&TINY[..], &more].concat())).unwrap();
    out(dir.path(), &["results", "check", "kernels.json"]);
    let cases = results["cases"].as_array().unwrap();
    let names: Vec<_> = cases.iter().map(|case| case["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["kernels/tiny/seq32/batch1/gemm/down/forward/f32", "kernels/tiny/seq32/batch1/adamw/q8"]
    );
    let number = |value: &Value| value.as_f64().unwrap();
    for case in cases {
        assert_eq!(case["values"].as_array().unwrap().len(), 2, "{case}");
        let details = &case["details"];
        let rate = number(&details["gflop"]) / number(&case["summary"]["median"]) * 1e3;
        assert!((number(&details["gflop_per_s"]) / rate - 1.0).abs() < 1e-6, "{case}");
        assert!(number(&details["arithmetic_share"]) > 0.0 && number(&details["memory_share"]) > 0.0);
        assert!(details["limited_by"].is_string(), "{case}");
    }
    let gflop = 2e-9 * (32 * 192 * 512) as f64;
    assert!((number(&cases[0]["details"]["gflop"]) / gflop - 1.0).abs() < 1e-9, "{}", cases[0]);
    let peaks = &results["details"]["peaks"];
    for peak in ["f32_gflop_per_s", "read_gb_per_s", "read_and_write_gb_per_s"] {
        assert!(number(&peaks[peak]) > 0.0, "{peaks}");
    }
}

#[test]
fn narrower_instructions_are_named_and_have_their_own_peak() {
    let dir = tempfile::tempdir().unwrap();
    let more = ["--instructions", "baseline"];
    let text = out(dir.path(), &[&TINY[..], &more].concat());
    let (head, rows) = text.split_once("limited by").unwrap();
    assert!(head.contains("baseline") && head.contains("bf16 not there"), "{text}");
    assert!(rows.contains("gemm/down/forward/f32"), "{text}");
}

#[test]
fn what_cannot_be_measured_says_what_can() {
    let dir = tempfile::tempdir().unwrap();
    for (args, wanted) in [
        (&["--instructions", "mmx"][..], "--instructions mmx: this processor has baseline"),
        (&["--only", "nothing", "--runs", "0"][..], "--runs, --seq and --batch are at least 1"),
        (&["--device", "vulkan"][..], "bench decode --kernels"),
        (&["--device", "ane", "--only", "gemm"][..], "are of --device cpu"),
        (&["--only", "no-such", "--seq", "16"][..], "names are like gemm/down/forward/bf16"),
    ] {
        let ran = rustane(dir.path(), &[&["bench", "kernels", "--preset", "tiny"], args].concat());
        assert!(ran.code == 2 && ran.err.contains(wanted), "{args:?}: {}", ran.err);
    }
}
