//! An answer in pieces: server-sent events, each a line of JSON, and `[DONE]` behind the last.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use crate::error::ApiError;
use crate::queue::Event;
use crate::schema::{Head, Usage};

/// A sign of life after this time without a piece, so that nobody on the way gives up.
const PING: Duration = Duration::from_secs(15);

/// The response to a request, while its text is written. Who drops it ends the text.
pub fn response(head: Head, choices: usize, events: UnboundedReceiver<Event>, usage: bool) -> Response {
    let mut pieces = Pieces {
        frames: VecDeque::new(),
        counts: usage.then(Usage::default),
        open: choices,
        head,
        events: Some(events),
    };
    for choice in 0..choices {
        if let Some(opening) = pieces.head.opening(choice) {
            pieces.frame(&opening.to_string());
        }
    }
    let frames = unfold(pieces, |mut pieces| async {
        let frame = pieces.next().await?;
        Some((Ok::<_, Infallible>(frame), pieces))
    });
    let headers = [(CONTENT_TYPE, "text/event-stream; charset=utf-8"), (CACHE_CONTROL, "no-cache")];
    (headers, Body::from_stream(frames)).into_response()
}

struct Pieces {
    head: Head,
    /// Until the last has come.
    events: Option<UnboundedReceiver<Event>>,
    /// Ready to be sent.
    frames: VecDeque<String>,
    /// Choices that are not at their end.
    open: usize,
    /// Where they are wanted.
    counts: Option<Usage>,
}

impl Pieces {
    /// The next frame; nothing behind the last.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                return Some(frame);
            }
            match timeout(PING, self.events.as_mut()?.recv()).await {
                Err(_) => return Some(": ping\n\n".into()),
                Ok(event) => self.take(event.unwrap_or_else(|| Event::Failed(ApiError::stopping()))),
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Piece { choice, text } => self.frame(&self.head.text(choice, &text).to_string()),
            Event::End { choice, finish, counts } => {
                self.frame(&self.head.end(choice, finish).to_string());
                if let Some(sum) = &mut self.counts {
                    sum.add(counts);
                }
                self.open -= 1;
                if self.open == 0 {
                    if let Some(sum) = self.counts.take() {
                        self.frame(&self.head.counts(&sum).to_string());
                    }
                    self.frame("[DONE]");
                    self.events = None;
                }
            }
            Event::Failed(error) => {
                self.frame(&error.json().to_string());
                self.events = None;
            }
        }
    }

    fn frame(&mut self, data: &str) {
        self.frames.push_back(format!("data: {data}\n\n"));
    }
}
