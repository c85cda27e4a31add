//! Whole runs, from data of every kind to a directory that any tool reads.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::Value;

use crate::lab::{Lab, MICRO, tokenizer};

/// All files below a folder, with their lengths.
fn files(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            found.insert(path.strip_prefix(dir).unwrap().display().to_string());
            if path.is_dir() {
                folders.push(path);
            }
        }
    }
    found
}

fn losses(metrics: &[Value]) -> Vec<f64> {
    metrics.iter().filter(|m| m["kind"] == "step").map(|m| m["loss"].as_f64().unwrap()).collect()
}

#[test]
fn a_run_learns_and_leaves_everything_that_others_need() {
    let lab = Lab::new();
    let said = lab.trained("run", &[]);
    assert!(!said.contains(['\x1b', '\r']), "{said:?}");
    for line in [
        "training a tokenizer of 300 tokens\n",
        "\nstep 1/60: loss ",
        "\nstep 60/60: loss ",
        "\nsaved run/step-00000025 (",
        "\nstep 60: a sample\n    The",
        "\nstep 40: val_loss ",
        "\ndone: 60 steps in ",
    ] {
        assert!(said.contains(line), "no {line:?} in\n{said}");
    }
    let metrics = lab.metrics("run");
    let losses = losses(&metrics);
    assert_eq!(losses.len(), 60);
    assert!((5.2..6.2).contains(&losses[0]), "ln 300 is 5.7, the first loss is {}", losses[0]);
    assert!(losses[59] < losses[0] - 1.0, "{losses:?}");
    let kinds = |kind: &str| metrics.iter().filter(|m| m["kind"] == kind).count();
    assert_eq!((kinds("eval"), kinds("sample")), (3, 2));

    let wanted: BTreeSet<String> = [
        "config.toml",
        "latest",
        "metrics.jsonl",
        "run.lock",
        "tokenizer.json",
        "step-00000025",
        "step-00000050",
        "step-00000060",
    ]
    .map(String::from)
    .into();
    let top: BTreeSet<String> = files(&lab.path("run")).into_iter().filter(|f| !f.contains('/')).collect();
    assert_eq!(top, wanted);
    let wanted: BTreeSet<String> = [
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "training",
        "training/optimizer.safetensors",
        "training/state.json",
    ]
    .map(String::from)
    .into();
    assert_eq!(files(&lab.path("run/step-00000060")), wanted);
    assert_eq!(lab.newest("run").0, "step-00000060");

    // Again: nothing to do.
    let before = fs::read(lab.path("run/metrics.jsonl")).unwrap();
    let said = lab.trained("run", &[]);
    assert_eq!(said, "run is a finished run of 60 steps; train again with --fresh, or name another --out\n");
    assert_eq!(fs::read(lab.path("run/metrics.jsonl")).unwrap(), before);

    // The settings that were saved make the same run.
    let ran = lab.run(&["train", "--config", "run/config.toml", "--out", "again"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    lab.same("run", "again");
}

#[test]
fn nothing_said_means_a_run_of_today_in_runs() {
    let lab = Lab::new();
    let ran = lab.run(&["train", "--config", "micro.toml", "--steps", "2"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let names: Vec<String> = fs::read_dir(lab.path("runs"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        names.len() == 1 && names[0].ends_with("-tiny") && names[0].len() == "2026-01-01-tiny".len(),
        "{names:?}"
    );
}

#[test]
fn fresh_starts_over_and_deletes_only_its_own() {
    let lab = Lab::new();
    lab.trained("run", &["--steps", "10", "--tensorboard"]);
    lab.put("run/notes.txt", "mine");
    lab.trained("run", &["--steps", "12", "--fresh", "--seed", "2"]);
    assert_eq!(losses(&lab.metrics("run")).len(), 12);
    let names = files(&lab.path("run"));
    assert!(names.contains("notes.txt") && !names.contains("step-00000010"), "{names:?}");
    assert!(!names.iter().any(|n| n.starts_with("events.out")), "{names:?}");
    lab.trained("other", &["--steps", "12", "--seed", "2"]);
    lab.same("run", "other");
    lab.trained("third", &["--steps", "12", "--seed", "3"]);
    assert_ne!(losses(&lab.metrics("run")), losses(&lab.metrics("third")), "the seed decides");
}

#[test]
fn other_settings_are_refused_unless_allowed() {
    let lab = Lab::new();
    lab.trained("run", &["--steps", "10"]);
    let before = files(&lab.path("run"));
    let ran = lab.train("run", &["--steps", "20", "--lr", "0.01", "--eval-every", "5"]);
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (
            2,
            "error: run holds a run with other settings:\n  optimizer.lr: 0.005 in the run, \
             0.01 now\n  train.steps: 10 in the run, 20 now\ncontinue it with --allow-drift, start \
             over with --fresh, or name another --out\n"
        )
    );
    assert_eq!(files(&lab.path("run")), before);
    let said = lab.trained("run", &["--steps", "20", "--lr", "0.01", "--allow-drift"]);
    assert!(said.contains("resuming at step 10\n"), "{said}");
    assert_eq!(losses(&lab.metrics("run")).len(), 20);
    // Settings that do not touch the training are no drift.
    let said = lab.trained("run", &["--steps", "20", "--lr", "0.01", "--eval-every", "5", "--keep", "5"]);
    assert!(said.starts_with("run is a finished run of 20 steps"), "{said}");
}

#[test]
fn another_shape_is_no_drift_that_can_be_allowed() {
    let lab = Lab::new();
    lab.trained("run", &["--steps", "5"]);
    for (set, key, saved, now) in [
        ("model.dim=64", "model.dim", "32", "64"),
        ("model.layers=3", "model.layers", "2", "3"),
        ("model.layers=1", "model.layers", "2", "1"),
        ("model.vocab=320", "model.vocab", "300", "320"),
        ("model.tied=false", "model.tied", "true", "false"),
        ("model.qk_norm=true", "model.qk_norm", "false", "true"),
    ] {
        let ran = lab.train("run", &["--steps", "9", "--allow-drift", "--set", set]);
        assert_eq!(ran.code, 2, "{}", ran.err);
        let wanted = format!(
            "error: `{key}` is {now}, the checkpoint of this run has {saved}; keep the shape of the model, or start \
             over with --fresh or another --out"
        );
        assert_eq!(ran.err.lines().last(), Some(wanted.as_str()));
    }
    // Settings without tensors may change, and so may those of the optimizer.
    lab.trained(
        "run",
        &["--steps", "7", "--allow-drift", "--set", "model.rope.theta=500.0", "--optimizer", "muon"],
    );
    // A run cut shorter than it is has nothing to do but its last look.
    let said = lab.trained(
        "run",
        &["--steps", "3", "--allow-drift", "--set", "model.rope.theta=500.0", "--optimizer", "muon"],
    );
    assert!(said.contains("\ndone: 7 steps"), "{said}");
}

#[test]
fn a_second_trainer_is_refused() {
    let lab = Lab::new();
    let first = lab.spawn("run", &["--steps", "1000000", "--plain"]);
    wait("the first step", || lab.said().contains("step 1/"));
    let ran = lab.train("run", &["--steps", "1000000"]);
    assert_eq!(
        (ran.code, ran.err),
        (
            1,
            format!(
                "error[E3084]: run is in use by process {}; wait until it ends, stop it, or choose another directory\n",
                first.0.id()
            )
        )
    );
    // Not even to start over.
    assert_eq!(lab.train("run", &["--fresh"]).code, 1);
    drop(first);
    let metrics = fs::read_to_string(lab.path("run/metrics.jsonl")).unwrap();
    assert!(metrics.lines().count() > 1);
    // A lock dies with its process.
    lab.trained("run", &["--steps", "3", "--fresh"]);
}

/// Waits for something that happens within a minute, else fails.
pub fn wait(what: &str, happened: impl Fn() -> bool) {
    let begin = Instant::now();
    while !happened() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what} did not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn two_runs_may_prepare_the_same_data_at_once() {
    let lab = Lab::new();
    let (tokenizer, text) = tokenizer();
    lab.put("text.txt", text.repeat(10));
    lab.put("tok.json", tokenizer.json());
    let start = |out: &str| {
        let mut command =
            lab.training(out, &["--data", "text.txt", "--tokenizer", "tok.json", "--steps", "3"]);
        command
            .env("RUSTANE_CACHE", lab.path("own-cache"))
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    for round in 0..3 {
        let _ = fs::remove_dir_all(lab.path("own-cache"));
        let children: Vec<_> = (0..4).map(|i| start(&format!("run-{round}-{i}"))).collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    lab.same("run-0-0", "run-2-3");
}

#[test]
fn a_dry_run_leaves_no_trace() {
    let lab = Lab::new();
    let (_, text) = tokenizer();
    lab.put("text.txt", &text);
    for more in [&[][..], &["--data", "text.txt"]] {
        fs::create_dir_all(lab.path("tmp")).unwrap();
        let before = files(lab.root());
        let mut command = lab.training("run", &[more, &["--dry-run", "--tensorboard"]].concat());
        command.env("RUSTANE_CACHE", lab.path("own-cache")).env("TMPDIR", lab.path("tmp"));
        let ran = crate::support::run(&mut command);
        assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
        assert!(ran.err.ends_with("dry run: everything works, nothing was written\n"), "{}", ran.err);
        assert!(ran.err.contains("model: 0.0") && ran.err.contains("step:  loss 5."), "{}", ran.err);
        assert_eq!(files(lab.root()), before);
    }
    let mut command = lab.training("run", &["--dry-run", "--data", "none.txt"]);
    let ran = crate::support::run(command.env("TMPDIR", lab.path("tmp")));
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (3, "error[E3045]: cannot read `none.txt`: No such file or directory (os error 2)\n")
    );
    assert_eq!(fs::read_dir(lab.path("tmp")).unwrap().count(), 0);
}

fn parquet(documents: &[&str]) -> Vec<u8> {
    let schema = parse_message_type("message rows { required binary text (UTF8); }").unwrap();
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, Arc::new(schema), Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let texts: Vec<ByteArray> = documents.iter().map(|d| (*d).into()).collect();
    column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

#[test]
fn data_of_every_kind_is_learnt() {
    let lab = Lab::new();
    let (tokenizer, text) = tokenizer();
    lab.put("tok.json", tokenizer.json());
    let documents: Vec<&str> = text.lines().filter(|l| !l.is_empty()).collect();
    let jsonl: String =
        documents.iter().map(|d| serde_json::json!({ "text": d }).to_string() + "\n").collect();
    lab.put("texts/a.txt", &text[..text.len() / 2]);
    lab.put("texts/deeper/b.txt", &text[text.len() / 2..]);
    lab.put("lines.jsonl", &jsonl);
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), Default::default());
    gz.write_all(jsonl.as_bytes()).unwrap();
    lab.put("packed.jsonl.gz", gz.finish().unwrap());
    lab.put("rows.parquet", parquet(&documents));
    let ids: Vec<u16> = tokenizer.encode(&text).unwrap().iter().map(|t| t.0 as u16).collect();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    lab.put("bare.u16", &bytes);
    let mut llm_c = vec![0u8; 1024];
    for (i, word) in [20240520, 1, ids.len() as i32].into_iter().enumerate() {
        llm_c[4 * i..4 * i + 4].copy_from_slice(&word.to_le_bytes());
    }
    llm_c.extend(&bytes);
    lab.put("llm.bin", llm_c);
    let ran = lab.run(&["data", "prepare", "--data", "texts", "--tokenizer", "tok.json", "--out", "shards"]);
    assert_eq!(ran.code, 0, "{}", ran.err);

    let given = ["--tokenizer", "tok.json"];
    for (i, more) in [
        &["--data", "texts"][..],
        &["--data", "lines.jsonl"],
        &["--data", "packed.jsonl.gz"],
        &["--data", "rows.parquet"],
        &["--data", "bare.u16", "--format", "u16"],
        &["--data", "llm.bin"],
        &["--data", "shards"],
        &["--data", "texts/a.txt", "--val-data", "texts/deeper"],
    ]
    .into_iter()
    .enumerate()
    {
        let run = format!("run-{i}");
        lab.trained(&run, &[more, &given, &["--steps", "25"]].concat());
        let losses = losses(&lab.metrics(&run));
        assert!(losses[24] < losses[0] - 0.4, "{more:?}: {losses:?}");
    }
    // Packing changes nothing.
    lab.same("run-1", "run-2");
    // A folder that was prepared brings its tokenizer.
    lab.trained("prepared", &["--data", "shards", "--steps", "25"]);
    assert_eq!(losses(&lab.metrics("prepared")), losses(&lab.metrics("run-6")));
    // Without one, a tokenizer is trained on the text.
    let said = lab.trained("own", &["--data", "texts", "--steps", "2"]);
    assert!(said.starts_with("training a tokenizer of 300 tokens\n"), "{said}");
}

#[test]
fn a_run_that_never_began_leaves_no_tokenizer_to_the_next() {
    let lab = Lab::new();
    let (_, text) = tokenizer();
    lab.put("data/text.txt", "too short");
    let ran = lab.train("run", &["--data", "data"]);
    assert_eq!(ran.code, 3, "{}", ran.err);
    lab.put("data/text.txt", &text);
    lab.trained("run", &["--data", "data", "--steps", "2"]);
    lab.trained("other", &["--data", "data", "--steps", "2"]);
    lab.same("run", "other");
}

#[test]
fn tensorboard_gets_every_number() {
    let lab = Lab::new();
    lab.trained("run", &["--tensorboard", "--steps", "20"]);
    let name = files(&lab.path("run")).into_iter().find(|n| n.starts_with("events.out.tfevents")).unwrap();
    let mut bytes = &fs::read(lab.path("run").join(name)).unwrap()[..];
    let mut tags = std::collections::BTreeMap::<&str, usize>::new();
    // A record: length, its checksum, data, its checksum.
    while !bytes.is_empty() {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let data = &bytes[12..12 + length];
        for tag in ["train/loss", "train/lr", "val/bpb", "brain.Event:2"] {
            *tags.entry(tag).or_default() +=
                usize::from(data.windows(tag.len()).any(|w| w == tag.as_bytes()));
        }
        bytes = &bytes[16 + length..];
    }
    assert_eq!(
        tags.into_iter().collect::<Vec<_>>(),
        [("brain.Event:2", 1), ("train/loss", 20), ("train/lr", 20), ("val/bpb", 1)]
    );
}

#[test]
fn neither_threads_nor_recomputing_change_a_bit() {
    let lab = Lab::new();
    lab.trained("one", &["--threads", "1", "--accum", "2"]);
    lab.trained("two", &["--threads", "2", "--accum", "2"]);
    lab.same("one", "two");
    // Another setting, so another config.toml; the numbers are the same.
    lab.trained("again", &["--threads", "2", "--accum", "2", "--recompute"]);
    lab.same("one", "again");
    lab.trained("muon", &["--threads", "1", "--optimizer", "muon"]);
    lab.trained("muon-three", &["--threads", "3", "--optimizer", "muon"]);
    lab.same("muon", "muon-three");
}

#[test]
fn a_budget_of_time_is_kept() {
    let lab = Lab::new();
    // Steps as short as these are nothing beside a checkpoint.
    let budget = ["--budget", "3s", "--save-every", "0", "--eval-every", "0", "--sample-every", "0"];
    let begin = Instant::now();
    let said = lab.trained("run", &budget);
    let took = begin.elapsed().as_secs_f64();
    // Other work on the machine may slow the steps down once they are planned.
    assert!((1.5..20.0).contains(&took), "{took} s:\n{said}");
    assert!(said.contains("the budget is enough for "), "{said}");
    let wall: f64 = fs::read_to_string(lab.path("run/metrics.jsonl"))
        .unwrap()
        .lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).unwrap()["wall"]["ms"].as_f64())
        .sum();
    assert!((1000.0..20_000.0).contains(&wall), "{wall} ms of steps");
    let steps = losses(&lab.metrics("run")).len();
    assert!(said.contains(&format!("the budget is enough for {steps} steps\n")), "{steps}:\n{said}");
    let said = lab.trained("run", &budget);
    assert_eq!(
        said,
        format!("run is a finished run of {steps} steps; train again with --fresh, or name another --out\n")
    );
}

#[test]
fn tokens_decide_the_length() {
    let lab = Lab::new();
    lab.trained("run", &["--tokens", "1000"]);
    let metrics = lab.metrics("run");
    let last = metrics.iter().rfind(|m| m["kind"] == "step").unwrap();
    assert_eq!((last["step"].as_u64(), last["tokens"].as_u64()), (Some(8), Some(1024)));
}

#[test]
fn a_vocabulary_smaller_than_the_tokenizer_is_refused() {
    let lab = Lab::new();
    lab.put("tok.json", tokenizer().0.json());
    let ran = lab.train("run", &["--tokenizer", "tok.json", "--vocab", "280"]);
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (2, "error: `model.vocab` is 280, the tokenizer has 300 tokens; wanted at least as many\n")
    );
    // One that is not said is that of the tokenizer.
    lab.put("large.toml", MICRO.replace("vocab = 300\n", ""));
    let ran = lab.run(&[
        "train",
        "--config",
        "large.toml",
        "--tokenizer",
        "tok.json",
        "--out",
        "fits",
        "--steps",
        "2",
    ]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("vocabulary 300\n"), "{}", ran.err);
    let ran = lab.train("small", &["--vocab", "200"]);
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (
            3,
            "training a tokenizer of 200 tokens\nerror[E3020]: a vocabulary of 200 is too small, wanted at least 259: 256 bytes and 3 special tokens\n"
        )
    );
}

