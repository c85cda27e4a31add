//! Whole runs on the reference backend: learning, resuming, and what goes wrong.

use std::borrow::Cow;
use std::cell::RefCell;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use backend::reference::{Reference, ReferenceInfer};
use backend::{Tokens, Train, Update};
use engine::RunConfig;
use engine::config::OnNan;
use engine::data::{self, Blocks, Dataset, PrepareOptions, Sources};
use engine::infer::Infer;
use engine::train::{self, Event, Job, Outcome, Record, TrainError};
use model::{BoxError, ModelConfig, ParamId, Params, Slot, SplitPattern, TokenId, Tokenizer, Weights};

/// A data set of a few stories, a tokenizer for it, and settings for a model of two small blocks.
struct Fixture {
    config: RunConfig,
    tokenizer: Tokenizer,
    data: Dataset,
    _folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let texts = Blocks::stories(1, 20_000).map(|block| block.unwrap().text());
        let tokenizer = Tokenizer::train(texts, 300, SplitPattern::Gpt2).unwrap();
        let sources = Sources::Stories { seed: 1, bytes: 20_000 };
        let options = PrepareOptions { val_every: 10, ..Default::default() };
        let data = data::prepare(&sources, &tokenizer, &options, folder.path(), &mut |_| ()).unwrap();
        let model = ModelConfig {
            dim: 16,
            hidden: 24,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_dim: 8,
            vocab: tokenizer.vocab(),
            max_seq: 16,
            ..ModelConfig::default()
        };
        let mut config = RunConfig { model, ..RunConfig::default() };
        config.train.seq = 12;
        config.train.batch = 2;
        config.train.accum = 2;
        config.train.steps = 6;
        config.train.save_every = 2;
        config.train.eval_every = 2;
        config.train.eval_tokens = 100;
        config.train.sample_every = 3;
        config.train.sample_tokens = 5;
        config.optimizer.warmup = 2;
        config.optimizer.lr = 5e-3;
        Self { config, tokenizer, data, _folder: folder }
    }

    /// Starts or continues the run in `dir`; stops after step `stop_after`.
    fn run<B: Train>(
        &self,
        backend: &mut B,
        dir: &Path,
        stop_after: Option<u64>,
    ) -> Result<Outcome, TrainError> {
        let stop = AtomicBool::new(false);
        let job = Job {
            config: &self.config,
            tokenizer: &self.tokenizer,
            data: &self.data,
            dir,
            device: "reference",
            stop: &|| stop.load(Ordering::Relaxed),
            infer: &infer,
        };
        let mut observe = |event: Event<'_>| {
            if let Event::Step(stats) = event
                && Some(stats.step) == stop_after
            {
                stop.store(true, Ordering::Relaxed);
            }
        };
        let start = train::start(backend, &job, &mut observe)?;
        train::train(backend, &job, start, &mut observe)
    }

    fn reference(&self) -> Reference {
        Reference::new(&self.config.model)
    }
}

fn infer(config: &ModelConfig, weights: Weights) -> Result<Box<dyn Infer>, BoxError> {
    Ok(Box::new(ReferenceInfer::new(config, weights)))
}

/// The metrics of a run without what the clock said.
fn metrics(dir: &Path) -> Vec<Record> {
    let mut records = train::read_metrics(dir).unwrap();
    for record in &mut records {
        if let Record::Step { wall, .. } = record {
            *wall = Default::default();
        }
    }
    records
}

fn bits<B: Train>(backend: &mut B) -> Vec<u32> {
    let mut bits = Vec::new();
    for p in &Params::new(&backend.config().clone()) {
        for slot in [Slot::Weight, Slot::Moment1, Slot::Moment2] {
            bits.extend(backend.read(p.id, slot).unwrap().iter().map(|v| v.to_bits()));
        }
    }
    bits
}

#[test]
fn a_run_learns_saves_validates_and_samples() {
    let mut fixture = Fixture::new();
    fixture.config.train.steps = 30;
    let dir = tempfile::tempdir().unwrap();
    let outcome = fixture.run(&mut fixture.reference(), dir.path(), None).unwrap();
    assert!(!outcome.stopped && outcome.state.is_finished());
    assert_eq!(outcome.state.tokens, 30 * 2 * 2 * 12);
    let records = metrics(dir.path());
    let losses: Vec<f32> = records
        .iter()
        .filter_map(|r| if let Record::Step { loss, .. } = r { Some(*loss) } else { None })
        .collect();
    assert_eq!(losses.len(), 30);
    assert!(losses[0] > 5.0 && losses[29] < losses[0] - 0.3, "{losses:?}");
    assert_eq!(records.iter().filter(|r| matches!(r, Record::Eval { .. })).count(), 15);
    assert_eq!(records.iter().filter(|r| matches!(r, Record::Sample { .. })).count(), 10);
    let newest = model::checkpoint::newest_model(dir.path()).unwrap();
    let saved = model::hf::load(&newest).unwrap();
    assert_eq!(saved.config, fixture.config.model);
    assert!(newest.join("tokenizer.json").exists());
}

