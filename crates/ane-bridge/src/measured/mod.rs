//! What Macs answered to the lab, where our model takes an answer as it is: limits of a process, whether
//! slices clamp, and results of elementary functions. `rustane ane lab merge` writes `table.rs` and the
//! tables of results beside it; the virtual device of a chip in it has the chip's own numbers, and a
//! question has the chip's own answer for the assumed one.
//!
//! Answers that no number of ours stands for, such as another order of binding, are changed by hand:
//! [`crate::lab::Question::model`] says where.

mod table;

use mil::eval::Table;

/// What one chip answered.
#[derive(Debug)]
pub struct Measured {
    /// [`crate::Chip::name`].
    pub chip: &'static str,
    /// Version and build of macOS; empty when the report does not say.
    pub os: &'static str,
    /// Questions with their verdicts, only such as [`takes`] accepts.
    pub answers: &'static [(u8, &'static str)],
    /// Elementary functions that differ from the evaluator's.
    pub tables: &'static [Table],
}

/// Question 6: elementary functions.
const FUNCTIONS: u8 = 6;
/// Question 13: compiles of a process.
const COMPILES: u8 = 13;
/// Question 19: slices from inside the last axis.
const CLAMP: u8 = 19;
/// Question 24: loaded programs.
const LOADS: u8 = 24;

/// Whether a verdict is one that the virtual device can have as its own.
pub fn takes(question: u8, verdict: &str) -> bool {
    match question {
        FUNCTIONS => matches!(verdict, "as computed" | "tables"),
        COMPILES => compiles(verdict).is_some(),
        CLAMP => clamps(verdict).is_some(),
        LOADS => loads(verdict).is_some(),
        _ => false,
    }
}

/// A limit, `None` where none was met: of "119, repeats count" and "200 or more".
fn compiles(verdict: &str) -> Option<Option<u32>> {
    if verdict.ends_with(" or more") {
        return Some(None);
    }
    verdict.strip_suffix(", repeats count")?.parse().ok().map(Some)
}

fn clamps(verdict: &str) -> Option<bool> {
    match verdict {
        "clamped" => Some(true),
        "kept" => Some(false),
        _ => None,
    }
}

/// A limit, the largest number where none was met: of "110" and "300 or more".
fn loads(verdict: &str) -> Option<u32> {
    if verdict.ends_with(" or more") {
        return Some(u32::MAX);
    }
    verdict.parse().ok()
}

impl Measured {
    /// What the chip of a name answered; `None` before a Mac with it was asked.
    pub fn of(chip: &str) -> Option<&'static Measured> {
        table::MEASURED.iter().find(|measured| measured.chip == chip)
    }

    /// The verdict of a question.
    pub fn answer(&self, question: u8) -> Option<&'static str> {
        self.answers.iter().find(|(number, _)| *number == question).map(|(_, verdict)| *verdict)
    }

    /// Compiles of a process, `Some(None)` without a limit.
    pub fn compile_budget(&self) -> Option<Option<u32>> {
        self.answer(COMPILES).and_then(compiles)
    }

    /// Programs loaded at once.
    pub fn load_limit(&self) -> Option<u32> {
        self.answer(LOADS).and_then(loads)
    }

    /// Whether slices from inside the last axis clamp.
    pub fn slice_clamp(&self) -> Option<bool> {
        self.answer(CLAMP).and_then(clamps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_with_a_number_of_ours_are_taken() {
        assert_eq!(compiles("119, repeats count"), Some(Some(119)));
        assert_eq!(compiles("200 or more"), Some(None));
        assert_eq!(loads("127"), Some(127));
        assert_eq!(loads("300 or more"), Some(u32::MAX));
        for (question, verdict) in
            [(13, "3, repeats are free"), (13, "many"), (24, "-1"), (19, "changed"), (8, "packed")]
        {
            assert!(!takes(question, verdict), "{question}: {verdict}");
        }
    }

    #[test]
    fn the_table_names_chips_once_and_holds_what_is_taken() {
        let mut seen = Vec::new();
        for measured in table::MEASURED {
            assert!(crate::Chip::find(measured.chip).is_some_and(|chip| chip.name == measured.chip));
            assert!(!seen.contains(&measured.chip), "{} twice", measured.chip);
            seen.push(measured.chip);
            for (question, verdict) in measured.answers {
                assert!(takes(*question, verdict), "{}: question {question}, {verdict}", measured.chip);
            }
            assert!(measured.tables.iter().all(|table| table.results.len() == 131_072));
        }
    }
}
