//! `rustane plan`, `bench chips` and `--profile`, through the binary.

mod support;

use std::path::Path;

use serde_json::Value;
use support::rustane;
use tempfile::TempDir;

fn json(dir: &Path, args: &[&str]) -> (i32, Value) {
    let ran = rustane(dir, args);
    let value =
        serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{args:?}: {e}: {}{}", ran.out, ran.err));
    (ran.code, value)
}

fn bytes(value: &Value, phase: &str, item: &str) -> u64 {
    let phases = value["phases"].as_array().expect("phases");
    let found =
        phases.iter().find(|p| p["name"] == phase).unwrap_or_else(|| panic!("no phase {phase}: {value}"));
    found["items"][item].as_u64().unwrap_or_else(|| panic!("no {item} in {found}"))
}

#[test]
fn says_what_training_takes_and_whether_it_fits() {
    let dir = TempDir::new().unwrap();
    let plan =
        |more: &[&str]| json(dir.path(), &[&["plan", "110m", "--json", "--device", "cpu"], more].concat());
    let (code, plain) = plan(&["--ram", "18G", "--seq", "256", "--batch", "4"]);
    assert_eq!((code, &plain["fits"]), (0, &Value::Bool(true)));
    // 109.5M parameters, with at most a cache line lost at each matrix.
    for item in ["weights", "gradients", "first moments", "second moments"] {
        let n = bytes(&plain, "steps", item) as f64;
        assert!((n / (4.0 * 109_529_856.0) - 1.0).abs() < 1e-3, "{item}: {n}");
    }
    assert_eq!(plain["peak_phase"], "samples");
    assert_eq!(plain["command"], "rustane train --preset 110m --seq 256 --batch 4 --device cpu");
    assert!(plain["time"]["ms_per_step"].as_f64().unwrap() > 0.0);
    let most = plain["most_sequences"].as_u64().unwrap() as usize;
    // The border is where it is said to be.
    for (batch, wanted) in [(most, 0), (most + 1, 4)] {
        assert_eq!(
            plan(&["--ram", "18G", "--seq", "256", "--batch", &batch.to_string()]).0,
            wanted,
            "{batch}"
        );
    }
    let (code, small) = plan(&["--ram", "2100M"]);
    assert_eq!((code, &small["fits"]), (4, &Value::Bool(false)));
    let (_, thrifty) = plan(&["--ram", "18G", "--optimizer-state", "q8", "--recompute"]);
    assert!(bytes(&thrifty, "steps", "second moments") < bytes(&plain, "steps", "weights") / 3);
    let text = rustane(dir.path(), &["plan", "7b", "--ram", "18G", "--chip", "m4-max"]);
    assert_eq!(text.code, 4, "{}", text.err);
    assert!(text.out.contains("surfaces of weights") && text.out.contains("does not fit: "), "{}", text.out);
}

#[test]
fn adapters_take_less_than_all_weights_and_are_called_an_estimate() {
    let dir = TempDir::new().unwrap();
    let plan =
        |more: &[&str]| json(dir.path(), &[&["plan", "110m", "--json", "--device", "cpu"], more].concat());
    let ((code, lora), (_, full)) =
        (plan(&["--lora", "--rank", "8", "--ram", "18G"]), plan(&["--ram", "18G"]));
    assert_eq!((code, &lora["estimate"], &lora["command"]), (0, &Value::Bool(true), &Value::Null));
    // 12 layers of 768 channels and 2048 in the feed-forward: 8 · (8 · 768 + 3 · (768 + 2048)) each.
    let trained = 12 * 8 * (8 * 768 + 3 * (768 + 2048));
    assert_eq!(lora["trained_params"], trained);
    let adapters = bytes(&lora, "steps", "adapters");
    assert!(adapters >= 4 * trained && adapters < 4 * trained + 4 * trained / 100);
    assert_eq!(bytes(&lora, "steps", "weights"), bytes(&full, "steps", "weights"));
    assert!(lora["peak_bytes"].as_u64().unwrap() < full["peak_bytes"].as_u64().unwrap());
    let text = rustane(dir.path(), &["plan", "110m", "--lora", "--device", "cpu"]);
    assert!(text.out.contains("an estimate: rustane does not train LoRA yet"), "{}", text.out);
}

