//! The dispatches of a token, and of a pass through a prompt: flat lists, made once.

use model::ModelConfig;

use crate::gpu::{Buffer, Gpu, Step};
use crate::kernels::gemv::Gemv;
use crate::kernels::rope_append::Heads;
use crate::kernels::{
    Epilogue, argmax, attention, embed, gemm, gemv::Tiling, rms_norm, rope_append, rows, sample,
};
use crate::matrix::{Matrix, blocks};
use crate::weights::{Layer, Loaded};
use crate::{GpuResult, Settings, layout};

/// Memory that the steps share.
pub struct Buffers {
    /// `[rows]` of token, position, slot, and the number of rows in the first.
    pub rows: Buffer,
    /// The residual stream, `[rows, dim]` in the order of activations; so are the next three.
    x: Buffer,
    norm: Buffer,
    attended: Buffer,
    gated: Buffer,
    /// `[rows, q_dim + 2·kv_dim]`.
    qkv: Buffer,
    /// Results of the splits of attention.
    partial: Buffer,
    /// `[8, vocab]`.
    pub logits: Buffer,
    /// Largest logits of strips.
    largest: Buffer,
    /// Settings and state of sampling, and the ring of tokens.
    pub draw: Buffer,
    near: Buffer,
    far: Buffer,
    /// Keys of each layer.
    pub keys: Vec<Buffer>,
    /// Values of each layer.
    pub values: Vec<Buffer>,
}

/// Which list of decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Vectors of the products: 1, 2, 4 or 8.
    pub columns: u32,
    /// Splits of attention.
    pub splits: u32,
}

/// Makes steps.
pub struct Planner {
    c: ModelConfig,
    settings: Settings,
    heads: Heads,
}

impl Buffers {
    /// For a model.
    ///
    /// # Errors
    /// When memory is short.
    pub fn new(gpu: &Gpu, c: &ModelConfig, s: &Settings) -> GpuResult<Self> {
        let (rows, lanes) = (s.rows(c), gpu.lanes() as usize);
        let row = |k| (rows * layout::activation_row(k, lanes) * 4) as u64;
        let heads = heads(c, s);
        let partial = 4 * c.heads * most_splits(c, s) as usize * attention::partial(heads) as usize;
        let frequencies = c.rope.frequencies(c.head_dim);
        let turns = |positions: usize, step: usize| -> Vec<[f32; 2]> {
            let angle = |p: usize| frequencies.iter().map(move |f| (p * step) as f64 * f);
            (0..positions).flat_map(angle).map(|a| [a.cos() as f32, a.sin() as f32]).collect()
        };
        let cache =
            |what| (0..c.layers).map(|_| gpu.buffer(what, s.cache_bytes(c))).collect::<GpuResult<_>>();
        Ok(Self {
            rows: gpu.buffer("rows", (rows * 16) as u64)?,
            x: gpu.buffer("activations", row(c.dim))?,
            norm: gpu.buffer("activations", row(c.dim))?,
            attended: gpu.buffer("activations", row(c.q_dim()))?,
            gated: gpu.buffer("activations", row(c.hidden))?,
            qkv: gpu.buffer("activations", (rows * (c.q_dim() + 2 * c.kv_dim()) * 4) as u64)?,
            partial: gpu.buffer("activations", (rows::MOST * partial) as u64)?,
            logits: gpu.buffer("logits", (rows::MOST * c.vocab * 4) as u64)?,
            largest: gpu.buffer("logits", u64::from(argmax::STRIPS) * 8)?,
            draw: gpu.buffer("sampling", ((sample::HEADER + sample::RING) * 4) as u64)?,
            near: gpu.buffer_of("rotations", &turns(256, 1))?,
            far: gpu.buffer_of("rotations", &turns(s.positions(c).max(s.capacity(c)).div_ceil(256), 256))?,
            keys: cache("keys")?,
            values: cache("values")?,
        })
    }
}

