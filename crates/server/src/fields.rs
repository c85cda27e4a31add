//! Fields of a request, each taken once and checked; what is left over at the end is refused.

use axum::http::StatusCode;
use serde_json::{Map, Value};

use crate::error::ApiError;

/// Fields that change no text: taken and not looked at.
const HARMLESS: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "parallel_tool_calls",
];

/// Fields of OpenAI's that would change the text and are not honoured, with the value that asks for nothing, as JSON.
/// `null`, `false`, 0, and empty texts, lists and objects ask for nothing in any of them.
const NOT_HONOURED: [(&str, &str); 20] = [
    ("audio", ""),
    ("best_of", "1"),
    ("echo", ""),
    ("frequency_penalty", ""),
    ("function_call", "\"none\""),
    ("functions", ""),
    ("logit_bias", ""),
    ("logprobs", ""),
    ("modalities", "[\"text\"]"),
    ("moderation", ""),
    ("prediction", ""),
    ("presence_penalty", ""),
    ("reasoning_effort", "\"none\""),
    ("response_format", "{\"type\":\"text\"}"),
    ("suffix", ""),
    ("tool_choice", "\"none\""),
    ("tools", ""),
    ("top_logprobs", ""),
    ("verbosity", ""),
    ("web_search_options", ""),
];

/// The fields of an object that are not taken yet.
pub struct Fields(Map<String, Value>);

impl Fields {
    /// The fields of a body.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let wrong = |message: String| ApiError::new(StatusCode::BAD_REQUEST, message);
        match serde_json::from_slice(body) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(other) => Err(wrong(format!("the body is {}; wanted a JSON object", shown(&other)))),
            Err(error) => Err(wrong(format!("the body is no JSON: {error}"))),
        }
    }

    /// A field; `null` is as good as nothing.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    /// A field that `read` understands.
    pub fn read<T>(
        &mut self,
        name: &str,
        wanted: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        read(&value).map(Some).ok_or_else(|| unwanted(name, &value, wanted))
    }

    /// A number inside bounds.
    pub fn number(
        &mut self,
        name: &str,
        wanted: &str,
        holds: fn(f32) -> bool,
    ) -> Result<Option<f32>, ApiError> {
        let number = |value: &Value| value.as_f64().map(|x| x as f32).filter(|x| x.is_finite() && holds(*x));
        self.read(name, wanted, number)
    }

    /// A count of at least one.
    pub fn count(&mut self, name: &str) -> Result<Option<usize>, ApiError> {
        let count =
            |value: &Value| value.as_u64().filter(|n| *n > 0).map(|n| n.try_into().unwrap_or(usize::MAX));
        self.read(name, "a whole number of at least 1", count)
    }

    /// `true` or `false`; nothing is `false`.
    pub fn flag(&mut self, name: &str) -> Result<bool, ApiError> {
        Ok(self.read(name, "true or false", Value::as_bool)?.unwrap_or(false))
    }

    /// Nothing is left that would change the text.
    pub fn finish(mut self) -> Result<(), ApiError> {
        for name in HARMLESS {
            self.0.remove(name);
        }
        for (name, nothing) in NOT_HONOURED {
            let Some(value) = self.take(name) else { continue };
            // A list of no log-probabilities is still a list of the tokens' own.
            let empty = asks_for_nothing(&value) && (name != "logprobs" || value.is_boolean());
            let neutral = serde_json::from_str(nothing).is_ok_and(|nothing: Value| nothing == value);
            if !empty && !neutral {
                let message = format!(
                    "`{name}` is not honoured by this server, and would change the answer; leave it out"
                );
                return Err(ApiError::field(name, message).with_code("unsupported_parameter"));
            }
        }
        match self.0.into_iter().find(|(_, value)| !value.is_null()) {
            Some((name, _)) => {
                let name: String = name.chars().take(80).collect();
                let message =
                    format!("`{name}` is no field of this request; correct its name or leave it out");
                Err(ApiError::field(name, message).with_code("unknown_parameter"))
            }
            None => Ok(()),
        }
    }
}

/// Whether a field with this value could as well be left out.
pub fn asks_for_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// The error of a field that is something else.
pub fn unwanted(name: &str, value: &Value, wanted: &str) -> ApiError {
    ApiError::field(name, format!("`{name}` is {}; wanted {wanted}", shown(value)))
}

/// A value in a message: short ones as they are, of others only what they are, since texts are nobody else's business.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) if text.len() <= 40 => format!("\"{text}\""),
        Value::String(text) => format!("a text of {} bytes", text.len()),
        Value::Array(list) => format!("a list of {}", list.len()),
        Value::Object(_) => "an object".into(),
        other => other.to_string(),
    }
}
