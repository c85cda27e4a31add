//! The loop of a training run.
//!
//! ```text
//! start     newest sound checkpoint, or first weights
//! boundary  save ─▶ validate ─▶ sample          (each when due; saving first, so that a fault in
//! step      micro-batches ─▶ gradients ─▶ update  the others costs nothing)
//! ```
//!
//! A resumed run enters at the boundary of its checkpoint, right after the save.

use std::borrow::Cow;
use std::path::Path;
use std::time::{Duration, Instant};

use backend::Train;
use model::checkpoint::{Checkpoints, Keep, Snapshot};
use model::hf::{Export, SpecialTokens};
use model::{BoxError, FileError, Group, ModelConfig, ParamId, Params, Slot, Tokenizer, Weights};

use super::budget::Budget;
use super::metrics::{Metrics, Record};
use super::state::{DataId, Drift};
use super::{Event, StepStats, TrainError, TrainState, check_gradients, evaluate};
use crate::config::{OnNan, OptimizerKind};
use crate::data::{Batch, Dataset, Loader, Validation};
use crate::infer::{self, Infer, Sampling};
use crate::{RunConfig, optim};

/// Batches in a row that may be left out before the run counts as diverged.
const MAX_SKIPS: u32 = 50;
/// Returns to the same checkpoint before the run counts as diverged.
const MAX_ROLLBACKS: u32 = 3;

/// What writes samples, or why there is none.
pub type NewInfer = Result<Box<dyn Infer>, BoxError>;

/// What a run is made of.
pub struct Job<'a> {
    /// The settings; valid.
    pub config: &'a RunConfig,
    /// The tokenizer of the data.
    pub tokenizer: &'a Tokenizer,
    /// The data.
    pub data: &'a Dataset,
    /// The run directory; the caller holds its lock.
    pub dir: &'a Path,
    /// What the run trains on, as reports say it.
    pub device: &'a str,
    /// Whether the run is to end after the step in hand.
    pub stop: &'a dyn Fn() -> bool,
    /// Builds what writes samples, from a copy of the weights.
    pub infer: &'a dyn Fn(&ModelConfig, Weights) -> NewInfer,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Where the run stands.
    pub state: TrainState,
    /// Whether it was stopped from outside.
    pub stopped: bool,
}

/// Where a run begins.
#[derive(Debug)]
pub struct Start {
    /// The counts.
    pub state: TrainState,
    /// Whether they come from a checkpoint.
    pub resumed: bool,
}

/// Puts the backend where the run begins: at its newest sound checkpoint, or at first weights.
pub fn start<B: Train>(
    backend: &mut B,
    job: &Job<'_>,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Start, TrainError> {
    let checkpoints = checkpoints(job)?;
    let data = DataId::of(job.data);
    let found = checkpoints.load::<TrainState>()?;
    for quarantined in &found.quarantined {
        observe(Event::Quarantined(quarantined));
    }
    let params = Params::new(&job.config.model);
    let Some(checkpoint) = found.checkpoint else {
        let weights = Weights::init(&job.config.model, job.config.train.seed);
        for p in &params {
            backend.write(p.id, Slot::Weight, weights.get(p.id))?;
        }
        return Ok(Start { state: TrainState::new(job.config, data, job.device), resumed: false });
    };
    let mut state = checkpoint.state.clone();
    if let Some(Drift { key, saved, now }) = Drift::of_tensors(checkpoint.model().config(), job.config) {
        return Err(TrainError::OtherModel { key, saved, now });
    }
    if state.data != data {
        let (saved, now) = (&state.data, &data);
        let what = if saved.train_tokens == now.train_tokens {
            "same length, other content".to_owned()
        } else {
            format!("{} training tokens then, {} now", saved.train_tokens, now.train_tokens)
        };
        return Err(TrainError::DataChanged { what });
    }
    for p in &params {
        for slot in [Slot::Weight, Slot::Moment1, Slot::Moment2] {
            if checkpoint.has(p.id, slot) {
                backend.write(p.id, slot, &checkpoint.read(p.id, slot)?)?;
            }
        }
    }
    state.config = job.config.clone();
    observe(Event::Resumed { step: state.step });
    let earlier = state.device.replace(job.device.to_owned());
    if let Some(saved) = earlier.filter(|saved| saved != job.device) {
        observe(Event::OtherDevice { saved: &saved, now: job.device });
    }
    Ok(Start { state, resumed: true })
}