fn heads(c: &ModelConfig, s: &Settings) -> Heads {
    Heads {
        heads: c.heads as u32,
        kv_heads: c.kv_heads as u32,
        head_dim: c.head_dim as u32,
        capacity: s.capacity(c) as u32,
        window: s.window.map_or(0, |window| window.get().min(s.positions(c)) as u32),
    }
}

/// Splits of attention over long contexts: enough workgroups for the largest devices, none for nothing.
pub fn most_splits(c: &ModelConfig, s: &Settings) -> u32 {
    let heads = heads(c, s);
    let groups = heads.heads / attention::group(heads);
    let wanted = if s.tuning.splits > 0 { s.tuning.splits } else { 512 / groups };
    wanted.min(heads.capacity / attention::TILE).clamp(1, 64)
}

/// Positions up to which one split is faster than several and their joining.
const SHORT: usize = 128;

impl Shape {
    /// For so many rows that end at position `end`.
    pub fn of(rows: usize, end: usize, c: &ModelConfig, s: &Settings) -> Self {
        let end = s.window.map_or(end, |window| end.min(window.get()));
        // More splits read faster and take longer to join: the root of the length was best where timed.
        let wanted = ((end / 8).isqrt() as u32).next_power_of_two();
        let splits = if end <= SHORT { 1 } else { wanted.min(most_splits(c, s)) };
        Self { columns: (rows as u32).next_power_of_two(), splits }
    }
}

/// A product of a block.
struct Product<'a> {
    matrix: &'a Matrix,
    x: &'a Buffer,
    y: &'a Buffer,
    /// Numbers of a row of `y`.
    y_row: usize,
    gain: Option<&'a Buffer>,
    bias: Option<&'a Buffer>,
    epilogue: Epilogue,
}

impl Planner {
    /// For a model.
    pub fn new(c: &ModelConfig, settings: &Settings) -> Self {
        Self { c: c.clone(), settings: settings.clone(), heads: heads(c, settings) }
    }

    fn row(&self, gpu: &Gpu, k: usize) -> usize {
        layout::activation_row(k, gpu.lanes() as usize)
    }

    /// Takes the tokens of a call over.
    pub fn feed(&self, gpu: &Gpu, b: &Buffers) -> GpuResult<Step> {
        Ok(gpu.step(&gpu.compile(&rows::text(), &[])?, &[&b.rows], [1, 1, 1]))
    }

    /// Draws the next token.
    pub fn draw(&self, gpu: &Gpu, b: &Buffers) -> GpuResult<Vec<Step>> {
        let vocab = [("VOCAB", self.c.vocab as f64)];
        let largest = &gpu.compile(&argmax::text(), &vocab)?;
        let largest = gpu.step(largest, &[&b.logits, &b.largest], [argmax::STRIPS, 1, 1]);
        let sample = &gpu.compile(&sample::text(), &vocab)?;
        let sample = gpu.step(sample, &[&b.logits, &b.largest, &b.rows, &b.draw], [1, 1, 1]);
        Ok(vec![largest, sample])
    }

    /// Takes the most likely next token, from the activations on: no logit is written.
    pub fn greedy(&self, gpu: &Gpu, w: &Loaded, b: &Buffers) -> GpuResult<Vec<Step>> {
        let (format, epilogue) = (w.head.format, Epilogue::Largest);
        let tiling = self.settings.tuning.tiling(gpu, format, self.c.dim, self.c.vocab, epilogue);
        let kernel = Gemv { format, tiling, columns: 1, norm: true, epilogue };
        let groups = |rows| {
            let [x, y, _] = kernel.grid(rows, gpu.lanes());
            x * y
        };
        let count: u32 = w.head.parts.iter().map(|part| groups(part.rows)).sum();
        let largest = gpu.buffer("logits", u64::from(count) * 8)?;
        let head = Product { y: &largest, epilogue: Epilogue::Largest, ..self.logits(w, b) };
        let mut steps = self.gemv(gpu, &head, 1)?;
        let kernel = &gpu.compile(&sample::greedy(), &[("COUNT", f64::from(count))])?;
        steps.push(gpu.step(kernel, &[&largest, &b.rows, &b.draw], [1, 1, 1]));
        Ok(steps)
    }

