//! Connections: how many, how long their heads may be, and how they end.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::future::{Either, select};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

/// Connections at a time; more wait to be accepted.
const CONNECTIONS: usize = 512;
/// Headers of a request, and bytes that may wait until they are whole; twice as many may have come by then.
const HEADERS: (usize, usize) = (64, 32 << 10);
/// The head of a request, the next one of an idle connection too, is to be here by then.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// What is being answered may end within this time when the server stops.
const END_TIME: Duration = Duration::from_secs(2);

/// Accepts connections until `ended`.
pub async fn listen(listener: TcpListener, router: Router, mut ended: oneshot::Receiver<()>) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_headers(HEADERS.0)
        .max_buf_size(HEADERS.1);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let open = GracefulShutdown::new();
    loop {
        let accept = pin!(async {
            let place = places.clone().acquire_owned().await.expect("nobody closes it");
            (place, listener.accept().await)
        });
        let (place, accepted) = match select(accept, &mut ended).await {
            Either::Left((accepted, _)) => accepted,
            Either::Right(_) => break,
        };
        let Ok((stream, _)) = accepted else {
            // No more files may be open, mostly: some will be closed.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // Pieces of text are small and wanted at once.
        let _ = stream.set_nodelay(true);
        let connection =
            http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
        let connection = open.watch(connection);
        tokio::spawn(async move {
            // A client that breaks off, or speaks no HTTP.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(END_TIME, open.shutdown()).await;
}
