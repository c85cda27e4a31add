//! The seam between the engine and a device.
//!
//! [`Train`], [`Prefill`] and [`Decode`] are all that the engine knows of a device. A backend says
//! what it can do by which of them it implements. [`reference`] is the oracle: plain f64 code, one
//! file per block. [`conformance`] is the suite that every backend runs against it, and
//! [`Checked`] makes the same comparison inside a real run; [`Timed`] measures any backend.

#![forbid(unsafe_code)]

mod checked;
pub mod conformance;
mod decode;
mod error;
mod footprint;
mod prefill;
pub mod reference;
mod timed;
mod train;
mod update;

pub use checked::Checked;
pub use decode::{Decode, Draw, Feed, Logits, SeqId, Stream};
pub use error::{Error, Result};
pub use footprint::Footprint;
pub use model::Slot;
pub use prefill::{KvBlock, Prefill};
pub use timed::{Phase, Span, Timed};
pub use train::{Tokens, Train, forward, forward_backward};
pub use update::{AdamW, Muon, Rule, Rules, Update};
