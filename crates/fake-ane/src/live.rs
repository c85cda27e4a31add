//! Counts live objects.

use std::sync::atomic::{AtomicUsize, Ordering};

static LIVE: AtomicUsize = AtomicUsize::new(0);

/// Objects of this crate's classes that are alive: models, requests, wrapped surfaces, surfaces.
pub fn live() -> usize {
    LIVE.load(Ordering::SeqCst)
}

/// Part of every object here: counts it as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted(());

impl Counted {
    pub fn new() -> Self {
        LIVE.fetch_add(1, Ordering::SeqCst);
        Self(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        LIVE.fetch_sub(1, Ordering::SeqCst);
    }
}
