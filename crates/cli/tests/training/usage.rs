//! Flags, settings and their order, help, presets, completions.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::lab::Lab;
use crate::support::rustane;

/// Every command that answers `--help`.
const COMMANDS: [&str; 47] = [
    "",
    "train",
    "generate",
    "chat",
    "serve",
    "eval",
    "tokenizer",
    "tokenizer train",
    "tokenizer encode",
    "tokenizer decode",
    "tokenizer info",
    "data",
    "data pull",
    "data prepare",
    "data stories",
    "data info",
    "presets",
    "presets ls",
    "presets show",
    "presets cp",
    "runs",
    "bench",
    "bench step",
    "bench sweep",
    "bench forward",
    "bench compare",
    "bench submit",
    "bench chips",
    "plan",
    "exp",
    "exp run",
    "exp log",
    "exp best",
    "exp plot",
    "exp compare",
    "exp guide",
    "sweep",
    "results",
    "results index",
    "results check",
    "mil",
    "mil dump",
    "mil check",
    "mil run",
    "mil cost",
    "doctor",
    "completions",
];

#[test]
fn help_is_there_for_every_command_and_quick() {
    // A build for users must answer within 20 ms; this one carries its debug information along.
    let limit = Duration::from_millis(if cfg!(debug_assertions) { 200 } else { 20 });
    let dir = tempfile::tempdir().unwrap();
    for name in COMMANDS {
        let args: Vec<&str> = name.split_whitespace().chain(["--help"]).collect();
        // On a busy machine most of the time is not ours; a command that is slow is slow each time.
        let took = (0..50).map(|_| {
            let begin = Instant::now();
            let ran = rustane(dir.path(), &args);
            assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
            assert!(ran.out.contains("Usage: rustane"), "{args:?}: {}", ran.out);
            begin.elapsed()
        });
        let quick = took.into_iter().any(|took| took < limit);
        assert!(quick, "`rustane {name} --help` never took less than {limit:?}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn version_is_that_of_the_package() {
    let ran = rustane(tempfile::tempdir().unwrap().path(), &["--version"]);
    assert_eq!((ran.code, ran.out), (0, format!("rustane {}\n", env!("CARGO_PKG_VERSION"))));
}

/// Exit code 2 and a message that begins with `wanted`; nothing is opened or written.
fn refused(args: &[&str], wanted: &str) {
    let lab = Lab::new();
    let ran = lab.run(args);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {}", ran.err);
    let err = lab.tidy(&ran.err);
    assert!(err.starts_with(wanted), "{args:?}: {err}");
    let names: Vec<_> = fs::read_dir(lab.root()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["micro.toml"], "{args:?}");
}

#[test]
fn a_wrong_word_is_answered_with_the_right_one() {
    let tip = |unexpected: &str, tip: &str| {
        format!(
            "error: unexpected argument '{unexpected}' found\n\n  tip: a similar argument exists: '{tip}'"
        )
    };
    refused(&["train", "--stepz", "5"], &tip("--stepz", "--steps"));
    refused(&["generate", "--temprature", "5"], &tip("--temprature", "--temperature"));
    refused(
        &["trian"],
        "error: unrecognized subcommand 'trian'\n\n  tip: a similar subcommand exists: 'train'",
    );
    refused(&[], "Train and run transformer language models");
    refused(
        &["train", "--preset", "tny"],
        "error: there is no preset `tny`; did you mean `tiny`? `rustane presets ls` lists all\n",
    );
    refused(&["presets", "show", "%"], "error: there is no preset `%`; `rustane presets ls` lists all\n");
    refused(&["train", "--set", "model.dimm=64"], "error: unknown key `dimm`; did you mean `dim`?\n");
    refused(&["train", "--set", "lr"], "error: --set lr: wanted KEY=VALUE, such as model.dim=256\n");
    refused(
        &["train", "--optimizer", "sgd"],
        "error: invalid value 'sgd' for '--optimizer <RULE>': unknown variant `sgd`, expected `adamw` or `muon`",
    );
    refused(&["generate", "nothing"], "error: there is no nothing and no runs/nothing\n");
    refused(&["generate"], "error: there is no run in runs/; train one, or name a model\n");
}

#[test]
fn lengths_exclude_each_other() {
    for (a, b) in [
        (["--steps", "5"], ["--budget", "3s"]),
        (["--steps", "5"], ["--tokens", "9"]),
        (["--tokens", "5"], ["--budget", "3s"]),
    ] {
        let both = [a, b].concat();
        let wanted = format!("error: {} and {} both say how long the run is; give one of them\n", a[0], b[0]);
        refused(&[&["train"], both.as_slice()].concat(), &wanted);
    }
    refused(
        &["train", "--set", "train.tokens=5", "--set", "train.budget_s=5"],
        "error: `train.tokens` is set together with `train.budget_s`, wanted one of the two (from --set train.tokens)\n",
    );
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let lr = |got: &str| {
        format!("error: `optimizer.lr` is {got}, wanted a number above 0, such as 1e-3 (from --lr)\n")
    };
    refused(&["train", "--lr", "-1"], &lr("-1"));
    refused(&["train", "--lr", "0"], &lr("0"));
    refused(&["train", "--lr", "NaN"], &lr("NaN"));
    refused(&["train", "--lr", "inf"], &lr("inf"));
    refused(
        &["train", "--lr", "fast"],
        "error: invalid value 'fast' for '--lr <RATE>': invalid float literal",
    );
    refused(&["train", "--batch", "0"], "error: `train.batch` is 0, wanted at least 1 (from --batch)\n");
    refused(&["train", "--steps", "0"], "error: `train.steps` is 0, wanted at least 1 (from --steps)\n");
    refused(&["train", "--steps", "-1"], "error: unexpected argument '-1' found");
    let seq = |got: &str, from: &str| {
        format!(
            "error: `train.seq` is {got}, wanted 1 to the 256 positions of the model (`model.max_seq`) (from {from})\n"
        )
    };
    refused(&["train", "--seq", "0"], &seq("0", "--seq"));
    refused(&["train", "--seq", "257"], &seq("257", "--seq"));
    refused(&["train", "--set", "train.seq=999"], &seq("999", "--set train.seq"));
    for budget in ["0s", "5", "-3s", "5d", "nans", "s", "1e99h"] {
        let wanted = format!(
            "error: invalid value '{budget}' for '--budget <TIME>': `{budget}` is no time; wanted such as 90s, 30m or 8h"
        );
        refused(&["train", &format!("--budget={budget}")], &wanted);
    }
    refused(
        &["train", "--clip", "-1"],
        "error: `optimizer.clip` is -1, wanted a number of at least 0 (from --clip)\n",
    );
    refused(&["train", "--threads", "0"], "error: invalid value '0' for '--threads <N>'");
    refused(
        &["train", "--set", "model.heads=5", "--set", "model.kv_heads=5"],
        "error: config.json: `hidden_size` is 192, wanted a multiple of `num_attention_heads` = 5",
    );
    refused(
        &["generate", "--top-p", "1.5"],
        "error: invalid value '1.5' for '--top-p <P>': wanted a number from 0 to 1",
    );
    refused(
        &["generate", "--temperature", "nan"],
        "error: invalid value 'nan' for '--temperature <X>': wanted a number of at least 0",
    );
    refused(
        &["bench", "step", "--preset", "tiny", "--steps", "0"],
        "error: --steps is 0, wanted at least 1\n",
    );
    refused(&["bench", "step", "--preset", "tiny", "--seq", "0"], "error: `train.seq` is 0");
    refused(&["bench", "step", "--preset", "tiny", "--set", "model.layers=0"], "error: `model.layers` is 0");
}

#[test]
fn a_settings_file_is_refused_at_its_line() {
    let lab = Lab::new();
    let check = |text: &str, wanted: &str| {
        lab.put("bad.toml", text);
        let ran = lab.run(&["train", "--config", "bad.toml"]);
        assert_eq!((ran.code, ran.err.as_str()), (2, format!("error: {wanted}\n").as_str()));
    };
    check("[optimizer]\nlrr = 1.0\n", "bad.toml:2:1: unknown key `lrr`; did you mean `lr`?");
    check("[modle]\ndim = 1\n", "bad.toml:1:2: unknown key `modle`; did you mean `model`?");
    check("[train]\n\nsteps = \"many\"\n", "bad.toml:3:9: invalid type: string \"many\", expected u64");
    check("[train]\nsteps = 1\nsteps = 2\n", "bad.toml:3:1: duplicate key");
    check("[train]\nsteps = -4\n", "bad.toml:2:9: invalid value: integer `-4`, expected u64");
    check(
        "[train]\nsteps = 99999999999999999999\n",
        "bad.toml:2:9: invalid type: integer `99999999999999999999` as i128, expected u64",
    );
    check(
        "[train]\non_nan = \"pray\"\n",
        "bad.toml:2:10: unknown variant `pray`, expected one of `stop`, `skip`, `rollback`",
    );
    check(&format!("# {}\n", "x".repeat(10 << 20)), "bad.toml: 10485763 bytes, wanted at most 1048576");
    check(
        "[optimizer]\nlr = nan\n",
        "`optimizer.lr` is NaN, wanted a number above 0, such as 1e-3 (from bad.toml)",
    );
    let ran = lab.run(&["train", "--config", "none.toml"]);
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (1, "error: cannot read the settings none.toml: No such file or directory (os error 2)\n")
    );
    let deep = format!("a = {}", "[".repeat(100_000));
    lab.put("bad.toml", deep);
    let ran = lab.run(&["train", "--config", "bad.toml"]);
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.len() < 1000 && ran.err.starts_with("error: bad.toml:1:"), "{}", ran.err);
}

