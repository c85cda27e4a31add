//! Puts the parts together: a thread that talks, and the caller's, which writes.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use engine::infer::{Generated, Infer};
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use crate::guard::{Guard, Origin};
use crate::model::{Model, Text};
use crate::queue::Queue;
use crate::{http, routes, worker};

/// Who may ask, and how many may wait.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Requests that may wait besides the one that is written.
    pub queue: usize,
    /// What clients have to know; nothing lets everyone in who reaches the address.
    pub api_key: Option<String>,
    /// The site whose pages may ask.
    pub cors: Option<Origin>,
}

/// What happened, for whoever watches.
#[derive(Debug)]
pub enum Report<'a> {
    /// A text is written, or was cut off.
    Written {
        /// The request.
        id: &'a str,
        /// Which of its texts.
        choice: usize,
        /// What was asked for.
        text: &'a Text,
        /// What came of it.
        done: &'a Generated,
    },
    /// The device did not write.
    Failed {
        /// The request.
        id: &'a str,
        /// Why.
        reason: &'a str,
    },
    /// A request was not answered with a text.
    Refused {
        /// `GET` and the like, and the path.
        what: &'a str,
        /// The number of the answer.
        status: u16,
        /// What the client was told.
        reason: &'a str,
    },
}

/// Why a server does not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The system refuses.
    #[error("the system gives no address, no event loop or no thread to serve with")]
    System(#[from] std::io::Error),
}

/// Answers requests with texts of `infer` until `stop` is set.
///
/// # Errors
/// When it cannot begin. What goes wrong with a request is the answer to it.
pub fn serve(
    listener: TcpListener,
    model: Model,
    settings: Settings,
    infer: &mut dyn Infer,
    stop: &AtomicBool,
    report: impl Fn(&Report<'_>) + Send + Sync + 'static,
) -> Result<(), ServeError> {
    let guard = Guard::new(&settings, listener.local_addr()?);
    let (model, queue) = (Arc::new(model), Arc::new(Queue::new(settings.queue)));
    let report: Arc<dyn Fn(&Report<'_>) + Send + Sync> = Arc::new(report);
    // One thread for the network; prompts are read by two more, since a long one takes a while.
    let runtime = Builder::new_current_thread().enable_io().enable_time().max_blocking_threads(2).build();
    let runtime = runtime?;
    listener.set_nonblocking(true)?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let router = routes::router(model.clone(), queue.clone(), guard, report.clone());
    let (end, ended) = oneshot::channel();
    std::thread::scope(|scope| {
        let talk = move || runtime.block_on(http::listen(listener, router, ended));
        std::thread::Builder::new().name("http".into()).spawn_scoped(scope, talk)?;
        worker::work(&queue, &model, infer, stop, &*report);
        // The other side holds its end until it is told; so it does if this thread panics.
        drop(end);
        Ok(())
    })
}
