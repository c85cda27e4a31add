//! What objc2 needs of an Objective-C runtime and GCC's does not have.

mod arc;
mod block;
mod classes;
mod encoding;
mod exception;

pub use classes::ready;
pub use exception::catch;
