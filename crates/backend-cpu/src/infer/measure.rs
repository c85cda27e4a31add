//! The time of the kernels of a token, for reports.

use std::time::{Duration, Instant};

use backend::Result;

use super::CpuInfer;
use super::matrices::{Finish, Part};

/// One kind of kernel of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timed {
    /// What it does.
    pub name: &'static str,
    /// How often a token needs it.
    pub calls: usize,
    /// Bytes of weights, or of keys and values, that all calls of a token read.
    pub bytes: usize,
    /// All calls of a token, the median over the repetitions.
    pub time: Duration,
}

impl CpuInfer {
    /// Times the products of a token, each kind over all layers, so that weights come from where they
    /// come from when a token is written; then attention to `positions` positions.
    ///
    /// # Errors
    /// No memory.
    pub fn measure(&mut self, positions: usize, repetitions: usize) -> Result<Vec<Timed>> {
        let parts = [
            (Part::Qkv, "qkv"),
            (Part::O, "o"),
            (Part::GateUp, "gate, up"),
            (Part::Down, "down"),
            (Part::Head, "head"),
        ];
        let model = &mut self.model;
        let mut timed = Vec::new();
        for (part, name) in parts {
            let calls = if part == Part::Head { 1 } else { model.config.layers };
            let finish = if part == Part::GateUp { Finish::Gated } else { Finish::Set(None) };
            let time = median(repetitions, || model.products(part, finish, calls));
            timed.push(Timed { name, calls, bytes: model.bytes_of(part), time });
        }
        let cache = model.filled(positions)?;
        let time = median(repetitions, || model.attend(&cache, positions));
        timed.push(Timed { name: "attention", calls: model.config.layers, bytes: cache.bytes(), time });
        Ok(timed)
    }
}

fn median(repetitions: usize, mut run: impl FnMut()) -> Duration {
    let time = |_| {
        let begin = Instant::now();
        run();
        begin.elapsed()
    };
    let mut times: Vec<_> = (0..repetitions.max(1)).map(time).collect();
    times.sort_unstable();
    times[times.len() / 2]
}