#[test]
fn a_loss_that_is_no_number_ends_the_run() {
    let lab = Lab::new();
    let wild = ["--lr", "1e30", "--clip", "0", "--warmup", "0"];
    let ran = lab.train("run", &wild);
    assert_eq!(ran.code, 6, "{}", ran.err);
    let last = ran.err.lines().last().unwrap();
    assert!(last.starts_with("error: the "), "{last}");
    assert!(
        last.contains(" at step ")
            && last.ends_with("; try a lower --lr, or --on-nan skip or rollback to go on"),
        "{last}"
    );
    let ran = lab.train("skip", &[&wild[..], &["--on-nan", "skip", "--steps", "200"]].concat());
    assert_eq!(ran.code, 6, "{}", ran.err);
    assert!(ran.err.contains("batch left out (49 in a row)"), "{}", ran.err);
    assert!(ran.err.ends_with("50 batches in a row were left out; try a lower --lr\n"), "{}", ran.err);
    let ran = lab.train("early", &[&wild[..], &["--on-nan", "rollback"]].concat());
    assert_eq!(ran.code, 6, "{}", ran.err);
    assert!(ran.err.ends_with("there is no checkpoint yet to go back to; try a lower --lr\n"), "{}", ran.err);
    let ran = lab.train("back", &[&wild[..], &["--on-nan", "rollback", "--save-every", "1"]].concat());
    assert_eq!(ran.code, 6, "{}", ran.err);
    assert_eq!(ran.err.matches("; back to the checkpoint of step 1\n").count(), 3, "{}", ran.err);
    assert!(
        ran.err.ends_with("three returns to the last checkpoint did not help; try a lower --lr\n"),
        "{}",
        ran.err
    );
}

