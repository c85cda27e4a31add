//! Ctrl-C and its relatives, among them a closed terminal: the first asks, the second insists.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Whether and by which signal the user asked to stop.
pub struct Stop {
    asked: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Stop {
    /// From now on the first signal asks, the second one ends the process at once.
    pub fn listen() -> std::io::Result<Self> {
        let stop = Self { asked: Default::default(), signal: Default::default() };
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            // In this order: the second signal finds the flag set by the first.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, stop.asked.clone())?;
            signal_hook::flag::register_usize(signal, stop.signal.clone(), signal as usize)?;
            signal_hook::flag::register(signal, stop.asked.clone())?;
        }
        Ok(stop)
    }

    /// Set once the user asked.
    pub fn flag(&self) -> &AtomicBool {
        &self.asked
    }

    /// Whether the user asked.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// The exit code of a run that was stopped: 128 and the signal's number.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(128 + self.signal.load(Ordering::Relaxed) as u8)
    }
}