#[test]
fn later_layers_win_and_say_so() {
    let lab = Lab::new();
    let print = |env: &[(&str, &str)], more: &[&str]| {
        let mut command = lab.command(&[&["train", "--print-config"], more].concat());
        let ran = crate::support::run(command.envs(env.iter().copied()));
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        ran.out
    };
    let line = |text: &str, key: &str| {
        let prefix = format!("{key} = ");
        let line =
            text.lines().find(|l| l.starts_with(&prefix)).unwrap_or_else(|| panic!("no {key}:\n{text}"));
        let (value, origin) = line[prefix.len()..].split_once('#').unwrap();
        format!("{} {}", value.trim(), origin.trim())
    };
    let text = print(&[], &[]);
    assert_eq!(line(&text, "lr"), "0.005 preset tiny");
    assert_eq!(line(&text, "accum"), "1 default");
    let text = print(&[], &["--config", "micro.toml"]);
    assert_eq!(line(&text, "lr"), "0.005 micro.toml");
    assert_eq!(line(&text, "story_bytes"), "40000 micro.toml");
    let variables = [("RUSTANE_LR", "0.25"), ("RUSTANE_STEPS", "7"), ("RUSTANE_CONFIG", "micro.toml")];
    let text = print(&variables, &[]);
    assert_eq!(
        (line(&text, "lr"), line(&text, "steps")),
        ("0.25 RUSTANE_LR".into(), "7 RUSTANE_STEPS".into())
    );
    assert_eq!(line(&text, "hidden"), "48 micro.toml");
    let text = print(&variables, &["--lr", "0.125", "--data", "a", "--data", "b"]);
    assert_eq!((line(&text, "lr"), line(&text, "steps")), ("0.125 --lr".into(), "7 RUSTANE_STEPS".into()));
    assert_eq!(line(&text, "path"), "[\"a\", \"b\"] --data");
    let text = print(&variables, &["--set", "optimizer.lr=0.5", "--lr", "0.125"]);
    assert_eq!(line(&text, "lr"), "0.5 --set optimizer.lr");
    // A flag for the length beats a variable for another length.
    let text = print(&variables, &["--budget", "2m"]);
    assert_eq!(line(&text, "budget_s"), "120 --budget");

    // What is printed is a settings file that gives the same settings.
    let printed = print(&[], &["--preset", "15m", "--config", "micro.toml", "--lr", "0.125"]);
    lab.put("again.toml", &printed);
    let again = print(&[], &["--config", "again.toml"]);
    let values = |text: &str| -> Vec<String> {
        text.lines().map(|l| l.split('#').next().unwrap().trim().to_owned()).collect()
    };
    assert_eq!(values(&printed), values(&again));

    let ran = crate::support::run(lab.command(&["train"]).env("RUSTANE_LR", "-2"));
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (2, "error: `optimizer.lr` is -2, wanted a number above 0, such as 1e-3 (from RUSTANE_LR)\n")
    );
}

