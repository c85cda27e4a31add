//! Runs the binary, as a user would.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a command did.
pub struct Ran {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs `rustane` in `dir`, with everything of its own below `dir`, and no network.
pub fn rustane(dir: &Path, args: &[&str]) -> Ran {
    run(&mut command(dir, args))
}

/// As [`rustane`], not yet started.
pub fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rustane"));
    command.current_dir(dir).args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["RUSTANE_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_"].iter().any(|own| name.starts_with(own))
            || name.to_lowercase().ends_with("_proxy")
        {
            command.env_remove(&*name);
        }
    }
    // What the GPU writes depends on the machine; tests of `auto` name it.
    if args.first() == Some(&"generate") {
        command.env("RUSTANE_DEVICE", "cpu");
    }
    command.env("HOME", dir).env("XDG_CACHE_HOME", dir.join("cache")).env("HF_HUB_OFFLINE", "1");
    command
}

/// Starts it and waits.
pub fn run(command: &mut Command) -> Ran {
    let Output { status, stdout, stderr } = command.output().expect("the binary starts");
    let text = |bytes| String::from_utf8(bytes).expect("output is text");
    Ran { code: status.code().expect("no signal ended it"), out: text(stdout), err: text(stderr) }
}
