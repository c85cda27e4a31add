//! AdamW and Muon on the GPU, under a backend that computes gradients elsewhere.
//!
//! While the Neural Engine or the CPU does the forward and backward passes, moments and the update live
//! here. Gradients come over and weights go back once per update; on a Mac both are copies in one memory.

use std::borrow::Cow;

use backend::{AdamW, Muon, Result, Rule, Tokens, Train, Update};
use model::{ModelConfig, ParamId, Params, Slot, TokenId};

use crate::GpuResult;
use crate::gpu::{Buffer, Gpu, Pipeline, Step};
use crate::kernels::{adamw, muon};

/// A backend whose updates run on the GPU.
pub struct GpuOptimizer<B> {
    inner: B,
    gpu: Gpu,
    params: Params,
    state: Vec<State>,
    kernels: Kernels,
    /// Sums of squares of one parameter.
    sums: Buffer,
    /// Memory of Muon's iteration, for the largest matrix that it met.
    scratch: Option<Scratch>,
    read: Vec<f32>,
}

/// A parameter on the device.
struct State {
    gradient: Buffer,
    weight: Buffer,
    moment1: Buffer,
    moment2: Buffer,
}

struct Kernels {
    squares: String,
    adamw: String,
    momentum: String,
    normalise: String,
    product: String,
    step: String,
}

struct Scratch {
    numbers: usize,
    side: usize,
    x: Buffer,
    next: Buffer,
    gram: Buffer,
    mix: Buffer,
}

/// A product of the iteration: extents, strides of both factors, and what is added.
struct Product<'a> {
    extents: [usize; 3],
    strides: [usize; 4],
    alpha: f32,
    beta: f32,
    buffers: [&'a Buffer; 4],
}

impl<B: Train> GpuOptimizer<B> {
    /// Takes the weights and moments of a backend over.
    ///
    /// # Errors
    /// When GPU memory is short.
    pub fn new(mut inner: B, gpu: Gpu) -> Result<Self> {
        let params = Params::new(inner.config());
        let mut state = Vec::with_capacity(params.len());
        for p in &params {
            let bytes = 4 * p.len() as u64;
            let mut tensor =
                |slot| -> Result<Buffer> { Ok(gpu.buffer_of(&p.name, &inner.read(p.id, slot)?)?) };
            let (weight, moment1) = (tensor(Slot::Weight)?, tensor(Slot::Moment1)?);
            let moment2 = tensor(Slot::Moment2)?;
            state.push(State { gradient: gpu.buffer(&p.name, bytes)?, weight, moment1, moment2 });
        }
        let kernels = Kernels {
            squares: adamw::squares(gpu.lanes()),
            adamw: adamw::text(),
            momentum: muon::momentum(),
            normalise: muon::normalise(),
            product: muon::product(),
            step: muon::step(),
        };
        let sums = gpu.buffer("sums", 4 * u64::from(adamw::GROUPS))?;
        Ok(Self { inner, gpu, params, state, kernels, sums, scratch: None, read: Vec::new() })
    }

    /// The backend inside.
    pub fn inner(&mut self) -> &mut B {
        &mut self.inner
    }

