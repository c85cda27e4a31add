//! `rustane train`: a model from scratch, on the built-in stories or on your own text.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use backend::{Slot, Train};
use clap::ArgMatches;
use clap::parser::ValueSource;
use engine::RunConfig;
use engine::config::{OnNan, OptimizerKind};
use engine::data::{
    self, BLOCK_BYTES, Blocks, Dataset, Format, Loader, PrepareOptions, ReadOptions, Sources,
};
use engine::optim::Schedule;
use engine::train::{self, Drift, Event, Job, Record, Start};
use model::checkpoint::newest_model;
use model::{Params, RunLock, SplitPattern, Tokenizer, Weights, hf};

use super::generate::load_tokenizer;
use super::presets;
use crate::device::{DeviceArgs, bytes};
use crate::failure::Failure;
use crate::paths;
use crate::progress::{Progress, duration, say};
use crate::settings::{Layers, Origin};
use crate::stop::Stop;
use crate::tensorboard;

/// Text that a tokenizer is trained on, at most.
const TOKENIZER_BYTES: u64 = 64 << 20;
/// Text of the built-in stories for a tokenizer: more teaches it nothing new.
const STORY_TOKENIZER_BYTES: u64 = 2 << 20;
/// Text that a dry run reads.
const DRY_RUN_BYTES: usize = 4 << 20;
/// The built-in corpus is one corpus: runs with different seeds read the same stories.
const STORY_SEED: u64 = 1;

/// Name of the settings in a run directory.
pub const CONFIG: &str = "config.toml";
/// Name of the tokenizer in a run directory.
const TOKENIZER: &str = "tokenizer.json";
/// What a folder of prepared data has.
const DESCRIPTION: &str = "dataset.json";

/// Flags of `rustane train`. All settings can be given in a file or by --set as well.
#[derive(clap::Args)]
pub struct Args {
    /// Built-in settings to start from; `rustane presets ls` lists them
    #[arg(long, env = "RUSTANE_PRESET", default_value = "tiny")]
    preset: String,
    /// File with settings (TOML)
    #[arg(long, env = "RUSTANE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, such as model.dim=256; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// File or folder of .txt, .jsonl, .parquet or tokens; repeatable [default: built-in stories]
    #[arg(long, env = "RUSTANE_DATA", value_name = "PATH", help_heading = "Data")]
    data: Vec<PathBuf>,
    /// File or folder for validation [default: one part in 50 of the data]
    #[arg(long, value_name = "PATH", help_heading = "Data")]
    val_data: Vec<PathBuf>,
    /// Format of files whose names do not tell: text, jsonl, parquet, tokens, u16
    #[arg(long, value_parser = parse_format, value_name = "FORMAT", help_heading = "Data")]
    format: Option<Format>,
    /// Column of parquet files that holds the text
    #[arg(long, value_name = "NAME", help_heading = "Data")]
    text_column: Option<String>,
    /// Replace bytes that are no UTF-8 instead of stopping
    #[arg(long, help_heading = "Data")]
    lossy: bool,
    /// Bad lines of .jsonl files to pass over
    #[arg(long, value_name = "N", help_heading = "Data")]
    skip_bad: Option<u64>,
    /// An existing tokenizer.json [default: one is trained on the data]
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    tokenizer: Option<PathBuf>,
    /// Tokens in the vocabulary
    #[arg(long, value_name = "N", help_heading = "Data")]
    vocab: Option<usize>,

    /// Tokens of one sequence
    #[arg(long, env = "RUSTANE_SEQ", value_name = "N", help_heading = "Length and size")]
    seq: Option<usize>,
    /// Sequences of one micro-batch
    #[arg(long, env = "RUSTANE_BATCH", value_name = "N", help_heading = "Length and size")]
    batch: Option<usize>,
    /// Micro-batches of one update
    #[arg(long, value_name = "N", help_heading = "Length and size")]
    accum: Option<usize>,
    /// Updates of the run
    #[arg(long, alias = "iters", env = "RUSTANE_STEPS", value_name = "N", help_heading = "Length and size")]
    steps: Option<u64>,
    /// Tokens of the run
    #[arg(long, value_name = "N", help_heading = "Length and size")]
    tokens: Option<u64>,
    /// Time of the run, such as 90s, 30m or 8h; the number of steps is measured
    #[arg(long, value_parser = parse_budget, value_name = "TIME", help_heading = "Length and size")]
    budget: Option<u64>,
    /// Recompute activations in the backward pass: less memory, a third more work
    #[arg(long, help_heading = "Length and size")]
    recompute: bool,