#[test]
fn a_run_stopped_anywhere_ends_as_if_it_had_not_been() {
    let fixture = Fixture::new();
    let whole = tempfile::tempdir().unwrap();
    let mut uninterrupted = fixture.reference();
    fixture.run(&mut uninterrupted, whole.path(), None).unwrap();
    let wanted = bits(&mut uninterrupted);
    for stop in 1..6 {
        let dir = tempfile::tempdir().unwrap();
        let outcome = fixture.run(&mut fixture.reference(), dir.path(), Some(stop)).unwrap();
        assert!(outcome.stopped && outcome.state.step == stop);
        let mut resumed = fixture.reference();
        let outcome = fixture.run(&mut resumed, dir.path(), None).unwrap();
        assert!(outcome.state.is_finished());
        assert!(bits(&mut resumed) == wanted, "stopped after step {stop}: other weights");
        assert_eq!(metrics(dir.path()), metrics(whole.path()), "stopped after step {stop}");
    }
}

#[test]
fn a_run_without_its_last_steps_saved_repeats_them() {
    let fixture = Fixture::new();
    let whole = tempfile::tempdir().unwrap();
    fixture.run(&mut fixture.reference(), whole.path(), None).unwrap();
    // As a kill leaves it: a checkpoint of step 4, metrics of steps 5 and half of 6.
    let dir = tempfile::tempdir().unwrap();
    fixture.run(&mut fixture.reference(), dir.path(), Some(4)).unwrap();
    let mut text = std::fs::read_to_string(dir.path().join(train::METRICS)).unwrap();
    text.push_str("{\"kind\":\"step\",\"step\":5,\"loss\":1.0");
    std::fs::write(dir.path().join(train::METRICS), text).unwrap();
    fixture.run(&mut fixture.reference(), dir.path(), None).unwrap();
    assert_eq!(metrics(dir.path()), metrics(whole.path()));
}

#[test]
fn other_data_than_those_of_the_checkpoint_are_refused() {
    let fixture = Fixture::new();
    let dir = tempfile::tempdir().unwrap();
    fixture.run(&mut fixture.reference(), dir.path(), Some(2)).unwrap();
    let other = tempfile::tempdir().unwrap();
    let sources = Sources::Stories { seed: 2, bytes: 20_000 };
    let data =
        data::prepare(&sources, &fixture.tokenizer, &Default::default(), other.path(), &mut |_| ()).unwrap();
    let fixture = Fixture { data, ..fixture };
    let error = fixture.run(&mut fixture.reference(), dir.path(), None).unwrap_err();
    assert!(matches!(error, TrainError::DataChanged { .. }), "{error}");
}

#[test]
fn a_time_budget_becomes_steps_that_a_resumed_run_keeps() {
    let mut fixture = Fixture::new();
    fixture.config.train.budget_s = Some(1);
    let dir = tempfile::tempdir().unwrap();
    let stopped = fixture.run(&mut fixture.reference(), dir.path(), Some(40)).unwrap();
    let planned = stopped.state.planned.expect("a plan after 40 steps");
    assert!(planned >= 20, "{planned}");
    let outcome = fixture.run(&mut fixture.reference(), dir.path(), None).unwrap();
    assert_eq!((outcome.state.planned, outcome.state.step.max(40)), (Some(planned), planned.max(40)));
}

type Spoil<'a> = dyn FnMut(u64, &mut Reference) + 'a;

/// A reference whose gradients are spoiled at the start of an update.
struct Spoiled<'a> {
    inner: Reference,
    updates: u64,
    spoil: &'a RefCell<Spoil<'a>>,
}

impl Train for Spoiled<'_> {
    type Act = backend::reference::Act;
    fn config(&self) -> &ModelConfig {
        self.inner.config()
    }
    fn read(&mut self, id: ParamId, slot: Slot) -> backend::Result<Cow<'_, [f32]>> {
        if slot == Slot::Gradient {
            (self.spoil.borrow_mut())(self.updates, &mut self.inner);
        }
        self.inner.read(id, slot)
    }
    fn write(&mut self, id: ParamId, slot: Slot, values: &[f32]) -> backend::Result<()> {
        self.inner.write(id, slot, values)
    }
    fn embed(&mut self, tokens: Tokens<'_>) -> backend::Result<Self::Act> {
        self.inner.embed(tokens)
    }
    fn attention(&mut self, layer: usize, x: Self::Act) -> backend::Result<Self::Act> {
        self.inner.attention(layer, x)
    }
    fn ffn(&mut self, layer: usize, x: Self::Act) -> backend::Result<Self::Act> {
        self.inner.ffn(layer, x)
    }
    fn loss(&mut self, x: Self::Act, targets: &[TokenId]) -> backend::Result<f32> {
        self.inner.loss(x, targets)
    }
    fn loss_backward(&mut self, x: Self::Act, targets: &[TokenId]) -> backend::Result<(f32, Self::Act)> {
        self.inner.loss_backward(x, targets)
    }
    fn ffn_backward(&mut self, layer: usize, dy: Self::Act) -> backend::Result<Self::Act> {
        self.inner.ffn_backward(layer, dy)
    }
    fn attention_backward(&mut self, layer: usize, dy: Self::Act) -> backend::Result<Self::Act> {
        self.inner.attention_backward(layer, dy)
    }
    fn embed_backward(&mut self, dx: Self::Act) -> backend::Result<()> {
        self.inner.embed_backward(dx)
    }
    fn update(&mut self, update: &Update) -> backend::Result<f32> {
        self.updates += 1;
        (self.spoil.borrow_mut())(self.updates, &mut self.inner);
        self.inner.update(update)
    }
    fn download(&mut self, x: &Self::Act) -> backend::Result<Vec<f32>> {
        self.inner.download(x)
    }
}

