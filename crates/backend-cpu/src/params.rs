//! Weights, gradients and moments, each in one piece of memory.
//!
//! Parameters lie in the order of [`model::Params`]. Those that are multiplied in one product
//! (query, key and value; gate and up; the three biases) touch each other; every other one starts at
//! a cache line, and a block of moments.

use std::borrow::Cow;
use std::ops::Range;

use backend::Error;
use model::{ModelConfig, ParamId, Params, Role, Slot};

use crate::gemm::Into;
use crate::moments::{BLOCK, Chance, Moments};
use crate::packed::{PackedWeights, Weight};
use crate::{Buffer, CpuError, Isa, Mat, Plan, Pool, Precision};

/// Where each parameter lies.
pub struct Layout {
    table: Params,
    starts: Vec<usize>,
    len: usize,
}

impl Layout {
    /// Of a model.
    pub fn new(config: &ModelConfig) -> Self {
        let table = Params::new(config);
        let mut starts = Vec::with_capacity(table.len());
        let mut end = 0usize;
        for p in &table {
            if !matches!(p.role, Role::K | Role::V | Role::KBias | Role::VBias | Role::Up) {
                end = end.next_multiple_of(BLOCK);
            }
            starts.push(end);
            end += p.len();
        }
        Self { table, starts, len: end }
    }

    /// The table of parameters.
    pub fn table(&self) -> &Params {
        &self.table
    }

    /// Numbers in all, gaps included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The place of one parameter.
    pub fn range(&self, id: ParamId) -> Range<usize> {
        let start = self.starts[id.index()];
        start..start + self.table.get(id).len()
    }

    /// The parameters from role `first` to role `last` of a layer.
    fn span(&self, first: Role, last: Role, layer: Option<usize>) -> Range<ParamIndex> {
        let find = |role| self.table.find(role, layer).expect("the model has this parameter").index();
        find(first)..find(last) + 1
    }

    /// The place of the parameters from role `first` to role `last`, which touch each other.
    pub fn place(&self, first: Role, last: Role, layer: Option<usize>) -> Range<usize> {
        let span = self.span(first, last, layer);
        let id = |index| self.table.iter().nth(index).map(|p| p.id);
        let last = id(span.end - 1).expect("the table has this row");
        self.starts[span.start]..self.range(last).end
    }
}

type ParamIndex = usize;

/// What an update moves.
pub struct Tensors<'a> {
    /// Gradients of the place.
    pub gradients: &'a [f32],
    /// Its weights.
    pub weights: &'a mut [f32],
    /// The packed copies.
    pub packed: Option<&'a mut PackedWeights>,
    /// All moments.
    pub moments: &'a mut Moments,
}

/// The four tensors of every parameter.
pub struct Storage {
    /// Where they lie.
    pub layout: Layout,
    /// Weights.
    pub weights: Buffer,
    /// First and second moments.
    pub moments: Moments,
    gradients: Buffer,
    /// Which gradients count as zero whatever memory holds: clearing them costs nothing, and the
    /// first product of the next step overwrites instead of adding.
    clear: Vec<bool>,
    packed: Option<PackedWeights>,
    isa: Isa,
}

impl Storage {
    /// Zeros for a model.
    pub fn new(config: &ModelConfig, plan: &Plan) -> Result<Self, CpuError> {
        let layout = Layout::new(config);
        let len = layout.len();
        let packed = plan.precision == Precision::Bf16;
        Ok(Self {
            weights: Buffer::zeros("weights", len)?,
            gradients: Buffer::zeros("gradients", len)?,
            moments: Moments::new(plan.moments, len)?,
            clear: vec![false; layout.table.len()],
            packed: packed.then(|| PackedWeights::new(plan.isa, &layout)).transpose()?,
            isa: plan.isa,
            layout,
        })
    }

    /// The weights from role `first` to role `last`.
    pub fn weight(&self, first: Role, last: Role, layer: Option<usize>) -> &[f32] {
        &self.weights[self.layout.place(first, last, layer)]
    }