    /// Rule of the weight matrices: adamw or muon
    #[arg(long, value_parser = parse_optimizer, value_name = "RULE", help_heading = "Optimizer")]
    optimizer: Option<OptimizerKind>,
    /// Peak learning rate of AdamW
    #[arg(
        long,
        env = "RUSTANE_LR",
        value_name = "RATE",
        help_heading = "Optimizer",
        allow_negative_numbers = true
    )]
    lr: Option<f32>,
    /// Peak learning rate of Muon
    #[arg(long, value_name = "RATE", help_heading = "Optimizer", allow_negative_numbers = true)]
    muon_lr: Option<f32>,
    /// Learning rate over the run: cosine, wsd or constant
    #[arg(long, value_parser = parse_schedule, value_name = "SHAPE", help_heading = "Optimizer")]
    schedule: Option<Schedule>,
    /// Updates over which the learning rate rises
    #[arg(long, value_name = "N", help_heading = "Optimizer")]
    warmup: Option<u64>,
    /// Weight decay of matrices
    #[arg(long, value_name = "X", help_heading = "Optimizer", allow_negative_numbers = true)]
    weight_decay: Option<f32>,
    /// Largest norm of the gradient; 0: no limit
    #[arg(long, value_name = "X", help_heading = "Optimizer", allow_negative_numbers = true)]
    clip: Option<f32>,
    /// When loss or gradient are not finite: stop, skip or rollback
    #[arg(long, value_parser = parse_on_nan, value_name = "POLICY", help_heading = "Optimizer")]
    on_nan: Option<OnNan>,
    /// Decides first weights, order of the data and samples
    #[arg(long, env = "RUSTANE_SEED", value_name = "N", help_heading = "Optimizer")]
    seed: Option<u64>,

    /// Steps between validations
    #[arg(long, value_name = "N", help_heading = "On the side")]
    eval_every: Option<u64>,
    /// Steps between samples
    #[arg(long, value_name = "N", help_heading = "On the side")]
    sample_every: Option<u64>,
    /// What a sample starts with
    #[arg(long, value_name = "TEXT", help_heading = "On the side")]
    sample_prompt: Option<String>,
    /// Steps between checkpoints
    #[arg(long, value_name = "N", help_heading = "On the side")]
    save_every: Option<u64>,
    /// Newest checkpoints to keep
    #[arg(long, value_name = "N", help_heading = "On the side")]
    keep: Option<usize>,
    /// Also write TensorBoard event files
    #[arg(long, help_heading = "On the side")]
    tensorboard: bool,

    /// Run directory [default: runs/<date>-<preset>]; an unfinished run in it is continued
    #[arg(long, env = "RUSTANE_OUT", value_name = "DIR", help_heading = "Run")]
    out: Option<PathBuf>,
    /// Start over, and delete the run that is in the directory
    #[arg(long, help_heading = "Run")]
    fresh: bool,
    /// Continue although settings changed
    #[arg(long, help_heading = "Run")]
    allow_drift: bool,
    /// Plan memory, open the data, make one step, write no run
    #[arg(long, help_heading = "Run")]
    dry_run: bool,
    /// Print all settings with their origins, and end
    #[arg(long, help_heading = "Run")]
    print_config: bool,
    /// Lines instead of a progress bar
    #[arg(long, help_heading = "Run")]
    plain: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Trains.