/// Trains from `start` to the end of the run.
pub fn train<B: Train>(
    backend: &mut B,
    job: &Job<'_>,
    start: Start,
    observe: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, TrainError> {
    let mut run = Run::new(backend, job, start, observe)?;
    let result = run.go();
    if let Err(TrainError::Backend(_)) = &result
        && run.intact
    {
        run.rescue();
    }
    result.map(|stopped| Outcome { state: run.state, stopped })
}

/// All weights, copied to the host.
pub fn snapshot<B: Train>(backend: &mut B) -> Result<Weights, backend::Error> {
    let mut weights = Weights::zeros(&backend.config().clone());
    for p in &weights.params().clone() {
        weights.get_mut(p.id).copy_from_slice(&backend.read(p.id, Slot::Weight)?);
    }
    Ok(weights)
}

fn checkpoints(job: &Job<'_>) -> Result<Checkpoints, FileError> {
    let train = &job.config.train;
    Checkpoints::open(job.dir, Keep { last: train.keep, every: train.keep_every })
}

struct Run<'a, B> {
    backend: &'a mut B,
    job: &'a Job<'a>,
    observe: &'a mut dyn FnMut(Event<'_>),
    checkpoints: Checkpoints,
    export: Export,
    moments: Vec<(ParamId, Slot)>,
    loader: Loader,
    validation: Validation,
    metrics: Metrics,
    budget: Option<Budget>,
    state: TrainState,
    /// Step of the newest checkpoint.
    saved: Option<u64>,
    /// Length of the metrics at the last boundary, before it looked: a run that resumes there looks again.
    boundary_bytes: u64,
    /// Whether weights and counts are those between two steps.
    intact: bool,
    /// Why the last attempt to save failed.
    save_failed: Option<FileError>,
    rollbacks: u32,
    checked: bool,
}