    /// The device of the updates.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    fn over(&self, text: &str, n: usize) -> GpuResult<Pipeline> {
        self.gpu.compile(text, &[("N", n as f64)])
    }

    fn numbers(&self, kernel: &Pipeline, buffers: &[&Buffer]) -> Step {
        self.gpu.step(kernel, buffers, [adamw::GROUPS, 1, 1])
    }

    /// The squared sum of one gradient, in f64 over the workgroups' sums.
    fn squares(&self, id: ParamId, n: usize) -> GpuResult<f64> {
        let kernel = self.over(&self.kernels.squares, n)?;
        let step = self.numbers(&kernel, &[&self.state[id.index()].gradient, &self.sums]);
        self.gpu.submit([&step], 0, &[], None);
        let sums: Vec<f32> = self.gpu.read(&self.sums, adamw::GROUPS as usize)?;
        Ok(sums.into_iter().map(f64::from).sum())
    }

    fn adamw(&self, id: ParamId, n: usize, rule: &AdamW, step: u64, factor: f32) -> GpuResult<()> {
        let s = &self.state[id.index()];
        let kernel = self.over(&self.kernels.adamw, n)?;
        let run = self.numbers(&kernel, &[&s.gradient, &s.weight, &s.moment1, &s.moment2]);
        self.gpu.submit([&run], 0, bytemuck::cast_slice(&adamw::factors(rule, step, factor)), None);
        Ok(())
    }

    fn muon(&mut self, id: ParamId, rows: usize, columns: usize, rule: &Muon, factor: f32) -> GpuResult<()> {
        let (n, side) = (rows * columns, rows.min(columns));
        if self.scratch.as_ref().is_none_or(|s| s.numbers < n || s.side < side) {
            let (numbers, side) =
                self.scratch.as_ref().map_or((n, side), |s| (s.numbers.max(n), s.side.max(side)));
            let buffer = |n: usize| self.gpu.buffer("the iteration of Muon", 4 * n as u64);
            let (x, next) = (buffer(numbers)?, buffer(numbers)?);
            let (gram, mix) = (buffer(side * side)?, buffer(side * side)?);
            self.scratch = Some(Scratch { numbers, side, x, next, gram, mix });
        }
        let Some(scratch) = &self.scratch else { unreachable!("made above") };
        let Scratch { x, next, gram, mix, .. } = scratch;
        let s = &self.state[id.index()];
        let mut steps = vec![
            self.numbers(&self.over(&self.kernels.momentum, n)?, &[&s.gradient, &s.moment1, x]),
            self.numbers(&self.over(&self.kernels.squares, n)?, &[x, &self.sums]),
            self.numbers(&self.over(&self.kernels.normalise, n)?, &[&self.sums, x]),
        ];
        let (a, b, c) = Muon::COEFFICIENTS;
        let tall = rows > columns;
        let (mut from, mut to) = (x, next);
        for _ in 0..Muon::STEPS {
            // X·Xᵀ, or Xᵀ·X for a tall matrix.
            let (k, strides) =
                if tall { (rows, [1, columns, columns, 1]) } else { (columns, [columns, 1, 1, columns]) };
            let extents = [side, side, k];
            steps.push(self.product(&Product {
                extents,
                strides,
                alpha: 1.0,
                beta: 0.0,
                buffers: [from, from, mix, gram],
            })?);
            steps.push(self.product(&Product {
                extents: [side; 3],
                strides: [side, 1, side, 1],
                alpha: c,
                beta: b,
                buffers: [gram, gram, gram, mix],
            })?);
            let (strides, factors) = if tall {
                ([columns, 1, side, 1], [from, mix])
            } else {
                ([side, 1, columns, 1], [mix, from])
            };
            steps.push(self.product(&Product {
                extents: [rows, columns, side],
                strides,
                alpha: 1.0,
                beta: a,
                buffers: [factors[0], factors[1], from, to],
            })?);
            std::mem::swap(&mut from, &mut to);
        }
        self.gpu.submit(&steps, 0, bytemuck::cast_slice(&[factor, rule.momentum]), None);
        let rate = rule.lr * (rows as f32 / columns as f32).max(1.0).sqrt();
        let keep = (1.0 - f64::from(rule.lr) * f64::from(rule.weight_decay)) as f32;
        let last = self.numbers(&self.over(&self.kernels.step, n)?, &[from, &s.weight]);
        self.gpu.submit([&last], 0, bytemuck::cast_slice(&[keep, rate]), None);
        Ok(())
    }

    fn product(&self, p: &Product<'_>) -> GpuResult<Step> {
        let [rows, columns, k] = p.extents;
        let [ar, ak, bk, bc] = p.strides.map(|s| s as f64);
        let constants = [
            ("ROWS", rows as f64),
            ("COLS", columns as f64),
            ("K", k as f64),
            ("AR", ar),
            ("AK", ak),
            ("BK", bk),
            ("BC", bc),
            ("ALPHA", f64::from(p.alpha)),
            ("BETA", f64::from(p.beta)),
        ];
        let kernel = self.gpu.compile(&self.kernels.product, &constants)?;
        let tiles = |n: usize| (n as u32).div_ceil(muon::TILE);
        Ok(self.gpu.step(&kernel, &p.buffers, [tiles(columns), tiles(rows), 1]))
    }

    /// The device's tensor of a slot that it owns.
    fn tensor(&self, id: ParamId, slot: Slot) -> Option<&Buffer> {
        let s = &self.state[id.index()];
        match slot {
            Slot::Weight => Some(&s.weight),
            Slot::Moment1 => Some(&s.moment1),
            Slot::Moment2 => Some(&s.moment2),
            Slot::Gradient => None,
        }
    }
}

