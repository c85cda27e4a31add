//! The seam: prompts, tokens, sequences.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::ops::Range;

use backend::{Decode, Error, Feed, KvBlock, Logits, Prefill, Result, SeqId, Tokens};
use model::quant::Format;
use model::{ModelConfig, TokenId, Weights};

use crate::gpu::{Buffer, Gpu, Readback, Step};
use crate::kernels::rows;
use crate::plan::{Buffers, Planner, Shape};
use crate::weights::Loaded;
use crate::{GpuError, GpuResult, Memory, Settings};

/// A model that writes on the GPU: prompts by tiled products, then token by token, for several sequences
/// at once.
///
/// Weights are in few bits, keys and values f16, everything else f32.
pub struct GpuInfer {
    pub(crate) gpu: Gpu,
    pub(crate) config: ModelConfig,
    pub(crate) settings: Settings,
    pub(crate) weights: Loaded,
    pub(crate) buffers: Buffers,
    pub(crate) planner: Planner,
    pub(crate) feed: Step,
    /// Draws from the logits.
    pub(crate) draw: Vec<Step>,
    /// Takes the most likely token instead of computing logits.
    pub(crate) greedy: Vec<Step>,
    /// The logits, by the number of vectors.
    pub(crate) heads: HashMap<u32, Vec<Step>>,
    pub(crate) lists: HashMap<Shape, Vec<Step>>,
    prompt: Option<(Vec<Step>, Vec<Step>)>,
    logits: Readback,
    pub(crate) rings: Vec<Readback>,
    pub(crate) sequences: BTreeMap<SeqId, Sequence>,
    free: Vec<u32>,
}

/// A sequence on the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sequence {
    /// Its place in the cache.
    pub slot: u32,
    /// Positions.
    pub len: usize,
    /// The most that it ever had: what lies a cache before that is overwritten.
    pub written: usize,
}

/// Where a piece of a cache starts, and its bytes.
type Run = (u64, u64);

/// A token to read.
#[derive(Clone, Copy, Debug)]
struct Row {
    token: TokenId,
    position: usize,
    slot: u32,
}

/// Rings that are read in turn: one is being written, one waits, one is read.
pub(crate) const RINGS: usize = 3;

impl GpuInfer {
    /// Loads a model.
    ///
    /// # Errors
    /// When it does not fit the device; nothing is loaded then.
    pub fn new(gpu: Gpu, config: &ModelConfig, weights: &Weights, settings: Settings) -> GpuResult<Self> {
        Self::load(gpu, config, Some(weights), settings)
    }

    /// A model of noise: for benchmarks of a shape whose weights are not at hand.
    ///
    /// # Errors
    /// As [`GpuInfer::new`].
    pub fn noise(gpu: Gpu, config: &ModelConfig, settings: Settings) -> GpuResult<Self> {
        Self::load(gpu, config, None, settings)
    }

