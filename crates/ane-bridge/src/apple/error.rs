//! What the system says when a call fails, and what to try then.

use std::fmt;

use crate::surface::{Access, Layout, SurfaceError};

/// An error of Apple's frameworks, word for word, with advice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemError {
    /// The selector or function that failed.
    pub call: &'static str,
    /// Domain of the `NSError`; empty when the call failed without one.
    pub domain: String,
    /// Code of the `NSError`, or the function's own.
    pub code: i64,
    /// Its description.
    pub text: String,
}

impl SystemError {
    /// A call that failed and gave no reason.
    pub fn silent(call: &'static str) -> Self {
        Self { call, domain: String::new(), code: 0, text: "no reason was given".into() }
    }

    /// The status of the driver inside the text, as in `status=0x1d`.
    pub fn status(&self) -> Option<u32> {
        let (_, rest) = self.text.split_once("status=0x")?;
        let end = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
        u32::from_str_radix(&rest[..end], 16).ok()
    }

    /// What to try, by what published engines found behind the same text.
    pub fn advice(&self) -> &'static str {
        let known = ADVICE.iter().find(|(text, _)| self.text.contains(text));
        match known {
            Some((_, advice)) => advice,
            None if self.domain.is_empty() => SILENT,
            None => "run `rustane doctor`; `--device cpu` does without the Neural Engine",
        }
    }
}

impl fmt::Display for SystemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed: {}", self.call, self.text)?;
        if !self.domain.is_empty() {
            write!(f, " ({} {})", self.domain, self.code)?;
        }
        write!(f, "; {}", self.advice())
    }
}

impl std::error::Error for SystemError {}

const SILENT: &str = "the daemon may be short of slots or past its compile budget: drop executables, or save and \
                      restart the process";

/// Words in a description, and what to do. The first that is found counts.
/// Sources: maderix/ANE (bridge), Orion (docs/ane_constraints.md), luengnat/rustane
/// (docs/ane_constraints.md), mil-hwx-compiler (research/oracle-diff.md), ANEForge, Espresso.
const ADVICE: &[(&str, &str)] = &[
    ("InvalidMILProgram", "the text or an operation was not accepted: try `rustane mil check` on it"),
    (
        "CompilationFailure",
        "the program is legal, but the ANE has no way to run an operation of it: cut it otherwise",
    ),
    ("Metadata data type", "a weight's element type is not that of its record: write the weight file again"),
    ("Invalid sentinel", "a BLOBFILE offset names no record: give the record's offset, 64 for the first"),
    ("status=0x1d", "a surface is too small, or bound in another order than the program's symbols"),
    ("status=0x16", "the shapes of the program and of its surfaces do not go together"),
    ("status=0x9", "one surface is bound twice: give every output its own"),
    ("status=0x2", "the request names a symbol that the procedure does not have"),
    ("CacheMiss", "the daemon forgot the compiled program: compile it again"),
    ("0xe00002e2", "the system does not permit it to this process: check sandbox and entitlements"),
];

/// Why the Neural Engine of this machine cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum OpenError {
    #[error("this build has no Neural Engine: it is not for macOS")]
    NotApple,
    #[error("the framework {path} could not be loaded: {reason}")]
    Framework { path: String, reason: String },
    #[error(
        "{count} of the {all} calls that rustane makes into the framework are not as known: {first}; \
         `rustane doctor` lists them"
    )]
    Table { count: usize, all: usize, first: Mismatch },
    #[error("the framework says that this machine has no Neural Engine")]
    NoEngine,
    #[error("the system does not tell the chip; name it with --chip")]
    ChipUnknown,
    #[error("the chip `{name}` is not in the table of chips; name its nearest relative with --chip")]
    ChipNew { name: String },
    #[error("the framework's client was not made")]
    Client(#[source] SystemError),
}

/// A row of the table that the framework does not have so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum Mismatch {
    #[error("there is no class {class}")]
    Class { class: &'static str },
    #[error("there is no {method}")]
    Selector { method: String },
    #[error("{method} has the types `{found}`, not `{wanted}`")]
    Encoding { method: String, found: String, wanted: &'static str },
}

/// Why a surface is not shared with Metal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ShareError {
    #[error(
        "the surface of {layout} is not in memory that the Neural Engine shares; make it by `AppleAne::surface`"
    )]
    Foreign { layout: Layout },
    #[error(transparent)]
    Surface(#[from] SurfaceError),
    #[error("the surface of {layout} could not be locked for {access}: code {code:#x}")]
    Lock { layout: Layout, access: Access, code: i32 },
    #[error(
        "{bytes} bytes at {base:#x} are no whole pages of {page} bytes, which Metal wants of memory that it does not \
         copy; copy them into a buffer instead"
    )]
    Pages { base: usize, bytes: usize, page: usize },
    #[error("Metal on this system is not as known: {0}; copy the surface instead")]
    Call(#[from] Mismatch),
    #[error(transparent)]
    System(#[from] SystemError),
    #[error("Metal refused a buffer over {bytes} bytes of a surface; copy them instead")]
    Refused { bytes: usize },
    #[error("Metal copied {bytes} bytes of a surface into a buffer of {length} instead of sharing them")]
    Copied { bytes: usize, length: usize },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(domain: &str, text: &str) -> SystemError {
        SystemError { call: "evaluate", domain: domain.into(), code: 8, text: text.into() }
    }

    #[test]
    fn advice_follows_the_text() {
        let text = "ANEProgramProcessRequestDirect() Failed with status=0x1d : statusType=0x9: Program Inference error";
        let failed = error("com.apple.appleneuralengine", text);
        assert_eq!(failed.status(), Some(0x1d));
        assert!(
            failed.to_string().contains("com.apple.appleneuralengine 8); a surface is too small"),
            "{failed}"
        );
        assert_eq!(error("x", "nothing known").status(), None);
        assert!(error("x", "nothing known").to_string().ends_with("does without the Neural Engine"));
        assert!(
            SystemError::silent("load").to_string().contains("no reason was given; the daemon may be short")
        );
    }
}
