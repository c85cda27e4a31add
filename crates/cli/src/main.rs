//! `rustane`: trains and runs transformer language models.
//!
//! The only crate that knows every other, prints, reads the environment and exits.

#![forbid(unsafe_code)]

mod ane;
mod child;
mod commands;
mod device;
mod failure;
mod format;
mod gpu;
mod paths;
mod plot;
mod progress;
mod settings;
mod stop;
mod table;
mod tensorboard;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Train and run transformer language models: one binary, no Python.
#[derive(Parser)]
#[command(name = "rustane", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model from scratch, on the built-in stories or on your own text
    Train(Box<commands::train::Args>),
    /// Continue a text with a trained model
    Generate(commands::generate::Args),
    /// Talk with a trained model
    Chat(commands::chat::Args),
    /// Serve a trained model over HTTP, as OpenAI's clients expect it
    Serve(commands::serve::Args),
    /// Measure a model on text: loss, perplexity, bits per byte
    Eval(commands::eval::Args),
    /// Train and try tokenizers
    Tokenizer(commands::tokenizer::Args),
    /// Fetch, prepare and inspect training data
    Data(commands::data::Args),
    /// List, show and copy the built-in presets
    Presets(commands::presets::Args),
    /// List, show, compare and plot training runs
    Runs(commands::runs::Args),
    /// Try settings one after the other with equal budgets, and keep what helps
    Exp(commands::exp::Args),
    /// Ask the Neural Engine of this Mac what only hardware can tell
    Ane(commands::ane::Args),
    /// Train every combination of a grid of settings
    Sweep(commands::sweep::Args),
    /// Say what a model takes before it runs: memory by purpose, what fits, how long a step is
    Plan(Box<commands::plan::Args>),
    /// Measure speed on this machine
    Bench(commands::bench::Args),
    /// Check files of results, and render a folder of them as a page
    Results(commands::results::Args),
    /// Print, check, run and cost the Neural Engine's programs
    Mil(commands::mil::Args),
    /// Time the kernels on this GPU and keep the fastest
    Tune(commands::tune::Args),
    /// Say what this machine offers and what is missing
    Doctor(commands::doctor::Args),
    /// Print a completion script for a shell
    Completions(commands::completions::Args),
}

fn main() -> ExitCode {
    let _scenario = fail::FailScenario::setup();
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|e| e.exit());
    // The matches of the subcommand tell where each value came from.
    let given = matches.subcommand().map(|(_, given)| given).expect("clap demands a subcommand");
    // What only prints ends quietly with its reader, as `head` makes it. A run or a text goes on to its end, and a
    // server outlives every client.
    if !matches!(cli.command, Command::Train(_) | Command::Generate(_) | Command::Serve(_)) {
        let always = std::sync::Arc::new(true.into());
        let _ = signal_hook::flag::register_conditional_default(signal_hook::consts::SIGPIPE, always);
    }
    let result = match cli.command {
        Command::Train(args) => commands::train::run(&args, given),
        Command::Generate(args) => commands::generate::run(args),
        Command::Chat(args) => commands::chat::run(args),
        Command::Serve(args) => commands::serve::run(args),
        Command::Eval(args) => commands::eval::run(args),
        Command::Tokenizer(args) => commands::tokenizer::run(args),
        Command::Data(args) => commands::data::run(args),
        Command::Presets(args) => commands::presets::run(args),
        Command::Runs(args) => commands::runs::run(args),
        Command::Results(args) => commands::results::run(args),
        Command::Sweep(args) => commands::sweep::run(&args),
        Command::Exp(args) => commands::exp::run(args),
        Command::Ane(args) => commands::ane::run(args),
        Command::Plan(args) => commands::plan::run(&args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Mil(args) => commands::mil::run(args),
        Command::Tune(args) => commands::tune::run(args),
        Command::Doctor(args) => commands::doctor::run(args),
        Command::Completions(args) => commands::completions::run(args, Cli::command()),
    };
    result.unwrap_or_else(|error| failure::report(&error))
}
