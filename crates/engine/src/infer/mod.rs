//! Writing text with a model.

mod generate;
mod sampler;

use backend::{Decode, Prefill};

pub use self::generate::{Finish, Generated, Session, generate};
pub use self::sampler::{Sampler, Sampling};

/// A device that can write: reads a prompt, then continues it.
pub trait Infer: Prefill + Decode {}

impl<T: Prefill + Decode> Infer for T {}
