//! What a request asks for.

use std::hash::{BuildHasher, RandomState};

use ::model::TokenId;
use ::model::hf::Message;
use engine::infer::Sampling;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::fields::{Fields, asks_for_nothing, unwanted};

/// Most choices of one request: prompts times `n`.
const CHOICES: usize = 128;
/// Most stop texts, and most bytes of each.
const STOPS: (usize, usize) = (16, 256);
/// Tokens of a completion that says nothing of its length, as OpenAI has it.
const COMPLETION: usize = 16;

/// The two ways to ask for a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completion,
}

/// What is to be continued.
#[derive(Debug)]
pub enum Prompt {
    /// A conversation.
    Chat(Vec<Message>),
    /// Texts.
    Texts(Vec<String>),
    /// Tokens.
    Tokens(Vec<Vec<TokenId>>),
}

/// How the answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// When it is written.
    Whole,
    /// Piece by piece, and at the end how much it was, if wanted.
    Stream { usage: bool },
}

/// A request, checked as far as that goes without the model.
#[derive(Debug)]
pub struct Ask {
    /// What is to be continued.
    pub prompt: Prompt,
    /// How; the length and the tokens that end a text are the model's.
    pub sampling: Sampling,
    /// Most tokens; nothing for as many as there is room.
    pub max_tokens: Option<usize>,
    /// Texts for each prompt, drawn with seeds one after the other.
    pub copies: usize,
    /// How the answer comes.
    pub delivery: Delivery,
}

impl Ask {
    /// Reads a body for the model of that name.
    pub fn parse(kind: Kind, body: &[u8], model: &str) -> Result<Self, ApiError> {
        let mut fields = Fields::parse(body)?;
        let asked = fields.read("model", "the name of a model", |value| value.as_str().map(str::to_owned))?;
        if let Some(asked) = asked.filter(|asked| asked != model) {
            return Err(ApiError::no_model(&asked, model));
        }
        let prompt = match kind {
            Kind::Chat => Prompt::Chat(messages(&mut fields)?),
            Kind::Completion => prompt(&mut fields)?,
        };
        let ask = Self {
            max_tokens: length(kind, &mut fields)?,
            sampling: sampling(&mut fields)?,
            copies: fields.count("n")?.unwrap_or(1),
            delivery: delivery(&mut fields)?,
            prompt,
        };
        fields.finish()?;
        if ask.prompt.len().saturating_mul(ask.copies) > CHOICES {
            let (prompts, n) = (ask.prompt.len(), ask.copies);
            let message = format!("prompts × `n` is {prompts} × {n}; wanted at most {CHOICES} texts");
            return Err(ApiError::field("n", message));
        }
        Ok(ask)
    }
}

impl Prompt {
    fn len(&self) -> usize {
        match self {
            Self::Chat(_) => 1,
            Self::Texts(texts) => texts.len(),
            Self::Tokens(prompts) => prompts.len(),
        }
    }
}

fn sampling(fields: &mut Fields) -> Result<Sampling, ApiError> {
    let plain = Sampling::default();
    let from_0_to_1 = |x: f32| (0.0..=1.0).contains(&x);
    let share = "a number from 0 to 1";
    let seed = |value: &Value| value.as_u64().or_else(|| value.as_i64().map(|seed| seed as u64));
    // Some clients say -1 for all.
    let most = |value: &Value| if *value == -1 { Some(0) } else { value.as_u64()?.try_into().ok() };
    Ok(Sampling {
        temperature: fields
            .number("temperature", "a number of at least 0", |x| x >= 0.0)?
            .unwrap_or(plain.temperature),
        top_p: fields.number("top_p", share, from_0_to_1)?.unwrap_or(plain.top_p),
        min_p: fields.number("min_p", share, from_0_to_1)?.unwrap_or(plain.min_p),
        top_k: fields.read("top_k", "a whole number of at least 0, or -1", most)?.unwrap_or(plain.top_k),
        repetition_penalty: fields
            .number("repetition_penalty", "a number above 0", |x| x > 0.0)?
            .unwrap_or(plain.repetition_penalty),
        // Who wants the same text again says so.
        seed: fields.read("seed", "a whole number", seed)?.unwrap_or_else(random),
        stop: stop(fields)?,
        ignore_eos: fields.flag("ignore_eos")?,
        ..plain
    })
}

fn length(kind: Kind, fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let old = fields.count("max_tokens")?;
    if kind == Kind::Completion {
        return Ok(Some(old.unwrap_or(COMPLETION)));
    }
    match (old, fields.count("max_completion_tokens")?) {
        (Some(a), Some(b)) if a != b => {
            let message = format!("`max_tokens` is {a} and `max_completion_tokens` {b}; give one of them");
            Err(ApiError::field("max_completion_tokens", message))
        }
        (old, new) => Ok(new.or(old)),
    }
}