#[test]
fn presets_are_listed_shown_and_copied() {
    let lab = Lab::new();
    let ran = lab.run(&["presets", "ls"]);
    assert_eq!(ran.code, 0);
    for name in ["tiny ", "15m ", "48m ", "110m ", "gpt-karpathy ", "600m-a ", "30b "] {
        assert!(ran.out.lines().any(|l| l.starts_with(name)), "{name}");
    }
    let shown = lab.run(&["presets", "show", "tiny"]).out;
    let ran = lab.run(&["presets", "cp", "tiny", "mine.toml"]);
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (0, "wrote mine.toml; train with `rustane train --config mine.toml`\n")
    );
    assert_eq!(fs::read_to_string(lab.path("mine.toml")).unwrap(), shown);
    let ran = lab.run(&["presets", "cp", "tiny", "mine.toml"]);
    assert_eq!((ran.code, ran.err.as_str()), (2, "error: mine.toml is there already; name another file\n"));
    let ran = lab.run(&["presets", "cp", "tiny", "no/mine.toml"]);
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (1, "error: cannot write no/mine.toml: No such file or directory (os error 2)\n")
    );
}

#[test]
fn completions_know_the_commands() {
    let lab = Lab::new();
    for (shell, sign) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef rustane"),
        ("fish", "complete -c rustane"),
        ("powershell", "Register-ArgumentCompleter"),
        ("elvish", "edit:completion"),
    ] {
        let ran = lab.run(&["completions", shell]);
        assert_eq!((ran.code, ran.err.as_str()), (0, ""));
        assert!(ran.out.contains(sign) && ran.out.contains("sample-prompt"), "{shell}");
    }
    refused(&["completions", "cmd"], "error: invalid value 'cmd' for '<SHELL>'");
}

