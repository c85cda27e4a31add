//! `rustane chat`: turns, what is forgotten, where it ends.

use std::io::Write;
use std::process::Stdio;

use serde_json::json;

use crate::lab::Lab;
use crate::support::Ran;

/// A lab with a run that saw the same two exchanges again and again: alone, and behind each other in every order.
pub fn lab() -> Lab {
    let lab = Lab::new();
    let exchanges = [("Hi", "Hello."), ("Bye", "See you.")].map(|(question, answer)| {
        [json!({"role": "user", "content": question}), json!({"role": "assistant", "content": answer})]
    });
    let [hi, bye] = exchanges.each_ref();
    let talks: [&[_]; 8] =
        [&[hi], &[bye], &[hi, hi], &[hi, bye], &[bye, hi], &[bye, bye], &[hi, hi, hi], &[bye, bye, bye]];
    let line = |talk: &[&[_; 2]]| json!({"messages": talk.iter().flat_map(|e| e.iter()).collect::<Vec<_>>()});
    let lines = talks.map(|talk| line(talk).to_string() + "\n");
    lab.put("chats.jsonl", lines.concat().repeat(100));
    lab.trained("run", &["--data", "chats.jsonl", "--steps", "400"]);
    lab
}

pub fn chat(lab: &Lab, said: &str, more: &[&str]) -> Ran {
    let mut command =
        lab.command(&[&["chat", "run", "--device", "cpu", "-t", "0", "-n", "16"], more].concat());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(said.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn answers_are_those_of_the_conversation_so_far() {
    let lab = lab();
    let ran = chat(&lab, "Hi\n\nBye\n/exit\nHi\n", &["--stats"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "Hello.\nSee you.\n"), "{}", ran.err);
    assert_eq!(ran.err.matches("; ended by the model\n").count(), 2, "{}", ran.err);
    // What the device kept from the first turn is what the whole prompt gives.
    let whole = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n<|im_start|>user\nBye\
                 <|im_end|>\n<|im_start|>assistant\n";
    let end = ["--stop", "<|im_end|>"];
    let one = lab.run(
        &[&["generate", "run", "--device", "cpu", "-t", "0", "-n", "16", "-p", whole], &end[..]].concat(),
    );
    assert!(one.out.contains("assistant\nSee you."), "{}{}", one.out, one.err);
    // A new conversation begins as the first one did; so does one on a GPU's way, or with other threads.
    assert_eq!(chat(&lab, "Bye\n/new\nHi\n", &[]).out, "See you.\nHello.\n");
    assert_eq!(chat(&lab, "Hi\nBye", &["--format", "q8_0"]).out, "Hello.\nSee you.\n");
}

#[test]
fn what_does_not_fit_is_forgotten_or_refused() {
    let lab = lab();
    // 64 positions hold a few exchanges.
    let ran = chat(&lab, &"Hi\n".repeat(8), &[]);
    assert_eq!((ran.code, ran.out), (0, "Hello.\n".repeat(8)), "{}", ran.err);
    assert!(ran.err.contains("the oldest question and its answer are forgotten: the model reads 64 tokens"));
    // What the model is told beforehand stays, and changes the answers.
    assert_eq!(chat(&lab, "Hi\n", &["--system", "Say nothing."]).code, 0);
    let long = chat(&lab, &format!("{}\nHi\n", "word ".repeat(80)), &[]);
    assert_eq!((long.code, long.out.as_str()), (0, "Hello.\n"), "{}", long.err);
    assert!(long.err.contains("say it shorter"), "{}", long.err);
}

#[test]
fn a_model_without_a_template_says_so() {
    let lab = lab();
    let dir = lab.newest("run").1;
    let file = dir.join("tokenizer_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("chat_template");
    std::fs::write(&file, config.to_string()).unwrap();
    let ran = chat(&lab, "Hi\n", &[]);
    assert!(ran.code == 2 && ran.err.contains("has no chat template"), "{}", ran.err);
    std::fs::write(dir.join("chat_template.jinja"), "{{ raise_exception('no users') }}").unwrap();
    let ran = chat(&lab, "Hi\n", &[]);
    assert!(ran.code == 1 && ran.err.contains("the chat template: no users"), "{}", ran.err);
}
