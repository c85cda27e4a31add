//! Both ways to ask for a text.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use tokio::sync::mpsc::UnboundedReceiver;

use super::App;
use crate::error::{ApiError, json_response};
use crate::queue::Event;
use crate::request::{Ask, Delivery, Kind, random};
use crate::schema::{Choice, Head, Usage};
use crate::{body, stream};

/// Reads the request, has it written and answers.
pub async fn answer(app: App, kind: Kind, request: Request) -> Result<Response, ApiError> {
    let body = body::read(request).await?;
    // Before the work of reading it.
    app.queue.room()?;
    let model = app.model.clone();
    let read = tokio::task::spawn_blocking(move || {
        let ask = Ask::parse(kind, &body, &model.name)?;
        Ok((model.read(&ask)?, ask.delivery))
    });
    let broken = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "reading this request failed");
    let (texts, delivery) = read.await.map_err(broken)??;
    let head = Head::new(kind, random(), now(), app.model.name.clone());
    let choices = texts.len();
    let events = app.queue.push(head.id.clone(), texts)?;
    match delivery {
        Delivery::Whole => whole(&head, choices, events).await,
        Delivery::Stream { usage } => Ok(stream::response(head, choices, events, usage)),
    }
}

async fn whole(
    head: &Head,
    choices: usize,
    mut events: UnboundedReceiver<Event>,
) -> Result<Response, ApiError> {
    let mut written = vec![Choice::default(); choices];
    let mut usage = Usage::default();
    let mut ended = 0;
    while ended < choices {
        match events.recv().await {
            Some(Event::Piece { choice, text }) => written[choice].text.push_str(&text),
            Some(Event::End { choice, finish, counts }) => {
                written[choice].finish = Some(finish);
                usage.add(counts);
                ended += 1;
            }
            Some(Event::Failed(error)) => return Err(error),
            None => return Err(ApiError::stopping()),
        }
    }
    Ok(json_response(StatusCode::OK, &head.answer(&written, &usage)))
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
