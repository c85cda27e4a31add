//! `rustane tokenizer`, through the binary.

mod support;

use std::path::Path;

use support::rustane;

/// A folder with a text and a tokenizer trained on it.
fn trained() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("text.txt"), "the cat and the hat and the bat\n".repeat(40)).unwrap();
    let ran =
        rustane(dir.path(), &["tokenizer", "train", "--data", "text.txt", "--vocab", "270", "--out", "tok"]);
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (0, "wrote tok/tokenizer.json: 270 tokens\n", "")
    );
    dir
}

fn out(dir: &Path, args: &[&str]) -> String {
    let ran = rustane(dir, args);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
    ran.out
}

#[test]
fn text_goes_to_tokens_and_back() {
    let dir = trained();
    let text = "the cat said <|endoftext|> \u{e9}\u{1f600}";
    let ids = out(dir.path(), &["tokenizer", "encode", "tok", text]);
    let mut args = vec!["tokenizer", "decode", "tok/tokenizer.json"];
    args.extend(ids.split_whitespace());
    assert_eq!(out(dir.path(), &args), format!("{text}\n"));
    // The name of a special token is text, unless it is asked for.
    assert!(!ids.split_whitespace().any(|id| id == "0"));
    let ids = out(dir.path(), &["tokenizer", "encode", "--specials", "tok", "the<|endoftext|>"]);
    assert_eq!(ids.split_whitespace().last(), Some("0"));
}

#[test]
fn pieces_can_be_shown() {
    let dir = trained();
    let shown =
        out(dir.path(), &["tokenizer", "encode", "--show", "--specials", "tok", "the\u{e9}<|endoftext|>"]);
    let pieces: Vec<&str> = shown.lines().map(|line| line[9..].trim()).collect();
    assert_eq!(
        pieces,
        ["\"the\"", "\u{c3} (part of a character)", "\u{a9} (part of a character)", "<|endoftext|>"]
    );
}

#[test]
fn info_says_what_it_is() {
    let dir = trained();
    let info = out(dir.path(), &["tokenizer", "info", "tok", "--data", "text.txt"]);
    let lines: Vec<&str> = info.lines().collect();
    assert_eq!(lines[0], "vocabulary  270");
    assert_eq!(lines[1], "special     <|endoftext|> = 0, <|im_end|> = 2, <|im_start|> = 1");
    assert_eq!(lines[2], "begin, end  <|endoftext|>, <|endoftext|>");
    assert_eq!(lines[3], "split       gpt-2");
    assert_eq!(lines[4].len(), "hash        ".len() + 64);
    assert!(lines[5].ends_with(" bytes per token, on 1.3 kB of text.txt"), "{}", lines[5]);
    let bytes_per_token: f64 = lines[5].split_whitespace().nth(1).unwrap().parse().unwrap();
    let ids =
        out(dir.path(), &["tokenizer", "encode", "tok", &"the cat and the hat and the bat\n".repeat(40)]);
    assert!((bytes_per_token - 1280.0 / ids.split_whitespace().count() as f64).abs() < 1e-3);
}

#[test]
fn the_same_text_gives_the_same_file() {
    let dir = trained();
    let args = ["tokenizer", "train", "--data", "text.txt", "--vocab", "270", "--out", "again.json"];
    assert_eq!(out(dir.path(), &args), "wrote again.json: 270 tokens\n");
    let file = |name| std::fs::read(dir.path().join(name)).unwrap();
    assert_eq!(file("again.json"), file("tok/tokenizer.json"));
}

#[test]
fn wrong_use_and_wrong_data_have_their_codes() {
    let dir = trained();
    let fails = |args: &[&str], code: i32, message: &str| {
        let ran = rustane(dir.path(), args);
        assert_eq!((ran.code, ran.err.as_str(), ran.out.as_str()), (code, message, ""), "{args:?}");
    };
    fails(
        &["tokenizer", "decode", "tok", "5", "270"],
        2,
        "error: token 270 is not below the vocabulary of 270\n",
    );
    fails(&["tokenizer", "encode", "nowhere", "x"], 2, "error: there is no nowhere and no runs/nowhere\n");
    fails(
        &["tokenizer", "train", "--data", "text.txt", "--vocab", "200", "--out", "x"],
        3,
        "error[E3020]: a vocabulary of 200 is too small, wanted at least 259: 256 bytes and 3 special tokens\n",
    );
    fails(
        &["tokenizer", "train", "--data", "gone", "--vocab", "300", "--out", "x"],
        3,
        "error[E3045]: cannot read `gone`: No such file or directory (os error 2)\n",
    );
    std::fs::write(dir.path().join("bad.json"), "{\"model\": 3}").unwrap();
    fails(
        &["tokenizer", "info", "bad.json"],
        3,
        "error[E3020]: bad.json: not a tokenizer.json: the field `model` is not an object\n",
    );
    let ran = rustane(
        dir.path(),
        &["tokenizer", "train", "--data", "t", "--vocab", "9", "--split", "x", "--out", "o"],
    );
    assert_eq!(ran.code, 2);
    assert!(
        ran.err.contains("unknown variant `x`, expected one of `gpt2`, `llama-bpe`, `qwen2`"),
        "{}",
        ran.err
    );
    assert!(!dir.path().join("x").exists());
}
