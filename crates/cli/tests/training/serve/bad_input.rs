//! Requests that are not what they should be: the answer to each, in a table that is reviewed as a whole. The server
//! goes on after all of them.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::client::{Answer, Server};
use super::{CHAT, CPU, TEXT, talk, with};
use crate::chat;

struct Table {
    server: Server,
    text: String,
}

impl Table {
    fn row(&mut self, what: &str, answer: &Answer) {
        let line = match (answer.status, serde_json::from_str::<Value>(&answer.body)) {
            (200, _) => "(works)".into(),
            (_, Ok(body)) => {
                let error = &body["error"];
                let word = |name: &str| error[name].as_str().unwrap_or("-").to_owned();
                format!("{} | {} | {} | {}", word("type"), word("param"), word("code"), word("message"))
            }
            (_, Err(_)) => format!("no JSON: {:?}", answer.body),
        };
        assert!(line.len() < 1000, "{what}: {} bytes", line.len());
        let line = line.replace(char::is_control, "\u{fffd}");
        writeln!(self.text, "{what}\n    {} {line}", answer.status).unwrap();
    }

    fn chat(&mut self, what: &str, more: Value) {
        let answer = self.server.post(CHAT, &with(talk(&["Hi"]), more));
        self.row(what, &answer);
    }

    fn complete(&mut self, what: &str, more: Value) {
        let answer = self.server.post(TEXT, &with(json!({ "prompt": "The", "max_tokens": 2 }), more));
        self.row(what, &answer);
    }

    fn raw(&mut self, what: &str, first: &str, lines: &[&str], body: &[u8]) {
        let answer = self.server.send(first, lines, body);
        self.row(what, &answer);
    }
}

