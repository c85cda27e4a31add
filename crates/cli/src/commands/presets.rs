//! `rustane presets`: the settings that are built in.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use engine::RunConfig;
use engine::presets::{PRESETS, Preset};

use crate::failure::Failure;
use crate::settings;

/// Flags of `rustane presets`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List all presets with their sizes
    Ls,
    /// Print a preset as TOML
    Show {
        /// Name of the preset
        name: String,
    },
    /// Copy a preset into a file, to change it and train with --config
    Cp {
        /// Name of the preset
        name: String,
        /// The new file
        file: PathBuf,
    },
}

/// Runs the action.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Ls => {
            println!("{:<14} {:>9}  what", "preset", "params");
            for preset in PRESETS {
                let config: RunConfig = toml::from_str(preset.text)?;
                println!("{:<14} {:>9}  {}", preset.name, params(&config), preset.title());
            }
        }
        Action::Show { name } => print!("{}", find(&name)?.text),
        Action::Cp { name, file } => {
            let preset = find(&name)?;
            if file.exists() {
                let text = format!("{} is there already; name another file", file.display());
                return Err(Failure::Usage(text).into());
            }
            std::fs::write(&file, preset.text).with_context(|| format!("cannot write {}", file.display()))?;
            println!("wrote {0}; train with `rustane train --config {0}`", file.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The preset of that name, or an error that suggests one.
pub fn find(name: &str) -> Result<&'static Preset, Failure> {
    Preset::find(name).ok_or_else(|| {
        let names = PRESETS.iter().map(|p| p.name);
        let hint = settings::nearest(name, names).map_or(";".into(), |n| format!("; did you mean `{n}`?"));
        Failure::Usage(format!("there is no preset `{name}`{hint} `rustane presets ls` lists all"))
    })
}

fn params(config: &RunConfig) -> String {
    let n = config.model.param_count() as f64;
    if n >= 1e9 { format!("{:.2}B", n / 1e9) } else { format!("{:.1}M", n / 1e6) }
}
