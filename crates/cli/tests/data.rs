//! `rustane data`, through the binary.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Ran, command, run, rustane};

fn out(dir: &Path, args: &[&str]) -> String {
    let ran = rustane(dir, args);
    assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
    ran.out
}

fn fails(dir: &Path, args: &[&str], code: i32, message: &str) {
    let ran = rustane(dir, args);
    assert_eq!((ran.code, ran.err.as_str(), ran.out.as_str()), (code, message, ""), "{args:?}");
}

#[test]
fn stories_are_the_same_every_time_and_as_long_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    let stories = out(dir.path(), &["data", "stories", "--bytes", "20k"]);
    assert!((20_000..23_000).contains(&stories.len()), "{}", stories.len());
    assert_eq!(out(dir.path(), &["data", "stories", "--bytes", "20k"]), stories);
    assert_ne!(out(dir.path(), &["data", "stories", "--bytes", "20k", "--seed", "2"]), stories);
    let wrote = out(dir.path(), &["data", "stories", "--bytes", "20000", "--out", "s.txt"]);
    let count = stories.matches("\n<|endoftext|>\n").count();
    assert_eq!(wrote, format!("wrote s.txt: {count} stories\n"));
    assert_eq!(fs::read_to_string(dir.path().join("s.txt")).unwrap(), stories);
    fails(
        dir.path(),
        &["data", "stories", "--bytes", "9", "--out", "s.txt"],
        2,
        "error: s.txt is there already; name another file\n",
    );
    // The file is one document per story again.
    let info: Value = serde_json::from_str(&out(dir.path(), &["data", "info", "s.txt", "--json"])).unwrap();
    assert_eq!(info["files"][0]["documents"], count);
}

#[test]
fn prepared_text_is_described_and_verified() {
    let dir = tempfile::tempdir().unwrap();
    out(dir.path(), &["data", "stories", "--bytes", "60k", "--out", "s.txt"]);
    let prepare = ["data", "prepare", "--data", "s.txt", "--vocab", "400", "--out", "tokens"];
    let text = out(dir.path(), &prepare);
    assert!(text.starts_with("tokens is ready\ntrain  "), "{text}");
    let last = "train with: rustane train --data tokens\n";
    assert!(text.ends_with(last), "{text}");
    assert!(out(dir.path(), &prepare).starts_with("tokens is up to date\n"));

    let info: Value =
        serde_json::from_str(&out(dir.path(), &["data", "info", "tokens", "--verify", "--json"])).unwrap();
    let folder = &info["folders"][0];
    assert_eq!(folder["verified"], true);
    let bytes = |part: &str| folder["info"][part]["text_bytes"].as_u64().unwrap();
    assert!((58_000..63_000).contains(&(bytes("train") + bytes("val"))));
    let described = out(dir.path(), &["data", "info", "tokens"]);
    assert!(described.ends_with("checked    its header; --verify checks all of it\n"), "{described}");

    // The tokens alone, and with another tokenizer beside them.
    let file = folder["info"]["train"]["files"][0].as_str().unwrap().to_owned();
    let path = dir.path().join("tokens").join(&file);
    let described = out(dir.path(), &["data", "info", &format!("tokens/{file}"), "--verify"]);
    for part in ["format     tokens\n", "documents  ", "tokens     ", "checked    all of it is sound\n"] {
        assert!(described.contains(part), "no `{part}` in {described}");
    }
    let mut damaged = fs::read(&path).unwrap();
    damaged[300] ^= 1;
    fs::write(&path, damaged).unwrap();
    assert!(out(dir.path(), &["data", "info", "tokens"]).starts_with("tokens\n"), "a header is read alone");
    let ran = rustane(dir.path(), &["data", "info", "tokens", "--verify"]);
    assert_eq!(ran.code, 3);
    assert!(ran.err.starts_with(&format!("error[E3040]: `tokens/{file}`: the checksum of ")), "{}", ran.err);
    let other = ["tokenizer", "train", "--data", "s.txt", "--vocab", "300", "--out", "tokens"];
    out(dir.path(), &other);
    let ran = rustane(dir.path(), &["data", "info", "tokens"]);
    assert_eq!(ran.code, 3);
    assert!(
        ran.err.starts_with(&format!("error[E3041]: `tokens/{file}` was made with tokenizer ")),
        "{}",
        ran.err
    );
}

#[test]
fn a_given_tokenizer_is_used_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    out(dir.path(), &["data", "stories", "--bytes", "30k", "--out", "s.txt"]);
    out(dir.path(), &["tokenizer", "train", "--data", "s.txt", "--vocab", "300", "--out", "t.json"]);
    out(
        dir.path(),
        &["data", "prepare", "--data", "s.txt", "--val", "s.txt", "--tokenizer", "t.json", "--out", "d"],
    );
    let file = |name| fs::read(dir.path().join(name)).unwrap();
    assert_eq!(file("d/tokenizer.json"), file("t.json"));
    let info: Value = serde_json::from_str(&out(dir.path(), &["data", "info", "d", "--json"])).unwrap();
    let info = &info["folders"][0]["info"];
    assert_eq!(info["train"]["tokens"], info["val"]["tokens"]);
    // The folder is all that training needs.
    let mut train = vec!["train", "--data", "d", "--dry-run"];
    let settings = ["model.dim=48", "model.hidden=48", "model.layers=1", "train.seq=32", "train.batch=2"];
    settings.iter().for_each(|setting| train.extend(["--set", setting]));
    let ran = rustane(dir.path(), &train);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.err.contains("vocabulary 300") && ran.err.contains("nothing was written"), "{}", ran.err);
}

