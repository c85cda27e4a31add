//! Faults that a program asks for in its build information, where Apple's compiler ignores them.

use mil::Program;

/// What shall go wrong with a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The descriptor is nil.
    Describe,
    /// The compiler says `InvalidMILProgram`.
    Compile,
    /// The compile fails without an error.
    CompileSilently,
    /// The first load fails without an error, the second works.
    LoadOnce,
    /// Every load fails.
    Load,
    /// Every evaluation fails with status 0x1d.
    Evaluate,
    /// The first evaluation fails with status 0x1d.
    EvaluateOnce,
    /// The compile throws.
    CompileThrows,
    /// Every evaluation throws.
    EvaluateThrows,
    /// The compiler tells nothing of symbols.
    NoAttributes,
    /// The compiler orders symbols backwards.
    Backwards,
    /// The compiler names an input otherwise.
    OtherName,
    /// The compiler lays rows twice as far apart.
    WideRows,
}

const KEY: &str = "fake-fault";

impl Fault {
    const ALL: [Fault; 13] = [
        Fault::Describe,
        Fault::Compile,
        Fault::CompileSilently,
        Fault::LoadOnce,
        Fault::Load,
        Fault::Evaluate,
        Fault::EvaluateOnce,
        Fault::CompileThrows,
        Fault::EvaluateThrows,
        Fault::NoAttributes,
        Fault::Backwards,
        Fault::OtherName,
        Fault::WideRows,
    ];

    /// The program that asks for the fault.
    pub fn asked_by(self, mut program: Program) -> Program {
        program.build_info.push((KEY.into(), format!("{self:?}")));
        program
    }

    pub(super) fn of(program: &Program) -> Option<Self> {
        let (_, name) = program.build_info.iter().find(|(key, _)| key == KEY)?;
        Self::ALL.into_iter().find(|fault| format!("{fault:?}") == *name)
    }
}
