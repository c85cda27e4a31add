//! Who waits, who leaves, and how it all ends.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use model::hf::{self, Export};
use model::{ModelConfig, Weights, from_fn};
use serde_json::{Value, json};

use super::TEXT;
use super::client::{Connection, Server};
use crate::lab::{Lab, tokenizer};

/// A small model of so many positions.
fn config(max_seq: usize) -> ModelConfig {
    ModelConfig {
        dim: 32,
        hidden: 48,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        vocab: 300,
        max_seq,
        ..ModelConfig::default()
    }
}

/// A model that writes for minutes.
fn endless(lab: &Lab) {
    let config = config(200_000);
    save(lab, &config, &Weights::init(&config, 5));
}

fn save(lab: &Lab, config: &ModelConfig, weights: &Weights) {
    let dir = lab.path("endless");
    hf::save(&dir, config, &Export::default(), &mut from_fn(|id| Ok(Cow::Borrowed(weights.get(id)))))
        .unwrap();
    lab.put("endless/tokenizer.json", tokenizer().0.json());
}

fn start(lab: &Lab, args: &[&str]) -> Server {
    endless(lab);
    Server::start(lab, &[&["endless", "--device", "cpu"], args].concat())
}

fn long() -> Value {
    json!({ "prompt": "The", "max_tokens": 10_000_000, "ignore_eos": true })
}

fn short() -> Value {
    json!({ "prompt": "One", "max_tokens": 3, "ignore_eos": true })
}

/// A connection on which a long text is being written.
fn writing(server: &Server) -> Connection {
    let mut connection = server.stream(TEXT, &long());
    assert!(connection.event().is_some());
    connection
}

#[test]
fn who_leaves_ends_the_text() {
    let lab = Lab::new();
    let server = start(&lab, &[]);
    // In the middle of a stream, and waiting for the whole.
    writing(&server).leave();
    server.wait_for("; cancelled\n");
    let connection = server.open("POST /v1/completions HTTP/1.1", &[], long().to_string().as_bytes());
    server.wait_for_line(0);
    connection.leave();
    let begin = Instant::now();
    // The device is free for the next one.
    server.post(TEXT, &short()).fine();
    assert!(begin.elapsed() < Duration::from_secs(20));
    server.wait_for("; ended by its length\n");
    assert_eq!(server.said().matches("; cancelled\n").count(), 2, "{}", server.said());
}

#[test]
fn who_finds_the_line_full_is_told_to_come_again() {
    let lab = Lab::new();
    let server = start(&lab, &["--queue", "1"]);
    let first = writing(&server);
    let second = server.open("POST /v1/completions HTTP/1.1", &[], short().to_string().as_bytes());
    server.wait_for_line(1);
    let answer = server.post(TEXT, &short());
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
    let error = &answer.json()["error"];
    assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("queue_full")));
    assert_eq!(error["message"], "1 requests wait already, as many as may; ask again later");
    // The others do not notice; somebody who waits and leaves makes room.
    second.leave();
    server.wait_for_line(0);
    let third = server.open("POST /v1/completions HTTP/1.1", &[], short().to_string().as_bytes());
    server.wait_for_line(1);
    first.leave();
    assert_eq!(third.read().fine()["usage"]["completion_tokens"], 3);
    server.wait_for("POST /v1/completions: 503, 1 requests wait already");
}

#[test]
fn a_signal_ends_everything_and_everyone_is_told() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let lab = Lab::new();
        let mut server = start(&lab, &[]);
        let mut stream = writing(&server);
        let whole = server.open("POST /v1/completions HTTP/1.1", &[], short().to_string().as_bytes());
        server.wait_for_line(1);
        let begin = Instant::now();
        let kill = std::process::Command::new("kill")
            .args([&format!("-{signal}"), &server.pid().to_string()])
            .status()
            .unwrap();
        assert!(kill.success());
        let answer = whole.read();
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (503, &json!("stopping")));
        let mut last = String::new();
        while let Some(event) = stream.event() {
            last = event;
        }
        let last: Value = serde_json::from_str(&last).unwrap();
        assert_eq!(last["error"]["message"], "the server is being stopped");
        assert_eq!(server.ended(), Some(code), "{}", server.said());
        assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
        assert!(!server.said().contains("panicked"), "{}", server.said());
    }
    // Idle connections do not hold it up.
    let lab = Lab::new();
    let mut server = start(&lab, &[]);
    let idle = std::net::TcpStream::connect(&server.address).unwrap();
    let pid = server.pid().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(server.ended(), Some(130));
    drop(idle);
}

#[test]
fn a_device_that_fails_is_not_healthy() {
    let lab = Lab::new();
    let config = config(40);
    let mut weights = Weights::init(&config, 5);
    let first = weights.params().iter().next().unwrap().id;
    weights.get_mut(first).fill(f32::NAN);
    save(&lab, &config, &weights);
    let server = Server::start(&lab, &["endless", "--device", "cpu"]);
    let answer = server.post(TEXT, &short());
    let error = &answer.json()["error"];
    assert_eq!(
        (answer.status, &error["code"], &error["type"]),
        (500, &json!("device_failed"), &json!("server_error"))
    );
    assert_eq!(error["message"], "cannot write this text: the model failed: every logit is NaN");
    let health = server.get("/health");
    assert_eq!((health.status, &health.json()["status"]), (503, &json!("failed")));
    let event = server.stream(TEXT, &short()).event().unwrap();
    assert!(event.starts_with("{\"error\":{") && event.contains("every logit is NaN"), "{event}");
    assert!(server.said().contains(": cannot write this text: the model failed: "), "{}", server.said());
}