#[test]
fn requests() {
    let lab = chat::lab();
    let mut t = Table { server: Server::start(&lab, &CPU), text: String::new() };
    let (post, chunked) = (format!("POST {TEXT} HTTP/1.1"), ["Transfer-Encoding: chunked"]);

    t.raw("nothing is there", "GET /v1/embeddings HTTP/1.1", &[], b"");
    t.raw("the wrong method", "GET /v1/completions HTTP/1.1", &[], b"");
    t.raw("the wrong method for models", "DELETE /v1/models HTTP/1.1", &[], b"");
    t.raw("no such model", "GET /v1/models/gpt-4 HTTP/1.1", &[], b"");
    t.raw("no type", &post, &["Content-Type:"], b"{}");
    t.raw("the type of a form", &post, &["Content-Type: application/x-www-form-urlencoded"], b"{}");
    t.raw("nothing", &post, &[], b"");
    t.raw("no JSON", &post, &[], b"prompt=The");
    t.raw("half of it", &post, &[], b"{\"prompt\": \"The");
    t.raw("not UTF-8", &post, &[], b"{\"prompt\": \"\xff\"}");
    t.raw("a list", &post, &[], b"[1]");
    t.raw("100000 brackets", &post, &[], "[".repeat(100_000).as_bytes());
    t.raw("5 MB", &post, &[], format!("{{\"prompt\": \"{}\"}}", "a".repeat(5 << 20)).as_bytes());
    let chunks = format!("{:x}\r\n{}\r\n", 1 << 20, "a".repeat(1 << 20)).repeat(5) + "0\r\n\r\n";
    t.raw("5 MB in chunks", &post, &chunked, chunks.as_bytes());
    t.raw("chunks that are none", &post, &chunked, b"xyz\r\n");
    t.raw("80 headers", &post, &["X-A: b"; 80], b"{}");
    t.raw("a header of 100 kB", &post, &[&format!("X-A: {}", "b".repeat(100_000))], b"{}");

    t.chat("another model", json!({ "model": "gpt-4" }));
    t.chat("a model that is a number", json!({ "model": 4 }));
    t.chat("no messages", json!({ "messages": null }));
    t.chat("empty messages", json!({ "messages": [] }));
    t.chat("messages that are a text", json!({ "messages": "Hi" }));
    t.chat("a message that is a text", json!({ "messages": ["Hi"] }));
    t.chat("no role", json!({ "messages": [{ "content": "Hi" }] }));
    t.chat("an unknown role", json!({ "messages": [{ "role": "tool", "content": "Hi" }] }));
    t.chat("no content", json!({ "messages": [{ "role": "user" }] }));
    let part = |part: Value| json!({ "messages": [{ "role": "user", "content": [part] }] });
    t.chat("a picture", part(json!({ "type": "image_url", "image_url": { "url": "http://a.example" } })));
    t.chat("a part without text", part(json!({ "type": "text" })));
    let called = json!([{ "id": "a", "type": "function" }]);
    t.chat(
        "a call in a message",
        json!({ "messages": [{ "role": "assistant", "content": "", "tool_calls": called }] }),
    );
    t.chat("too many words", json!({ "messages": [{ "role": "user", "content": "word ".repeat(100) }] }));
    t.chat("two lengths", json!({ "max_tokens": 3, "max_completion_tokens": 4 }));
    t.chat("tools", json!({ "tools": [{ "type": "function", "function": { "name": "f" } }] }));
    t.chat("a tool's choice", json!({ "tool_choice": "required" }));
    t.chat("an answer in JSON", json!({ "response_format": { "type": "json_object" } }));
    t.chat("log-probabilities", json!({ "logprobs": true, "top_logprobs": 2 }));
    t.chat("a frequency penalty", json!({ "frequency_penalty": 0.5 }));
    t.chat("a presence penalty", json!({ "presence_penalty": -1 }));
    t.chat("a bias", json!({ "logit_bias": { "5": -100 } }));
    t.chat("sound", json!({ "audio": { "voice": "a" } }));
    t.chat("effort", json!({ "reasoning_effort": "high" }));
    t.chat("an unknown field", json!({ "temprature": 0.5 }));
    t.chat("an unknown field with a long name", json!({ "x".repeat(5000): 1 }));
    t.chat("options without a stream", json!({ "stream_options": { "include_usage": true } }));
    t.chat("options that are a text", json!({ "stream": true, "stream_options": "usage" }));
    t.chat("usage that is a number", json!({ "stream": true, "stream_options": { "include_usage": 1 } }));
    t.chat("unknown options", json!({ "stream": true, "stream_options": { "every": 2 } }));

    let nothing = json!({ "tool_choice": "none", "function_call": "none", "modalities": ["text"], "audio": null,
                          "response_format": { "type": "text" }, "logprobs": false, "tools": [], "store": true });
    t.chat("fields that ask for nothing", nothing);
    t.complete("more of them", json!({ "best_of": 1, "echo": false, "suffix": "", "logit_bias": {} }));
    t.complete("sound", json!({}));
    t.complete("no prompt", json!({ "prompt": null }));
    t.complete("an empty list", json!({ "prompt": [] }));
    t.complete("a prompt of nothing", json!({ "prompt": [[]] }));
    t.complete("a list of both", json!({ "prompt": ["The", 5] }));
    t.complete("a prompt that is an object", json!({ "prompt": { "text": "The" } }));
    t.complete("a token that is not there", json!({ "prompt": [5, 300] }));
    t.complete("a token below 0", json!({ "prompt": [-1] }));
    t.complete("a token of 2^40", json!({ "prompt": [1u64 << 40] }));
    t.complete("a long prompt", json!({ "prompt": "The cat sat. ".repeat(60) }));
    t.complete("many prompts", json!({ "prompt": vec!["The"; 200] }));
    t.complete("many copies", json!({ "n": 1_000_000_000 }));
    t.complete("no copies", json!({ "n": 0 }));
    t.complete("the best of many", json!({ "best_of": 3 }));
    t.complete("an echo", json!({ "echo": true }));
    t.complete("a suffix", json!({ "suffix": "end" }));
    t.complete("log-probabilities of the tokens drawn", json!({ "logprobs": 0 }));
    t.complete("a length of 0", json!({ "max_tokens": 0 }));
    t.complete("a length below 0", json!({ "max_tokens": -1 }));
    t.complete("a length of 2^63", json!({ "max_tokens": 1u64 << 63 }));
    t.complete("half a token", json!({ "max_tokens": 1.5 }));
    t.complete("the chat's length", json!({ "max_completion_tokens": 5 }));
    t.complete("a temperature below 0", json!({ "temperature": -1 }));
    t.complete("a temperature of 1e308", json!({ "temperature": 1e308 }));
    t.complete("a temperature that is a text", json!({ "temperature": "hot" }));
    t.complete("a share above 1", json!({ "top_p": 1.5 }));
    t.complete("a share below 0", json!({ "min_p": -0.1 }));
    t.complete("a count below -1", json!({ "top_k": -2 }));
    t.complete("a penalty of 0", json!({ "repetition_penalty": 0 }));
    t.complete("a seed that is a text", json!({ "seed": "lucky" }));
    t.complete("a seed below 0", json!({ "seed": -5 }));
    t.complete("a stop of nothing", json!({ "stop": "" }));
    t.complete("a stop that is a number", json!({ "stop": ["a", 5] }));
    t.complete("a long stop", json!({ "stop": "x".repeat(300) }));
    t.complete("many stops", json!({ "stop": vec!["x"; 10_000] }));
    t.complete("a stream that is a text", json!({ "stream": "yes" }));
    t.complete("messages for a completion", json!({ "messages": [] }));
    t.complete("codes for a terminal", json!({ "model": "\u{1b}[2J\nbad" }));
    t.complete("sound again", json!({}));

    assert_eq!(t.server.get("/health").status, 200);
    let said = t.server.said();
    assert!(!said.contains("panicked") && !said.contains('\u{1b}') && !said.contains("\nbad"), "{said}");
    insta::assert_snapshot!(t.text);
}

#[test]
fn conversations_that_the_template_does_not_take() {
    let lab = chat::lab();
    let dir = lab.newest("run").1;
    let mut table = String::new();
    let mut ask = |what: &str| {
        let mut t = Table { server: Server::start(&lab, &CPU), text: String::new() };
        t.chat(what, json!({}));
        t.complete("a completion all the same", json!({}));
        table += &t.text;
    };
    let refuses = "{% for m in messages %}{% if m.content == 'Hi' %}{{ raise_exception('no greetings') }}\
                   {% endif %}{{ m.content }}<|im_end|>{% endfor %}";
    std::fs::write(dir.join("chat_template.jinja"), refuses).unwrap();
    ask("a template that refuses");
    std::fs::write(dir.join("chat_template.jinja"), "").unwrap();
    ask("a template that leaves nothing");
    std::fs::remove_file(dir.join("chat_template.jinja")).unwrap();
    let file = dir.join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("chat_template");
    std::fs::write(&file, config.to_string()).unwrap();
    ask("no template");
    insta::assert_snapshot!(table);
}
