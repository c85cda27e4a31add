//! `rustane runs`, through the binary.

mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use engine::RunConfig;
use serde_json::{Value, json};
use support::rustane;

/// Writes a run as training leaves it: `steps` steps done of `config`, a validation every 10, and a
/// checkpoint at the last of them.
fn write_run(dir: &Path, config: &RunConfig, steps: u64) {
    let checkpoint = dir.join(format!("step-{steps:08}"));
    fs::create_dir_all(checkpoint.join("training")).unwrap();
    let mut metrics = String::new();
    let per_step = config.tokens_per_step();
    for step in 1..=steps {
        let loss = 2.0 + 6.0 / step as f64;
        let record = json!({
            "kind": "step", "step": step, "loss": loss, "ema": loss + 0.5, "grad_norm": 1.5,
            "lr": config.optimizer.lr, "tokens": step * per_step,
            // One slow step, which the median does not see.
            "wall": {"ms": 250.0, "tok_per_s": if step == 2 { 1.0 } else { 1000.0 }},
        });
        writeln!(metrics, "{record}").unwrap();
        if step % 10 == 0 {
            let bpb = 3.0 - step as f64 / 100.0;
            let record = json!({"kind": "eval", "step": step, "val_loss": 2.5, "val_bpb": bpb, "tokens": 99});
            writeln!(metrics, "{record}").unwrap();
            writeln!(metrics, "{}", json!({"kind": "sample", "step": step, "text": "Once\nupon"})).unwrap();
        }
    }
    fs::write(dir.join("metrics.jsonl"), &metrics).unwrap();
    fs::write(dir.join("config.toml"), toml::to_string(config).unwrap()).unwrap();
    let state = json!({
        "step": steps, "updates": steps, "position": 0, "tokens": steps * per_step, "planned": null, "ema": 2.5,
        "best_bpb": 2.0, "skips_in_a_row": 0, "metrics_bytes": metrics.len(), "seconds": 1.0,
        "config": config, "data": {"fingerprint": "abc", "train_tokens": 12345, "val_tokens": 678},
    });
    fs::write(checkpoint.join("training/state.json"), state.to_string()).unwrap();
    fs::write(checkpoint.join("manifest.json"), "{}").unwrap();
}

fn config(steps: u64) -> RunConfig {
    let mut config = RunConfig::default();
    config.train.steps = steps;
    config
}

/// A folder with the finished run `runs/a` of 40 steps and `runs/b`, stopped at 30 of 60.
fn two_runs() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_run(&dir.path().join("runs/a"), &config(40), 40);
    let mut other = config(60);
    other.optimizer.lr = 0.5;
    other.train.batch = 32;
    write_run(&dir.path().join("runs/b"), &other, 30);
    dir
}

fn out(dir: &Path, args: &[&str]) -> String {
    let ran = rustane(dir, args);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
    ran.out
}

fn fails(dir: &Path, args: &[&str], code: i32, message: &str) {
    let ran = rustane(dir, args);
    assert_eq!((ran.code, ran.err.as_str(), ran.out.as_str()), (code, message, ""), "{args:?}");
}

/// A table's rows, each cut into words.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn ls_shows_every_run_and_whether_it_goes_on() {
    let dir = two_runs();
    fs::create_dir(dir.path().join("runs/not-a-run")).unwrap();
    let table = out(dir.path(), &["runs", "ls"]);
    let rows = rows(&table);
    assert_eq!(rows[0], ["run", "model", "steps", "loss", "val_bpb", "tok/s", "state", "age"]);
    assert_eq!(rows[1][..7], ["a", "2.83M", "40/40", "2.6500", "2.6000", "1000", "finished"]);
    assert_eq!(rows[2][..7], ["b", "2.83M", "30/60", "2.7000", "2.7000", "1000", "stopped"]);
    assert_eq!(rows.len(), 3);
    // The lock tells that a process trains here.
    let lock = fs::File::create(dir.path().join("runs/b/run.lock")).unwrap();
    lock.try_lock().unwrap();
    assert!(out(dir.path(), &["runs", "ls", "runs"]).contains(" running "));
    drop(lock);
    assert!(!out(dir.path(), &["runs", "ls"]).contains(" running "));
}

#[test]
fn ls_of_nothing_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(out(dir.path(), &["runs", "ls"]), "no runs in runs; `rustane train` makes one\n");
    fails(dir.path(), &["runs", "ls", "gone"], 2, "error: gone is no folder; wanted one with runs in it\n");
}

#[test]
fn a_broken_run_does_not_hide_the_others() {
    let dir = two_runs();
    fs::write(dir.path().join("runs/a/metrics.jsonl"), "{\"kind\":\"step\"}\n{}\n").unwrap();
    let table = out(dir.path(), &["runs", "ls"]);
    let rows = rows(&table);
    assert_eq!(rows[1], ["a", "-", "-", "-", "-", "-", "broken", "-"]);
    assert_eq!(rows[2][..3], ["b", "2.83M", "30/60"]);
    let reason =
        "a cannot be read: runs/a/metrics.jsonl: byte 0: line 1 is no record of a run: missing field `step`";
    assert_eq!(table.lines().last(), Some(reason));
}