    /// The logits of a pass of decoding.
    pub fn head(&self, gpu: &Gpu, w: &Loaded, b: &Buffers, columns: u32) -> GpuResult<Vec<Step>> {
        self.gemv(gpu, &self.logits(w, b), columns)
    }

    /// One pass of decoding, from the embedding to the activations behind the last block.
    pub fn decode(&self, gpu: &Gpu, w: &Loaded, b: &Buffers, shape: Shape) -> GpuResult<Vec<Step>> {
        let mut steps = self.embed(gpu, w, b)?;
        for (l, layer) in w.layers.iter().enumerate() {
            let qkv = self.qkv(layer, b, &b.x, Some(&layer.attn_norm));
            steps.extend(self.gemv(gpu, &qkv, shape.columns)?);
            // One row's attention rotates on the way; several need all new keys first.
            let turn = (shape.columns == 1 && attention::turns(self.heads)).then_some(layer);
            if turn.is_none() {
                steps.push(self.rope(gpu, layer, b, l)?);
            }
            steps.extend(self.attention(gpu, b, l, shape.splits, turn)?);
            steps.extend(self.gemv(gpu, &self.o(gpu, layer, b), shape.columns)?);
            let gate_up = self.gate_up(gpu, layer, b, &b.x, Some(&layer.ffn_norm));
            steps.extend(self.gemv(gpu, &gate_up, shape.columns)?);
            steps.extend(self.gemv(gpu, &self.down(gpu, layer, b), shape.columns)?);
        }
        Ok(steps)
    }

    /// One pass through a prompt: all of it but the head.
    pub fn prefill(&self, gpu: &Gpu, w: &Loaded, b: &Buffers) -> GpuResult<Vec<Step>> {
        let mut steps = self.embed(gpu, w, b)?;
        for (l, layer) in w.layers.iter().enumerate() {
            steps.push(self.norm(gpu, b, &layer.attn_norm)?);
            let qkv = self.qkv(layer, b, &b.norm, None);
            steps.extend(self.gemm(gpu, &qkv)?);
            steps.push(self.rope(gpu, layer, b, l)?);
            steps.extend(self.attention(gpu, b, l, 1, None)?);
            steps.extend(self.gemm(gpu, &self.o(gpu, layer, b))?);
            steps.push(self.norm(gpu, b, &layer.ffn_norm)?);
            let gate_up = self.gate_up(gpu, layer, b, &b.norm, None);
            steps.extend(self.gemm(gpu, &gate_up)?);
            steps.extend(self.gemm(gpu, &self.down(gpu, layer, b))?);
        }
        Ok(steps)
    }

    /// The head behind a prompt: logits after its last token.
    pub fn last(&self, gpu: &Gpu, w: &Loaded, b: &Buffers) -> GpuResult<Vec<Step>> {
        let n = self.row(gpu, self.c.dim) / 4;
        let last = &gpu.compile(rows::last(), &[("N", n as f64)])?;
        let mut steps = vec![gpu.step(last, &[&b.rows, &b.x], [(n as u32).div_ceil(64), 1, 1])];
        steps.extend(self.head(gpu, w, b, 1)?);
        Ok(steps)
    }

    fn logits<'a>(&self, w: &'a Loaded, b: &'a Buffers) -> Product<'a> {
        Product {
            matrix: &w.head,
            x: &b.x,
            y: &b.logits,
            y_row: self.c.vocab,
            gain: Some(&w.final_norm),
            bias: None,
            epilogue: Epilogue::Store,
        }
    }

