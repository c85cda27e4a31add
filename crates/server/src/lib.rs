//! A model over HTTP, as OpenAI's clients expect it: chat completions, completions, models.
//!
//! One model on one device. Requests wait in a bounded queue and are written one at a time by the thread that calls
//! [`serve`], so that a device need not be shared; a second thread talks HTTP. A client that leaves ends its text.
//! What is honoured and what is refused: `docs/serving.md`.

#![forbid(unsafe_code)]

mod body;
mod error;
mod fields;
mod guard;
mod http;
mod model;
mod queue;
mod request;
mod routes;
mod schema;
mod serve;
mod stream;
mod worker;

pub use self::guard::Origin;
pub use self::model::{Model, Text};
pub use self::serve::{Report, ServeError, Settings, serve};
