//! Text from a run, and from a directory that another program made.

use std::borrow::Cow;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use model::hf::{self, Export};
use model::{ModelConfig, Weights, from_fn};

use crate::lab::{Lab, tokenizer};

/// A lab with a run `run`.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.trained("run", &["--steps", "80"]);
    lab
}

fn written(lab: &Lab, args: &[&str]) -> String {
    let ran = lab.run(&[&["generate"], args].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
    ran.out
}

#[test]
fn the_most_likely_text_is_always_the_same() {
    let lab = lab();
    let greedy = ["run", "--prompt", "The", "-t", "0", "-n", "40"];
    let text = written(&lab, &greedy);
    assert!(text.starts_with("The") && text.ends_with('\n') && text.len() > 20, "{text:?}");
    for threads in ["1", "2", "5"] {
        assert_eq!(written(&lab, &[&greedy[..], &["--threads", threads]].concat()), text);
    }
    // A seed has nothing to decide, and neither have the limits of the choice.
    for more in [["--seed", "7"], ["--top-k", "3"], ["--top-p", "0.1"], ["--min-p", "0.9"]] {
        assert_eq!(written(&lab, &[&greedy[..], &more].concat()), text);
    }
    // The checkpoint, its full name and the newest run are the same model.
    assert_eq!(written(&lab, &[&["run/step-00000080"], &greedy[1..]].concat()), text);
    fs::create_dir(lab.path("runs")).unwrap();
    fs::rename(lab.path("run"), lab.path("runs/mine")).unwrap();
    assert_eq!(written(&lab, &greedy[1..]), text);
    assert_eq!(written(&lab, &[&["mine"], &greedy[1..]].concat()), text);
}

#[test]
fn weights_in_few_bits_write_on_the_processor() {
    let lab = lab();
    let greedy = ["run", "--device", "cpu", "--prompt", "The", "-t", "0", "-n", "40"];
    let plain = written(&lab, &greedy);
    assert_eq!(written(&lab, &[&greedy[..], &["--format", "f32"]].concat()), plain);
    for format in ["bf16", "q8", "q4_0"] {
        let of = |threads: &str| {
            let more = ["--format", format, "--threads", threads, "--stats"];
            let ran = lab.run(&[&["generate"], &greedy[..], &more].concat());
            let name = if format == "q8" { "q8_0" } else { format };
            assert!(ran.code == 0 && ran.err.contains(&format!("threads, {name};")), "{}", ran.err);
            ran.out
        };
        let text = of("2");
        assert!(text.starts_with("The") && text.len() > 20, "{format}: {text:?}");
        assert_eq!(of("3"), text, "{format}");
    }
    for (format, wanted) in [
        ("f16", "the CPU does not hold weights as f16; wanted f32, bf16, q8_0 or q4_0"),
        ("q5", "wanted one of f32, f16, bf16, q8_0, q4_0"),
    ] {
        let ran = lab.run(&[&["generate"], &greedy[..], &["--format", format]].concat());
        assert_eq!(ran.code, 2, "{format}");
        assert!(ran.err.contains(wanted), "{format}: {}", ran.err);
    }
}

#[test]
fn decoding_is_measured_with_its_kernels() {
    let lab = Lab::new();
    let shape =
        ["bench", "decode", "--device", "cpu", "--preset", "tiny", "--format", "q4", "--threads", "2"];
    let short = ["--prompt", "8", "--tokens", "4", "--repetitions", "1", "--context", "32"];
    let ran = lab.run(&[&shape[..], &short, &["--json"]].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    let report: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let device = &report["details"]["device"];
    assert_eq!(device["format"], "q4_0");
    let number = |value: &serde_json::Value| value.as_f64().unwrap_or_default();
    let token = &report["cases"][0];
    assert!(number(&token["details"]["tok_per_s"]) > 0.0 && number(&device["ceiling_gb_per_s"]) > 0.0);
    let kernels = device["cpu_kernels"].as_array().unwrap();
    let names: Vec<_> = kernels.iter().map(|k| k["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["qkv", "o", "gate, up", "down", "head", "attention"]);
    assert!(kernels.iter().all(|k| number(&k["us"]) > 0.0 && number(&k["mb"]) > 0.0));
    let ran = lab.run(&[&shape[..], &short].concat());
    assert!(ran.code == 0 && ran.out.contains("limited by"), "{}{}", ran.out, ran.err);
}

#[test]
fn the_seed_decides_what_is_drawn() {
    let lab = lab();
    let draw = |seed: &str, threads: &str| {
        written(
            &lab,
            &[
                "run",
                "-p",
                "One day",
                "-t",
                "1",
                "--top-p",
                "1",
                "-n",
                "30",
                "--seed",
                seed,
                "--threads",
                threads,
            ],
        )
    };
    let texts: Vec<String> = ["0", "1", "2"].map(|seed| draw(seed, "2")).into();
    assert_eq!(draw("1", "1"), texts[1]);
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
    // Among one token there is nothing to draw.
    let one =
        |seed: &str| written(&lab, &["run", "-p", "One day", "--top-k", "1", "-n", "30", "--seed", seed]);
    assert_eq!(one("1"), one("2"));
    let greedy = written(&lab, &["run", "-p", "One day", "-t", "0", "-n", "30"]);
    assert_eq!(one("1"), greedy);
    let penalised =
        written(&lab, &["run", "-p", "One day", "-t", "0", "-n", "30", "--repetition-penalty", "3"]);
    assert_ne!(penalised, greedy);
}

#[test]
fn a_stop_text_ends_it_and_is_not_shown() {
    let lab = lab();
    let greedy = ["run", "-p", "The", "-t", "0", "-n", "40"];
    let text = written(&lab, &greedy);
    let text = text.trim_end_matches('\n');
    let mut tried = 0;
    for at in (4..text.len() - 6)
        .step_by(5)
        .filter(|&at| text.is_char_boundary(at) && text.is_char_boundary(at + 5))
    {
        let stop = &text[at..at + 5];
        let first = 3 + text[3..].find(stop).unwrap();
        let wanted = format!("{}\n", &text[..first]);
        assert_eq!(
            written(&lab, &[&greedy[..], &["--stop", "\u{1f600}", "--stop", stop]].concat()),
            wanted,
            "{stop:?}"
        );
        tried += 1;
    }
    assert!(tried > 3, "{text:?} is too short to stop in");
}

#[test]
fn the_length_is_that_asked_for_or_that_of_the_model() {
    let lab = lab();
    let stats = |args: &[&str]| {
        let ran = lab.run(&[&["generate", "run", "--ignore-eos", "--stats"], args].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.err
    };
    let said = stats(&["-p", "The", "-n", "7"]);
    assert!(
        said.starts_with("prompt ")
            && said.contains(" text 7 tokens at ")
            && said.ends_with("; ended by its length\n"),
        "{said}"
    );
    assert_eq!(written(&lab, &["run", "-p", "The", "-n", "0"]), "The\n");
    // 64 positions: the last token that is drawn needs none.
    let said = stats(&["-p", "", "-n", "100000"]);
    assert!(said.starts_with("prompt 1 tokens at ") && said.contains(" text 64 tokens at "), "{said}");
    let long = "The cat sat. ".repeat(60);
    let ran = lab.run(&["generate", "run", "-p", &long]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{}", ran.err);
    assert!(
        ran.err.starts_with("error: the prompt has ")
            && ran.err.ends_with(" tokens, the model reads at most 64; shorten it\n"),
        "{}",
        ran.err
    );
}

#[test]
fn special_tokens_in_a_prompt_are_what_they_say() {
    let lab = lab();
    let prompt_tokens = |prompt: &str| -> usize {
        let ran = lab.run(&["generate", "run", "-n", "1", "--stats", "-p", prompt]);
        let count = ran.err.strip_prefix("prompt ").and_then(|e| e.split(' ').next()).map(str::parse);
        count.unwrap_or_else(|| panic!("{}", ran.err)).unwrap()
    };
    assert_eq!(prompt_tokens("<|endoftext|>") - prompt_tokens(""), 1);
    assert_eq!(prompt_tokens("<|im_start|>The<|im_end|>") - prompt_tokens("The"), 2);
    assert!(prompt_tokens("<|endoftex|>") > 3);
}

#[test]
fn a_reader_may_leave() {
    let lab = lab();
    let mut child = lab
        .command(&["generate", "run", "-p", "The", "--ignore-eos", "-n", "60"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 1];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice(), first[0]), (Some(0), &b""[..], b'T'));
}

/// A model with random weights, as another program would leave it.
fn directory(lab: &Lab, name: &str, vocab: usize) -> ModelConfig {
    let config = ModelConfig {
        dim: 32,
        hidden: 48,
        layers: 1,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        vocab,
        max_seq: 40,
        tied: false,
        qkv_bias: true,
        ..ModelConfig::default()
    };
    let weights = Weights::init(&config, 5);
    let dir = lab.path(name);
    hf::save(&dir, &config, &Export::default(), &mut from_fn(|id| Ok(Cow::Borrowed(weights.get(id)))))
        .unwrap();
    config
}

#[test]
fn a_directory_from_elsewhere_is_read() {
    let lab = Lab::new();
    directory(&lab, "there", 300);
    let ran = lab.run(&["generate", "there", "-p", "The", "-t", "0", "-n", "20"]);
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (
            3,
            "error[E3020]: cannot read the tokenizer `there/tokenizer.json`: No such file or directory (os error 2)\n"
        )
    );
    lab.put("there/tokenizer.json", tokenizer().0.json());
    let text = written(&lab, &["there", "-p", "The", "-t", "0", "-n", "20"]);
    assert!(text.starts_with("The"), "{text}");
    assert_eq!(written(&lab, &["there", "-p", "The", "-t", "0", "-n", "20", "--threads", "1"]), text);
}

#[test]
fn a_tokenizer_that_knows_more_tokens_than_the_model_is_refused() {
    let lab = Lab::new();
    directory(&lab, "there", 280);
    lab.put("there/tokenizer.json", tokenizer().0.json());
    let wanted = "error[E3020]: there/tokenizer.json: the tokenizer has 300 tokens, the model of there 280; wanted at most as many\n";
    let ran = lab.run(&["generate", "there", "-p", "The"]);
    assert_eq!((ran.code, ran.err.as_str()), (3, wanted));
    lab.put("text.txt", "The cat sat on the mat. ".repeat(20));
    let ran = lab.run(&["eval", "there", "--data", "text.txt"]);
    assert_eq!((ran.code, ran.err.as_str()), (3, wanted));
}

#[test]
fn every_token_that_ends_a_text_ends_it() {
    let lab = Lab::new();
    directory(&lab, "there", 300);
    lab.put("there/tokenizer.json", tokenizer().0.json());
    let stats = |more: &[&str]| {
        let ran =
            lab.run(&[&["generate", "there", "-p", "The", "-t", "0", "-n", "9", "--stats"], more].concat());
        assert_eq!(ran.code, 0, "{}", ran.err);
        ran.err
    };
    assert!(stats(&["--ignore-eos"]).contains(" text 9 tokens at "));
    let all: Vec<u32> = (0..300).collect();
    lab.put("there/generation_config.json", serde_json::json!({ "eos_token_id": all }).to_string());
    let said = stats(&[]);
    assert!(said.contains(" text 1 tokens at ") && said.ends_with("; ended by the model\n"), "{said}");
    assert!(stats(&["--ignore-eos"]).contains(" text 9 tokens at "));
}

/// Sixty-four letters as a vocabulary, for models whose own tokenizer is not at hand.
fn letters() -> String {
    let vocab: serde_json::Map<String, serde_json::Value> =
        ('\u{21}'..).take(64).enumerate().map(|(i, c)| (c.to_string(), i.into())).collect();
    serde_json::json!({
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    })
    .to_string()
}

#[test]
fn models_that_transformers_made_write() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/golden/models");
    let mut models = 0;
    for entry in fs::read_dir(golden).unwrap() {
        let entry = entry.unwrap();
        let lab = Lab::new();
        fs::create_dir(lab.path("model")).unwrap();
        for file in fs::read_dir(entry.path()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), lab.path("model").join(file.file_name())).unwrap();
        }
        lab.put("model/tokenizer.json", letters());
        let args = ["model", "-p", "ABC", "-t", "0", "-n", "12", "--threads"];
        let text = written(&lab, &[&args[..], &["1"]].concat());
        assert!(text.starts_with("ABC") && text.chars().count() == 16, "{:?}: {text:?}", entry.file_name());
        assert_eq!(written(&lab, &[&args[..], &["2"]].concat()), text);
        models += 1;
    }
    assert!(models >= 8, "{models}");
}