#[test]
fn a_model_that_does_not_fit_is_refused_before_it_is_touched() {
    let lab = Lab::new();
    let begin = Instant::now();
    let ran = lab.train("run", &["--set", "model.dim=65536", "--set", "model.layers=500"]);
    assert_eq!(ran.code, 4, "{}", ran.err);
    assert!(ran.err.lines().last().unwrap().starts_with("error: "), "{}", ran.err);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[test]
fn training_goes_on_when_nobody_listens_any_more() {
    let lab = Lab::new();
    let mut command = lab.training("run", &[]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert!(child.wait().unwrap().success());
    assert_eq!(losses(&lab.metrics("run")).len(), 60);
}

#[test]
fn the_virtual_ane_trains_the_same_model() {
    let lab = Lab::new();
    lab.trained("cpu", &["--steps", "20"]);
    let said = lab.trained("ane", &["--steps", "20", "--device", "ane"]);
    assert!(said.contains("per step on virtual ANE (M4 Max)"), "{said}");
    assert!(said.contains("virtual ANE (M4 Max): ") && said.contains(" dispatches of "), "{said}");
    let (cpu, ane) = (losses(&lab.metrics("cpu")), losses(&lab.metrics("ane")));
    assert_eq!((cpu.len(), ane.len()), (20, 20));
    for (step, (cpu, ane)) in cpu.iter().zip(&ane).enumerate() {
        assert!(
            (ane / cpu - 1.0).abs() < 0.01,
            "step {}: {ane} on the virtual ANE, {cpu} on the CPU",
            step + 1
        );
    }
    assert_ne!(cpu, ane, "fp16 programs round otherwise");
}

#[test]
fn a_device_that_this_build_lacks_is_named() {
    let lab = Lab::new();
    for (device, why) in [
        ("cuda", "CUDA is not in this build; use --device cpu"),
        ("metal", "the GPU writes and does not train yet; use --device cpu or ane"),
        ("vulkan", "the GPU writes and does not train yet; use --device cpu or ane"),
    ] {
        let ran = lab.train("run", &["--device", device]);
        assert_eq!((ran.code, ran.err), (5, format!("error: {why}\n")));
    }
    let ran = lab.train("run", &["--device", "ane", "--chip", "M9"]);
    assert!(ran.code == 2 && ran.err.contains("wanted one of M1, "), "{}", ran.err);
    assert!(!lab.path("run").exists());
}

#[test]
fn bf16_and_narrow_moments_learn_the_same_and_are_recorded() {
    let lab = Lab::new();
    lab.trained("exact", &["--steps", "40"]);
    let exact = losses(&lab.metrics("exact"));
    for (name, flags) in [
        ("bf16", ["--precision", "bf16"]),
        ("auto", ["--precision", "auto"]),
        ("half", ["--optimizer-state", "bf16"]),
        ("q8", ["--optimizer-state", "q8"]),
    ] {
        lab.trained(name, &[&["--steps", "40"][..], &flags].concat());
        let got = losses(&lab.metrics(name));
        for (step, (exact, got)) in exact.iter().zip(&got).enumerate() {
            let error = (got / exact - 1.0).abs();
            assert!(error < 0.02, "{name}, step {}: {got} instead of {exact}", step + 1);
        }
        let settings = std::fs::read_to_string(lab.path(name).join("config.toml")).unwrap();
        assert!(!settings.contains("\"auto\""), "a run records what `auto` came to: {settings}");
        assert!(name == "auto" || exact != got, "{name} changes nothing");
    }
    for (name, flags) in [
        ("narrow", &["--precision", "bf16", "--weights", "bf16"][..]),
        // Clips by the norm of the update before.
        ("within", &["--update-in-backward"]),
    ] {
        lab.trained(name, &[&["--steps", "40"][..], flags].concat());
        let last = *losses(&lab.metrics(name)).last().unwrap();
        let error = (last / exact[39] - 1.0).abs();
        assert!(error < 0.05, "{name}: {last} instead of {}", exact[39]);
    }
    let ran = lab.train("exact-products", &["--weights", "bf16"]);
    assert!(ran.code == 2 && ran.err.contains("add --precision bf16"), "{}", ran.err);
    let ran = lab.train("several", &["--accum", "2", "--update-in-backward"]);
    let wanted = "`train.accum` is 2, wanted 1, because of train.update_in_backward";
    assert!(ran.code != 0 && ran.err.contains(wanted), "{}", ran.err);
    let ran = lab.train("ane", &["--device", "ane", "--precision", "bf16"]);
    let wanted = "error: --precision is of the CPU; leave it out, or use --device cpu\n";
    assert!(ran.code != 0 && ran.err.ends_with(wanted), "{}", ran.err);
}
