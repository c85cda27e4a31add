//! The body of a request, of bounded length and time.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use futures_util::StreamExt;

use crate::error::ApiError;

/// Longest body. A model's whole context as text is far shorter.
const MOST: usize = 4 << 20;
/// Bytes beyond that are read and thrown away up to here: a client that still sends does not hear an answer.
const THROWN_AWAY: usize = 64 << 20;
/// A body is to be here by then.
const TIME: Duration = Duration::from_secs(30);

/// The body of a request that says to be JSON.
pub async fn read(request: Request) -> Result<Vec<u8>, ApiError> {
    let kind = request.headers().get(CONTENT_TYPE).map_or("", |v| v.to_str().unwrap_or("bytes"));
    // A page of another site can send any other type without being asked for leave.
    if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        let kind: String = kind.chars().take(80).collect();
        let message = format!("the content type is `{kind}`; send `Content-Type: application/json`");
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let late = |_| {
        let message = format!("the body was not here within {} s", TIME.as_secs());
        ApiError::new(StatusCode::REQUEST_TIMEOUT, message)
    };
    tokio::time::timeout(TIME, collect(request.into_body())).await.map_err(late)?
}

async fn collect(body: Body) -> Result<Vec<u8>, ApiError> {
    let mut stream: BodyDataStream = body.into_data_stream();
    let mut bytes = Vec::new();
    let mut length = 0;
    while let Some(part) = stream.next().await {
        let part = part.map_err(|error| {
            ApiError::new(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}"))
        })?;
        length += part.len();
        if length <= MOST {
            bytes.extend_from_slice(&part);
        } else if length > THROWN_AWAY {
            break;
        }
    }
    if length > MOST {
        let message = format!("the body is longer than {MOST} bytes; send less");
        return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    Ok(bytes)
}
