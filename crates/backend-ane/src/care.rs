//! Care in long runs: how dispatches fare, and when executables or the process must be made anew.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::plan::Care;

/// How a long run fares.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Health {
    /// Executables made anew, because throughput decayed or a dispatch failed.
    pub recreated: u64,
    /// Dispatches whose result overflowed and that ran again, at a smaller power of two of
    /// [`crate::Scaling`].
    pub retried: u64,
    /// Throughput decayed, or an executable is lost, and no compile is left: save a checkpoint and
    /// restart the process.
    pub restart: bool,
    /// Mean time of a dispatch in the last step, seconds.
    pub dispatch_s: f64,
    /// The same in the first steps, or in those after the executables were made anew.
    pub normal_dispatch_s: f64,
}

/// Reads the health of a backend that somebody else drives. Clones read the same one.
#[derive(Clone, Debug, Default)]
pub struct Monitor(Arc<Mutex<Health>>);

impl Monitor {
    /// How the run fares now.
    pub fn health(&self) -> Health {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Health)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Watches the time of dispatches, step by step.
#[derive(Default)]
pub(crate) struct Watch {
    busy: Duration,
    dispatches: u32,
    /// Steps that told what is normal.
    warm: u32,
    /// Slow steps in a row.
    slow: u32,
    pub monitor: Monitor,
}

impl Watch {
    /// Takes in one dispatch.
    pub fn took(&mut self, time: Duration) {
        self.busy += time;
        self.dispatches += 1;
    }

    /// Ends a step; whether it was one slow step too many.
    pub fn end_step(&mut self, care: &Care) -> bool {
        let mean = self.busy.as_secs_f64() / f64::from(self.dispatches.max(1));
        let any = std::mem::take(&mut self.dispatches) > 0;
        self.busy = Duration::ZERO;
        if !any {
            return false;
        }
        let warming = self.warm < care.warm;
        self.warm += u32::from(warming);
        let warm = f64::from(self.warm);
        self.monitor.update(|health| {
            health.dispatch_s = mean;
            if warming {
                health.normal_dispatch_s += (mean - health.normal_dispatch_s) / warm;
            }
        });
        let slow = !warming && mean > care.factor * self.monitor.health().normal_dispatch_s;
        self.slow = if slow { self.slow + 1 } else { 0 };
        if self.slow < care.patience {
            return false;
        }
        self.slow = 0;
        slow
    }

    /// What is normal is learned anew: if the executables were not the cause, the machine is slower now.
    pub fn relearn(&mut self) {
        self.warm = 0;
        self.monitor.update(|health| health.normal_dispatch_s = 0.0);
    }
}