#[test]
fn this_machine_is_a_chip_too_and_the_virtual_one_has_an_evaluator() {
    let dir = TempDir::new().unwrap();
    let small = ["plan", "tiny", "--json", "--seq", "64", "--batch", "1"];
    let (_, here) = json(dir.path(), &[&small[..], &["--chip", "this", "--device", "cpu"]].concat());
    assert!(here["machine"]["memory_gb_per_s"].as_f64().unwrap() > 0.1, "{here}");
    assert!(here["machine"]["cores"].as_u64().unwrap() >= 1);
    let (_, ane) = json(dir.path(), &[&small[..], &["--device", "virtual-ane"]].concat());
    assert!(ane["device"].as_str().unwrap().starts_with("virtual ANE"), "{ane}");
    assert!(bytes(&ane, "steps", "evaluator of the virtual ANE") > 100_000);
}

#[test]
fn a_run_and_a_hugging_face_directory_can_be_planned() {
    let dir = TempDir::new().unwrap();
    let config = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 300, "rms_norm_eps": 1e-5, "max_position_embeddings": 96, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "hidden_act": "silu"}"#;
    std::fs::create_dir(dir.path().join("hf")).unwrap();
    std::fs::write(dir.path().join("hf/config.json"), config).unwrap();
    std::fs::write(dir.path().join("own.toml"), "[model]\ndim = 64\nheads = 2\nkv_heads = 2\n").unwrap();
    let (code, served) =
        json(dir.path(), &["plan", "hf", "--serve", "--sequences", "3", "--device", "cpu", "--json"]);
    assert_eq!(code, 0);
    // Keys and values in f32: 2 layers of 2 heads of 16 channels, 96 positions of 3 sequences.
    assert_eq!(bytes(&served, "serving", "keys and values"), 8 * 2 * 2 * 16 * 96 * 3);
    assert_eq!(served["command"], "rustane generate hf --device cpu");
    let (code, gpu) =
        json(dir.path(), &["plan", "hf", "--serve", "--device", "vulkan", "--format", "q8_0", "--json"]);
    assert_eq!((code, gpu["phases"][0]["name"].as_str()), (0, Some("on the GPU")));
    let (code, own) = json(dir.path(), &["plan", "own.toml", "--chip", "M1", "--json"]);
    assert_eq!((code, own["command"].as_str()), (0, Some("rustane train --config own.toml")));
    assert!(bytes(&own, "steps", "surfaces of activations") > 0);
}

#[test]
fn says_what_is_wrong_with_what_it_is_asked() {
    let dir = TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    for (args, code, wanted) in [
        (&["plan", "110"][..], 2, "there is no preset `110`; did you mean `110m`?"),
        (&["plan", "empty"], 2, "neither config.toml (a run) nor a readable config.json"),
        (&["plan", "--lora", "--chip", "m4-max"], 2, "--lora counts what the CPU would hold"),
        (&["plan", "--lora", "--rank", "193", "--device", "cpu"], 2, "wanted 1 to 192"),
        (&["plan", "--rank", "8"], 2, "--lora"),
        (&["plan", "--out", "x.json"], 2, "--check"),
        (&["plan", "--ram", "18"], 2, "`18` is no size; wanted such as 18G"),
        (&["plan", "--ram", "-3G"], 2, ""),
        (&["plan", "--serve", "--train"], 2, "cannot be used with"),
        (&["plan", "--seq", "0"], 2, "`train.seq` is 0, wanted 1 to the 256 positions"),
        (&["plan", "--serve", "--context", "9999"], 2, "wanted 1 to the 256 positions"),
        (
            &["plan", "--serve", "--device", "cpu", "--format", "f16"],
            2,
            "the CPU does not hold weights as f16",
        ),
        (&["plan", "--serve", "--device", "ane", "--format", "q8_0"], 2, "is of the CPU and of GPUs"),
        (&["plan", "--device", "vulkan"], 5, "the GPU writes and does not train yet"),
        (&["plan", "--chip", "m4", "--optimizer-state", "q8"], 2, "--optimizer-state is of the CPU"),
        (&["plan", "--check", "31"], 2, "there are 30 configurations"),
        (&["plan", "--chip", "m9"], 2, "wanted one of M1, "),
        (&["bench", "chips", "--chip", "m9"], 2, "wanted one of M1, "),
    ] {
        let ran = rustane(dir.path(), args);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(wanted), "{args:?}: {}", ran.err);
    }
}