#[test]
fn prepare_refuses_what_it_cannot_do() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bad.jsonl"), "{\"text\": \"a\"}\n{\"words\": 1}\n").unwrap();
    let ran =
        rustane(dir.path(), &["data", "prepare", "--data", "bad.jsonl", "--vocab", "300", "--out", "d"]);
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("error[E3051]: `bad.jsonl`:2: "), "{}", ran.err);
    let ran = rustane(dir.path(), &["data", "prepare", "--data", "bad.jsonl", "--out", "d"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("--tokenizer <FILE>"), "{}", ran.err);
    let both = ["data", "prepare", "--data", "x", "--out", "d", "--vocab", "300", "--tokenizer", "t"];
    assert_eq!(rustane(dir.path(), &both).code, 2);
    fs::write(dir.path().join("t.bin"), [1, 0, 2, 0]).unwrap();
    fails(
        dir.path(),
        &["data", "prepare", "--data", "t.bin", "--vocab", "300", "--out", "d"],
        2,
        "error: t.bin holds tokens already; train on it with `rustane train --data t.bin`\n",
    );
    assert!(!dir.path().join("d").exists());
    assert!(
        rustane(dir.path(), &["data", "stories", "--bytes", "1.5M"])
            .err
            .contains("such as 4096, 500k, 12M or 1G")
    );
}

#[test]
fn info_counts_what_files_hold() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/a.txt"), "one<|endoftext|>two").unwrap();
    fs::write(dir.path().join("d/b.jsonl"), "{\"text\": \"a\"}\nnonsense\n{\"text\": \"bcd\"}\n").unwrap();
    let text = out(dir.path(), &["data", "info", "d", "--skip-bad", "1"]);
    let hash = blake3::hash(b"one<|endoftext|>two").to_hex();
    assert!(
        text.starts_with(&format!(
            "d/a.txt\n  format     text\n  size       19 bytes\n  documents  2\n  text       6 bytes\n  \
             blake3     {hash}\n  checked    all of it is sound\nd/b.jsonl\n  format     jsonl\n"
        )),
        "{text}"
    );
    assert!(text.contains("  faults     1 lines passed over, 0 places replaced\n"), "{text}");
    assert!(text.ends_with("2 files, 58 bytes: 4 documents, 10 bytes of text, 0 tokens\n"), "{text}");
    let ran = rustane(dir.path(), &["data", "info", "d"]);
    assert_eq!(ran.code, 3);
    assert!(ran.err.starts_with("error[E3051]: `d/b.jsonl`:2: "), "{}", ran.err);
    fs::write(dir.path().join("t.bin"), [1, 0, 2, 0, 3]).unwrap();
    fails(
        dir.path(),
        &["data", "info", "t.bin", "--format", "u16"],
        3,
        "error[E3040]: `t.bin`: 5 bytes, wanted an even number of them for --format u16\n",
    );
    fs::write(dir.path().join("t.bin"), [1, 0, 2, 0]).unwrap();
    assert!(out(dir.path(), &["data", "info", "t.bin", "--format", "u16"]).contains("  tokens     2\n"));
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TEXT: &[u8] = b"a story from far away\n";
/// SHA-256 of [`TEXT`].
const SHA: &str = "62e5bf34f549289e0d173dfb54fe70b3dcf14aeaf41f9baf4460536a2359ea22";

/// A hub with the one file `a.txt` in `org/name`, which sends `body` for it, a byte after each `pause`.
/// Serves until the process ends, one request per connection.
fn hub(body: &'static [u8], pause: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut request = String::new();
            reader.read_line(&mut request).unwrap();
            let mut line = String::new();
            while reader.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            let (status, content): (&str, Vec<u8>) =
                if request.contains("/api/datasets/org/name/revision/main") {
                    let file = json!({
                        "rfilename": "a.txt", "size": TEXT.len(), "blobId": "f".repeat(40),
                        "lfs": {"sha256": SHA, "size": TEXT.len(), "pointerSize": 134},
                    });
                    let list = json!({"id": "org/name", "sha": COMMIT, "siblings": [file]});
                    ("200 OK", list.to_string().into_bytes())
                } else if request.contains(&format!("/resolve/{COMMIT}/a.txt")) {
                    ("200 OK", body.to_vec())
                } else {
                    ("404 Not Found", b"no".to_vec())
                };
            let head = format!(
                "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\netag: \"{SHA}\"\r\n\
                 content-type: {}\r\nx-repo-commit: {COMMIT}\r\nx-linked-etag: \"{SHA}\"\r\nx-linked-size: {}\r\n\r\n",
                content.len(),
                if request.contains("/api/") { "application/json" } else { "application/octet-stream" },
                TEXT.len()
            );
            let _ = stream.write_all(head.as_bytes());
            if !request.starts_with("HEAD") {
                let pieces = if pause.is_zero() || content != body { content.len() } else { 1 };
                for piece in content.chunks(pieces.max(1)) {
                    std::thread::sleep(if pieces == 1 { pause } else { Duration::ZERO });
                    if stream.write_all(piece).is_err() {
                        break;
                    }
                }
            }
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = std::io::copy(&mut reader.take(1 << 20), &mut std::io::sink());
        }
    });
    format!("http://{address}")
}

