//! What a run shows: a bar on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use engine::train::{Event, StepStats};
use indicatif::{ProgressBar, ProgressStyle};

use crate::device::bytes;

/// Shortest time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Shows the events of a run.
pub struct Progress {
    bar: Option<ProgressBar>,
    /// Seconds per step, smoothed.
    pace: Option<f64>,
    last_line: Option<Instant>,
}

impl Progress {
    /// A bar where standard error is a terminal and `plain` is not wanted.
    pub fn new(plain: bool) -> Self {
        let terminal = stderr().is_terminal() && !plain && std::env::var_os("NO_COLOR").is_none();
        let style = ProgressStyle::with_template("{bar:28.green/dim} {pos}/{len} {msg}")
            .expect("the template is valid")
            .progress_chars("━╸─");
        let bar = terminal.then(|| ProgressBar::new(0).with_style(style));
        Self { bar, pace: None, last_line: None }
    }

    /// Shows a line that stays.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(line)),
            None => say(line),
        }
    }

    /// Shows an event.
    pub fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Step(stats) => self.step(stats),
            Event::Resumed { step } => self.say(&format!("resuming at step {step}")),
            Event::OtherDevice { saved, now } => self.say(&format!(
                "note: the run was trained on {saved} so far and goes on on {now}; its curve is another one from \
                 here, by rounding"
            )),
            Event::Planned { total } => self.say(&format!("the budget is enough for {total} steps")),
            Event::Quarantined(q) => self.say(&format!(
                "warning: the checkpoint {} is damaged ({}); it is now {}",
                q.from.display(),
                q.reason,
                q.to.display()
            )),
            Event::Eval { step, stats, best } => self.say(&format!(
                "step {step}: val_loss {:.4}, val_bpb {:.4}{}",
                stats.loss,
                stats.bpb,
                if *best { " (best)" } else { "" }
            )),
            Event::Sample { step, text } => {
                let text = text.replace('\n', "\n    ");
                self.say(&format!("step {step}: a sample\n    {text}"));
            }
            Event::Saved(saved) => {
                self.say(&format!("saved {} ({})", saved.dir.display(), bytes(saved.bytes)));
                if let Err(error) = &saved.deleted {
                    self.say(&format!("warning: an old checkpoint could not be deleted: {error}"));
                }
            }
            Event::SaveFailed(error) => {
                self.say(&format!("warning: not saved, training goes on: {error}"));
            }
            Event::Skipped { step, what, in_a_row } => self.say(&format!(
                "warning: {what} is not finite at step {step}; batch left out ({in_a_row} in a row)"
            )),
            Event::RolledBack { from, to } => {
                self.say(&format!("warning: not finite at step {from}; back to the checkpoint of step {to}"));
            }
            _ => {}
        }
    }

    fn step(&mut self, s: &StepStats) {
        self.pace = Some(self.pace.map_or(s.seconds, |pace| 0.9 * pace + 0.1 * s.seconds));
        let pace = self.pace.unwrap_or(s.seconds);
        let left = s.total.map(|total| Duration::from_secs_f64((total - s.step.min(total)) as f64 * pace));
        let numbers = format!(
            "loss {:.4} (avg {:.4}), norm {:.2}, lr {:.2e}, {:.0} tok/s, {:.0} ms",
            s.loss,
            s.ema,
            s.grad_norm,
            s.lr,
            s.step_tokens as f64 / pace,
            s.seconds * 1e3
        );
        let eta = left.map_or(String::new(), |left| format!(", {} left", duration(left)));
        if let Some(bar) = &self.bar {
            bar.set_length(s.total.unwrap_or(0));
            bar.set_position(s.step);
            bar.set_message(format!("{numbers}{eta}"));
            return;
        }
        let last = s.total == Some(s.step);
        if last || s.step == 1 || self.last_line.is_none_or(|t| t.elapsed() >= LINE_EVERY) {
            self.last_line = Some(Instant::now());
            let total = s.total.map_or(String::new(), |t| format!("/{t}"));
            say(&format!("step {}{total}: {numbers}{eta}", s.step));
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A line on standard error. A run goes on when its terminal or its reader is gone, so that is no fault.
pub fn say(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}

/// A duration for people.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs_f64().round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        _ => format!("{} h {:02} min", s / 3600, s % 3600 / 60),
    }
}