#[test]
fn show_has_everything_about_a_run() {
    let dir = two_runs();
    let text = out(dir.path(), &["runs", "show", "a"]);
    for part in [
        "run        runs/a, finished, last written ",
        "steps      40 of 40\n",
        "tokens     81920 in 10 s, 1000 tok/s (median)\n",
        "loss       2.1500, 2.6500 on average of late\n",
        "val_bpb    2.6000 at best\n",
        "data       the built-in stories: 12345 tokens to train on, 678 to validate on\n",
        "runs/a/step-00000040",
        "sample of step 40\n    Once\n    upon\n",
        "settings\n[model]\n",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    let value: Value = serde_json::from_str(&out(dir.path(), &["runs", "show", "runs/b", "--json"])).unwrap();
    assert_eq!(
        (&value["step"], &value["total"], &value["state"]),
        (&json!(30), &json!(60), &json!("stopped"))
    );
    assert_eq!(value["evals"].as_array().unwrap().len(), 3);
    assert_eq!(value["settings"]["optimizer"]["lr"], 0.5);
    // As it was written, not what single precision makes of it.
    assert_eq!(value["settings"]["optimizer"]["weight_decay"].to_string(), "0.1");
    assert_eq!(value["data"]["train_tokens"], 12345);
    assert!(value["checkpoints"][0]["bytes"].as_u64().unwrap() > 100);
}

#[test]
fn a_run_without_a_checkpoint_is_shown_from_its_settings() {
    let dir = two_runs();
    fs::remove_dir_all(dir.path().join("runs/b/step-00000030")).unwrap();
    let text = out(dir.path(), &["runs", "show", "b"]);
    assert!(text.contains("steps      30 of 60\n"), "{text}");
    assert!(text.contains("data       the built-in stories\n"), "{text}");
}

#[test]
fn compare_shows_what_differs_and_results_at_equal_steps_and_tokens() {
    let dir = two_runs();
    let text = out(dir.path(), &["runs", "compare", "a", "b"]);
    let rows = rows(&text);
    assert_eq!(
        rows[..4],
        [
            ["setting", "a", "b"],
            ["optimizer.lr", "0.001", "0.5"],
            ["train.batch", "16", "32"],
            ["train.steps", "40", "60"],
        ]
    );
    let cells = |name: &str| {
        let line =
            text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}\n{text}"));
        line[name.len()..].split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(cells("loss at the end"), ["2.6500", "2.7000"]);
    assert_eq!(cells("loss at step 30"), ["2.7000", "2.7000"]);
    assert_eq!(cells("val_bpb at step 30"), ["2.7000", "2.7000"]);
    // 40 steps of `a` are as many tokens as 20 of `b`.
    assert_eq!(cells("loss at 81.9k tokens"), ["2.6500", "2.8000"]);
    fails(
        dir.path(),
        &["runs", "compare", "a", "c"],
        2,
        "error: there is no run `c`; `rustane runs ls` lists all\n",
    );
    assert_eq!(rustane(dir.path(), &["runs", "compare", "a"]).code, 2, "one run cannot be compared");
}

#[test]
fn plot_puts_several_runs_into_one_picture() {
    let dir = two_runs();
    assert_eq!(out(dir.path(), &["runs", "plot", "a", "runs/b"]), "wrote loss.svg\n");
    let picture = fs::read_to_string(dir.path().join("loss.svg")).unwrap();
    for part in ["<svg", "#0072B2", "#D55E00", "Training loss", "nats per token", "</svg>"] {
        assert!(picture.contains(part), "no `{part}`");
    }
    for (x, y, label) in [
        ("tokens", "val_bpb", "bits per byte"),
        ("time", "grad_norm", "training time, seconds"),
        ("step", "lr", "Learning rate"),
        ("tokens", "tok_per_s", "tokens, thousands"),
    ] {
        out(dir.path(), &["runs", "plot", "a", "b", "--x", x, "--y", y, "--log", "-o", "p.svg"]);
        assert!(fs::read_to_string(dir.path().join("p.svg")).unwrap().contains(label), "{x} {y}");
    }
    fails(
        dir.path(),
        &["runs", "plot", "a", "-o", "no/such/p.svg"],
        1,
        "error: cannot write no/such/p.svg: No such file or directory (os error 2)\n",
    );
}

#[test]
fn names_that_are_no_run_are_explained() {
    let dir = two_runs();
    fs::rename(dir.path().join("runs/a"), dir.path().join("runs/2026-01-02-tiny")).unwrap();
    fs::create_dir(dir.path().join("folder")).unwrap();
    fails(
        dir.path(),
        &["runs", "show", "2026-01-02-tony"],
        2,
        "error: there is no run `2026-01-02-tony`; did you mean `2026-01-02-tiny`?\n",
    );
    fails(
        dir.path(),
        &["runs", "show", "folder"],
        2,
        "error: folder is no run: it has neither metrics.jsonl nor config.toml; `rustane runs ls` lists runs\n",
    );
}

#[test]
fn missing_and_broken_metrics_have_clear_errors() {
    let dir = two_runs();
    let metrics = dir.path().join("runs/a/metrics.jsonl");
    let whole = fs::read_to_string(&metrics).unwrap();

    // Half a line at the end is what a kill leaves.
    fs::write(&metrics, &whole[..whole.len() - 5]).unwrap();
    assert!(out(dir.path(), &["runs", "show", "a"]).contains("steps      40 of 40\n"));

    // A number that is none, and a kind of a later version, are passed over.
    let odd = "{\"kind\":\"eval\",\"step\":40,\"val_loss\":null,\"val_bpb\":null,\"tokens\":1}\n{\"kind\":\"new\"}\n";
    fs::write(&metrics, format!("{whole}{odd}")).unwrap();
    assert!(out(dir.path(), &["runs", "show", "a"]).contains("val_bpb    2.6000 at best\n"));

    let first = whole.lines().next().unwrap().len() + 1;
    fs::write(&metrics, whole.replacen("\"step\":2,", "\"step\":\"two\",", 1)).unwrap();
    fails(
        dir.path(),
        &["runs", "show", "a"],
        3,
        &format!(
            "error[E3003]: runs/a/metrics.jsonl: byte {first}: line 2 is no record of a run: invalid type: \
             string \"two\", expected u64\n"
        ),
    );
    fs::write(&metrics, b"\xff\xfe\x00\n\n").unwrap();
    let ran = rustane(dir.path(), &["runs", "plot", "a"]);
    assert_eq!(ran.code, 3);
    assert!(
        ran.err.starts_with("error[E3003]: runs/a/metrics.jsonl: byte 0: line 1 is no record"),
        "{}",
        ran.err
    );

    fs::write(&metrics, "").unwrap();
    fails(
        dir.path(),
        &["runs", "plot", "a"],
        2,
        "error: runs/a/metrics.jsonl holds no step yet; train the run first\n",
    );
    fs::remove_file(&metrics).unwrap();
    fails(
        dir.path(),
        &["runs", "compare", "a", "b"],
        2,
        "error: runs/a/metrics.jsonl does not exist; train the run first\n",
    );
    fs::write(dir.path().join("runs/a/step-00000040/training/state.json"), "{}").unwrap();
    let ran = rustane(dir.path(), &["runs", "show", "a"]);
    assert_eq!(ran.code, 3);
    let start = "error[E3082]: runs/a/step-00000040/training/state.json: not the state of a run";
    assert!(ran.err.starts_with(start), "{}", ran.err);
}

#[test]
fn settings_that_no_run_can_have_are_refused() {
    let dir = two_runs();
    let state = dir.path().join("runs/a/step-00000040/training/state.json");
    let text = fs::read_to_string(&state).unwrap();
    fs::write(&state, text.replacen("\"dim\":192", "\"dim\":18446744073709551615", 1)).unwrap();
    fails(
        dir.path(),
        &["runs", "show", "a"],
        3,
        "error[E3082]: runs/a/step-00000040/training/state.json: not the settings of a run: `model.dim` is \
         18446744073709551615, wanted 1 to 16777216\n",
    );
    fs::remove_dir_all(dir.path().join("runs/a/step-00000040")).unwrap();
    fs::write(dir.path().join("runs/a/config.toml"), "[train]\nseq = 0\n").unwrap();
    fails(
        dir.path(),
        &["runs", "show", "a"],
        3,
        "error[E3082]: runs/a/config.toml: not the settings of a run: `train.seq` is 0, wanted 1 to the 256 \
         positions of the model (`model.max_seq`)\n",
    );
}

#[test]
fn reads_what_training_writes() {
    let dir = tempfile::tempdir().unwrap();
    let mut train =
        vec!["train", "--out", "runs/real", "--steps", "4", "--vocab", "300", "--tensorboard", "--plain"];
    let settings = [
        "model.dim=32",
        "model.hidden=48",
        "model.layers=1",
        "model.heads=2",
        "model.kv_heads=1",
        "model.head_dim=16",
        "train.seq=32",
        "train.batch=2",
        "data.story_bytes=60000",
        "train.eval_tokens=128",
        "train.sample_tokens=4",
    ];
    settings.iter().for_each(|setting| train.extend(["--set", setting]));
    let ran = rustane(dir.path(), &train);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let table = out(dir.path(), &["runs", "ls"]);
    assert!(table.contains("4/4") && table.contains("finished"), "{table}");
    let value: Value = serde_json::from_str(&out(dir.path(), &["runs", "show", "real", "--json"])).unwrap();
    assert_eq!((&value["step"], &value["tokens"]), (&json!(4), &json!(256)));
    assert_eq!(value["evals"].as_array().unwrap().len(), 1);
    assert!(value["sample"]["text"].is_string());
    assert_eq!(value["settings"]["model"]["dim"], 32);
    out(dir.path(), &["runs", "plot", "real"]);
    let events = fs::read_dir(dir.path().join("runs/real")).unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("events.out.tfevents.")
    });
    assert_eq!(events.count(), 1);
    assert_eq!(out(dir.path(), &["tokenizer", "info", "real"]).lines().next(), Some("vocabulary  300"));
}