    /// The matrix of `cols` columns from role `first` to role `last`, for products.
    /// [`Storage::pack`] comes before.
    pub fn matrix(&self, first: Role, last: Role, layer: Option<usize>, cols: usize) -> Weight<'_> {
        let place = self.layout.place(first, last, layer);
        let plain = Mat::new(&self.weights[place.clone()], place.len() / cols, cols);
        let id = || self.layout.table.find(first, layer).expect("the model has this parameter");
        Weight { plain, packed: self.packed.as_ref().map(|packed| packed.get(id())) }
    }

    /// Makes the packed copies those of the weights.
    pub fn pack(&mut self, pool: &Pool) {
        if let Some(packed) = &mut self.packed {
            packed.refresh(pool, &self.weights);
        }
    }

    /// Says that weights changed.
    pub fn weights_changed(&mut self) {
        if let Some(packed) = &mut self.packed {
            packed.weights_changed();
        }
    }

    /// Bytes of all tensors and copies.
    pub fn bytes(&self) -> usize {
        2 * self.weights.bytes() + self.moments.bytes() + self.packed.as_ref().map_or(0, PackedWeights::bytes)
    }

    /// The gradients from role `first` to role `last`, and how to add to them.
    pub fn gradient(&mut self, first: Role, last: Role, layer: Option<usize>) -> (&mut [f32], Into) {
        let span = self.layout.span(first, last, layer);
        let place = self.layout.place(first, last, layer);
        if self.clear[span.clone()].iter().all(|&c| c) {
            self.clear[span].fill(false);
            return (&mut self.gradients[place], Into::Set);
        }
        for index in span {
            self.zero(index);
        }
        (&mut self.gradients[place], Into::Add)
    }

    /// The gradients from role `first` to role `last`, to add to.
    pub fn gradient_sum(&mut self, first: Role, last: Role, layer: Option<usize>) -> &mut [f32] {
        let (gradient, into) = self.gradient(first, last, layer);
        if into == Into::Set {
            gradient.fill(0.0);
        }
        gradient
    }

    /// What an update of a place moves. [`Storage::settle`] comes before.
    pub fn tensors(&mut self, place: Range<usize>) -> Tensors<'_> {
        Tensors {
            gradients: &self.gradients[place.clone()],
            packed: self.packed.as_mut(),
            weights: &mut self.weights[place],
            moments: &mut self.moments,
        }
    }

    /// How many weights from `start` on an update can pack as one matrix.
    pub fn packed_from(&self, start: usize) -> Option<usize> {
        self.packed.as_ref()?.len_at(start)
    }

    /// Writes the zeros of gradients that count as zero, and gives all gradients.
    pub fn settle(&mut self) -> &[f32] {
        (0..self.clear.len()).for_each(|index| self.zero(index));
        &self.gradients
    }

    /// Clears all gradients.
    pub fn clear_gradients(&mut self) {
        self.clear.fill(true);
    }

    fn zero(&mut self, index: ParamIndex) {
        if std::mem::take(&mut self.clear[index]) {
            let start = self.layout.starts[index];
            let end = self.layout.starts.get(index + 1).copied().unwrap_or(self.layout.len);
            self.gradients[start..end].fill(0.0);
        }
    }

    /// One tensor.
    pub fn read(&mut self, id: ParamId, slot: Slot) -> Cow<'_, [f32]> {
        let place = self.layout.range(id);
        match slot {
            Slot::Weight => self.weights[place].into(),
            Slot::Gradient => {
                self.zero(id.index());
                self.gradients[place].into()
            }
            Slot::Moment1 | Slot::Moment2 => self.moments.read(place, slot),
        }
    }

    /// Replaces one tensor.
    pub fn write(&mut self, id: ParamId, slot: Slot, values: &[f32]) -> backend::Result<()> {
        let place = self.layout.range(id);
        check_len(&self.layout.table, id, values)?;
        match slot {
            Slot::Weight => {
                self.weights_changed();
                self.weights[place].copy_from_slice(values);
            }
            Slot::Gradient => {
                self.clear[id.index()] = false;
                self.gradients[place].copy_from_slice(values);
            }
            Slot::Moment1 | Slot::Moment2 => {
                self.moments.write(self.isa, place, slot, values, Chance::new(0));
            }
        }
        Ok(())
    }
}

fn check_len(table: &Params, id: ParamId, values: &[f32]) -> backend::Result<()> {
    let p = table.get(id);
    if values.len() == p.len() {
        return Ok(());
    }
    Err(Error::WrongLength { name: p.name.clone(), wanted: p.len(), got: values.len() })
}
