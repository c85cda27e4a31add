//! The weight matrices of a model that writes, and the products with them.

use model::quant::Format;
use model::{ModelConfig, Param, Params, Role, Weights};

use crate::footprint::touched;
use crate::gemv::{self, Inputs, Kind, LANES, Panels};
use crate::kernels::swiglu;
use crate::memory::CpuResult;
use crate::params::Layout;
use crate::{Buffer, CpuError, Exec, Into, Isa, Mat, MatMut, Pool, Precision, Rows, RowsMut};

/// One matrix of a block, or the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Queries, keys and values.
    Qkv,
    /// Back from the heads.
    O,
    /// Into the feed-forward, both branches.
    GateUp,
    /// Back from the feed-forward.
    Down,
    /// Logits.
    Head,
}

/// What becomes of the products.
#[derive(Clone, Copy, Debug)]
pub enum Finish<'a> {
    /// They are the result, this bias added where there is one.
    Set(Option<&'a [f32]>),
    /// They are added to what is there, times this.
    Add(f32),
    /// `silu(gate) ⊙ up`, of [`Part::GateUp`] alone.
    Gated,
}

/// Writes a row of a parameter; a vector is one row.
pub type FillRow<'a> = &'a (dyn Fn(&Param, usize, &mut [f32]) + Sync);

/// The parameters of a model.
pub struct Matrices {
    layout: Layout,
    /// All parameters, or the vectors alone.
    values: Buffer,
    few: Option<Few>,
    /// Both branches of the feed-forward, before the gate.
    gate_up: Buffer,
}

/// The matrices in few bits.
struct Few {
    format: Format,
    /// Of each layer, in the order of [`Part`]; then the head, then the embedding if it is another.
    panels: Vec<Panels>,
    /// One for each part: their widths differ.
    inputs: Inputs,
}

impl Part {
    /// All of them.
    pub const ALL: [Part; 5] = [Part::Qkv, Part::O, Part::GateUp, Part::Down, Part::Head];
    const OF_LAYER: [Part; 4] = [Part::Qkv, Part::O, Part::GateUp, Part::Down];

    /// The first and the last parameter.
    fn roles(self, tied: bool) -> (Role, Role) {
        match self {
            Part::Qkv => (Role::Q, Role::V),
            Part::O => (Role::O, Role::O),
            Part::GateUp => (Role::Gate, Role::Up),
            Part::Down => (Role::Down, Role::Down),
            Part::Head if tied => (Role::Embed, Role::Embed),
            Part::Head => (Role::Head, Role::Head),
        }
    }

    /// Inputs and outputs.
    fn shape(self, c: &ModelConfig) -> (usize, usize) {
        match self {
            Part::Qkv => (c.dim, c.q_dim() + 2 * c.kv_dim()),
            Part::O => (c.q_dim(), c.dim),
            Part::GateUp => (c.dim, 2 * c.hidden),
            Part::Down => (c.hidden, c.dim),
            Part::Head => (c.dim, c.vocab),
        }
    }
}

impl Matrices {
    /// Memory for passes of at most `rows` tokens; the weights are zeros.
    pub fn reserve(c: &ModelConfig, format: Option<Format>, rows: usize, isa: Isa) -> CpuResult<Self> {
        let layout = Layout::new(c);
        let few = format.map(|format| Few::reserve(c, format, rows, isa)).transpose()?;
        let values = Buffer::zeros("weights", layout.len())?;
        let gate_up = match few {
            Some(_) => Buffer::default(),
            None => Buffer::zeros_2d("activations", rows, 2 * c.hidden)?,
        };
        Ok(Self { layout, values, few, gate_up })
    }

    /// Takes the weights.
    pub fn fill(&mut self, c: &ModelConfig, weights: &Weights, pool: &Pool) -> CpuResult<()> {
        if let Some(few) = &self.few {
            for p in weights.params().iter().filter(|p| p.group.quantized()) {
                let check = few.format.check(p.shape[1], weights.get(p.id));
                check.map_err(|source| CpuError::Weight { name: p.name.clone(), source })?;
            }
        }
        let rows = |p: &Param, row: usize, to: &mut [f32]| {
            to.copy_from_slice(&weights.get(p.id)[row * to.len()..][..to.len()]);
        };
        (0..c.layers).map(Some).chain([None]).for_each(|layer| self.fill_rows(c, layer, pool, &rows));
        Ok(())
    }

