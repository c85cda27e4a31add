//! From settings to a tokenizer and prepared data.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use engine::RunConfig;
use engine::data::{self, Dataset, PrepareOptions, ReadOptions, Sources};
use model::Tokenizer;

use super::write_file;
use crate::commands::generate::load_tokenizer;
use crate::device::bytes;
use crate::failure::Failure;
use crate::paths;
use crate::progress::Progress;
use crate::settings::{Layers, Origin};

/// Text that a tokenizer is trained on, at most.
const TOKENIZER_BYTES: u64 = 64 << 20;

/// Text of the built-in stories for a tokenizer: more teaches it nothing new.
const STORY_TOKENIZER_BYTES: u64 = 2 << 20;

/// The built-in corpus is one corpus: runs with different seeds read the same stories.
pub(super) const STORY_SEED: u64 = 1;

/// Name of the tokenizer in a run directory.
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// What a folder of prepared data has.
pub(super) const DESCRIPTION: &str = "dataset.json";

pub(super) fn read_options(config: &RunConfig) -> ReadOptions {
    let data = &config.data;
    ReadOptions {
        format: data.format,
        text_column: data.text_column.clone(),
        lossy: data.lossy,
        skip_bad: data.skip_bad,
    }
}

pub(super) fn sources(config: &RunConfig) -> Sources {
    if config.data.path.is_empty() {
        Sources::Stories { seed: STORY_SEED, bytes: config.data.story_bytes }
    } else {
        Sources::Files { train: config.data.path.clone(), val: config.data.val.clone() }
    }
}

pub(super) fn train_tokenizer(config: &RunConfig, sources: &Sources) -> anyhow::Result<Tokenizer> {
    let limit =
        if matches!(sources, Sources::Stories { .. }) { STORY_TOKENIZER_BYTES } else { TOKENIZER_BYTES };
    Ok(data::train_tokenizer(sources, &read_options(config), config.model.vocab, config.data.split, limit)?)
}

/// The tokenizer of the run: the one it has, the one that is given, or a new one.
pub(super) fn tokenizer(dir: &Path, config: &RunConfig, progress: &Progress) -> anyhow::Result<Tokenizer> {
    let own = dir.join(TOKENIZER);
    // One that a run left which ended before its first checkpoint may be of other data.
    if own.exists() && has_checkpoints(dir) {
        return load_tokenizer(&own);
    }
    let tokenizer = match &config.data.tokenizer {
        Some(file) => load_tokenizer(file)?,
        None => {
            progress.say(&format!("training a tokenizer of {} tokens", config.model.vocab));
            train_tokenizer(config, &sources(config))?
        }
    };
    write_file(&own, tokenizer.json())?;
    Ok(tokenizer)
}

/// Whether there are checkpoints, sound or not.
fn has_checkpoints(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().starts_with("step-"))
}

/// A tokenizer that is given decides the vocabulary, unless that was said too.
pub(super) fn fit_vocabulary(layers: &mut Layers, tokenizer: &Tokenizer) -> Result<RunConfig, Failure> {
    let config = layers.finish()?;
    let said = !matches!(layers.origin("model.vocab"), Origin::Default | Origin::Preset(_));
    if config.data.tokenizer.is_some() && !said {
        layers.set("model.vocab", tokenizer.vocab(), Origin::Tokenizer);
        return layers.finish();
    }
    if tokenizer.vocab() > config.model.vocab {
        let (got, wanted) = (config.model.vocab, tokenizer.vocab());
        return Err(Failure::Usage(format!(
            "`model.vocab` is {got}, the tokenizer has {wanted} tokens; wanted at least as many"
        )));
    }
    Ok(config)
}

/// The data of a run, from the cache if they are there.
pub fn prepare(
    config: &RunConfig,
    tokenizer: &Tokenizer,
    threads: usize,
    progress: &Progress,
) -> anyhow::Result<Dataset> {
    let sources = sources(config);
    let options = PrepareOptions { read: read_options(config), val_every: config.data.val_every, threads };
    let cache = paths::cache().join("data");
    let name = cache_name(&sources, &options, tokenizer);
    let folder = cache.join(&name);
    // Two runs that begin together prepare the same data once; the second waits and finds them.
    let lock = cache.join(format!("{name}.lock"));
    let locked = std::fs::create_dir_all(&cache)
        .and_then(|()| File::create(&lock))
        .and_then(|file| file.lock().map(|()| file))
        .with_context(|| format!("cannot lock {}", lock.display()))?;
    let mut last = Instant::now();
    let data = data::prepare(&sources, tokenizer, &options, &folder, &mut |p| {
        if last.elapsed() >= Duration::from_secs(2) {
            last = Instant::now();
            progress.say(&format!(
                "encoding: {} of {}, {} tokens",
                bytes(p.bytes),
                bytes(p.total_bytes),
                p.tokens
            ));
        }
    });
    drop(locked);
    Ok(data?)
}

/// A folder name that differs where the content differs; what is inside is checked again.
fn cache_name(sources: &Sources, options: &PrepareOptions, tokenizer: &Tokenizer) -> String {
    let first = match sources {
        Sources::Stories { .. } => "stories".to_owned(),
        Sources::Files { train, .. } => {
            let name = train.first().and_then(|p| p.file_name()).unwrap_or_default().to_string_lossy();
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect()
        }
    };
    let absolute = |paths: &[PathBuf]| -> Vec<PathBuf> {
        paths.iter().map(|p| p.canonicalize().unwrap_or_else(|_| p.clone())).collect()
    };
    let sources = match sources {
        Sources::Files { train, val } => Sources::Files { train: absolute(train), val: absolute(val) },
        stories => stories.clone(),
    };
    let text = format!(
        "{sources:?} {:?} {} {:?}",
        options.read,
        options.val_every,
        tokenizer.hash().map(|b| format!("{b:02x}")).concat()
    );
    format!("{first}-{}", &blake3::hash(text.as_bytes()).to_hex()[..16])
}
