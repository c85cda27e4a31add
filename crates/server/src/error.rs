//! Errors as OpenAI's clients read them.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Why a request is not answered with a text.
#[derive(Clone, Debug)]
pub struct ApiError {
    status: StatusCode,
    message: String,
    param: Option<String>,
    code: Option<&'static str>,
}

/// What is wrong with a response, for whoever reports it.
#[derive(Clone, Debug)]
pub struct Refusal(pub String);

impl ApiError {
    /// Wrong in a way that has no field.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, code: None }
    }

    /// A field that is not what it should be.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::new(StatusCode::BAD_REQUEST, message) }
    }

    /// The same with a word for programs.
    pub fn with_code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// The same about a field.
    pub fn about(self, param: &str) -> Self {
        Self { param: Some(param.into()), ..self }
    }

    /// A model that is not here.
    pub fn no_model(asked: &str, here: &str) -> Self {
        let asked: String = asked.chars().take(80).collect();
        let message = format!("there is no model `{asked}`; this server has `{here}`");
        Self::new(StatusCode::NOT_FOUND, message).about("model").with_code("model_not_found")
    }

    /// Too many requests wait.
    pub fn queue_full(waiting: usize) -> Self {
        let message = format!("{waiting} requests wait already, as many as may; ask again later");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).with_code("queue_full")
    }

    /// The server ends.
    pub fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the server is being stopped").with_code("stopping")
    }

    /// The device cannot write.
    pub fn device(reason: &str) -> Self {
        let message = format!("cannot write this text: {reason}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).with_code("device_failed")
    }

    /// As the body of a response, or an event of a stream.
    pub fn json(&self) -> Value {
        let kind = if self.status.is_server_error() { "server_error" } else { "invalid_request_error" };
        let Self { message, param, code, .. } = self;
        json!({ "error": { "message": message, "type": kind, "param": param, "code": code } })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &self.json());
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            // Seconds; clients wait longer with each attempt.
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response.extensions_mut().insert(Refusal(self.message));
        response
    }
}

/// A body of JSON.
pub fn json_response(status: StatusCode, body: &Value) -> Response {
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