pub fn run(args: &Args, given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let mut layers = layers(args, given)?;
    let mut config = layers.finish()?;
    // A model that could not be saved is not worth training.
    hf::check(&config.model).map_err(|e| Failure::Usage(e.to_string()))?;
    if args.print_config {
        // A closed pipe is no fault: the reader has enough.
        let _ = write!(std::io::stdout(), "{layers}");
        return Ok(ExitCode::SUCCESS);
    }
    if args.dry_run {
        return dry_run(args, &mut layers);
    }
    let dir = args.out.clone().unwrap_or_else(|| paths::run(&args.preset));
    let _lock = RunLock::acquire(&dir)?;
    if args.fresh {
        remove_run(&dir)?;
    }
    let progress = Progress::new(args.plain);
    let tokenizer = tokenizer(&dir, &config, &progress)?;
    config = fit_vocabulary(&mut layers, &tokenizer)?;
    if let Some(code) = check_earlier(&dir, &config, args.allow_drift)? {
        return Ok(code);
    }
    write_file(&dir.join(CONFIG), layers.to_string().as_bytes())?;

    let data = prepare(&config, &tokenizer, args.device.threads(), &progress)?;
    let mut backend = args.device.trainer(&config)?;
    progress.say(&describe(&config, &data, &args.device, backend.bytes() as u64));
    let stop = Stop::listen().context("cannot listen for signals")?;
    let infer = |model: &model::ModelConfig, weights: Weights| args.device.writer(model, weights);
    let job = Job {
        config: &config,
        tokenizer: &tokenizer,
        data: &data,
        dir: &dir,
        stop: stop.flag(),
        infer: &infer,
    };
    let board = args.tensorboard.then(|| tensorboard::Writer::create(&dir)).transpose();
    let mut observer = Observer { progress, board: board.context("cannot write TensorBoard files")? };
    let begin = Instant::now();
    let outcome =
        train::start(&mut backend, &job, &mut |event| observer.event(&event)).and_then(|start: Start| {
            train::train(&mut backend, &job, start, &mut |event| observer.event(&event))
        });
    observer.progress.finish();
    let outcome = outcome?;
    let step = outcome.state.step;
    let newest = newest_model(&dir).unwrap_or_else(|_| dir.clone());
    if outcome.stopped {
        say(&format!("stopped at step {step}; the same command continues: --out {}", dir.display()));
        return Ok(stop.exit_code());
    }
    say(&format!("done: {step} steps in {}; the model is {}", duration(begin.elapsed()), newest.display()));
    say(&format!("try:  rustane generate {} --prompt \"Once\"", dir.display()));
    Ok(ExitCode::SUCCESS)
}

/// Default < preset < file < variable < flag.
fn layers(args: &Args, given: &ArgMatches) -> anyhow::Result<Layers> {
    let mut layers = Layers::new();
    layers.preset(presets::find(&args.preset)?);
    if let Some(file) = &args.config {
        layers.file(file)?;
    }
    macro_rules! flags {
        ($($flag:ident => $key:literal),* $(,)?) => {$(
            if let Some(origin) = origin(given, stringify!($flag)) {
                layers.set($key, &args.$flag, origin);
            }
        )*};
    }
    let flags: Vec<_> = ["steps", "tokens", "budget"]
        .into_iter()
        .filter(|flag| given.value_source(flag) == Some(ValueSource::CommandLine))
        .collect();
    if let [first, second, ..] = flags[..] {
        let text = format!("--{first} and --{second} both say how long the run is; give one of them");
        return Err(Failure::Usage(text).into());
    }
    // A flag for the length of the run takes the place of every other.
    for (flag, keys) in [
        ("steps", ["train.tokens", "train.budget_s"]),
        ("tokens", ["train.budget_s", ""]),
        ("budget", ["train.tokens", ""]),
    ] {
        if origin(given, flag).is_some() {
            keys.into_iter().for_each(|key| layers.remove(key));
        }
    }
    flags! {
        data => "data.path", val_data => "data.val", format => "data.format", text_column => "data.text_column",
        lossy => "data.lossy", skip_bad => "data.skip_bad", tokenizer => "data.tokenizer", vocab => "model.vocab",
        seq => "train.seq", batch => "train.batch", accum => "train.accum", steps => "train.steps",
        tokens => "train.tokens", budget => "train.budget_s", recompute => "train.recompute",
        optimizer => "optimizer.kind", lr => "optimizer.lr", muon_lr => "optimizer.muon_lr",
        schedule => "optimizer.schedule", warmup => "optimizer.warmup", weight_decay => "optimizer.weight_decay",
        clip => "optimizer.clip", on_nan => "train.on_nan", seed => "train.seed", eval_every => "train.eval_every",
        sample_every => "train.sample_every", sample_prompt => "train.sample_prompt",
        save_every => "train.save_every", keep => "train.keep",
    }
    for assignment in &args.set {
        layers.assign(assignment)?;
    }
    // A folder that was prepared holds the tokenizer that made its tokens.
    let config = layers.finish()?;
    if let ([folder], None) = (config.data.path.as_slice(), &config.data.tokenizer)
        && folder.join(DESCRIPTION).is_file()
        && folder.join(TOKENIZER).is_file()
    {
        layers.set("data.tokenizer", folder.join(TOKENIZER), Origin::File(folder.clone()));
    }
    Ok(layers)
}