impl<'a, B: Train> Run<'a, B> {
    fn new(
        backend: &'a mut B,
        job: &'a Job<'a>,
        start: Start,
        observe: &'a mut dyn FnMut(Event<'_>),
    ) -> Result<Self, TrainError> {
        let RunConfig { train, optimizer, model, .. } = job.config;
        let tokens =
            SpecialTokens { bos: job.tokenizer.bos(), eos: job.tokenizer.eos().into_iter().collect() };
        let files = vec![
            ("tokenizer.json".to_owned(), job.tokenizer.json().to_vec()),
            ("tokenizer_config.json".to_owned(), job.tokenizer.config_json(model.max_seq).into_bytes()),
        ];
        let budget = train.budget_s.filter(|_| start.state.planned.is_none());
        Ok(Self {
            checkpoints: checkpoints(job)?,
            export: Export { tokens, files, ..Export::default() },
            moments: moments(model, optimizer.kind),
            loader: Loader::new(job.data.train.clone(), train.seq, train.batch, train.seed)?,
            validation: Validation::new(
                job.data.val.clone(),
                job.tokenizer.byte_lens(),
                train.seq,
                train.batch,
            )?,
            metrics: Metrics::open(job.dir, start.state.metrics_bytes)?,
            budget: budget.map(|s| Budget::new(Duration::from_secs(s))),
            saved: start.resumed.then_some(start.state.step),
            boundary_bytes: start.state.metrics_bytes,
            intact: true,
            save_failed: None,
            rollbacks: 0,
            checked: false,
            state: start.state,
            backend,
            job,
            observe,
        })
    }

    /// Steps to the end; whether the run was stopped before it.
    fn go(&mut self) -> Result<bool, TrainError> {
        loop {
            let stop = (self.job.stop)();
            let done = self.state.is_finished();
            self.boundary(done, stop)?;
            if done || stop {
                return Ok(stop && !done);
            }
            self.step()?;
            self.intact = true;
        }
    }

    /// Saves what the last update left, when the device failed after it.
    fn rescue(&mut self) {
        if self.state.step > 0 && self.saved != Some(self.state.step) {
            self.save();
        }
    }

    /// What is due between two steps: first save, then look.
    fn boundary(&mut self, done: bool, stop: bool) -> Result<(), TrainError> {
        let step = self.state.step;
        self.boundary_bytes = self.metrics.bytes();
        let train = &self.job.config.train;
        let due = |every: u64| step > 0 && (done || (every > 0 && step.is_multiple_of(every)));
        if (due(train.save_every) || (stop && step > 0)) && self.saved != Some(step) {
            self.save();
        }
        if stop && !done {
            return self.end_of_saving();
        }
        if due(train.eval_every) {
            let stats = evaluate(self.backend, &self.validation, train.eval_tokens)?;
            let best = self.state.best_bpb.is_none_or(|best| stats.bpb < best);
            if best && stats.bpb.is_finite() {
                self.state.best_bpb = Some(stats.bpb);
            }
            self.metrics.write(&Record::eval(step, &stats))?;
            (self.observe)(Event::Eval { step, stats: &stats, best });
        }
        if due(train.sample_every) && train.sample_tokens > 0 {
            let text = self.sample()?;
            self.metrics.write(&Record::Sample { step, text: text.clone() })?;
            (self.observe)(Event::Sample { step, text: &text });
        }
        if done { self.end_of_saving() } else { Ok(()) }
    }

    /// The end of a run whose last checkpoint is missing is no success.
    fn end_of_saving(&mut self) -> Result<(), TrainError> {
        match self.save_failed.take() {
            Some(error) => Err(TrainError::LastSave(error)),
            None => Ok(()),
        }
    }

    fn save(&mut self) {
        self.state.metrics_bytes = self.boundary_bytes;
        let snapshot = Snapshot {
            step: self.state.step,
            config: &self.job.config.model,
            export: &self.export,
            moments: &self.moments,
            state: &self.state,
        };
        match self.checkpoints.save(&snapshot, &mut Source(self.backend)) {
            Ok(saved) => {
                self.saved = Some(self.state.step);
                self.save_failed = None;
                self.rollbacks = 0;
                (self.observe)(Event::Saved(&saved));
            }
            Err(error) => {
                (self.observe)(Event::SaveFailed(&error));
                self.save_failed = Some(error);
            }
        }
    }

    fn sample(&mut self) -> Result<String, TrainError> {
        let train = &self.job.config.train;
        let weights = snapshot(self.backend)?;
        let device = |source| backend::Error::Device { device: "the sampler", source };
        let mut infer = (self.job.infer)(&self.job.config.model, weights).map_err(device)?;
        let mut prompt: Vec<_> = self.job.tokenizer.bos().into_iter().collect();
        prompt.extend(self.job.tokenizer.encode(&train.sample_prompt)?);
        if prompt.is_empty() {
            prompt.push(model::TokenId(0));
        }
        let sampling = Sampling {
            temperature: 0.7,
            top_p: 0.95,
            seed: train.seed ^ self.state.step,
            max_tokens: train.sample_tokens,
            ..Sampling::default()
        };
        let mut text = train.sample_prompt.clone();
        infer::generate(&mut *infer, self.job.tokenizer, &prompt, &sampling, &mut |piece| {
            text.push_str(piece);
            true
        })?;
        Ok(text.trim().to_owned())
    }

    fn step(&mut self) -> Result<(), TrainError> {
        let begin = Instant::now();
        let RunConfig { train, optimizer, .. } = self.job.config;
        let batches = (0..train.accum)
            .map(|micro| self.loader.batch(self.state.position + (micro * train.batch) as u64))
            .collect::<Result<Vec<Batch>, _>>()?;
        // Without a plan yet, the run is long: the schedule is at its beginning.
        let total = self.state.total().unwrap_or(u64::MAX >> 8);
        let update = optim::update(optimizer, self.state.updates, total, train.accum);
        if train.accum == 1 {
            self.backend.announce(&update, self.state.grad_norm)?;
        }
        // From here on, weights may move.
        self.intact &= !train.update_in_backward;
        let mut loss = 0.0;
        for batch in &batches {
            let tokens = backend::Tokens { ids: &batch.tokens, seq: batch.seq };
            loss += backend::forward_backward(self.backend, tokens, &batch.targets)?;
        }
        loss /= train.accum as f32;
        if !self.checked && loss.is_finite() && !train.update_in_backward {
            check_gradients(self.backend)?;
            self.checked = true;
        }
        let lr = optim::lr(optimizer, self.state.updates, total);
        let step = self.state.step + 1;
        self.intact = false;
        self.state.position += (train.accum * train.batch) as u64;
        let culprit = if loss.is_finite() { None } else { Some(self.first_bad_gradient()?) };
        let grad_norm = self.backend.update(&update)?;
        if !(loss.is_finite() && grad_norm.is_finite()) {
            return self.not_finite(step, loss, grad_norm, culprit.flatten());
        }
        let step_tokens = self.job.config.tokens_per_step();
        let seconds = begin.elapsed().as_secs_f64();
        self.state.step = step;
        self.state.updates += 1;
        self.state.tokens += step_tokens;
        self.state.seconds += seconds;
        self.state.skips_in_a_row = 0;
        let ema = self.state.ema.map_or(f64::from(loss), |ema| 0.95 * ema + 0.05 * f64::from(loss));
        self.state.ema = Some(ema);
        self.state.grad_norm = grad_norm;
        self.plan(Duration::from_secs_f64(seconds));
        let total = self.state.total();
        let tokens = self.state.tokens;
        let stats = StepStats { step, total, loss, ema, grad_norm, lr, tokens, seconds, step_tokens };
        self.metrics.write(&Record::step(&stats))?;
        (self.observe)(Event::Step(&stats));
        Ok(())
    }

    /// Turns a time budget into steps, once.
    fn plan(&mut self, step: Duration) {
        let elapsed = Duration::from_secs_f64(self.state.seconds);
        let plan = self.budget.as_mut().and_then(|budget| budget.plan(step, self.state.step, elapsed));
        if let Some(total) = plan {
            self.budget = None;
            self.state.planned = Some(total);
            (self.observe)(Event::Planned { total });
        }
    }

    fn not_finite(
        &mut self,
        step: u64,
        loss: f32,
        grad_norm: f32,
        culprit: Option<String>,
    ) -> Result<(), TrainError> {
        let (what, value) =
            if loss.is_finite() { ("the gradient norm", grad_norm) } else { ("the loss", loss) };
        let diverged = |advice: &str| {
            let tensor = culprit.map_or(String::new(), |name| format!(" (first seen in `{name}`)"));
            Err(TrainError::Diverged { step, what, value, tensor, advice: advice.into() })
        };
        match self.job.config.train.on_nan {
            OnNan::Stop => diverged("try a lower --lr, or --on-nan skip or rollback to go on"),
            OnNan::Skip => {
                self.state.step = step;
                self.state.skips_in_a_row += 1;
                let in_a_row = self.state.skips_in_a_row;
                if in_a_row >= MAX_SKIPS {
                    return diverged("50 batches in a row were left out; try a lower --lr");
                }
                self.metrics.write(&Record::Skip { step, what: what.into() })?;
                (self.observe)(Event::Skipped { step, what, in_a_row });
                Ok(())
            }
            OnNan::Rollback => {
                self.rollbacks += 1;
                if self.rollbacks > MAX_ROLLBACKS {
                    return diverged("three returns to the last checkpoint did not help; try a lower --lr");
                }
                if self.saved.is_none() {
                    return diverged("there is no checkpoint yet to go back to; try a lower --lr");
                }
                // Beyond the batches that led here.
                let position = self.state.position;
                let start = start(self.backend, self.job, &mut |_| ())?;
                let to = start.state.step;
                self.metrics = Metrics::open(self.job.dir, start.state.metrics_bytes)?;
                self.state = TrainState { position, ..start.state };
                self.metrics.write(&Record::Rollback { step, to })?;
                (self.observe)(Event::RolledBack { from: step, to });
                Ok(())
            }
        }
    }

    /// Name of the first parameter whose gradient is not finite.
    fn first_bad_gradient(&mut self) -> Result<Option<String>, TrainError> {
        for p in &Params::new(&self.job.config.model) {
            if !self.backend.read(p.id, Slot::Gradient)?.iter().all(|g| g.is_finite()) {
                return Ok(Some(p.name.clone()));
            }
        }
        Ok(None)
    }
}

/// The moments that an optimizer keeps: Muon has one per matrix.
fn moments(model: &ModelConfig, kind: OptimizerKind) -> Vec<(ParamId, Slot)> {
    let mut moments = Vec::new();
    for p in &Params::new(model) {
        moments.push((p.id, Slot::Moment1));
        if !(kind == OptimizerKind::Muon && p.group == Group::Matrix) {
            moments.push((p.id, Slot::Moment2));
        }
    }
    moments
}

/// A backend as what a checkpoint is written from.
struct Source<'a, B>(&'a mut B);

impl<B: Train> model::Source<(ParamId, Slot)> for Source<'_, B> {
    fn read(&mut self, (id, slot): (ParamId, Slot)) -> Result<Cow<'_, [f32]>, BoxError> {
        Ok(self.0.read(id, slot)?)
    }
}