    fn load(gpu: Gpu, c: &ModelConfig, weights: Option<&Weights>, mut s: Settings) -> GpuResult<Self> {
        c.validate().map_err(|e| GpuError::Shape(e.to_string()))?;
        s.sequences = s.sequences.max(1);
        s.prefill = s.prefill.max(1);
        Memory::check(c, &s, gpu.name(), gpu.max_binding().min(s.max_binding))?;
        let weights = Loaded::new(&gpu, c, weights, &s)?;
        let buffers = Buffers::new(&gpu, c, &s)?;
        let planner = Planner::new(c, &s);
        let feed = planner.feed(&gpu, &buffers)?;
        let draw = planner.draw(&gpu, &buffers)?;
        let greedy = planner.greedy(&gpu, &weights, &buffers)?;
        let logits = gpu.readback((rows::MOST * c.vocab * 4) as u64)?;
        let ring = || gpu.readback(512);
        let rings = (0..RINGS).map(|_| ring()).collect::<GpuResult<_>>()?;
        Ok(Self {
            free: (0..s.sequences as u32).rev().collect(),
            gpu,
            config: c.clone(),
            settings: s,
            weights,
            buffers,
            planner,
            feed,
            draw,
            greedy,
            heads: HashMap::new(),
            lists: HashMap::new(),
            prompt: None,
            logits,
            rings,
            sequences: BTreeMap::new(),
        })
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// How the matrices are held.
    pub fn format(&self) -> Format {
        self.settings.format
    }

    /// Gives the device back; the model is freed.
    pub fn into_gpu(self) -> Gpu {
        self.gpu
    }

    /// Bytes of the matrices that one token reads.
    pub fn bytes_per_token(&self) -> u64 {
        self.weights.bytes_per_token()
    }

    /// Dispatches of a token that is drawn at position `end`, and their seconds on the device alone.
    ///
    /// # Errors
    /// When the device fails.
    pub fn time_token(&mut self, end: usize) -> GpuResult<(usize, f64)> {
        let shape = self.prepare(1, end)?;
        self.gpu.write(&self.buffers.rows, 0, &[0, end as u32 - 1, 0, 1]);
        let steps: Vec<_> = self.steps(shape).collect();
        crate::measure::warm(&self.gpu, &steps, 1, std::time::Duration::from_millis(300))?;
        let seconds = crate::measure::median(&self.gpu, &steps, 1, 7)?;
        Ok((steps.len(), seconds))
    }

    /// Positions of a sequence.
    pub fn positions(&self) -> usize {
        self.settings.positions(&self.config)
    }

    /// Makes the list of a shape, so that no later token waits for it.
    ///
    /// # Errors
    /// When memory is short.
    pub fn prepare(&mut self, rows: usize, end: usize) -> GpuResult<Shape> {
        let shape = Shape::of(rows, end, &self.config, &self.settings);
        if !self.lists.contains_key(&shape) {
            let steps = self.planner.decode(&self.gpu, &self.weights, &self.buffers, shape)?;
            self.lists.insert(shape, steps);
        }
        if !self.heads.contains_key(&shape.columns) {
            let steps = self.planner.head(&self.gpu, &self.weights, &self.buffers, shape.columns)?;
            self.heads.insert(shape.columns, steps);
        }
        Ok(shape)
    }

    /// What a prepared shape does, logits included.
    pub(crate) fn steps(&self, shape: Shape) -> impl Iterator<Item = &Step> {
        self.lists[&shape].iter().chain(&self.heads[&shape.columns])
    }

    fn check_len(&self, len: usize) -> Result<()> {
        if len > self.positions() {
            return Err(Error::SequenceTooLong { got: len, max: self.positions() });
        }
        Ok(())
    }

    fn take_slot(&mut self) -> GpuResult<u32> {
        self.free.pop().ok_or(GpuError::Sequences { planned: self.settings.sequences })
    }

    /// Logits after each of at most eight rows.
    fn run(&mut self, rows: &[Row]) -> GpuResult<Vec<f32>> {
        let end = rows.iter().map(|r| r.position + 1).max().unwrap_or(1);
        let shape = self.prepare(rows.len(), end)?;
        let words: Vec<u32> = rows
            .iter()
            .flat_map(|r| [r.token.0, r.position as u32, r.slot, rows.len() as u32])
            .chain(std::iter::repeat(0))
            .take(4 * rows::MOST)
            .collect();
        let numbers = rows.len() * self.config.vocab;
        let steps = std::iter::once(&self.feed).chain(self.steps(shape));
        let copy = (&self.buffers.logits, (numbers * 4) as u64, &self.logits);
        let ticket = self.gpu.submit(steps, rows.len(), bytemuck::cast_slice(&words), Some(copy));
        self.gpu.collect(ticket, &self.logits, numbers)
    }

    /// Reads a prompt into a slot; logits after its last token.
    fn read_prompt(&mut self, tokens: &[TokenId], slot: u32) -> GpuResult<(KvBlock, Vec<f32>)> {
        if self.prompt.is_none() {
            let steps = self.planner.prefill(&self.gpu, &self.weights, &self.buffers)?;
            let head = self.planner.last(&self.gpu, &self.weights, &self.buffers)?;
            self.prompt = Some((steps, head));
        }
        let Some((steps, head)) = &self.prompt else { unreachable!("made above") };
        let mut kv = self.empty(tokens.len());
        // What a ring loses is taken before the next pass.
        let ring = tokens.len() > self.settings.capacity(&self.config);
        let at_once = self.settings.rows(&self.config);
        let mut logits = Vec::new();
        for (n, chunk) in tokens.chunks(at_once).enumerate() {
            let row = |(i, t): (usize, &TokenId)| [t.0, (n * at_once + i) as u32, slot, chunk.len() as u32];
            let words: Vec<u32> = chunk.iter().enumerate().flat_map(row).collect();
            self.gpu.write(&self.buffers.rows, 0, &words);
            if (n + 1) * at_once < tokens.len() {
                self.gpu.submit(steps, chunk.len(), &[], None);
                if ring {
                    self.download(slot, n * at_once..n * at_once + chunk.len(), &mut kv)?;
                }
                continue;
            }
            let copy = (&self.buffers.logits, (self.config.vocab * 4) as u64, &self.logits);
            let ticket = self.gpu.submit(steps.iter().chain(head), chunk.len(), &[], Some(copy));
            logits = self.gpu.collect(ticket, &self.logits, self.config.vocab)?;
            let first = if ring { n * at_once } else { 0 };
            self.download(slot, first..tokens.len(), &mut kv)?;
        }
        Ok((kv, logits))
    }

    /// Room for keys and values of so many positions.
    fn empty(&self, len: usize) -> KvBlock {
        let ModelConfig { layers, kv_heads, head_dim, .. } = self.config;
        let zeros = || vec![0.0; layers * kv_heads * len * head_dim];
        KvBlock { layers, kv_heads, len, head_dim, keys: zeros(), values: zeros() }
    }

    /// The runs of a slot's positions in a layer's caches: offset and bytes in the keys, then in the values,
    /// head by head.
    fn runs(&self, slot: u32, positions: Range<usize>) -> [Vec<Run>; 2] {
        let (chunks, capacity) =
            (self.config.head_dim.div_ceil(8) as u64, self.settings.capacity(&self.config) as u64);
        let heads = self.config.kv_heads as u64;
        let first = u64::from(slot) * heads;
        // In a ring a stretch of positions may go over the end.
        let (start, len) = (positions.start as u64 % capacity, positions.len() as u64);
        let behind = (start + len).saturating_sub(capacity);
        let stretches = [(start, len - behind), (0, behind)].map(|(at, len)| (len > 0).then_some((at, len)));
        let in_cache = |base: u64, unit: u64| {
            stretches.into_iter().flatten().map(move |(at, len)| (base + at * unit, len * unit))
        };
        let keys = (first * chunks..(first + heads) * chunks).flat_map(|c| in_cache(c * capacity * 16, 16));
        let values = (first..first + heads).flat_map(|h| in_cache(h * chunks * capacity * 16, chunks * 16));
        [keys.collect(), values.collect()]
    }

    /// Copies between the caches of a slot and one buffer, which has layer by layer keys and values.
    fn copy_cache(&self, slot: u32, positions: Range<usize>, other: &Buffer, into_cache: bool) {
        let [keys, values] = self.runs(slot, positions);
        let mut at = 0;
        let mut pieces = Vec::new();
        for layer in 0..self.config.layers {
            for (cache, runs) in [(&self.buffers.keys[layer], &keys), (&self.buffers.values[layer], &values)]
            {
                for &(offset, bytes) in runs {
                    pieces.push(match into_cache {
                        true => (other, at, cache, offset, bytes),
                        false => (cache, offset, other, at, bytes),
                    });
                    at += bytes;
                }
            }
        }
        self.gpu.copy(pieces);
    }

    /// Halves of one layer's head in `copy_cache`'s buffer: where they start, per layer, for keys and values.
    fn cache_halves(&self, len: usize) -> usize {
        self.config.kv_heads * self.config.head_dim.div_ceil(8) * 8 * len
    }

    /// Keys and values of some positions into theirs of a block.
    fn download(&self, slot: u32, positions: Range<usize>, kv: &mut KvBlock) -> GpuResult<()> {
        let c = &self.config;
        let (first, len) = (positions.start, positions.len());
        let (d, half) = (c.head_dim, self.cache_halves(len));
        let chunks = d.div_ceil(8);
        let stage = self.gpu.buffer("keys and values", (2 * c.layers * half * 2) as u64)?;
        self.copy_cache(slot, positions, &stage, false);
        let halves: Vec<u16> = self.gpu.read(&stage, 2 * c.layers * half)?;
        let number = |at: usize| half::f16::from_bits(halves[at]).to_f32();
        for layer in 0..c.layers {
            for head in 0..c.kv_heads {
                let keys = 2 * layer * half + head * chunks * 8 * len;
                let values = keys + half;
                for p in 0..len {
                    let to = ((layer * c.kv_heads + head) * kv.len + first + p) * d;
                    for e in 0..d {
                        kv.keys[to + e] = number(keys + (e / 8 * len + p) * 8 + e % 8);
                        kv.values[to + e] = number(values + p * chunks * 8 + e);
                    }
                }
            }
        }
        Ok(())
    }

    /// A block, or its end that the cache holds, into a slot.
    fn upload(&self, slot: u32, kv: &KvBlock) -> GpuResult<()> {
        let c = &self.config;
        let first = kv.len.saturating_sub(self.settings.capacity(c));
        let (d, len) = (c.head_dim, kv.len - first);
        let half = self.cache_halves(len);
        if len == 0 {
            return Ok(());
        }
        let chunks = d.div_ceil(8);
        let mut halves = vec![0u16; 2 * c.layers * half];
        // What f16 cannot hold saturates, as it does when the device writes it.
        let bits = |v: f32| half::f16::from_f32(v.clamp(-65504.0, 65504.0)).to_bits();
        for layer in 0..c.layers {
            for head in 0..c.kv_heads {
                let keys = 2 * layer * half + head * chunks * 8 * len;
                let values = keys + half;
                let (k, v) = kv.head(layer, head);
                for (p, (k, v)) in k.chunks_exact(d).zip(v.chunks_exact(d)).skip(first).enumerate() {
                    for e in 0..d {
                        halves[keys + (e / 8 * len + p) * 8 + e % 8] = bits(k[e]);
                        halves[values + p * chunks * 8 + e] = bits(v[e]);
                    }
                }
            }
        }
        let stage = self.gpu.buffer_of("keys and values", &halves)?;
        self.copy_cache(slot, first..kv.len, &stage, true);
        self.gpu.flush();
        Ok(())
    }
}

impl Prefill for GpuInfer {
    fn prefill(&mut self, tokens: &[TokenId]) -> Result<(KvBlock, Logits)> {
        Tokens { ids: tokens, seq: tokens.len() }.check(&self.config)?;
        self.check_len(tokens.len())?;
        let slot = self.take_slot()?;
        let result = self.read_prompt(tokens, slot);
        self.free.push(slot);
        let (kv, values) = result?;
        Ok((kv, Logits { vocab: self.config.vocab, values }))
    }
}

impl Decode for GpuInfer {
    fn seed(&mut self, seq: SeqId, kv: &KvBlock) -> Result<()> {
        let c = &self.config;
        self.check_len(kv.len)?;
        let wanted = c.layers * c.kv_heads * c.head_dim * kv.len;
        let shape = (kv.layers, kv.kv_heads, kv.head_dim) == (c.layers, c.kv_heads, c.head_dim);
        for got in [kv.keys.len(), kv.values.len()] {
            if !shape || got != wanted {
                return Err(Error::WrongLength { name: "keys and values".into(), wanted, got });
            }
        }
        let slot = match self.sequences.get(&seq) {
            Some(old) => old.slot,
            None => self.take_slot()?,
        };
        self.sequences.insert(seq, Sequence { slot, len: kv.len, written: kv.len });
        if let Err(error) = self.upload(slot, kv) {
            self.release(seq);
            return Err(error.into());
        }
        Ok(())
    }

