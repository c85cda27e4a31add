//! Conversations as text, against transformers' `apply_chat_template` (tests/interop/chat_templates.py).

use model::hf::{ChatTemplate, Message};
use serde_json::Value;

#[test]
fn conversations_are_those_of_transformers() {
    let golden: Value = serde_json::from_str(include_str!("chat_templates.json")).unwrap();
    let mut cases = 0;
    for entry in golden.as_array().unwrap() {
        let name = &entry["name"];
        let template = ChatTemplate::parse(entry["template"].as_str().unwrap(), "<s>", "</s>").unwrap();
        for case in entry["cases"].as_array().unwrap() {
            let part = |m: &Value, key: &str| m[key].as_str().unwrap().to_owned();
            let messages = case["messages"].as_array().unwrap();
            let messages: Vec<Message> =
                messages.iter().map(|m| Message::new(&part(m, "role"), part(m, "content"))).collect();
            match (template.render(&messages), case["text"].as_str()) {
                (Ok(text), Some(wanted)) => assert_eq!(text, wanted, "{name}, {messages:?}"),
                (Err(error), None) => {
                    let refused = case["refused"].as_str().unwrap();
                    assert!(error.to_string().ends_with(refused), "{name}: {error}, wanted {refused}");
                }
                (found, _) => panic!("{name}: {found:?}, wanted {case}"),
            }
            cases += 1;
        }
    }
    assert_eq!(cases, 28);
}