#[test]
fn a_reader_that_leaves_is_no_fault() {
    let lab = Lab::new();
    for args in [
        &["completions", "zsh"][..],
        &["presets", "ls"],
        &["presets", "show", "tiny"],
        &["train", "--print-config"],
        &["data", "stories", "--bytes", "1M"],
        &["--help"],
    ] {
        let mut child = lab.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(err, "", "{args:?} ended with {}", output.status);
    }
}

#[test]
fn bench_measures_a_step() {
    let lab = Lab::new();
    let args =
        ["bench", "step", "--preset", "tiny", "--seq", "16", "--batch", "1", "--steps", "2", "--warmup", "1"];
    let ran = lab.run(&[&args[..], &["--json"]].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let report = &report["cases"][0]["details"];
    for key in ["tok_per_s", "ms_per_step", "gflop_per_s", "peak_gflop_per_s", "peak_share", "memory_bytes"] {
        assert!(report[key].as_f64().is_some_and(|x| x > 0.0), "{key}: {report}");
    }
    assert_eq!(report["preset"], "tiny");
    let ran = lab.run(&[&args[..], &["--set", "model.layers=1", "--set", "model.vocab=300"]].concat());
    assert!(ran.out.starts_with("tiny+model.layers=1+model.vocab=300: "), "{}{}", ran.err, ran.out);
    assert!(ran.code == 0 && ran.out.contains(" tok/s, ") && ran.out.contains("GFLOP/s peak"), "{}", ran.out);
}
