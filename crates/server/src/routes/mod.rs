//! What is asked where.

mod models;
mod texts;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::json;

use crate::error::{ApiError, Refusal, json_response};
use crate::guard::Guard;
use crate::model::Model;
use crate::queue::Queue;
use crate::request::Kind;
use crate::serve::Report;

/// What every route can reach.
#[derive(Clone)]
pub struct App {
    model: Arc<Model>,
    queue: Arc<Queue>,
    guard: Guard,
    report: Arc<dyn Fn(&Report<'_>) + Send + Sync>,
    /// Seconds since 1970.
    started: u64,
}

/// All routes, behind the guard.
pub fn router(
    model: Arc<Model>,
    queue: Arc<Queue>,
    guard: Guard,
    report: Arc<dyn Fn(&Report<'_>) + Send + Sync>,
) -> Router {
    let app = App { model, queue, guard, report, started: texts::now() };
    let ask = |kind| post(move |State(app): State<App>, request: Request| texts::answer(app, kind, request));
    Router::new()
        .route("/health", get(health))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*name}", get(models::one))
        .route("/v1/chat/completions", ask(Kind::Chat))
        .route("/v1/completions", ask(Kind::Completion))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(app.clone(), gate))
        .with_state(app)
}

/// The guard before each route, and the report of what was refused behind it.
async fn gate(State(app): State<App>, request: Request, next: Next) -> Response {
    let what = format!("{} {}", request.method(), request.uri().path());
    let mut response = match app.guard.stop(&request) {
        Some(response) => response,
        None => next.run(request).await,
    };
    app.guard.mark(&mut response);
    if let Some(Refusal(reason)) = response.extensions_mut().remove() {
        let what: String = what.chars().take(120).collect();
        (app.report)(&Report::Refused { what: &what, status: response.status().as_u16(), reason: &reason });
    }
    response
}

/// How the line stands, and whether the device wrote the last text.
async fn health(State(app): State<App>) -> Response {
    let state = app.queue.state();
    let (status, word) = match state.failed {
        None => (StatusCode::OK, "ok"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "failed"),
    };
    let body = json!({
        "status": word, "reason": state.failed, "writing": state.writing, "waiting": state.waiting,
    });
    json_response(status, &body)
}

async fn nothing_here(request: Request) -> ApiError {
    let path: String = request.uri().path().chars().take(80).collect();
    let message = format!(
        "there is nothing at {path}; wanted /v1/chat/completions, /v1/completions, /v1/models or /health"
    );
    ApiError::new(StatusCode::NOT_FOUND, message)
}

async fn wrong_method(request: Request) -> ApiError {
    let path = request.uri().path();
    let wanted = if path.ends_with("completions") { "POST" } else { "GET" };
    let message = format!("{path} is not for {}; use {wanted}", request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
}
