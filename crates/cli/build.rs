//! Tells the program its profile, and in a release build the commit that it was built from, for results.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let release = std::env::var("PROFILE").is_ok_and(|name| name == "release");
    println!("cargo::rustc-env=RUSTANE_PROFILE={}", if release { "release" } else { "dev" });
    // A build for development is not made anew because of a commit; its times mean little anyway.
    if release && let Some(commit) = commit() {
        println!("cargo::rustc-env=RUSTANE_COMMIT={commit}");
    }
}

/// The commit, with a word when tracked files below `crates` differ from it.
fn commit() -> Option<String> {
    for name in ["HEAD", "index"] {
        println!("cargo::rerun-if-changed={}", git(&["rev-parse", "--git-path", name])?);
    }
    // The word depends on every source.
    println!("cargo::rerun-if-changed=..");
    let commit = git(&["rev-parse", "--short=10", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".."])?;
    Some(if changed.is_empty() { commit } else { format!("{commit}-dirty") })
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
