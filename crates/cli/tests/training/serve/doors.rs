//! Who may come in: keys, names, other sites' pages; and what a server needs to begin.

use std::net::TcpListener;

use serde_json::json;

use super::client::{Answer, Server};
use super::{CPU, TEXT};
use crate::lab::Lab;
use crate::support;

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_key_is_asked_for_everywhere_but_at_health() {
    let lab = Lab::new();
    lab.trained("run", &["--steps", "4"]);
    let server = Server::start(&lab, &[&CPU[..], &["--api-key", "sesame\n", "--name", "mine"]].concat());
    let body = json!({ "model": "mine", "prompt": "The", "max_tokens": 2 }).to_string();
    let ask = |lines: &[&str]| server.send(&format!("POST {TEXT} HTTP/1.1"), lines, body.as_bytes());
    assert_eq!(ask(&["Authorization: Bearer sesame"]).fine()["model"], "mine");
    assert_eq!(ask(&["authorization: bearer sesame"]).status, 200);
    let wrong = (401, "invalid_api_key".to_owned());
    for lines in [
        &[][..],
        &["Authorization: Bearer sesam"],
        &["Authorization: Bearer sesame2"],
        &["Authorization: Basic sesame"],
        &["Authorization: sesame"],
        &["Authorization: Bearer \u{e9}"],
    ] {
        let answer = ask(lines);
        assert_eq!(code(&answer), wrong, "{lines:?}");
        assert!(answer.head.contains("www-authenticate: bearer"));
    }
    assert_eq!(code(&server.get("/v1/models")), wrong);
    assert_eq!(code(&server.get("/nothing")), wrong);
    assert_eq!(server.get("/health").status, 200);
    // With a key the name does not matter.
    assert_eq!(ask(&["Authorization: Bearer sesame", "Host: models.example"]).status, 200);
    assert!(server.said().contains("-H \"Authorization: Bearer $RUSTANE_API_KEY\""), "{}", server.said());
    assert!(!server.said().contains("sesame"), "{}", server.said());
}

#[test]
fn pages_of_other_sites_are_kept_out_unless_named() {
    let lab = Lab::new();
    lab.trained("run", &["--steps", "4"]);
    let options =
        ["Origin: https://a.example", "Access-Control-Request-Headers: content-type,x-stainless-os"];
    let ask = |server: &Server| server.send("OPTIONS /v1/completions HTTP/1.1", &options, b"");
    let server = Server::start(&lab, &CPU);
    let answer = ask(&server);
    assert!(answer.status == 405 && !answer.head.contains("access-control"), "{}", answer.head);
    assert_eq!(
        code(&server.send("GET /v1/models HTTP/1.1", &["Host: evil.example"], b"")),
        (403, "wrong_host".into())
    );
    for host in ["Host: localhost", "Host: [::1]:99", "Host: 127.0.0.1"] {
        assert_eq!(server.send("GET /v1/models HTTP/1.1", &[host], b"").status, 200, "{host}");
    }
    let server =
        Server::start(&lab, &[&CPU[..], &["--cors", "https://a.example", "--api-key", "k"]].concat());
    let answer = ask(&server);
    assert_eq!(answer.status, 204);
    for line in [
        "access-control-allow-origin: https://a.example",
        "access-control-allow-headers: content-type,x-stainless-os",
        "access-control-allow-methods: get, post",
    ] {
        assert!(answer.head.contains(line), "{line}: {}", answer.head);
    }
    // The page reads why it was refused, too.
    let refused = server.get("/v1/models");
    assert!(refused.status == 401 && refused.head.contains("access-control-allow-origin: https://a.example"));
}

#[test]
fn what_a_server_cannot_begin_with_is_said() {
    let lab = Lab::new();
    let refused = |args: &[&str], wanted: &str, code: i32| {
        let ran = lab.run(&[&["serve"], args].concat());
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{args:?}: {}", ran.err);
        assert!(ran.err.contains(wanted), "{args:?}: {}", ran.err);
    };
    refused(&["nothing"], "error: there is no nothing and no runs/nothing\n", 2);
    let wanted = "error: the API key is empty, or has blanks or letters beyond ASCII; give --api-key or ";
    for key in [" ", "open sesame", "s\u{e9}same"] {
        refused(&["--api-key", key], wanted, 2);
    }
    lab.trained("run", &["--steps", "4"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let wanted = format!("error: cannot listen on 127.0.0.1:{port}; give another --port or --host: ");
    refused(&["run", "--port", &port], &wanted, 1);
    let wanted = "'a.example' for '--cors <ORIGIN>': wanted such as https://example.org, or *";
    refused(&["run", "--cors", "a.example"], wanted, 2);
    refused(&["run", "--window", "8", "--device", "cpu", "--port", "0"], "--window 8 is for GPUs", 2);
    let ran = support::run(lab.command(&["serve", "run"]).env("RUSTANE_API_KEY", ""));
    assert!(ran.code == 2 && ran.err.contains("the API key is empty"), "{}", ran.err);
    // Whoever opens the door to all is told.
    let server = Server::start(&lab, &[&CPU[..], &["--host", "0.0.0.0"]].concat());
    assert!(server.said().contains("warning: whoever reaches 0.0.0.0:"), "{}", server.said());
}
