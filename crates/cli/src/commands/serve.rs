//! `rustane serve`: a model over HTTP.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use engine::infer::Finish;
use model::hf::ChatTemplate;
use server::{Model, Origin, Report, Settings};

use super::bench::peak_memory::resident;
use super::chat::end_of_turn;
use super::generate::{load, resolve};
use crate::device::{DeviceArgs, WriterArgs, bytes};
use crate::failure::{Failure, unboxed};
use crate::stop::Stop;

/// Flags of `rustane serve`.
#[derive(clap::Args)]
pub struct Args {
    /// A run, a checkpoint or a Hugging Face directory [default: the newest run]
    model: Option<PathBuf>,
    /// Address or name to listen on; 0.0.0.0 for every network of this machine
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: String,
    /// Port to listen on; 0 for any that is free
    #[arg(long, default_value_t = 8080, value_name = "N")]
    port: u16,
    /// What clients call the model [default: the name of its directory or run]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Requests that may wait; more are asked to come again
    #[arg(long, default_value_t = 64, value_name = "N")]
    queue: usize,
    /// What clients have to send as `Authorization: Bearer KEY`; a variable is not seen by other users, a flag is
    #[arg(long, env = "RUSTANE_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
    /// A site whose pages may ask, such as https://example.org; * for all [default: none]
    #[arg(long, value_name = "ORIGIN")]
    cors: Option<Origin>,
    /// Say nothing of single requests
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    writing: WriterArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Serves until a signal.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    // A file's last line end is no part of a key.
    let api_key = args.api_key.map(|key| key.trim().to_owned());
    if api_key.as_ref().is_some_and(|key| key.is_empty() || !key.bytes().all(|b| b.is_ascii_graphic())) {
        let text = "the API key is empty, or has blanks or letters beyond ASCII; give --api-key or RUSTANE_API_KEY \
                    another one, or leave both out";
        return Err(Failure::Usage(text.into()).into());
    }
    let dir = resolve(args.model.as_deref())?;
    // A port that is taken is known before the weights are read.
    let listener = TcpListener::bind((args.host.as_str(), args.port)).with_context(|| {
        format!("cannot listen on {}:{}; give another --port or --host", args.host, args.port)
    })?;
    let address = listener.local_addr().context("cannot tell the address")?;
    let (loaded, tokenizer) = load(&dir)?;
    let template = ChatTemplate::load(&dir)?;
    let turn_ends = match &template {
        Some(template) => end_of_turn(template, &tokenizer)?.into_iter().collect(),
        None => Vec::new(),
    };
    let name = args.name.clone().unwrap_or_else(|| name(&dir));
    let (mut writer, label) =
        args.device.writer_in(&loaded.config, loaded.weights, &args.writing).map_err(unboxed)?;
    let model = Model {
        name,
        tokenizer,
        template,
        max_seq: loaded.config.max_seq,
        vocab: loaded.config.vocab,
        ends: loaded.tokens.eos,
        turn_ends,
    };
    let memory = resident().map_or(String::new(), |n| format!("; {} of memory so far", bytes(n)));
    say(&format!("{}, on {label}; {} positions{memory}", dir.display(), model.max_seq));
    let open = api_key.is_none();
    if open && !address.ip().is_loopback() {
        say(&format!("warning: whoever reaches {address} may use it; set RUSTANE_API_KEY to ask for a key"));
    }
    say(&hint(&model, &address.to_string(), open));
    let stop = Stop::listen().context("cannot listen to signals")?;
    // A program that starts a server reads this line, and may leave.
    let _ = writeln!(std::io::stdout(), "http://{address}");
    let settings = Settings { queue: args.queue, api_key, cors: args.cors };
    let quiet = args.quiet;
    let report = move |report: &Report<'_>| {
        if !quiet {
            say(&line(report));
        }
    };
    server::serve(listener, model, settings, &mut *writer, stop.flag(), report)?;
    Ok(stop.exit_code())
}

/// A line for the user; where nobody reads, the server goes on.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The directory's name, or that of the run that it is a checkpoint of.
fn name(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let own = |dir: &Path| dir.file_name().map(|name| name.to_string_lossy().into_owned());
    let run = dir.parent().filter(|parent| parent.join("latest").exists());
    run.and_then(own).or_else(|| own(&dir)).unwrap_or_else(|| "model".into())
}

/// A request to try.
fn hint(model: &Model, address: &str, open: bool) -> String {
    let (path, body) = match model.template {
        Some(_) => ("chat/completions", r#"{"messages": [{"role": "user", "content": "Hello!"}]}"#),
        None => ("completions", r#"{"prompt": "Once upon a time", "max_tokens": 64}"#),
    };
    let key = if open { "" } else { " -H \"Authorization: Bearer $RUSTANE_API_KEY\"" };
    format!("try: curl http://{address}/v1/{path}{key} -H 'Content-Type: application/json' -d '{body}'")
}

/// One line about what happened.
fn line(report: &Report<'_>) -> String {
    let rate = |n: usize, time: Duration| n as f64 / time.as_secs_f64().max(1e-9);
    match report {
        Report::Written { id, choice, text, done } => {
            let (prompt, written) = (text.prompt.len(), done.tokens.len());
            let which = if *choice == 0 { String::new() } else { format!(", text {}", choice + 1) };
            let kept = if done.reused == 0 { String::new() } else { format!(" ({} kept)", done.reused) };
            let ended = match done.finish {
                Finish::Eos => "ended by the model",
                Finish::Stop => "ended by a stop text",
                Finish::Length => "ended by its length",
                Finish::Cancelled => "cancelled",
            };
            format!(
                "{id}{which}: prompt {prompt} tokens{kept} at {:.0} tok/s, text {written} tokens at {:.0} tok/s, seed \
                 {}; {ended}",
                rate(prompt - done.reused, done.prefill),
                rate(written, done.decode),
                text.sampling.seed
            )
        }
        Report::Failed { id, reason } => format!("{id}: cannot write this text: {reason}"),
        Report::Refused { what, status, reason } => {
            // It may quote the request, which is to move no cursor and to begin no line.
            format!("{what}: {status}, {}", reason.replace(char::is_control, "\u{fffd}"))
        }
    }
}
