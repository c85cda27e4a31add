//! `rustane data pull`: downloads a data set from the hub.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use hub::{Error, Event, Hub, Settings, Watch, catalog};
use indicatif::ProgressBar;

use super::terminal_bar;
use crate::device::bytes;
use crate::failure::Failure;
use crate::stop::Stop;

/// Time between two plain lines about one file.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Flags of `rustane data pull`.
#[derive(clap::Args)]
#[command(after_help = names())]
pub struct Args {
    /// A name from the list below, or any hub id as org/name
    name: String,
    /// Training shards of a data set that has shards [default: 4]
    #[arg(long, value_name = "N")]
    shards: Option<u32>,
    /// Branch, tag or commit [default: main]
    #[arg(long, value_name = "NAME")]
    revision: Option<String>,
}

/// The data sets with a short name, for the help text.
fn names() -> String {
    let line = |entry: &catalog::Entry| format!("\n  {:<12} {}", entry.name, entry.about);
    format!("Names:{}", catalog::ENTRIES.iter().map(line).collect::<String>())
}

/// Downloads.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut request = catalog::request(&args.name, args.shards).map_err(usage)?;
    if let Some(revision) = &args.revision {
        request.revision = revision.clone();
    }
    if args.shards.is_some() && request.validation.is_none() {
        let text = format!("{} has no shards to choose from; leave out --shards", args.name);
        return Err(Failure::Usage(text).into());
    }
    let settings = Settings::from_vars(|name| std::env::var(name).ok()).map_err(usage)?;
    let hub = Hub::new(settings).map_err(usage)?;
    let stop = Stop::listen().context("cannot listen for signals")?;
    let mut show = Show::new();
    let pulled = hub.pull(&request, &mut Watch::new(stop.flag(), &mut |event| show.event(event)));
    show.finish();
    let pulled = match pulled {
        Err(error @ Error::Cancelled) => {
            eprintln!("{error}");
            return Ok(stop.exit_code());
        }
        pulled => pulled.map_err(usage)?,
    };
    let folder = pulled.folder.display();
    let validation =
        pulled.validation.map_or(String::new(), |name| format!(", {name} of them for validation"));
    println!("{folder}");
    println!("commit {}, {} files{validation}", pulled.commit, pulled.files.len());
    println!("train with: rustane train --data {folder}");
    Ok(ExitCode::SUCCESS)
}

/// What the user wrote wrong is wrong use; everything else stays what it is.
fn usage(error: Error) -> anyhow::Error {
    match error {
        Error::RepoId { .. }
        | Error::Revision { .. }
        | Error::Shards { .. }
        | Error::Setting { .. }
        | Error::NoHome => Failure::Usage(error.to_string()).into(),
        other => other.into(),
    }
}

/// A bar on a terminal, plain lines elsewhere.
struct Show {
    bar: Option<ProgressBar>,
    /// Bytes of finished files.
    before: u64,
    last_line: Instant,
}

impl Show {
    fn new() -> Self {
        let bar = terminal_bar("{bar:28.green/dim} {bytes}/{total_bytes} {bytes_per_sec} {msg}");
        Self { bar, before: 0, last_line: Instant::now() }
    }

    fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Planned { files, cached, bytes: size } => {
                let size = size.map_or("unknown size".into(), bytes);
                self.say(&format!("{files} files, {cached} of them here already, {size} to come"));
            }
            Event::Bytes { file, done, total } => self.bytes(file, done, total),
            Event::Done { file, bytes: size } => {
                self.before += size;
                self.say(&format!("{file}: {}, checked", bytes(size)));
            }
            Event::Waiting { lock } => {
                self.say(&format!("another process downloads this file; waiting for {}", lock.display()));
            }
            Event::Retry { error, wait } => {
                self.say(&format!("{error}; trying again in {:.1} s", wait.as_secs_f64()));
            }
            _ => {}
        }
    }

    fn bytes(&mut self, file: &str, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(self.before.saturating_add(total));
            bar.set_position(self.before.saturating_add(done));
            bar.set_message(file.to_owned());
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            eprintln!("{file}: {} of {}", bytes(done), bytes(total));
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