/// Where the value of a flag comes from; nothing when it was not given.
fn origin(given: &ArgMatches, flag: &str) -> Option<Origin> {
    let name = flag.replace('_', "-");
    match given.value_source(flag)? {
        ValueSource::CommandLine => Some(Origin::Flag(name)),
        ValueSource::EnvVariable => Some(Origin::Variable(format!("RUSTANE_{}", flag.to_uppercase()))),
        _ => None,
    }
}

/// A tokenizer that is given decides the vocabulary, unless that was said too.
fn fit_vocabulary(layers: &mut Layers, tokenizer: &Tokenizer) -> Result<RunConfig, Failure> {
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

fn read_options(config: &RunConfig) -> ReadOptions {
    let data = &config.data;
    ReadOptions {
        format: data.format,
        text_column: data.text_column.clone(),
        lossy: data.lossy,
        skip_bad: data.skip_bad,
    }
}

fn sources(config: &RunConfig) -> Sources {
    if config.data.path.is_empty() {
        Sources::Stories { seed: STORY_SEED, bytes: config.data.story_bytes }
    } else {
        Sources::Files { train: config.data.path.clone(), val: config.data.val.clone() }
    }
}

fn train_tokenizer(config: &RunConfig, sources: &Sources) -> anyhow::Result<Tokenizer> {
    let limit =
        if matches!(sources, Sources::Stories { .. }) { STORY_TOKENIZER_BYTES } else { TOKENIZER_BYTES };
    Ok(data::train_tokenizer(sources, &read_options(config), config.model.vocab, config.data.split, limit)?)
}

/// The tokenizer of the run: the one it has, the one that is given, or a new one.
fn tokenizer(dir: &Path, config: &RunConfig, progress: &Progress) -> anyhow::Result<Tokenizer> {
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

/// Checks an earlier run in the directory; an exit code when it needs nothing more.
fn check_earlier(dir: &Path, config: &RunConfig, allow_drift: bool) -> anyhow::Result<Option<ExitCode>> {
    let Ok(newest) = newest_model(dir) else { return Ok(None) };
    let path = newest.join("training").join("state.json");
    // A damaged checkpoint is dealt with where it is loaded.
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
    let Ok(state) = serde_json::from_str::<train::TrainState>(&text) else { return Ok(None) };
    let drift = Drift::between(&state.config, config);
    if !drift.is_empty() && !allow_drift {
        let lines: Vec<_> =
            drift.iter().map(|d| format!("\n  {}: {} in the run, {} now", d.key, d.saved, d.now)).collect();
        return Err(Failure::Usage(format!(
            "{} holds a run with other settings:{}\ncontinue it with --allow-drift, start over with --fresh, or \
             name another --out",
            dir.display(),
            lines.concat()
        ))
        .into());
    }
    if drift.is_empty() && state.is_finished() && looked_at_last(dir, config, state.step) {
        say(&format!(
            "{} is a finished run of {} steps; train again with --fresh, or name another --out",
            dir.display(),
            state.step
        ));
        return Ok(Some(ExitCode::SUCCESS));
    }
    Ok(None)
}

/// Whether the last validation and sample of a run are written: a kill may come between them and the
/// last checkpoint.
fn looked_at_last(dir: &Path, config: &RunConfig, last: u64) -> bool {
    let records = train::read_metrics(dir).unwrap_or_default();
    let validated = records.iter().any(|r| matches!(r, Record::Eval { step, .. } if *step == last));
    let sampled = records.iter().any(|r| matches!(r, Record::Sample { step, .. } if *step == last));
    validated && (sampled || config.train.sample_tokens == 0)
}

/// Deletes what a run wrote, and nothing else.
fn remove_run(dir: &Path) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name.starts_with("step-")
            || name.starts_with(".tmp-")
            || name.starts_with("events.out.tfevents")
            || [CONFIG, TOKENIZER, train::METRICS, "latest"].contains(&name.as_str());
        if ours {
            let path = entry.path();
            let removed =
                if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.with_context(|| format!("cannot delete {}", path.display()))?;
        }
    }
    Ok(())
}

