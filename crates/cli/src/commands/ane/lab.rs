//! `rustane ane lab`: puts each question to the device in a process of its own, so that a crash or a
//! hang costs one answer.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use ane_bridge::apple::{self, Route};
use ane_bridge::lab::{self, Hardware, LabError, QUESTIONS, Question, Subject, Virtual};
use ane_bridge::{Chip, Device as _};
use anyhow::Context;
use clap::Subcommand;

use super::merge;
use super::report::{Outcome, Report};
use crate::device;
use crate::failure::Failure;

/// Flags of `rustane ane lab`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// File for the report, JSON
    #[arg(long, default_value = "ane-lab.json", value_name = "FILE")]
    report: PathBuf,
    /// Ask the virtual Neural Engine: this tests the lab and says nothing about hardware
    #[arg(long = "virtual")]
    is_virtual: bool,
    /// Chip that the virtual Neural Engine stands for
    #[arg(long, default_value = "M4 Max", value_name = "CHIP", value_parser = device::chip, requires = "is_virtual")]
    chip: &'static Chip,
    /// Seconds for one question
    #[arg(long, default_value_t = 120, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Only these questions
    #[arg(long, value_name = "N", value_delimiter = ',')]
    only: Vec<u8>,
    /// Answer one question in this process and print the outcome
    #[arg(long, hide = true, value_name = "N")]
    question: Option<u8>,
}

#[derive(Subcommand)]
enum What {
    /// Put reports of Macs into the page of rules
    Merge(merge::Args),
}

/// Asks, or merges.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(What::Merge(args)) = args.what {
        return merge::run(&args);
    }
    if let Some(number) = args.question {
        let question = find(number)?;
        fail::fail_point!("ane::question");
        let outcome =
            if args.is_virtual { answer(&Virtual(args.chip), question) } else { answer(&Hardware, question) };
        println!("{}", serde_json::to_string(&outcome)?);
        return Ok(ExitCode::SUCCESS);
    }
    let chosen: Vec<&Question> = match args.only.as_slice() {
        [] => QUESTIONS.iter().collect(),
        some => some.iter().map(|&number| find(number)).collect::<anyhow::Result<_>>()?,
    };
    let mut report = if args.is_virtual { about(&Virtual(args.chip), false) } else { about(&Hardware, true) }
        .map_err(|error| {
            let hint = "the lab needs a Mac with a Neural Engine; --virtual asks the virtual one, which tests the lab";
            Failure::NoDevice(format!("{error}; {hint}"))
        })?;
    // Before the questions, so that a folder that cannot be written costs no minutes.
    report.write(&args.report)?;
    println!("{}: {} questions, the report goes to {}", report.device, chosen.len(), args.report.display());
    if let Some(mac) = apple::machine().filter(|_| report.hardware) {
        println!("{mac}");
        for reason in mac.slowed_by() {
            println!("times will be longer: {reason}");
        }
    }
    for question in chosen {
        let outcome = in_child(&args, question)?;
        println!("{}", line(question, &outcome));
        report.outcomes.push(outcome);
        report.write(&args.report)?;
    }
    println!("{}", summary(&report));
    Ok(ExitCode::SUCCESS)
}

fn find(number: u8) -> anyhow::Result<&'static Question> {
    Question::find(number)
        .ok_or_else(|| Failure::Usage(format!("there is no question {number}, wanted 1 to 24")).into())
}

/// A report without outcomes.
fn about<S: Subject>(subject: &S, hardware: bool) -> Result<Report, LabError> {
    let device = subject.open(Route::Daemon)?;
    Ok(Report::new(device.label(), device.chip(), hardware))
}

fn answer<S: Subject>(subject: &S, question: &Question) -> Outcome {
    let chip = match subject.open(Route::Daemon) {
        Ok(device) => device.chip(),
        Err(error) => return Outcome::failed(question.number, error.to_string()),
    };
    let start = Instant::now();
    match lab::ask(subject, question.number, &std::env::temp_dir()) {
        Ok(answer) => Outcome::answered(question, chip, answer, start.elapsed()),
        Err(error) => Outcome::failed(question.number, format!("{:#}", anyhow::Error::from(error))),
    }
}

/// Puts one question in a new process, and takes what becomes of it for the outcome.
fn in_child(args: &Args, question: &Question) -> anyhow::Result<Outcome> {
    let program = std::env::current_exe().context("cannot find this program to start it again")?;
    let mut command = Command::new(program);
    command.args(["ane", "lab", "--question", &question.number.to_string()]);
    if args.is_virtual {
        command.args(["--virtual", "--chip", args.chip.name]);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start a process for a question")?;
    // Read while it runs: tables do not fit the buffer of a pipe.
    let reader = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = from.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = reader(Box::new(child.stdout.take().expect("standard output is a pipe")));
    let err = reader(Box::new(child.stderr.take().expect("standard error is a pipe")));
    let start = Instant::now();
    let limit = Duration::from_secs(args.timeout);
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if start.elapsed() < limit => std::thread::sleep(Duration::from_millis(10)),
            None => {
                child.kill()?;
                child.wait()?;
                break None;
            }
        }
    };
    let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
    let Some(status) = status else {
        return Ok(Outcome::failed(question.number, format!("no answer within {} s", args.timeout)));
    };
    if let Ok(outcome) = serde_json::from_str(&out) {
        return Ok(outcome);
    }
    let last = err.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Ok(Outcome::failed(question.number, format!("the process ended with {status}: {last}")))
}

fn line(question: &Question, outcome: &Outcome) -> String {
    let found = match (&outcome.verdict, &outcome.failed) {
        (Some(verdict), _) if outcome.as_assumed() => format!("{verdict}, as assumed"),
        (Some(verdict), _) => format!("{verdict}; assumed was {}", outcome.assumed),
        (None, failed) => format!("no answer: {}", failed.as_deref().unwrap_or_default()),
    };
    format!("{:>3}  {}\n     {found}", question.number, question.asks)
}

fn summary(report: &Report) -> String {
    let answered = report.outcomes.iter().filter(|outcome| outcome.verdict.is_some()).count();
    let assumed = report.outcomes.iter().filter(|outcome| outcome.as_assumed()).count();
    let about = if report.hardware {
        "please send the report in; rustane ane lab merge puts it into docs/ane-rules.md"
    } else {
        "nothing of this says anything about hardware"
    };
    format!("{answered} of {} answered, {assumed} as the model assumes; {about}", report.outcomes.len())
}
