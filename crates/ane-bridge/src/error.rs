//! Why a program did not compile, bind or run.

use std::fmt;

use mil::eval::PlanError;
use mil::verify::Family;

use crate::apple::SystemError;
use crate::surface::{Layout, SurfaceError};

/// Status of a failed evaluation, as the driver reports it: `status=0x1d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(pub u32);

impl Status {
    /// A surface is too small for its value, or bound in the wrong order.
    /// Source: Orion, docs/ane_constraints.md 2, 4, 12.
    pub const INFERENCE: Status = Status(0x1d);
    /// One surface is bound twice. Source: Espresso.
    pub const ALIASED: Status = Status(0x9);
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {:#x}", self.0)
    }
}

/// Why a program did not become an executable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum CompileError {
    #[error(
        "`{program}` was verified for {found:?}, but the device is a {chip} ({wanted:?}); \
         verify it with `Target::new(Family::{wanted:?})`"
    )]
    Family { program: String, found: Family, chip: String, wanted: Family },
    #[error("`{program}` has {count} functions; give the device one function per program")]
    Functions { program: String, count: usize },
    #[error("`{value}` of `{program}` is {found}, which no surface holds; use fp16 or fp32")]
    Port { program: String, value: String, found: String },
    #[error(
        "`{program}` would be compile {needed} of this process, and the ANE takes {budget}; \
         save a checkpoint and restart the process"
    )]
    Budget { program: String, needed: u32, budget: u32 },
    #[error(
        "`{program}` would be loaded program {needed}, and the ANE takes {limit}; drop executables first"
    )]
    Loaded { program: String, needed: u32, limit: u32 },
    #[error("`{program}`: the ANE compiler said: {reason}; try `rustane mil check` on its text")]
    Rejected { program: String, reason: String },
    #[error("`{program}` cannot be evaluated")]
    Plan {
        program: String,
        #[source]
        source: PlanError,
    },
    #[error("`{program}` was refused")]
    System {
        program: String,
        #[source]
        source: SystemError,
    },
    #[error("the files of `{program}`, which the ANE compiler reads, were not written")]
    Files {
        program: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why surfaces were not bound to an executable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum BindError {
    #[error("`{program}` has no {side} `{name}`; it has {has}")]
    Unknown { program: String, side: &'static str, name: String, has: String },
    #[error("{side} `{name}` of `{program}` is bound twice; bind it once")]
    Twice { program: String, side: &'static str, name: String },
    #[error("{side} `{name}` of `{program}` has no surface; bind one of {wanted}")]
    Missing { program: String, side: &'static str, name: String, wanted: Layout },
    #[error(
        "the surface of `{name}` in `{program}` has {found} bytes, but {wanted} takes {need}: {status}; \
         make the surface from `port.layout`"
    )]
    TooSmall { program: String, name: String, found: usize, wanted: Layout, need: usize, status: Status },
    #[error(
        "the surface of `{name}` in `{program}` is {found}, but the program reads {wanted}: \
         its rows would lie elsewhere; make the surface from `port.layout`"
    )]
    Layout { program: String, name: String, found: Layout, wanted: Layout },
    #[error("`{output}` of `{program}` has the surface of `{other}`: {status}; give every output its own")]
    Aliased { program: String, output: String, other: String, status: Status },
    #[error("the surface of `{name}` in `{program}` is of another device; make it with `Device::surface`")]
    Foreign { program: String, name: String },
    #[error("the surfaces of `{program}` made no request")]
    System {
        program: String,
        #[source]
        source: SystemError,
    },
}

/// Why a request did not run. Outputs hold no result then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum RunError {
    #[error("the surface of `{name}` in `{program}` cannot be used")]
    Surface {
        program: String,
        name: String,
        #[source]
        source: SurfaceError,
    },
    #[error("dispatch {dispatch} of the device, `{program}`, failed: {status}; {reason}")]
    Failed {
        program: String,
        dispatch: u64,
        status: Status,
        reason: String,
        /// What the system said, where a system was asked.
        #[source]
        system: Option<Box<SystemError>>,
    },
    #[error("surfaces could not be bound")]
    Bind(#[from] BindError),
    #[error("`{program}` cannot be evaluated")]
    Evaluate {
        program: String,
        #[source]
        source: mil::eval::RunError,
    },
}
