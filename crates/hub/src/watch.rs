use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::{Error, Result};

/// What happens during a pull, for a progress display.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The files are known.
    Planned {
        /// Files asked for.
        files: usize,
        /// Of those, files that the snapshot already has.
        cached: usize,
        /// Bytes of the others together; `None` when the listing tells no sizes.
        bytes: Option<u64>,
    },
    /// More bytes of a file are here. `done` may fall back when a server starts over.
    Bytes {
        /// The file.
        file: &'a str,
        /// Bytes of it on disk.
        done: u64,
        /// Bytes it has.
        total: u64,
    },
    /// A file is complete and checked.
    Done {
        /// The file.
        file: &'a str,
        /// Its bytes.
        bytes: u64,
    },
    /// Another process downloads the same file; this one waits for its lock.
    Waiting {
        /// The lock file.
        lock: &'a Path,
    },
    /// A try failed; the next one comes after `wait`.
    Retry {
        /// The failure.
        error: &'a Error,
        /// The pause before the next try.
        wait: Duration,
    },
}

/// How a caller watches a pull and ends it.
pub struct Watch<'a> {
    cancel: &'a AtomicBool,
    report: &'a mut dyn FnMut(Event<'_>),
}

impl<'a> Watch<'a> {
    /// Once `cancel` is true the pull ends with [`Error::Cancelled`], at the latest when the read it waits for
    /// returns or times out; what has arrived stays for the next pull. `report` is called between reads.
    pub fn new(cancel: &'a AtomicBool, report: &'a mut dyn FnMut(Event<'_>)) -> Self {
        Self { cancel, report }
    }

    pub(crate) fn report(&mut self, event: Event<'_>) {
        (self.report)(event);
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.cancel.load(Ordering::Relaxed) { Err(Error::Cancelled) } else { Ok(()) }
    }

    /// Sleeps in slices, so that cancelling need not wait for a long pause.
    pub(crate) fn sleep(&self, pause: Duration) -> Result<()> {
        let end = Instant::now() + pause;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}