/// Runs with a gradient that is NaN at updates for which `bad` holds.
fn run_with_nan(
    steps: u64,
    on_nan: OnNan,
    bad: fn(u64) -> bool,
) -> (Result<Outcome, TrainError>, Vec<Record>, bool) {
    let mut fixture = Fixture::new();
    fixture.config.train.steps = steps;
    fixture.config.train.on_nan = on_nan;
    let spoil = RefCell::new(move |update: u64, inner: &mut Reference| {
        if update > 0 && bad(update) {
            let head = inner.params().head();
            let n = inner.params().get(head).len();
            inner.write(head, Slot::Gradient, &vec![f32::NAN; n]).unwrap();
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let mut backend = Spoiled { inner: fixture.reference(), updates: 0, spoil: &spoil };
    let outcome = fixture.run(&mut backend, dir.path(), None);
    let finite = Params::new(&fixture.config.model)
        .iter()
        .all(|p| backend.inner.read(p.id, Slot::Weight).unwrap().iter().all(|w| w.is_finite()));
    (outcome, metrics(dir.path()), finite)
}

#[test]
fn a_gradient_that_is_not_finite_stops_the_run_with_good_weights() {
    let (outcome, records, finite) = run_with_nan(6, OnNan::Stop, |update| update == 4);
    let error = outcome.unwrap_err();
    assert!(matches!(error, TrainError::Diverged { step: 4, .. }), "{error}");
    assert!(error.to_string().contains("--lr"), "{error}");
    assert_eq!(records.iter().filter(|r| matches!(r, Record::Step { .. })).count(), 3);
    assert!(finite);
}

#[test]
fn a_bad_batch_is_left_out_when_told() {
    let (outcome, records, finite) = run_with_nan(6, OnNan::Skip, |update| update == 4);
    let state = outcome.unwrap().state;
    assert_eq!((state.step, state.updates, state.skips_in_a_row), (6, 5, 0));
    assert!(records.contains(&Record::Skip { step: 4, what: "the gradient norm".into() }));
    assert!(finite);
}

#[test]
fn skipping_without_end_is_divergence() {
    let (outcome, _, finite) = run_with_nan(60, OnNan::Skip, |update| update > 1);
    let error = outcome.unwrap_err();
    assert!(matches!(error, TrainError::Diverged { step: 51, .. }), "{error}");
    assert!(finite);
}

#[test]
fn a_rollback_goes_on_beyond_the_bad_batch() {
    let (outcome, records, finite) = run_with_nan(6, OnNan::Rollback, |update| update == 4);
    let state = outcome.unwrap().state;
    // Step 4 failed, the checkpoint of step 2 came back: steps 3 to 6 on later data.
    assert_eq!((state.step, state.updates), (6, 6));
    assert_eq!(state.position, (4 + 4) * 4);
    assert!(records.contains(&Record::Rollback { step: 4, to: 2 }));
    assert!(finite);
}

#[test]
fn rolling_back_without_end_is_divergence() {
    let (outcome, _, finite) = run_with_nan(6, OnNan::Rollback, |update| update >= 4);
    assert!(matches!(outcome.unwrap_err(), TrainError::Diverged { .. }));
    assert!(finite);
    let (outcome, _, _) = run_with_nan(6, OnNan::Rollback, |update| update == 1);
    assert!(outcome.unwrap_err().to_string().contains("no checkpoint yet"));
}

#[test]
fn a_parameter_without_a_gradient_is_named() {
    let fixture = Fixture::new();
    let name = "model.layers.1.mlp.up_proj.weight";
    let spoil = RefCell::new(move |update: u64, inner: &mut Reference| {
        if update == 0 {
            let p = inner.params().by_name(name).unwrap().clone();
            inner.write(p.id, Slot::Gradient, &vec![0.0; p.len()]).unwrap();
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let mut backend = Spoiled { inner: fixture.reference(), updates: 0, spoil: &spoil };
    let error = fixture.run(&mut backend, dir.path(), None).unwrap_err();
    assert!(matches!(&error, TrainError::Gradient { name: found, what: "no" } if found == name), "{error}");
}