fn stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let read = |value: &Value| {
        let list = match value {
            Value::Array(list) => {
                list.iter().map(|stop| Some(stop.as_str()?.to_owned())).collect::<Option<_>>()?
            }
            value => vec![value.as_str()?.to_owned()],
        };
        let fine = |stop: &String| (1..=STOPS.1).contains(&stop.len());
        Some(list).filter(|list: &Vec<_>| list.len() <= STOPS.0 && list.iter().all(fine))
    };
    let wanted = format!("a text, or at most {} texts, of 1 to {} bytes", STOPS.0, STOPS.1);
    Ok(fields.read("stop", &wanted, read)?.unwrap_or_default())
}

fn delivery(fields: &mut Fields) -> Result<Delivery, ApiError> {
    let stream = fields.flag("stream")?;
    let options = fields.read("stream_options", "an object", |value| value.as_object().cloned())?;
    let Some(mut options) = options else {
        return Ok(if stream { Delivery::Stream { usage: false } } else { Delivery::Whole });
    };
    if !stream {
        let message = "`stream_options` is for `stream`: true";
        return Err(ApiError::field("stream_options", message));
    }
    let usage = options.remove("include_usage").unwrap_or(Value::Bool(false));
    let Some(usage) = usage.as_bool() else {
        return Err(unwanted("stream_options.include_usage", &usage, "true or false"));
    };
    // Padding against eavesdroppers; the text is the same.
    options.remove("include_obfuscation");
    nothing_left("stream_options", options)?;
    Ok(Delivery::Stream { usage })
}

fn messages(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    let wanted = "a list of messages, such as [{\"role\": \"user\", \"content\": \"Hi\"}]";
    let list = match fields.take("messages") {
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(other) => return Err(unwanted("messages", &other, wanted)),
        None => return Err(ApiError::field("messages", format!("`messages` is missing; wanted {wanted}"))),
    };
    list.into_iter().enumerate().map(|(i, value)| message(&format!("messages[{i}]"), value)).collect()
}

fn message(at: &str, value: Value) -> Result<Message, ApiError> {
    let Value::Object(mut map) = value else {
        return Err(unwanted(at, &value, "an object with `role` and `content`"));
    };
    let role = map.remove("role").unwrap_or_default();
    let role = match role.as_str() {
        Some(role @ ("system" | "user" | "assistant")) => role,
        // The newer name; templates know the older one.
        Some("developer") => "system",
        _ => {
            let wanted = "system, developer, user or assistant";
            return Err(unwanted(&format!("{at}.role"), &role, wanted));
        }
    };
    let field = format!("{at}.content");
    let content = match map.remove("content").unwrap_or_default() {
        Value::String(text) => text,
        Value::Array(parts) => {
            let text = |part: &Value| {
                let part =
                    part.as_object().filter(|part| part.get("type").is_some_and(|kind| kind == "text"))?;
                part.get("text")?.as_str().map(str::to_owned)
            };
            let parts = parts.iter().map(text).collect::<Option<Vec<_>>>();
            parts.map(|parts| parts.concat()).ok_or_else(|| {
                let message = format!("`{field}` has a part that is no text; this server reads text alone");
                ApiError::field(&field, message)
            })?
        }
        other => return Err(unwanted(&field, &other, "a text, or a list of parts of the type text")),
    };
    // Answers that clients send back carry fields with nothing in them.
    nothing_left(at, map).map_err(|error| error.with_code("unsupported_parameter"))?;
    Ok(Message::new(role, content))
}

/// No field is left in the object `at` that asks for something.
fn nothing_left(at: &str, map: Map<String, Value>) -> Result<(), ApiError> {
    match map.into_iter().find(|(_, value)| !asks_for_nothing(value)) {
        Some((name, _)) => {
            let name = format!("{at}.{}", name.chars().take(80).collect::<String>());
            let message = format!("`{name}` is not honoured by this server; leave it out");
            Err(ApiError::field(name, message))
        }
        None => Ok(()),
    }
}

fn prompt(fields: &mut Fields) -> Result<Prompt, ApiError> {
    const WANTED: &str = "a text, a list of texts, a list of token ids, or a list of those";
    let Some(value) = fields.take("prompt") else {
        return Err(ApiError::field("prompt", format!("`prompt` is missing; wanted {WANTED}")));
    };
    let token = |value: &Value| Some(TokenId(value.as_u64()?.try_into().ok()?));
    let tokens = |value: &Value| value.as_array()?.iter().map(token).collect::<Option<Vec<_>>>();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let read = match &value {
        Value::String(text) => Some(Prompt::Texts(vec![text.clone()])),
        Value::Array(list) => match list.first() {
            Some(Value::String(_)) => list.iter().map(text).collect::<Option<_>>().map(Prompt::Texts),
            Some(Value::Number(_)) => tokens(&value).map(|prompt| Prompt::Tokens(vec![prompt])),
            Some(Value::Array(_)) => list.iter().map(tokens).collect::<Option<_>>().map(Prompt::Tokens),
            _ => None,
        },
        _ => None,
    };
    read.ok_or_else(|| unwanted("prompt", &value, WANTED))
}

/// A number that nobody guesses; the standard library's maps begin with one.
pub fn random() -> u64 {
    RandomState::new().hash_one(())
}
