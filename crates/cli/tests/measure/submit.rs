//! `rustane bench submit`, against a server on this machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use serde_json::Value;

use crate::out;
use crate::support::{self, Ran};

/// Answers one request per response, and gives back the bodies that came.
fn server(responses: &'static [&'static str]) -> (String, JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/api/submit", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let mut bodies = Vec::new();
        for response in responses {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let line = line.trim().to_lowercase();
                if let Some(n) = line.strip_prefix("content-length:") {
                    length = n.trim().parse().unwrap();
                }
                if line.is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            bodies.push(String::from_utf8(body).unwrap());
            reader.into_inner().write_all(response.as_bytes()).unwrap();
        }
        bodies
    });
    (url, thread)
}

fn measured(dir: &Path) {
    let args = [
        "bench",
        "step",
        "--preset",
        "tiny",
        "--seq",
        "16",
        "--steps",
        "1",
        "--warmup",
        "0",
        "--threads",
        "1",
    ];
    out(dir, &[&args[..], &["--out", "r.json"]].concat());
}

fn submit(dir: &Path, args: &[&str], answer: &str) -> Ran {
    let mut command = support::command(dir, &[&["bench", "submit", "r.json"], args].concat());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Who does not ask need not listen.
    let _ = child.stdin.take().unwrap().write_all(answer.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

const ACCEPTED: &str = "HTTP/1.1 201 Created\r\ncontent-length: 8\r\nconnection: close\r\n\r\nid 12345";
const REFUSED: &str = "HTTP/1.1 422 Unprocessable\r\ncontent-length: 8\r\nconnection: close\r\n\r\ntoo fast";
const BUSY: &str = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const ELSEWHERE: &str = "HTTP/1.1 307 Moved\r\nlocation: http://127.0.0.1:1/other\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

#[test]
fn what_was_shown_is_sent_once_it_is_agreed() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    measured(at);
    let (url, thread) = server(&[ACCEPTED]);
    // No, and nobody who answers: the server hears nothing.
    for answer in ["n\n", "", "maybe\n"] {
        let ran = submit(at, &["--endpoint", &url], answer);
        assert!(
            ran.code == 0 && ran.out.contains("[y/N]") && ran.out.contains("nothing was sent"),
            "{}",
            ran.out
        );
    }
    let ran = submit(at, &["--endpoint", &url], "y\n");
    assert!(
        ran.code == 0 && ran.out.contains("accepted by") && ran.out.contains("id 12345"),
        "{} {}",
        ran.out,
        ran.err
    );
    let bodies = thread.join().unwrap();
    let file: Value = serde_json::from_str(&std::fs::read_to_string(at.join("r.json")).unwrap()).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&bodies[0]).unwrap(), file);
    assert!(ran.out.contains("\"schema\": \"rustane-results/1\""), "the payload is shown: {}", ran.out);
}

#[test]
fn refusals_and_redirects_end_it_and_a_busy_server_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    measured(at);
    let (url, thread) = server(&[REFUSED]);
    let ran = submit(at, &["--endpoint", &url, "--yes"], "");
    assert!(ran.code == 1 && ran.err.contains("HTTP 422, too fast"), "{}", ran.err);
    assert_eq!(thread.join().unwrap().len(), 1);
    let (url, thread) = server(&[ELSEWHERE]);
    let ran = submit(at, &["--endpoint", &url, "--yes"], "");
    assert!(ran.code == 1 && ran.err.contains("http://127.0.0.1:1/other"), "{}", ran.err);
    assert_eq!(thread.join().unwrap().len(), 1);
    let (url, thread) = server(&[BUSY, ACCEPTED]);
    let ran = submit(at, &["--endpoint", &url, "--yes"], "");
    assert!(ran.code == 0 && ran.err.contains("HTTP 503; again in 1.0 s"), "{} {}", ran.out, ran.err);
    let bodies = thread.join().unwrap();
    assert_eq!(bodies[0], bodies[1]);
}

#[test]
fn bad_input_is_refused_before_anything_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    measured(at);
    let text = std::fs::read_to_string(at.join("r.json")).unwrap();
    for (args, code, wanted) in [
        (&[][..], 2, "give --endpoint URL"),
        (&["--endpoint", "ftp://x", "--yes"], 1, "does not begin with http"),
        (&["--endpoint", "http://me:secret@x", "--yes"], 1, "carries a user name"),
    ] {
        let ran = submit(at, args, "");
        assert!(ran.code == code && ran.err.contains(wanted), "{args:?}: {} {}", ran.code, ran.err);
        assert!(!ran.err.contains("secret"));
    }
    // A folder that somebody wrote into a free field. HOME is the folder of the test.
    let home = at.display().to_string();
    std::fs::write(at.join("r.json"), text.replace("whole training steps", &format!("steps in {home}")))
        .unwrap();
    let ran = submit(at, &["--endpoint", "http://127.0.0.1:1", "--yes"], "");
    assert!(ran.code == 3 && ran.err.contains("r.json names your home folder"), "{}", ran.err);
    std::fs::write(at.join("r.json"), text.replace("rustane-results/1", "rustane-results/9")).unwrap();
    assert_eq!(submit(at, &["--endpoint", "http://127.0.0.1:1", "--yes"], "").code, 3);
}

#[test]
fn a_branch_holds_the_file_and_leaves_the_working_tree_alone() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    measured(at);
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .current_dir(at)
            .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
            .args(args)
            .env("HOME", at)
            .output()
            .unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    git(&["init", "-q"]);
    git(&["config", "user.name", "t"]);
    git(&["config", "user.email", "t@example.org"]);
    git(&["commit", "-q", "--allow-empty", "-m", "first"]);
    let before = (git(&["rev-parse", "HEAD"]), git(&["status", "--porcelain"]));
    let ran = submit(at, &["--pull-request", "--machine", "mine", "--yes"], "");
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!((git(&["rev-parse", "HEAD"]), git(&["status", "--porcelain"])), before);
    let branch = git(&["branch", "--list", "results-*", "--format=%(refname:short)"]);
    let files = git(&["ls-tree", "-r", "--name-only", &branch]);
    assert!(files.starts_with("results/mine/20") && files.ends_with(".json"), "{files}");
    let sent: Value = serde_json::from_str(&git(&["show", &format!("{branch}:{files}")])).unwrap();
    assert_eq!(sent["schema"], "rustane-results/1");
    let again = submit(at, &["--pull-request", "--machine", "mine", "--yes"], "");
    assert!(again.code == 1 && again.err.contains("already exists"), "{}", again.err);
}
