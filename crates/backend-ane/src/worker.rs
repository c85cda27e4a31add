//! The thread that drives the device: one request at a time, started and awaited without allocating.
//!
//! The host starts a request, does its own work, and waits. The thread lives as long as the backend.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ane_bridge::{Request, RunError};

use crate::error::{AneError, AneResult};

/// A thread for requests.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    Idle,
    Wanted(Arc<dyn Request>),
    Running,
    Done(Result<(), RunError>, Duration),
    /// The thread is to end, or has.
    Stopped,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `pick` takes something out of the state.
    fn when<T>(&self, mut pick: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut state = self.state();
        loop {
            if let Some(found) = pick(&mut state) {
                self.changed.notify_all();
                return found;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self) {
        // However this ends, nobody waits for it afterwards.
        struct End<'a>(&'a Shared);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                *self.0.state() = State::Stopped;
                self.0.changed.notify_all();
            }
        }
        let _end = End(self);
        loop {
            let request = self.when(|state| match state {
                State::Wanted(_) => match std::mem::replace(state, State::Running) {
                    State::Wanted(request) => Some(Some(request)),
                    _ => None,
                },
                State::Stopped => Some(None),
                _ => None,
            });
            let Some(request) = request else { return };
            let start = Instant::now();
            let result = request.run();
            let took = start.elapsed();
            drop(request);
            let mut state = self.state();
            if !matches!(*state, State::Stopped) {
                *state = State::Done(result, took);
            }
            drop(state);
            self.changed.notify_all();
        }
    }
}

impl Worker {
    /// Starts the thread.
    pub fn new() -> AneResult<Self> {
        let shared = Arc::new(Shared { state: Mutex::new(State::Idle), changed: Condvar::new() });
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new()
            .name("ane".into())
            .spawn(move || of_thread.work())
            .map_err(AneError::Thread)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Starts a request. [`Worker::wait`] comes before the next.
    pub fn start(&self, request: Arc<dyn Request>) {
        let mut state = self.shared.state();
        if !matches!(*state, State::Stopped) {
            *state = State::Wanted(request);
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// The result of the request that was started, and how long it ran.
    pub fn wait(&self) -> AneResult<(Result<(), RunError>, Duration)> {
        self.shared.when(|state| match state {
            State::Done(..) => match std::mem::replace(state, State::Idle) {
                State::Done(result, took) => Some(Ok((result, took))),
                _ => None,
            },
            State::Stopped => Some(Err(AneError::Panic)),
            _ => None,
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        *self.shared.state() = State::Stopped;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic was reported by `wait`, or nobody asked.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Runs only once the other side of the barrier is there.
    struct Meets(std::sync::Barrier);

    impl Request for Meets {
        fn run(&self) -> Result<(), RunError> {
            self.0.wait();
            Ok(())
        }
    }

    #[test]
    fn the_host_works_while_a_request_runs() {
        let worker = Worker::new().unwrap();
        let request = Arc::new(Meets(std::sync::Barrier::new(2)));
        worker.start(request.clone());
        // Were the request run here, this would wait for ever.
        request.0.wait();
        assert!(worker.wait().unwrap().0.is_ok());
    }

    struct Count(AtomicU32);

    impl Request for Count {
        fn run(&self) -> Result<(), RunError> {
            let before = self.0.fetch_add(1, Ordering::Relaxed);
            assert_ne!(before, 100, "the hundred-and-first run");
            Ok(())
        }
    }

    #[test]
    fn runs_what_is_started_and_reports_a_panic() {
        let worker = Worker::new().unwrap();
        let request = Arc::new(Count(AtomicU32::new(0)));
        for n in 1..=100 {
            worker.start(request.clone());
            assert!(worker.wait().unwrap().0.is_ok());
            assert_eq!(request.0.load(Ordering::Relaxed), n);
        }
        worker.start(request.clone());
        assert!(matches!(worker.wait(), Err(AneError::Panic)));
        worker.start(request);
        assert!(matches!(worker.wait(), Err(AneError::Panic)), "later requests do not hang");
    }
}
