//! Loss, perplexity and bits per byte; logits for comparison with other programs.

use std::fs;

use model::safetensors::TensorFile;
use serde_json::Value;

use crate::lab::{Lab, stories};

fn measured(lab: &Lab, args: &[&str]) -> Value {
    let ran = lab.run(&[&["eval"], args, &["--json"]].concat());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
    serde_json::from_str(&ran.out).unwrap()
}

#[test]
fn a_run_measures_as_it_did_while_training() {
    let lab = Lab::new();
    lab.trained("run", &[]);
    let last = lab.metrics("run").into_iter().rfind(|m| m["kind"] == "eval").unwrap();
    let now = measured(&lab, &["run", "--tokens", "2000"]);
    assert_eq!(now["bpb"], last["val_bpb"]);
    assert_eq!(now["loss"], last["val_loss"]);
    assert_eq!(now["tokens"], last["tokens"]);
    assert_eq!(now["seq"], 32);
    let loss = now["loss"].as_f64().unwrap();
    assert!((now["perplexity"].as_f64().unwrap() - loss.exp()).abs() < 1e-9);
    for threads in ["1", "3"] {
        assert_eq!(measured(&lab, &["run", "--tokens", "2000", "--threads", threads])["bpb"], now["bpb"]);
    }
    // All of the validation data is more than the first 2000 tokens.
    let all = measured(&lab, &["run"]);
    assert!(all["tokens"].as_u64() > now["tokens"].as_u64(), "{all}");
    // Longer contexts, other numbers; a length beyond the model is cut to it.
    assert_ne!(measured(&lab, &["run", "--seq", "16"])["bpb"], all["bpb"]);
    assert_eq!(measured(&lab, &["run", "--seq", "1000"])["seq"], 64);

    let ran = lab.run(&["eval", "run", "--tokens", "2000"]);
    let bpb = now["bpb"].as_f64().unwrap();
    assert!(
        ran.code == 0 && ran.out.contains(&format!("\nbpb         {bpb:.4} bits per byte\n")),
        "{}",
        ran.out
    );
}

#[test]
fn the_virtual_ane_measures_and_writes_as_the_cpu_does() {
    let lab = Lab::new();
    lab.trained("run", &["--steps", "80"]);
    let on = |device: &str, file: &str| {
        measured(&lab, &["run", "--tokens", "2000", "--device", device, "--logits", file])
    };
    let (cpu, ane) = (on("cpu", "cpu.safetensors"), on("ane", "ane.safetensors"));
    assert_eq!(ane["device"].as_str().unwrap().split(',').next(), Some("virtual ANE (M4 Max)"));
    let bpb = |result: &Value| result["bpb"].as_f64().unwrap();
    assert!((bpb(&ane) / bpb(&cpu) - 1.0).abs() < 0.01, "{ane} {cpu}");
    assert_ne!(bpb(&ane), bpb(&cpu), "fp16 programs round otherwise");
    // The first token went through the programs; keys and values of it serve all that follow.
    let logits = |name: &str| {
        let file = TensorFile::open(&lab.path(name)).unwrap();
        file.read(file.find("logits").unwrap()).unwrap()
    };
    let (cpu, ane) = (logits("cpu.safetensors"), logits("ane.safetensors"));
    let worst = cpu.iter().zip(&ane).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    assert!(worst > 0.0 && worst < 0.05, "logits differ by {worst}");
    // A prompt of several tokens, and the most likely text after it.
    let text = |device: &str| {
        let ran = lab
            .run(&["generate", "run", "-p", "One day", "-t", "0", "-n", "12", "--stats", "--device", device]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        (ran.out, ran.err)
    };
    let (cpu, ane) = (text("cpu"), text("ane"));
    assert_eq!(cpu.0, ane.0);
    assert!(ane.1.contains(", on virtual ANE (M4 Max), "), "{}", ane.1);
}

#[test]
fn given_text_is_measured_whole() {
    let lab = Lab::new();
    lab.trained("run", &["--steps", "20"]);
    for bytes in [60, 700, 20_000] {
        let text = &stories(30_000)[..bytes];
        lab.put("text.txt", text);
        let result = measured(&lab, &["run", "--data", "text.txt"]);
        let counted = result["bytes"].as_u64().unwrap() as usize;
        // Everything but the first token and the line end at the end, which is no text.
        assert!((bytes - 12..=bytes).contains(&counted), "{counted} of {bytes} bytes were measured");
    }
    // The same text from two files is the same text.
    let text = stories(4000);
    lab.put("whole.txt", format!("{}<|endoftext|>{}", &text[..2000], &text[2000..]));
    lab.put("parts/a.txt", &text[..2000]);
    lab.put("parts/b.txt", &text[2000..]);
    let (whole, parts) =
        (measured(&lab, &["run", "--data", "whole.txt"]), measured(&lab, &["run", "--data", "parts"]));
    assert_eq!(whole["bpb"], parts["bpb"]);
}

#[test]
fn logits_go_to_a_file() {
    let lab = Lab::new();
    lab.trained("run", &["--steps", "20"]);
    let result = measured(&lab, &["run", "--logits", "logits.safetensors"]);
    let file = TensorFile::open(&lab.path("logits.safetensors")).unwrap();
    let (logits, tokens) = (file.find("logits").unwrap(), file.find("tokens").unwrap());
    assert_eq!((logits.shape.as_slice(), tokens.shape.as_slice()), (&[32, 300][..], &[1, 32][..]));
    let (logits, tokens) = (file.read(logits).unwrap(), file.read(tokens).unwrap());
    assert!(
        logits.iter().all(|x| x.is_finite())
            && tokens.iter().all(|&t| (0.0..300.0).contains(&t) && t.fract() == 0.0)
    );
    // The logits of 31 positions give their loss, which is near that of the whole text.
    let loss = |position: usize| {
        let row = &logits[position * 300..][..300];
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        sum.ln() - f64::from(row[tokens[position + 1] as usize])
    };
    let mean = (0..31).map(loss).sum::<f64>() / 31.0;
    assert!((mean - result["loss"].as_f64().unwrap()).abs() < 0.8, "{mean} {result}");
    // Threads change no bit.
    measured(&lab, &["run", "--logits", "again.safetensors", "--threads", "1"]);
    assert!(
        fs::read(lab.path("again.safetensors")).unwrap() == fs::read(lab.path("logits.safetensors")).unwrap()
    );
    let ran = lab.run(&["eval", "run", "--logits", "no/where.safetensors"]);
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (1, "error: cannot create no/where.safetensors: No such file or directory (os error 2)\n")
    );
}

#[test]
fn a_model_without_a_run_needs_a_text() {
    let lab = Lab::new();
    lab.trained("run", &["--steps", "2"]);
    fs::rename(lab.path("run/step-00000002"), lab.path("model")).unwrap();
    let ran = lab.run(&["eval", "model"]);
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (2, "error: model belongs to no run; name a text with --data\n")
    );
    lab.put("text.txt", stories(3000));
    assert_eq!(measured(&lab, &["model", "--data", "text.txt"])["seq"], 64);
}
