//! Everything that training does, once, without a trace.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use backend::{Slot, Train};
use engine::RunConfig;
use engine::data::{self, BLOCK_BYTES, Blocks, Loader, PrepareOptions, Sources};
use engine::train;
use model::{Params, Weights};

use super::flags::Args;
use super::text::{STORY_SEED, fit_vocabulary, read_options, sources, train_tokenizer};
use super::{describe, write_file};
use crate::commands::generate::load_tokenizer;
use crate::progress::Progress;
use crate::settings::Layers;

/// Text that a dry run reads.
const DRY_RUN_BYTES: usize = 4 << 20;

/// Everything that training does, once, without a trace.
pub(super) fn dry_run(args: &Args, layers: &mut Layers) -> anyhow::Result<ExitCode> {
    let progress = Progress::new(true);
    let mut config = layers.finish()?;
    let folder = std::env::temp_dir().join(format!("rustane-dry-run-{}", std::process::id()));
    let result = (|| {
        let sources = dry_run_sources(&config, &folder)?;
        let tokenizer = match &config.data.tokenizer {
            Some(file) => load_tokenizer(file)?,
            None => train_tokenizer(&config, &sources)?,
        };
        config = fit_vocabulary(layers, &tokenizer)?;
        let options = PrepareOptions {
            read: read_options(&config),
            val_every: config.data.val_every,
            threads: args.device.threads(),
        };
        let data = data::prepare(&sources, &tokenizer, &options, &folder.join("data"), &mut |_| ())?;
        let mut trainer = args.device.trainer(&config)?;
        let backend = &mut trainer.backend;
        let weights = Weights::init(&config.model, config.train.seed);
        for p in &Params::new(&config.model) {
            backend.write(p.id, Slot::Weight, weights.get(p.id))?;
        }
        drop(weights);
        let batch = Loader::new(data.train.clone(), config.train.seq, config.train.batch, config.train.seed)?
            .batch(0)?;
        let begin = Instant::now();
        let tokens = backend::Tokens { ids: &batch.tokens, seq: batch.seq };
        let loss = backend::forward_backward(backend, tokens, &batch.targets)?;
        train::check_gradients(backend)?;
        let norm = backend.update(&engine::optim::update(&config.optimizer, 0, 100, 1))?;
        let took = begin.elapsed();
        progress.say(&describe(&config, &data, &args.device, &trainer));
        progress.say(&format!(
            "step:  loss {loss:.4}, gradient norm {norm:.2}, {:.0} ms for the first micro-batch\n\
             dry run: everything works, nothing was written",
            took.as_secs_f64() * 1e3
        ));
        Ok(ExitCode::SUCCESS)
    })();
    let _ = std::fs::remove_dir_all(&folder);
    result
}

/// The beginning of the text, so that a dry run is quick on any amount of it.
fn dry_run_sources(config: &RunConfig, folder: &Path) -> anyhow::Result<Sources> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot write {}", folder.display()))?;
    if config.data.path.is_empty() {
        return Ok(Sources::Stories { seed: STORY_SEED, bytes: DRY_RUN_BYTES as u64 / 4 });
    }
    let read = read_options(config);
    let files = data::find(&config.data.path, &read)?;
    if files.iter().any(|f| f.format.is_tokens()) {
        return Ok(sources(config));
    }
    let mut text = String::new();
    for block in Blocks::new(files, read, BLOCK_BYTES) {
        text.push_str(&block?.text());
        text.push('\n');
        if text.len() >= DRY_RUN_BYTES {
            break;
        }
    }
    let path = folder.join("beginning.txt");
    write_file(&path, text.as_bytes())?;
    Ok(Sources::Files { train: vec![path], val: Vec::new() })
}
