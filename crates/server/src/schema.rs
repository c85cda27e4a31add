//! Answers as OpenAI's clients read them.

use engine::infer::Finish;
use serde_json::{Value, json};

use crate::queue::Counts;
use crate::request::Kind;

/// What is the same in an answer and all its pieces.
pub struct Head {
    kind: Kind,
    /// Its name.
    pub id: String,
    created: u64,
    model: String,
}

/// A text and why it ended, once it has.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The text so far.
    pub text: String,
    /// Why it ended.
    pub finish: Option<Finish>,
}

/// Tokens of an answer.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    prompt: usize,
    cached: usize,
    written: usize,
}

impl Usage {
    /// Counts a choice.
    pub fn add(&mut self, counts: Counts) {
        self.prompt += counts.prompt;
        self.cached += counts.reused;
        self.written += counts.written;
    }

    fn json(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.written,
            "total_tokens": self.prompt + self.written,
            "prompt_tokens_details": { "cached_tokens": self.cached },
        })
    }
}

impl Head {
    /// The head of one answer; `created` in seconds since 1970.
    pub fn new(kind: Kind, number: u64, created: u64, model: String) -> Self {
        let prefix = match kind {
            Kind::Chat => "chatcmpl",
            Kind::Completion => "cmpl",
        };
        Self { kind, id: format!("{prefix}-{number:016x}"), created, model }
    }

    /// An answer that came whole.
    pub fn answer(&self, written: &[Choice], usage: &Usage) -> Value {
        let choice = |(index, choice): (usize, &Choice)| {
            let finish = reason(choice.finish);
            match self.kind {
                Kind::Chat => {
                    let message = json!({ "role": "assistant", "content": choice.text, "refusal": null });
                    json!({ "index": index, "message": message, "logprobs": null, "finish_reason": finish })
                }
                Kind::Completion => {
                    json!({ "index": index, "text": choice.text, "logprobs": null, "finish_reason": finish })
                }
            }
        };
        let object = match self.kind {
            Kind::Chat => "chat.completion",
            Kind::Completion => "text_completion",
        };
        let choices: Vec<_> = written.iter().enumerate().map(choice).collect();
        self.whole(object, choices.into(), usage.json())
    }

    /// The first piece of a choice, which says who speaks; completions have none.
    pub fn opening(&self, index: usize) -> Option<Value> {
        (self.kind == Kind::Chat)
            .then(|| self.piece(index, json!({ "role": "assistant", "content": "" }), None))
    }

    /// A piece of text.
    pub fn text(&self, index: usize, text: &str) -> Value {
        match self.kind {
            Kind::Chat => self.piece(index, json!({ "content": text }), None),
            Kind::Completion => self.piece(index, text.into(), None),
        }
    }

    /// The end of a choice.
    pub fn end(&self, index: usize, finish: Finish) -> Value {
        match self.kind {
            Kind::Chat => self.piece(index, json!({}), Some(finish)),
            Kind::Completion => self.piece(index, "".into(), Some(finish)),
        }
    }

    /// The last piece, where counts are wanted.
    pub fn counts(&self, usage: &Usage) -> Value {
        self.whole(self.piece_object(), json!([]), usage.json())
    }

    fn piece(&self, index: usize, content: Value, finish: Option<Finish>) -> Value {
        let name = match self.kind {
            Kind::Chat => "delta",
            Kind::Completion => "text",
        };
        let choice =
            json!({ "index": index, name: content, "logprobs": null, "finish_reason": reason(finish) });
        self.whole(self.piece_object(), json!([choice]), Value::Null)
    }

    fn piece_object(&self) -> &'static str {
        match self.kind {
            Kind::Chat => "chat.completion.chunk",
            Kind::Completion => "text_completion",
        }
    }

    fn whole(&self, object: &str, choices: Value, usage: Value) -> Value {
        let Self { id, created, model, .. } = self;
        json!({
            "id": id, "object": object, "created": created, "model": model, "choices": choices, "usage": usage,
        })
    }
}

/// Why a text ended, in OpenAI's words; who cancelled hears nothing.
fn reason(finish: Option<Finish>) -> Option<&'static str> {
    finish.map(|finish| match finish {
        Finish::Eos | Finish::Stop => "stop",
        Finish::Length | Finish::Cancelled => "length",
    })
}