    fn qkv<'a>(
        &self,
        layer: &'a Layer,
        b: &'a Buffers,
        x: &'a Buffer,
        gain: Option<&'a Buffer>,
    ) -> Product<'a> {
        let bias = layer.bias.as_ref();
        let epilogue = if bias.is_some() { Epilogue::Bias } else { Epilogue::Store };
        let y_row = self.c.q_dim() + 2 * self.c.kv_dim();
        Product { matrix: &layer.qkv, x, y: &b.qkv, y_row, gain, bias, epilogue }
    }

    fn o<'a>(&self, gpu: &Gpu, layer: &'a Layer, b: &'a Buffers) -> Product<'a> {
        let y_row = self.row(gpu, self.c.dim);
        let (x, y) = (&b.attended, &b.x);
        Product { matrix: &layer.o, x, y, y_row, gain: None, bias: None, epilogue: Epilogue::Residual }
    }

    fn gate_up<'a>(
        &self,
        gpu: &Gpu,
        layer: &'a Layer,
        b: &'a Buffers,
        x: &'a Buffer,
        gain: Option<&'a Buffer>,
    ) -> Product<'a> {
        let (y_row, matrix) = (self.row(gpu, self.c.hidden), &layer.gate_up);
        Product { matrix, x, y: &b.gated, y_row, gain, bias: None, epilogue: Epilogue::Swiglu }
    }

    fn down<'a>(&self, gpu: &Gpu, layer: &'a Layer, b: &'a Buffers) -> Product<'a> {
        let y_row = self.row(gpu, self.c.dim);
        let (x, y) = (&b.gated, &b.x);
        Product { matrix: &layer.down, x, y, y_row, gain: None, bias: None, epilogue: Epilogue::Residual }
    }

    fn embed(&self, gpu: &Gpu, w: &Loaded, b: &Buffers) -> GpuResult<Vec<Step>> {
        let (nb, row) = (blocks(self.c.dim), self.row(gpu, self.c.dim));
        let mut steps = Vec::new();
        for part in &w.embed.parts {
            let constants = [
                ("NB", nb as f64),
                ("M", part.rows as f64),
                ("ROW0", part.first as f64),
                ("XS", (row / 4) as f64),
            ];
            let kernel = &gpu.compile(&embed::text(w.embed.format, gpu.lanes()), &constants)?;
            let buffers = [&part.words, &part.scales, &b.rows, &b.x];
            steps.push(gpu.step(kernel, &buffers, [(nb as u32).div_ceil(8), 1, 1]).over_rows(1, 1));
        }
        Ok(steps)
    }

    fn norm(&self, gpu: &Gpu, b: &Buffers, gain: &Buffer) -> GpuResult<Step> {
        let n = self.row(gpu, self.c.dim) / 4;
        let constants = [("N", n as f64), ("KF", self.c.dim as f64), ("EPS", f64::from(self.c.norm_eps))];
        let kernel = &gpu.compile(&rms_norm::text(gpu.lanes()), &constants)?;
        Ok(gpu.step(kernel, &[&b.x, gain, &b.norm], [1, 1, 1]).over_rows(1, 1))
    }

    fn gemv(&self, gpu: &Gpu, p: &Product<'_>, columns: u32) -> GpuResult<Vec<Step>> {
        let (format, k) = (p.matrix.format, p.matrix.columns);
        let best = self.settings.tuning.tiling(gpu, format, k, p.matrix.rows, p.epilogue);
        // Each row saves reading several vectors again, and needs registers for each.
        let rows = if self.settings.tuning.batch_rows > 0 { self.settings.tuning.batch_rows } else { 2 };
        let rows = if p.epilogue == Epilogue::Swiglu { rows.next_multiple_of(2) } else { rows };
        let tiling = if columns > 1 { Tiling { rows, ..best } } else { best };
        let kernel = Gemv { format, tiling, columns, norm: p.gain.is_some(), epilogue: p.epilogue };
        let (mut steps, mut groups) = (Vec::new(), 0);
        for part in &p.matrix.parts {
            let x_row = self.row(gpu, k) / 4;
            let mut constants = vec![
                ("NB", blocks(k) as f64),
                ("M", part.rows as f64),
                ("ROW0", part.first as f64),
                ("XS", x_row as f64),
                ("YS", p.y_row as f64),
            ];
            if kernel.norm {
                constants.extend([("KF", k as f64), ("EPS", f64::from(self.c.norm_eps))]);
            }
            constants.extend(self.scale(p.epilogue));
            let grid = kernel.grid(part.rows, gpu.lanes());
            if p.epilogue == Epilogue::Largest {
                constants.push(("FIRST", f64::from(groups)));
                groups += grid[0] * grid[1];
            }
            let pipeline = &gpu.compile(&kernel.text(gpu.lanes()), &constants)?;
            let mut buffers = vec![&part.words, &part.scales, p.x, p.y];
            buffers.extend(p.gain);
            buffers.extend(p.bias);
            steps.push(gpu.step(pipeline, &buffers, grid));
        }
        Ok(steps)
    }

    fn scale(&self, epilogue: Epilogue) -> Option<(&'static str, f64)> {
        (epilogue == Epilogue::Residual).then_some(("SCALE", f64::from(self.c.residual_scale)))
    }

    fn gemm(&self, gpu: &Gpu, p: &Product<'_>) -> GpuResult<Vec<Step>> {
        let mut steps = Vec::new();
        for part in &p.matrix.parts {
            let mut constants = vec![
                ("NB", blocks(p.matrix.columns) as f64),
                ("M", part.rows as f64),
                ("ROW0", part.first as f64),
                ("XS", (self.row(gpu, p.matrix.columns) / 4) as f64),
                ("YS", p.y_row as f64),
            ];
            constants.extend(self.scale(p.epilogue));
            let text = gemm::text(p.matrix.format, gpu.lanes(), p.epilogue);
            let pipeline = &gpu.compile(&text, &constants)?;
            let mut buffers = vec![&part.words, &part.scales, p.x, p.y];
            buffers.extend(p.bias);
            let grid = [part.rows.div_ceil(gemm::ROWS) as u32, 1, 1];
            steps.push(gpu.step(pipeline, &buffers, grid).over_rows(1, gemm::VECTORS));
        }
        Ok(steps)
    }

    fn rope(&self, gpu: &Gpu, layer: &Layer, b: &Buffers, l: usize) -> GpuResult<Step> {
        let heads = self.heads;
        let eps = [("EPS", f64::from(self.c.norm_eps))];
        let constants = if self.c.qk_norm { &eps[..] } else { &[] };
        let kernel = &gpu.compile(&rope_append::text(heads, self.c.qk_norm), constants)?;
        let mut buffers = vec![&b.rows, &b.near, &b.far, &b.qkv, &b.keys[l], &b.values[l]];
        buffers.extend(layer.qk_norm.as_ref());
        let grid = [heads.heads + 2 * heads.kv_heads, 1, 1];
        Ok(gpu.step(kernel, &buffers, grid).over_rows(2, 1))
    }

    /// Attention of layer `l`; with `turn`, that layer, of one row that is not rotated and not in the cache yet.
    fn attention(
        &self,
        gpu: &Gpu,
        b: &Buffers,
        l: usize,
        splits: u32,
        turn: Option<&Layer>,
    ) -> GpuResult<Vec<Step>> {
        let (heads, lanes) = (self.heads, gpu.lanes());
        let out = [("OS", self.row(gpu, self.c.q_dim()) as f64)];
        let groups = heads.heads / attention::group(heads);
        let to = if splits == 1 { &b.attended } else { &b.partial };
        let mut constants = if splits == 1 { out.to_vec() } else { vec![("OS", 0.0)] };
        let mut buffers = vec![&b.rows, &b.qkv, &b.keys[l], &b.values[l], to];
        if let Some(layer) = turn {
            buffers.extend([&b.near, &b.far]);
            buffers.extend(layer.qk_norm.as_ref());
            constants.extend(self.c.qk_norm.then_some(("EPS", f64::from(self.c.norm_eps))));
        }
        let own = turn.map(|_| attention::Turn { norm: self.c.qk_norm });
        let kernel = &gpu.compile(&attention::text(heads, lanes, splits, own), &constants)?;
        let mut steps = vec![gpu.step(kernel, &buffers, [groups, splits, 1]).over_rows(2, 1)];
        if splits > 1 {
            let kernel = &gpu.compile(&attention::combine(heads, lanes, splits), &out)?;
            let step = gpu.step(kernel, &[&b.partial, &b.attended], [heads.heads, 1, 1]);
            steps.push(step.over_rows(2, 1));
        }
        Ok(steps)
    }
}
