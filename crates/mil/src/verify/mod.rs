//! What a device may compile: types and ANE rules, all violations at once.
//!
//! Each rule is one item of [`RULES`] with its check, its fix and its evidence; `docs/ane-rules.md`
//! lists them, and `tests/verify/<rule>.mil` shows each of them broken.

mod ane;
mod target;
mod types;

use std::fmt;
use std::ops::Deref;

use crate::program::{Function, Pos, Program};

pub use ane::RULES;
pub use target::{Family, Limits, Target};

/// On M1 and M2, slices that begin inside the last axis turn larger magnitudes into infinities.
/// Source: ANEForge, docs/cross-chip.md.
pub const SLICE_CLAMP: f32 = 4094.0;

/// A program that passed [`verify()`]. Devices compile nothing else.
#[derive(Clone, Debug)]
pub struct Verified {
    program: Program,
    target: Target,
    warnings: Vec<Diagnostic>,
}

impl Verified {
    /// What may fail or be slow, by reports that are contested or concern speed.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// What the program was checked for.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The program, to change it; it must be verified again.
    pub fn into_program(self) -> Program {
        self.program
    }
}

impl Deref for Verified {
    type Target = Program;
    fn deref(&self) -> &Program {
        &self.program
    }
}

/// A broken rule, at a place.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    /// Id of the rule.
    pub rule: &'static str,
    /// Errors keep the program from a device.
    pub severity: Severity,
    /// The function, or empty for the program as a whole.
    pub function: String,
    /// The value, or empty for the function as a whole.
    pub value: String,
    /// Where the text defines it; 0:0 for built programs.
    pub pos: Pos,
    /// What was found, and what was wanted.
    pub message: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pos.line > 0 {
            write!(f, "{}:{}: ", self.pos.line, self.pos.col)?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}[{}]: ", self.rule)?;
        match (self.function.is_empty(), self.value.is_empty()) {
            (true, _) => {}
            (false, true) => write!(f, "`{}`: ", self.function)?,
            (false, false) => write!(f, "`{}` in `{}`: ", self.value, self.function)?,
        }
        write!(f, "{}; {}", self.message, self.fix)
    }
}

/// Whether a broken rule keeps a program from the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The compiler or the evaluation fails, or the result is wrong.
    Error,
    /// Reports disagree, or only speed suffers.
    Warning,
}

/// How well a rule is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Someone measured it on hardware or against Apple's compiler.
    Measured,
    /// It follows from measurements or from Apple's open sources, but was not tried alone.
    Inferred,
    /// Reports disagree.
    Contested,
}

/// One rule.
pub struct Rule {
    /// Id, as in diagnostics and file names.
    pub id: &'static str,
    /// What must hold.
    pub says: &'static str,
    /// How a violation counts; some rules warn on newer chips.
    pub severity: Severity,
    /// How well it is known.
    pub evidence: Evidence,
    /// Who reported it.
    pub source: &'static str,
    pub(crate) check: Check,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rule").field(&self.id).finish()
    }
}

pub(crate) enum Check {
    /// Looks at the program as a whole.
    Program(fn(&Program, &Target, &mut Report)),
    /// Looks at one function.
    Function(fn(&Context<'_>, &mut Report)),
    /// Reported by the type check, which serves several rules.
    Types,
}

/// What a function's checks see.
pub(crate) struct Context<'a> {
    pub program: &'a Program,
    pub function: &'a Function,
    pub target: &'a Target,
}

/// Collects violations of one rule.
pub(crate) struct Report<'a> {
    rule: &'static str,
    severity: Severity,
    function: &'a str,
    found: &'a mut Vec<Diagnostic>,
}

impl Report<'_> {
    pub(crate) fn at(&mut self, value: &str, pos: Pos, message: impl Into<String>, fix: impl Into<String>) {
        self.push(self.rule, self.severity, value, pos, message.into(), fix.into());
    }

    /// Reports under a severity other than the rule's own.
    pub(crate) fn with(&mut self, severity: Severity, value: &str, pos: Pos, message: String, fix: &str) {
        self.push(self.rule, severity, value, pos, message, fix.into());
    }

    pub(crate) fn rule(&mut self, rule: &'static str, value: &str, pos: Pos, message: String, fix: String) {
        self.push(rule, Severity::Error, value, pos, message, fix);
    }

    fn push(
        &mut self,
        rule: &'static str,
        severity: Severity,
        value: &str,
        pos: Pos,
        message: String,
        fix: String,
    ) {
        self.found.push(Diagnostic {
            rule,
            severity,
            function: self.function.to_string(),
            value: value.to_string(),
            pos,
            message,
            fix,
        });
    }
}

/// Checks types and ANE rules; reports every violation, not only the first.
///
/// # Errors
/// All diagnostics in text order, warnings included, when at least one of them is an error.
pub fn verify(program: Program, target: &Target) -> Result<Verified, Vec<Diagnostic>> {
    let mut found = Vec::new();
    for function in &program.functions {
        let mut report =
            Report { rule: "type", severity: Severity::Error, function: &function.name, found: &mut found };
        types::check(function, &mut report);
    }
    for rule in RULES {
        match rule.check {
            Check::Types => {}
            Check::Program(check) => {
                let mut report =
                    Report { rule: rule.id, severity: rule.severity, function: "", found: &mut found };
                check(&program, target, &mut report);
            }
            Check::Function(check) => {
                for function in &program.functions {
                    let context = Context { program: &program, function, target };
                    let mut report = Report {
                        rule: rule.id,
                        severity: rule.severity,
                        function: &function.name,
                        found: &mut found,
                    };
                    check(&context, &mut report);
                }
            }
        }
    }
    found.sort_by_key(|d| (d.pos.line, d.pos.col));
    if found.iter().any(|d| d.severity == Severity::Error) {
        return Err(found);
    }
    Ok(Verified { program, target: target.clone(), warnings: found })
}