/// Writes a file that is whole or absent at every moment, for a run may be killed at any.
fn write_file(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let mut name = OsString::from(".tmp-");
    name.push(path.file_name().unwrap_or_default());
    let temporary = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fail::fail_point!("run::rename");
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn describe(config: &RunConfig, data: &Dataset, device: &DeviceArgs, memory: u64) -> String {
    let RunConfig { model, train, .. } = config;
    let from = if config.data.path.is_empty() { " of built-in stories" } else { "" };
    format!(
        "model: {:.2}M parameters, {} layers of {} channels, vocabulary {}\n\
         data:  {} tokens{from} to train on, {} to validate on\n\
         run:   {} × {} tokens per step on {}, {} of memory",
        model.param_count() as f64 / 1e6,
        model.layers,
        model.dim,
        model.vocab,
        data.train.len(),
        data.val.len(),
        train.batch * train.accum,
        train.seq,
        device.label(),
        bytes(memory)
    )
}

/// Everything that training does, once, without a trace.
fn dry_run(args: &Args, layers: &mut Layers) -> anyhow::Result<ExitCode> {
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
        let mut backend = args.device.trainer(&config)?;
        let memory = backend.bytes() as u64;
        let weights = Weights::init(&config.model, config.train.seed);
        for p in &Params::new(&config.model) {
            backend.write(p.id, Slot::Weight, weights.get(p.id))?;
        }
        drop(weights);
        let batch = Loader::new(data.train.clone(), config.train.seq, config.train.batch, config.train.seed)?
            .batch(0)?;
        let begin = Instant::now();
        let tokens = backend::Tokens { ids: &batch.tokens, seq: batch.seq };
        let loss = backend::forward_backward(&mut backend, tokens, &batch.targets)?;
        train::check_gradients(&mut backend)?;
        let norm = backend.update(&engine::optim::update(&config.optimizer, 0, 100, 1))?;
        let took = begin.elapsed();
        progress.say(&describe(&config, &data, &args.device, memory));
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

/// Shows and records what a run tells.
struct Observer {
    progress: Progress,
    board: Option<tensorboard::Writer>,
}

impl Observer {
    fn event(&mut self, event: &Event<'_>) {
        self.progress.event(event);
        let Some(board) = &mut self.board else { return };
        let scalars: Vec<(&str, u64, f64)> = match event {
            Event::Step(s) => vec![
                ("train/loss", s.step, f64::from(s.loss)),
                ("train/grad_norm", s.step, f64::from(s.grad_norm)),
                ("train/lr", s.step, f64::from(s.lr)),
                ("speed/tok_per_s", s.step, s.step_tokens as f64 / s.seconds),
            ],
            Event::Eval { step, stats, .. } => {
                vec![("val/loss", *step, stats.loss), ("val/bpb", *step, stats.bpb)]
            }
            _ => Vec::new(),
        };
        let written =
            scalars.into_iter().try_for_each(|(tag, step, value)| board.scalar(tag, step, value as f32));
        if let Err(error) = written {
            self.progress.say(&format!("warning: no more TensorBoard files: {error}"));
            self.board = None;
        }
    }
}

/// Parses a word as the settings file would.
fn word<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    let value = toml::Value::String(text.to_owned());
    value.try_into().map_err(|e: toml::de::Error| e.message().trim().to_owned())
}

fn parse_format(text: &str) -> Result<Format, String> {
    word(text)
}

fn parse_optimizer(text: &str) -> Result<OptimizerKind, String> {
    word(text)
}

fn parse_schedule(text: &str) -> Result<Schedule, String> {
    word(text)
}

fn parse_on_nan(text: &str) -> Result<OnNan, String> {
    word(text)
}

/// Seconds of a time such as 90s, 30m or 8h.
fn parse_budget(text: &str) -> Result<u64, String> {
    let wanted = || format!("`{text}` is no time; wanted such as 90s, 30m or 8h");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        _ => return Err(wanted()),
    };
    let seconds: f64 = digits.parse::<f64>().map_err(|_| wanted())? * f64::from(factor);
    if !(1.0..=1e9).contains(&seconds) {
        return Err(wanted());
    }
    Ok(seconds as u64)
}

/// The split patterns by name, for other commands.
pub fn parse_split(text: &str) -> Result<SplitPattern, String> {
    word(text)
}
