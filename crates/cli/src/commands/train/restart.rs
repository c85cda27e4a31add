//! A process with a Neural Engine compiles only so many programs. When they are used up, the run goes on
//! in a fresh process, from the checkpoint that this one leaves: the same bits as without.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, anyhow};
use engine::train::{Outcome, TrainError};

use crate::device::{chain, needs_restart};
use crate::progress::say;

/// Steps after which a process was worth its start.
const PROGRESS: u64 = 10;
/// Processes in a row that may fall short of them.
const LIMIT: u32 = 3;

/// Why the run is to go on in a fresh process, if it is; `asked` says whether the device asked for one.
pub(super) fn wanted(asked: bool, outcome: &Result<Outcome, TrainError>) -> Option<String> {
    match outcome {
        Ok(outcome) if outcome.stopped && asked => {
            Some("dispatches became slow, and too few compiles are left to make the programs anew".into())
        }
        Err(TrainError::Backend(error)) => needs_restart(error).map(|cause| chain(cause)),
        _ => None,
    }
}

/// Replaces this process by one that resumes the run in `dir`. Returns only when that failed, or is no
/// use any more: `in_a_row` processes before this one made less than [`PROGRESS`] steps, this one `steps`.
pub(super) fn again(
    dir: &Path,
    reason: &str,
    in_a_row: u32,
    steps: u64,
    error: Option<TrainError>,
) -> anyhow::Error {
    let in_a_row = if steps < PROGRESS { in_a_row + 1 } else { 0 };
    if in_a_row >= LIMIT {
        let text = format!(
            "{LIMIT} processes in a row made less than {PROGRESS} steps each before the device asked for a \
             restart, so another one would not help: {reason}; try a smaller model, or --device cpu"
        );
        return match error {
            Some(error) => anyhow::Error::from(error).context(text),
            None => anyhow!(text),
        };
    }
    say(&format!("restarting the process after {steps} steps: {reason}"));
    let program = match std::env::current_exe().context("cannot find this program to start it again") {
        Ok(program) => program,
        Err(error) => return error,
    };
    let failed = Command::new(program).args(arguments(std::env::args_os().skip(1), dir, in_a_row)).exec();
    anyhow::Error::from(failed).context("cannot start this program again; the same command continues")
}

/// The same command, which continues the run in `dir` instead of starting over.
fn arguments(given: impl Iterator<Item = OsString>, dir: &Path, in_a_row: u32) -> Vec<OsString> {
    let mut arguments = Vec::new();
    let mut given = given;
    while let Some(argument) = given.next() {
        let of = |flag: &str| argument.as_encoded_bytes().starts_with(format!("{flag}=").as_bytes());
        match argument.to_str() {
            Some("--fresh") => {}
            Some("--out" | "--restarts") => drop(given.next()),
            _ if of("--out") || of("--restarts") => {}
            _ => arguments.push(argument),
        }
    }
    let number = in_a_row.to_string();
    let last: [&OsStr; 4] = ["--out".as_ref(), dir.as_os_str(), "--restarts".as_ref(), number.as_ref()];
    arguments.extend(last.map(OsStr::to_owned));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_command_continues() {
        let given = "train --device ane --fresh --out a --lr 3 --out=b --restarts 2".split(' ');
        let got = arguments(given.map(OsString::from), Path::new("runs/x"), 1);
        let wanted = "train --device ane --lr 3 --out runs/x --restarts 1".split(' ');
        assert_eq!(got, wanted.map(OsString::from).collect::<Vec<_>>());
    }
}
