//! `rustane bench submit`: shows a file of results, asks, and sends exactly what it showed.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;
use bench::results::{Origin, Results};
use hub::post::{Post, post};

use super::compare;
use crate::failure::Failure;
use crate::progress::say;

/// Most of the payload that is shown before it is cut in the middle, in lines.
const SHOWN: usize = 60;

/// Flags of `rustane bench submit`.
#[derive(clap::Args)]
pub struct Args {
    /// Results, as `--out` writes them
    file: PathBuf,
    /// Where to send them (http or https)
    #[arg(long, env = "RUSTANE_SUBMIT_ENDPOINT", value_name = "URL")]
    endpoint: Option<String>,
    /// Make a branch of this git repository with the file in results/ instead, for a pull request
    #[arg(long, conflicts_with = "endpoint")]
    pull_request: bool,
    /// Name of the machine's folder in results/ [default: from its chip]
    #[arg(long, value_name = "NAME", requires = "pull_request", value_parser = folder_name)]
    machine: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

fn folder_name(text: &str) -> Result<String, String> {
    let sound = !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if sound { Ok(text.to_owned()) } else { Err("wanted small letters, digits and hyphens".into()) }
}

/// Shows, asks, sends.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let results = compare::read(&args.file)?;
    if results.origin == Origin::Published {
        return Err(Failure::Usage("these figures are of others; submit what you measured".into()).into());
    }
    // Written anew from what was read: nothing goes out that the schema does not know.
    let payload = serde_json::to_string_pretty(&results)? + "\n";
    if let Some(private) = private_word(&payload) {
        let text = format!("{} names {private}; take it out before you submit", args.file.display());
        return Err(Failure::Data { code: "E3100", text }.into());
    }
    let to = match (&args.endpoint, args.pull_request) {
        (Some(url), _) => url.clone(),
        (None, true) => "a branch of this repository".into(),
        (None, false) => {
            let text = "give --endpoint URL (or RUSTANE_SUBMIT_ENDPOINT), or --pull-request for a branch with the file";
            return Err(Failure::Usage(text.into()).into());
        }
    };
    show(&payload);
    if !args.yes && !agreed(&to)? {
        println!("nothing was sent; --yes does not ask");
        return Ok(ExitCode::SUCCESS);
    }
    if args.pull_request {
        return branch(args, &results, &payload);
    }
    let answer = post(&Post::new(&to, payload.as_bytes()), &mut |error, wait| {
        say(&format!("{error}; again in {:.1} s", wait.as_secs_f64()));
    })?;
    println!("accepted by {to}{}", if answer.is_empty() { String::new() } else { format!(": {answer}") });
    Ok(ExitCode::SUCCESS)
}

/// A word that tells who or where the user is, and is in the payload all the same.
fn private_word(payload: &str) -> Option<&'static str> {
    let variable = |name| std::env::var(name).ok();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| variable("HOSTNAME"));
    let words =
        [("your home folder", variable("HOME")), ("this host", host), ("your user name", variable("USER"))];
    let found = |word: &str| {
        let word = word.trim();
        // Shorter ones, `root` and the like are parts of ordinary words.
        word.len() > 4
            && payload.match_indices(word).any(|(at, _)| {
                let edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
                edge(payload[..at].chars().next_back()) && edge(payload[at + word.len()..].chars().next())
            })
    };
    words.into_iter().find(|(_, word)| word.as_deref().is_some_and(found)).map(|(what, _)| what)
}

fn show(payload: &str) {
    let lines: Vec<&str> = payload.lines().collect();
    if lines.len() <= SHOWN {
        print!("{payload}");
        return;
    }
    lines[..SHOWN / 2].iter().for_each(|line| println!("{line}"));
    println!("… {} lines, all in the file …", lines.len() - SHOWN);
    lines[lines.len() - SHOWN / 2..].iter().for_each(|line| println!("{line}"));
}

fn agreed(to: &str) -> anyhow::Result<bool> {
    print!("Send this to {to}? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// A branch with the file in its place; the working tree and the branch that is checked out stay as they are.
fn branch(args: &Args, results: &Results, payload: &str) -> anyhow::Result<ExitCode> {
    let machine = match &args.machine {
        Some(name) => name.clone(),
        None => slug(results.machine.gpu.as_deref().or(results.machine.chip.as_deref()).unwrap_or("machine")),
    };
    let what = slug(&results.title);
    let place = format!("results/{machine}/{}-{what}.json", results.date);
    let name = format!("results-{machine}-{}-{what}", results.date);
    let blob = git(&["hash-object", "-w", "--stdin"], Some(payload))?;
    // An index of its own, so that what the user has staged is left alone.
    let folder = PathBuf::from(git(&["rev-parse", "--absolute-git-dir"], None)?);
    let index = folder.join("rustane-submit-index");
    let with_index = |args: &[&str]| git_with(args, None, Some(&index));
    with_index(&["read-tree", "HEAD"])?;
    with_index(&["update-index", "--add", "--cacheinfo", &format!("100644,{blob},{place}")])?;
    let tree = with_index(&["write-tree"])?;
    let _ = std::fs::remove_file(&index);
    let message = format!("Results: {}", results.title);
    let commit = git(&["commit-tree", &tree, "-p", "HEAD", "-m", &message], None)?;
    git(&["branch", &name, &commit], None)?;
    println!("branch {name} has {place}; `git push` it to your fork and open a pull request");
    println!("render the page there too: git switch {name} && rustane results index");
    Ok(ExitCode::SUCCESS)
}

/// Small letters, digits and hyphens, a few of them.
fn slug(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.take(5).map(str::to_lowercase).collect::<Vec<_>>().join("-")
}

fn git(args: &[&str], input: Option<&str>) -> anyhow::Result<String> {
    git_with(args, input, None)
}

fn git_with(args: &[&str], input: Option<&str>, index: Option<&Path>) -> anyhow::Result<String> {
    use std::process::Stdio;
    let mut command = Command::new("git");
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    if let Some(index) = index {
        command.env("GIT_INDEX_FILE", index);
    }
    let mut child = command.spawn().context("--pull-request needs git")?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        stdin.write_all(input.as_bytes()).context("git did not take the file")?;
    }
    let output = child.wait_with_output().context("git did not end")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::bail!("git {}: {}", args[0], said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