    /// Takes the weights of a layer, or those outside of all layers, row by row. Those of matrices in few bits are
    /// finite and in the range of the format.
    pub fn fill_rows(&mut self, c: &ModelConfig, layer: Option<usize>, pool: &Pool, rows: FillRow<'_>) {
        if let Some(few) = &mut self.few {
            few.pack(c, self.layout.table(), layer, pool, rows);
        }
        let held = |p: &&Param| p.layer == layer && is_held(&self.few, p);
        for p in self.layout.table().iter().filter(held) {
            let columns = *p.shape.last().expect("a parameter has an extent");
            let to = &mut self.values[self.layout.range(p.id)];
            pool.each(RowsMut::new(to, columns), |row, to| rows(p, row, to));
        }
    }

    /// How the matrices are held; `None` for f32.
    pub fn format(&self) -> Option<Format> {
        self.few.as_ref().map(|few| few.format)
    }

    /// Bytes that the parameters take which are held as they are.
    pub fn plain_bytes(&self) -> u64 {
        let places = self.layout.table().iter().filter(|p| is_held(&self.few, p));
        let bytes = self.values.bytes() as u64;
        touched(bytes, self.values.len(), places.map(|p| self.layout.range(p.id)))
    }

    /// The parameters from role `first` to role `last`, which are vectors.
    pub fn vector(&self, first: Role, last: Role, layer: Option<usize>) -> &[f32] {
        &self.values[self.layout.place(first, last, layer)]
    }

    /// The embedding of a token.
    pub fn embedding(&self, c: &ModelConfig, token: usize, x: &mut [f32]) {
        if let Some(few) = &self.few {
            return few.panels.last().expect("the embedding is there").row(token, x);
        }
        let start = self.layout.place(Role::Embed, Role::Embed, None).start;
        x.copy_from_slice(&self.values[start + token * c.dim..][..c.dim]);
    }

    /// What products of `n` rows multiply.
    pub fn precision(&self, isa: Isa, n: usize) -> Precision {
        match self.few {
            Some(_) if gemv::on_tiles(isa, n) => Precision::Bf16,
            _ => Precision::F32,
        }
    }

    /// Bytes of the matrices of one kind in all layers.
    pub fn bytes_of(&self, c: &ModelConfig, part: Part) -> usize {
        let (inputs, outputs) = part.shape(c);
        let layers = if part == Part::Head { 1 } else { c.layers };
        match &self.few {
            Some(few) => (0..layers).map(|layer| few.panels[few.number(c, part, layer)].bytes()).sum(),
            None => layers * inputs * outputs * size_of::<f32>(),
        }
    }

    /// The product of `n` rows of `x` with a matrix; `y` is `[n, outputs]`, for [`Finish::Gated`]
    /// `[n, hidden]`. `layer` is ignored for the head.
    #[allow(clippy::too_many_arguments)]
    pub fn product(
        &mut self,
        exec: &mut Exec,
        c: &ModelConfig,
        part: Part,
        layer: usize,
        n: usize,
        x: &[f32],
        y: &mut [f32],
        finish: Finish<'_>,
    ) {
        let (inputs, outputs) = part.shape(c);
        let x = &x[..n * inputs];
        if let Some(few) = &mut self.few {
            return few.product(exec, c, part, layer, n, x, y, finish);
        }
        let (first, last) = part.roles(c.tied);
        let layer = (part != Part::Head).then_some(layer);
        let w = Mat::new(&self.values[self.layout.place(first, last, layer)], outputs, inputs).t();
        let x = Mat::new(x, n, inputs);
        match finish {
            Finish::Set(None) => exec.matmul(1.0, x, w, Into::Set, MatMut::new(y, n, outputs)),
            Finish::Set(Some(bias)) => {
                y[..n * outputs].chunks_exact_mut(outputs).for_each(|y| y.copy_from_slice(bias));
                exec.matmul(1.0, x, w, Into::Add, MatMut::new(y, n, outputs));
            }
            Finish::Add(scale) => exec.matmul(scale, x, w, Into::Add, MatMut::new(y, n, outputs)),
            Finish::Gated => {
                exec.matmul(1.0, x, w, Into::Set, MatMut::new(&mut self.gate_up, n, outputs));
                let (isa, hidden) = (exec.isa, c.hidden);
                let gate_up = Rows::new(&self.gate_up[..n * outputs], outputs);
                exec.pool.each((gate_up, RowsMut::new(&mut y[..n * hidden], hidden)), |_, (gate_up, y)| {
                    let (gate, up) = gate_up.split_at(hidden);
                    swiglu::forward(isa, gate, up, y);
                });
            }
        }
    }
}

/// Whether a parameter is held as it is. Pages of matrices that are held otherwise stay untouched, and so cost
/// nothing.
fn is_held(few: &Option<Few>, p: &Param) -> bool {
    few.is_none() || !p.group.quantized()
}