/// Each runs in a process of its own, whose memory the system counts.
#[test]
fn measured_memory_is_within_five_percent_of_the_prediction() {
    if !Path::new("/proc/self/status").exists() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let check =
        ["plan", "--check", "3", "--json", "--out", "check.json", "--device", "cpu", "--threads", "2"];
    let (code, checked) = json(dir.path(), &check);
    let cases = checked["cases"].as_array().unwrap();
    assert_eq!((code, cases.len()), (0, 3));
    for case in cases {
        assert!(case["details"]["error"].as_f64().unwrap().abs() <= 0.05, "{case}");
        assert!(case["memory_peak_bytes"].as_u64().unwrap() > 50_000_000, "{case}");
    }
    assert_eq!(checked["details"]["within_5_percent"], 3);
    // Both are in the schema.
    let ran = rustane(dir.path(), &["results", "check", "check.json"]);
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    let written: Value =
        serde_json::from_str(&std::fs::read_to_string(dir.path().join("check.json")).unwrap()).unwrap();
    assert_eq!(written, checked);
}

#[test]
fn the_table_and_the_chips_have_a_row_for_each() {
    let dir = TempDir::new().unwrap();
    let table = rustane(dir.path(), &["plan", "--table"]);
    assert_eq!((table.code, table.out.lines().count()), (0, 2 + 7), "{}{}", table.out, table.err);
    assert!(
        table.out.lines().all(|line| line.starts_with('|') && line.matches('|').count() == 8),
        "{}",
        table.out
    );
    let docs = include_str!("../../../docs/planning.md");
    assert!(
        docs.contains(&table.out),
        "docs/planning.md has another table than `rustane plan --table` prints"
    );
    let (code, chip) = json(dir.path(), &["bench", "chips", "--chip", "m4-max", "--json"]);
    assert_eq!((code, chip["rows"].as_array().unwrap().len()), (0, 33));
    let one = rustane(dir.path(), &["bench", "chips", "--chip", "m4-max"]);
    for part in [
        "The crossover: the model has C, C, C, A, B.",
        "Without that the model has C, C, C, B, B.",
        "beyond hidden 10923",
    ] {
        assert!(one.out.contains(part), "{part}: {}", one.out);
    }
    let all = rustane(dir.path(), &["bench", "chips"]);
    assert!(["M1 ", "M3 Ultra ", "M5 Max "].iter().all(|name| all.out.contains(name)), "{}", all.out);
}

#[test]
fn a_profile_is_a_trace_with_every_call() {
    let dir = TempDir::new().unwrap();
    let events = |file: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(dir.path().join(file)).unwrap();
        let trace: Value = serde_json::from_str(&text).unwrap();
        trace["traceEvents"].as_array().unwrap().iter().filter(|e| e["ph"] == "X").cloned().collect()
    };
    let bench = ["bench", "step", "--preset", "tiny", "--seq", "32", "--steps", "2", "--warmup", "1"];
    let ran = rustane(dir.path(), &[&bench[..], &["--device", "cpu", "--profile", "step.json"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("attention_backward") && ran.out.contains("bound by"), "{}", ran.out);
    // Six layers: four calls each, and embed, loss, embed_backward, update; two steps.
    assert_eq!(events("step.json").len(), 2 * (6 * 4 + 4));
    let ran = rustane(dir.path(), &[&bench[..], &["--device", "cpu", "--profile", "step.svg"]].concat());
    assert!(
        ran.code == 0 && ran.out.contains("picture of the last step: step.svg"),
        "{}{}",
        ran.out,
        ran.err
    );
    let picture = std::fs::read_to_string(dir.path().join("step.svg")).unwrap();
    assert!(picture.starts_with("<svg ") && picture.contains("<title>ffn_backward 5: "), "{picture}");
    let set = ["data.story_bytes=20000", "model.layers=2", "train.seq=32", "train.sample_tokens=0"];
    let mut train = vec!["train", "--steps", "3", "--batch", "1", "--vocab", "300", "--out", "run"];
    train.extend(set.iter().flat_map(|s| ["--set", s]));
    train.extend(["--device", "cpu", "--plain", "--profile", "train.json"]);
    let ran = rustane(dir.path(), &train);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let events = events("train.json");
    assert_eq!(events.iter().filter(|e| e["name"] == "update").count(), 3);
    assert!(events.iter().any(|e| e["name"] == "ffn_backward 1" && e["dur"].as_f64().unwrap() > 0.0));
    assert!(ran.err.contains("where a step goes"), "{}", ran.err);
}
