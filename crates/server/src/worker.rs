//! Writes one request after the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engine::infer::{Finish, Infer, Session};

use crate::error::ApiError;
use crate::model::Model;
use crate::queue::{Counts, Event, Job, Queue};
use crate::serve::Report;

/// How often an idle writer looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Writes until `stop` is set: then the text under way is cut off, and everyone is told.
pub fn work(
    queue: &Queue,
    model: &Model,
    infer: &mut dyn Infer,
    stop: &AtomicBool,
    report: &dyn Fn(&Report<'_>),
) {
    // A conversation that goes on, or several texts for one prompt, begin like the text before.
    let mut session = Session::default();
    let stopped = || stop.load(Ordering::Relaxed);
    while !stopped() {
        let Some(job) = queue.next(LOOK) else { continue };
        let (last, failed) = write(&job, model, infer, &mut session, &stopped, report);
        // Who has an answer finds the device free.
        queue.done(failed);
        if let Some(last) = last {
            // Who leaves now has all the rest.
            let _ = job.events.send(last);
        }
    }
    queue.close();
}

/// Writes the choices of a request as long as somebody listens. What is left to tell him, and the reason when the
/// device fails.
fn write(
    job: &Job,
    model: &Model,
    infer: &mut dyn Infer,
    session: &mut Session,
    stopped: &dyn Fn() -> bool,
    report: &dyn Fn(&Report<'_>),
) -> (Option<Event>, Option<String>) {
    let mut last = None;
    for (choice, text) in job.texts.iter().enumerate() {
        if last.take().is_some_and(|end| job.events.send(end).is_err()) || job.events.is_closed() {
            return (None, None);
        }
        let mut emit = |piece: &str| {
            let heard = match piece {
                "" => !job.events.is_closed(),
                piece => job.events.send(Event::Piece { choice, text: piece.into() }).is_ok(),
            };
            heard && !stopped()
        };
        let done = match session.generate(infer, &model.tokenizer, &text.prompt, &text.sampling, &mut emit) {
            Ok(done) => done,
            Err(error) => {
                let reason = with_causes(&error);
                report(&Report::Failed { id: &job.id, reason: &reason });
                return (Some(Event::Failed(ApiError::device(&reason))), Some(reason));
            }
        };
        report(&Report::Written { id: &job.id, choice, text, done: &done });
        if done.finish == Finish::Cancelled {
            return (stopped().then(|| Event::Failed(ApiError::stopping())), None);
        }
        let counts = Counts { prompt: text.prompt.len(), reused: done.reused, written: done.tokens.len() };
        last = Some(Event::End { choice, finish: done.finish, counts });
    }
    (last, None)
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