impl<B: Train> Train for GpuOptimizer<B> {
    type Act = B::Act;

    fn config(&self) -> &ModelConfig {
        self.inner.config()
    }

    fn read(&mut self, id: ParamId, slot: Slot) -> Result<Cow<'_, [f32]>> {
        match (slot, self.tensor(id, slot)) {
            (Slot::Moment1 | Slot::Moment2, Some(buffer)) => {
                self.read = self.gpu.read(buffer, self.params.get(id).len())?;
                Ok(Cow::Borrowed(&self.read))
            }
            _ => self.inner.read(id, slot),
        }
    }

    fn write(&mut self, id: ParamId, slot: Slot, values: &[f32]) -> Result<()> {
        // The backend checks the length.
        self.inner.write(id, slot, values)?;
        if let Some(buffer) = self.tensor(id, slot) {
            self.gpu.write(buffer, 0, values);
        }
        Ok(())
    }

    fn embed(&mut self, tokens: Tokens<'_>) -> Result<Self::Act> {
        self.inner.embed(tokens)
    }

    fn attention(&mut self, layer: usize, x: Self::Act) -> Result<Self::Act> {
        self.inner.attention(layer, x)
    }

    fn ffn(&mut self, layer: usize, x: Self::Act) -> Result<Self::Act> {
        self.inner.ffn(layer, x)
    }

    fn loss(&mut self, x: Self::Act, targets: &[TokenId]) -> Result<f32> {
        self.inner.loss(x, targets)
    }

    fn loss_backward(&mut self, x: Self::Act, targets: &[TokenId]) -> Result<(f32, Self::Act)> {
        self.inner.loss_backward(x, targets)
    }

    fn ffn_backward(&mut self, layer: usize, dy: Self::Act) -> Result<Self::Act> {
        self.inner.ffn_backward(layer, dy)
    }

    fn attention_backward(&mut self, layer: usize, dy: Self::Act) -> Result<Self::Act> {
        self.inner.attention_backward(layer, dy)
    }

    fn embed_backward(&mut self, dx: Self::Act) -> Result<()> {
        self.inner.embed_backward(dx)
    }

    fn update(&mut self, update: &Update) -> Result<f32> {
        let params = self.params.clone();
        let mut squares = 0.0;
        for p in &params {
            let gradient = self.inner.read(p.id, Slot::Gradient)?;
            self.gpu.write(&self.state[p.id.index()].gradient, 0, &gradient);
            squares += self.squares(p.id, p.len())?;
        }
        let norm = (squares.sqrt() * f64::from(update.grad_scale)) as f32;
        if norm.is_finite() {
            let factor = update.factor(norm);
            for p in &params {
                match update.rules.of(p.group) {
                    Rule::AdamW(rule) => self.adamw(p.id, p.len(), &rule, update.step, factor)?,
                    Rule::Muon(rule) => {
                        let rows = p.shape[0];
                        self.muon(p.id, rows, p.len() / rows, &rule, factor)?;
                    }
                }
            }
            for p in &params {
                let weight: Vec<f32> = self.gpu.read(&self.state[p.id.index()].weight, p.len())?;
                self.inner.write(p.id, Slot::Weight, &weight)?;
            }
        }
        let longest = params.iter().map(model::Param::len).max().unwrap_or(0);
        let zeros = vec![0.0; longest];
        for p in &params {
            self.inner.write(p.id, Slot::Gradient, &zeros[..p.len()])?;
        }
        Ok(norm)
    }

    fn download(&mut self, x: &Self::Act) -> Result<Vec<f32>> {
        self.inner.download(x)
    }
}
