//! MIL, the language of Apple's Neural Engine: programs, their text, their rules, their meaning.
//!
//! [`Program`] is the typed form, made by [`Builder`] or [`parse`] and printed by `Display`.
//! [`verify()`] checks types and ANE rules and returns the witness [`Verified`], which devices compile
//! and [`eval::Plan`] evaluates. [`blob`] reads and writes the weights, [`cost()`] counts work.
//!
//! ```
//! use mil::{Builder, DType, Program, Target, verify};
//!
//! let mut b = Builder::new("main");
//! let x = b.input("i00_x", DType::Fp16, [1, 1, 32, 64]);
//! let w = b.input("i01_w", DType::Fp16, [1, 1, 64, 32]);
//! let y = b.matmul(x, w);
//! b.output("o00_y", y);
//! let program = Program::new(vec![b.finish().unwrap()]);
//! assert_eq!(mil::parse(&program.to_string()).unwrap(), program);
//! assert!(verify(program, &Target::default()).is_ok());
//! ```
#![forbid(unsafe_code)]

pub mod blob;
mod builder;
mod cost;
pub mod eval;
mod lexer;
pub mod ops;
mod parse;
mod print;
pub mod program;
pub mod types;
pub mod verify;

pub use blob::Weights;
pub use builder::{BuildError, Builder, Flip};
pub use cost::{Cost, cost, flops};
pub use parse::{ParseError, parse};
pub use program::{Function, Program, ValueId};
pub use types::{DType, Shape, TensorType};
pub use verify::{Diagnostic, Target, Verified, verify};
