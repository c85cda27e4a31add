//! Requests that wait to be written.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use engine::infer::Finish;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::error::ApiError;
use crate::model::Text;

/// A request on its way to the device.
pub struct Job {
    /// Its name in answers and reports.
    pub id: String,
    /// The choices.
    pub texts: Vec<Text>,
    /// Where the answer goes. The texts of a model's context are short enough to wait here for a slow reader.
    pub events: UnboundedSender<Event>,
}

/// A piece of an answer.
#[derive(Debug)]
pub enum Event {
    /// Text of a choice.
    Piece {
        /// Its number.
        choice: usize,
        /// Never half a character.
        text: String,
    },
    /// A choice is written.
    End {
        /// Its number.
        choice: usize,
        /// Why it ended.
        finish: Finish,
        /// Tokens read, kept from before, and written.
        counts: Counts,
    },
    /// There will be no more.
    Failed(ApiError),
}

/// Tokens of a choice.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Of the prompt.
    pub prompt: usize,
    /// Of those, the ones that the device had from the text before.
    pub reused: usize,
    /// Drawn.
    pub written: usize,
}

/// A line of requests before one device. Who leaves makes room for others at once.
pub struct Queue {
    line: Mutex<Line>,
    arrived: Condvar,
    most: usize,
}

/// How a line stands.
#[derive(Clone, Debug)]
pub struct State {
    /// Requests that wait.
    pub waiting: usize,
    /// Whether another one is being written.
    pub writing: bool,
    /// Why the device failed with the last text, if so.
    pub failed: Option<String>,
}

#[derive(Default)]
struct Line {
    waiting: VecDeque<Job>,
    writing: bool,
    closed: bool,
    /// Why the device failed with the last text.
    failed: Option<String>,
}

impl Line {
    /// Who does not listen any more does not wait either.
    fn clear(&mut self) {
        self.waiting.retain(|job| !job.events.is_closed());
    }
}

impl Queue {
    /// A line for so many besides the one that is written.
    pub fn new(most: usize) -> Self {
        Self { line: Mutex::default(), arrived: Condvar::new(), most }
    }

    /// Whether another request may come; those that nobody waits for any more leave.
    pub fn room(&self) -> Result<(), ApiError> {
        self.locked_with_room().map(drop)
    }

    /// Adds a request, of which the events come in order.
    pub fn push(&self, id: String, texts: Vec<Text>) -> Result<UnboundedReceiver<Event>, ApiError> {
        let mut line = self.locked_with_room()?;
        let (events, receiver) = unbounded_channel();
        line.waiting.push_back(Job { id, texts, events });
        self.arrived.notify_one();
        Ok(receiver)
    }

    /// The next request, if one comes in time; [`Queue::done`] says when it is written.
    pub fn next(&self, time: Duration) -> Option<Job> {
        let line = self.lock();
        let (mut line, _) = self
            .arrived
            .wait_timeout_while(line, time, |line| line.waiting.is_empty())
            .expect("no holder panics");
        let job = line.waiting.pop_front()?;
        line.writing = true;
        Some(job)
    }

    /// The device is free again; how it failed, if it did.
    pub fn done(&self, failed: Option<String>) {
        let mut line = self.lock();
        line.writing = false;
        line.failed = failed;
    }

    /// How it stands; those that nobody waits for any more leave.
    pub fn state(&self) -> State {
        let mut line = self.lock();
        line.clear();
        State { waiting: line.waiting.len(), writing: line.writing, failed: line.failed.clone() }
    }

    /// From now on nothing is taken; those who wait are told.
    pub fn close(&self) {
        let mut line = self.lock();
        line.closed = true;
        for job in line.waiting.drain(..) {
            // Nobody may listen any more.
            let _ = job.events.send(Event::Failed(ApiError::stopping()));
        }
    }

    fn locked_with_room(&self) -> Result<MutexGuard<'_, Line>, ApiError> {
        let mut line = self.lock();
        line.clear();
        if line.closed {
            return Err(ApiError::stopping());
        }
        if line.waiting.len() + usize::from(line.writing) > self.most {
            return Err(ApiError::queue_full(line.waiting.len()));
        }
        Ok(line)
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().expect("no holder panics")
    }
}
