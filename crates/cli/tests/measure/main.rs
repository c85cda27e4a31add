//! Results, experiments and sweeps through the binary.

mod exp;
mod kernels;
mod results;
mod submit;
#[path = "../support/mod.rs"]
mod support;
mod sweep;

use std::path::Path;
use std::process::Command;

use support::Ran;

/// A model that trains in milliseconds, as assignments.
const MICRO: [&str; 12] = [
    "model.dim=32",
    "model.hidden=48",
    "model.layers=1",
    "model.heads=2",
    "model.kv_heads=1",
    "model.head_dim=16",
    "model.vocab=300",
    "train.seq=32",
    "train.batch=2",
    "train.eval_tokens=512",
    "data.story_bytes=40000",
    "optimizer.warmup=2",
];

/// A command that keeps prepared data in one cache for all tests.
fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = support::command(dir, args);
    command.env("RUSTANE_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("rustane-cache"));
    command
}

fn rustane(dir: &Path, args: &[&str]) -> Ran {
    support::run(&mut command(dir, args))
}

/// Standard output of a command that must succeed.
fn out(dir: &Path, args: &[&str]) -> String {
    let ran = rustane(dir, args);
    assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
    ran.out
}
