//! What objc2 needs of an Objective-C runtime and GCC's does not have.

mod arc;
mod classes;
mod encoding;

pub use classes::ready;