    fn extend(&mut self, feeds: &[Feed<'_>]) -> Result<Logits> {
        // Everything is checked before anything changes.
        let mut ends: BTreeMap<SeqId, usize> = BTreeMap::new();
        let mut rows = Vec::new();
        for feed in feeds {
            let sequence = self.sequences.get(&feed.seq).ok_or(Error::UnknownSequence(feed.seq.0))?;
            let end = ends.entry(feed.seq).or_insert(sequence.len);
            let start = *end;
            *end += feed.tokens.len();
            self.check_len(*end)?;
            Tokens { ids: feed.tokens, seq: feed.tokens.len() }.check(&self.config)?;
            let row = |(i, &token)| Row { token, position: start + i, slot: sequence.slot };
            rows.extend(feed.tokens.iter().enumerate().map(row));
        }
        let mut values = Vec::with_capacity(rows.len() * self.config.vocab);
        for rows in rows.chunks(rows::MOST) {
            values.extend(self.run(rows)?);
        }
        for (seq, end) in ends {
            if let Some(sequence) = self.sequences.get_mut(&seq) {
                sequence.len = end;
                sequence.written = sequence.written.max(end);
            }
        }
        Ok(Logits { vocab: self.config.vocab, values })
    }

    fn truncate(&mut self, seq: SeqId, len: usize) -> Result<()> {
        let sequence = self.sequences.get_mut(&seq).ok_or(Error::UnknownSequence(seq.0))?;
        let len = sequence.len.min(len);
        let oldest = sequence.written.saturating_sub(self.settings.capacity(&self.config));
        let window = self.settings.window.map_or(usize::MAX, NonZeroUsize::get);
        // The next token is at `len`.
        if (len + 1).saturating_sub(window) < oldest {
            return Err(Error::Overwritten { len, oldest });
        }
        sequence.len = len;
        Ok(())
    }

    fn stream(&mut self) -> Option<&mut dyn backend::Stream> {
        Some(self)
    }

    fn release(&mut self, seq: SeqId) {
        self.free.extend(self.sequences.remove(&seq).map(|s| s.slot));
    }
}