impl Few {
    fn reserve(c: &ModelConfig, format: Format, rows: usize, isa: Isa) -> CpuResult<Self> {
        let kind = Kind::of(format).ok_or(CpuError::Format { format })?;
        let reserve = |part: Part| {
            let (columns, outputs) = part.shape(c);
            // Both branches of the feed-forward are whole panels, see `fill`.
            let rows = if part == Part::GateUp { 2 * c.hidden.next_multiple_of(LANES) } else { outputs };
            Panels::reserve(kind, rows, columns)
        };
        let of_layers = (0..c.layers).flat_map(|_| Part::OF_LAYER);
        let ends = std::iter::repeat_n(Part::Head, if c.tied { 1 } else { 2 });
        let panels = of_layers.chain(ends).map(reserve).collect::<CpuResult<_>>()?;
        let widest = c.dim.max(c.hidden).max(c.q_dim());
        Ok(Self { format, panels, inputs: Inputs::new(isa, kind, rows, widest)? })
    }

    /// Packs the matrices of a layer, or those outside of all layers. Rows are those of the layer of this table.
    fn pack(
        &mut self,
        c: &ModelConfig,
        table: &Params,
        layer: Option<usize>,
        pool: &Pool,
        rows: FillRow<'_>,
    ) {
        let find = |role| table.get(table.find(role, layer).expect("the model has this parameter"));
        let mut pack = |number: usize, params: &[&Param], interleaved: bool| {
            // The parameter and the row in it that is row `r` of the panels.
            let place = |mut r: usize| {
                if interleaved {
                    // A panel of the gate, then the panel of the other branch that it meets.
                    let row = r / LANES / 2 * LANES + r % LANES;
                    return Some((params[r / LANES % 2], row)).filter(|(p, row)| *row < p.shape[0]);
                }
                for &p in params {
                    match r.checked_sub(p.shape[0]) {
                        None => return Some((p, r)),
                        Some(left) => r = left,
                    }
                }
                None
            };
            self.panels[number].pack(pool, |r, to| match place(r) {
                Some((p, row)) => rows(p, row, to),
                None => to.fill(0.0),
            });
        };
        let Some(number) = layer else {
            let head = Part::OF_LAYER.len() * c.layers;
            pack(head, &[find(Part::Head.roles(c.tied).0)], false);
            if !c.tied {
                pack(head + 1, &[find(Role::Embed)], false);
            }
            return;
        };
        for part in Part::OF_LAYER {
            let params = match part {
                Part::Qkv => [Role::Q, Role::K, Role::V].map(find).to_vec(),
                Part::GateUp => [Role::Gate, Role::Up].map(find).to_vec(),
                part => vec![find(part.roles(c.tied).0)],
            };
            pack(Part::OF_LAYER.len() * number + part as usize, &params, part == Part::GateUp);
        }
    }

    /// The number of a matrix.
    fn number(&self, c: &ModelConfig, part: Part, layer: usize) -> usize {
        match part {
            Part::Head => Part::OF_LAYER.len() * c.layers,
            part => Part::OF_LAYER.len() * layer + part as usize,
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn product(
        &mut self,
        exec: &Exec,
        c: &ModelConfig,
        part: Part,
        layer: usize,
        n: usize,
        x: &[f32],
        y: &mut [f32],
        finish: Finish<'_>,
    ) {
        let (w, outputs, isa) = (&self.panels[self.number(c, part, layer)], part.shape(c).1, exec.isa);
        self.inputs.set(isa, &exec.pool, x, w.columns());
        let (x, pool) = (&self.inputs, &exec.pool);
        let outputs = if matches!(finish, Finish::Gated) { c.hidden } else { outputs };
        let y = &mut y[..n * outputs];
        match finish {
            Finish::Set(None) => w.product(isa, pool, x, n, y, |_, y, [v]| {
                y.copy_from_slice(&v[..y.len()]);
            }),
            Finish::Set(Some(bias)) => w.product(isa, pool, x, n, y, |column, y, [v]| {
                y.iter_mut().zip(v).zip(&bias[column..]).for_each(|((y, v), b)| *y = v + b);
            }),
            Finish::Add(scale) => w.product(isa, pool, x, n, y, |_, y, [v]| {
                y.iter_mut().zip(v).for_each(|(y, v)| *y += scale * v);
            }),
            Finish::Gated => w.product(isa, pool, x, n, y, |_, y, [gate, up]| {
                swiglu::forward(isa, &gate[..y.len()], &up[..y.len()], y);
            }),
        }
    }
}
