//! The models that there are: one.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::App;
use crate::error::{ApiError, json_response};

/// All of them.
pub async fn list(State(app): State<App>) -> Response {
    json_response(StatusCode::OK, &json!({ "object": "list", "data": [told(&app)] }))
}

/// The one of that name.
pub async fn one(State(app): State<App>, Path(name): Path<String>) -> Response {
    if name == app.model.name {
        return json_response(StatusCode::OK, &told(&app));
    }
    ApiError::no_model(&name, &app.model.name).into_response()
}

fn told(app: &App) -> Value {
    json!({ "id": app.model.name, "object": "model", "created": app.started, "owned_by": "rustane" })
}