fn pull(dir: &Path, endpoint: &str, args: &[&str]) -> Ran {
    run(&mut pull_command(dir, endpoint, args))
}

fn pull_command(dir: &Path, endpoint: &str, args: &[&str]) -> Command {
    let mut command = command(dir, &["data", "pull"]);
    command
        .args(args)
        .env("HF_ENDPOINT", endpoint)
        .env_remove("HF_HUB_OFFLINE")
        .env("HF_HOME", dir.join("hf"));
    command
}

#[test]
fn pull_brings_a_data_set_and_says_how_to_train_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = hub(TEXT, Duration::ZERO);
    let ran = pull(dir.path(), &endpoint, &["org/name"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(ran.err, "1 files, 0 of them here already, 22 bytes to come\na.txt: 22 bytes, checked\n");
    let folder = dir.path().join("hf/hub/datasets--org--name/snapshots").join(COMMIT);
    let shown = folder.display();
    assert_eq!(
        ran.out,
        format!("{shown}\ncommit {COMMIT}, 1 files\ntrain with: rustane train --data {shown}\n")
    );
    assert_eq!(fs::read(folder.join("a.txt")).unwrap(), TEXT);
    let ran = pull(dir.path(), &endpoint, &["org/name", "--revision", "main"]);
    assert_eq!(ran.err, "1 files, 1 of them here already, 0 bytes to come\n");
    // What was pulled is data.
    let info = out(dir.path(), &["data", "info", &shown.to_string()]);
    assert!(info.contains("  documents  1\n  text       22 bytes\n"), "{info}");
}

#[test]
fn a_pull_that_was_interrupted_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let slow = hub(TEXT, Duration::from_millis(300));
    let mut child = pull_command(dir.path(), &slow, &["org/name"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let blobs = dir.path().join("hf/hub/datasets--org--name/blobs");
    let arrived = || {
        let files = fs::read_dir(&blobs).into_iter().flatten().flatten();
        files.map(|file| file.metadata().map_or(0, |m| m.len())).sum::<u64>()
    };
    let begin = Instant::now();
    while arrived() == 0 {
        assert!(begin.elapsed() < Duration::from_secs(20), "nothing arrives");
        std::thread::sleep(Duration::from_millis(20));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT)
        .unwrap();
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{err}");
    assert!(err.ends_with("stopped; run the same command again to go on from there\n"), "{err}");
    let kept = arrived();
    assert!((1..TEXT.len() as u64).contains(&kept), "{kept} bytes were kept");
    let ran = pull(dir.path(), &hub(TEXT, Duration::ZERO), &["org/name"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(arrived(), TEXT.len() as u64, "the part is gone, the file is whole");
}

#[test]
fn pull_explains_what_went_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = hub(b"a story from another\n\n", Duration::ZERO);
    let ran = pull(dir.path(), &endpoint, &["org/name"]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(
        ran.err.contains(&format!("the hub says {SHA}, twice; the download was discarded")),
        "{}",
        ran.err
    );
    assert!(!dir.path().join("hf/hub/datasets--org--name/refs/main").exists());

    let ran = pull(dir.path(), &endpoint, &["org/other"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("not found (HTTP 404") && ran.err.contains("check the name"), "{}", ran.err);
    let ran = pull(dir.path(), &endpoint, &["stories"]);
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (
            2,
            "error: `stories` is not a hub id: it has no `/`; write `org/name`, for example \
             `karpathy/tinystories-gpt4-clean`\n"
        )
    );
    let ran = pull(dir.path(), &endpoint, &["climbmix", "--shards", "6543"]);
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (2, "error: `climbmix` has 6542 training shards, not 6543; ask for 1 to 6542\n")
    );
    let ran = pull(dir.path(), &endpoint, &["org/name", "--shards", "2"]);
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (2, "error: org/name has no shards to choose from; leave out --shards\n")
    );
    fails(
        dir.path(),
        &["data", "pull", "org/name"],
        1,
        &format!(
            "error: offline, and {} lacks revision `main` of data set `org/name`; unset HF_HUB_OFFLINE to \
             download\n",
            dir.path().join("cache/huggingface/hub/datasets--org--name").display()
        ),
    );
}
