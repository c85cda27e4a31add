//! What the plan is of: a preset, a file or a directory, with the flags on top.

use std::path::Path;

use engine::RunConfig;
use engine::config::Precision;
use model::hf;

use super::Args;
use crate::commands::presets;
use crate::commands::train::CONFIG;
use crate::failure::Failure;
use crate::settings::{Layers, Origin};

/// A model and how it would be run.
pub struct Target {
    /// As reports call it.
    pub name: String,
    /// The settings, flags applied.
    pub config: RunConfig,
    /// What `rustane train` is given to get these settings; `None` for a directory that it cannot continue.
    pub source: Option<String>,
    /// The directory that `rustane generate` can write from.
    pub dir: Option<String>,
}

/// Finds the model.
pub fn resolve(args: &Args) -> anyhow::Result<Target> {
    let path = Path::new(&args.model);
    let mut layers = Layers::new();
    let (mut source, mut dir) = (None, None);
    if path.is_dir() {
        dir = Some(args.model.clone());
        let settings = path.join(CONFIG);
        if settings.is_file() {
            layers.file(&settings)?;
            source = Some(format!("--config {}", settings.display()));
        } else {
            let file = path.join("config.json");
            let text = std::fs::read(&file).map_err(|e| {
                let names = format!("{CONFIG} (a run) nor a readable config.json (Hugging Face: {e})");
                Failure::Usage(format!("{}: neither {names}; give one of these, or a preset", path.display()))
            })?;
            let (model, _) = hf::parse_config(&file, &text)?;
            layers.set("model", &model, Origin::File(file));
            // Such a directory says nothing of training.
            layers.set("train.seq", model.max_seq.min(512), Origin::Default);
            layers.set("train.batch", 1, Origin::Default);
        }
    } else if path.is_file() {
        layers.file(path)?;
        source = Some(format!("--config {}", path.display()));
    } else {
        layers.preset(presets::find(&args.model)?);
        source = Some(format!("--preset {}", args.model));
    }
    let flag = |name: &str| Origin::Flag(name.to_owned());
    for assignment in &args.set {
        layers.assign(assignment)?;
    }
    if let Some(seq) = args.seq {
        layers.set("train.seq", seq, flag("seq"));
    }
    if let Some(batch) = args.batch {
        layers.set("train.batch", batch, flag("batch"));
    }
    if args.recompute {
        layers.set("train.recompute", true, flag("recompute"));
    }
    if args.update_in_backward {
        layers.set("train.update_in_backward", true, flag("update-in-backward"));
    }
    if let Some(weights) = args.weights {
        layers.set("train.weights", weights, flag("weights"));
    }
    if let Some(precision) = args.precision {
        layers.set("train.precision", precision, flag("precision"));
    }
    if let Some(state) = args.optimizer_state {
        layers.set("optimizer.state", state, flag("optimizer-state"));
    }
    if let Some(kind) = args.optimizer {
        layers.set("optimizer.kind", kind, flag("optimizer"));
    }
    let mut config = layers.finish()?;
    if config.train.precision == Precision::Auto {
        config.train.precision = args.device.settle(Precision::Auto);
    }
    Ok(Target { name: args.model.clone(), config, source, dir })
}
