//! Weights, gradients and moments, each in one piece of memory.
//!
//! Parameters lie in the order of [`model::Params`]. Those that are multiplied in one product
//! (query, key and value; gate and up; the three biases) touch each other; every other one starts at
//! a cache line, and a block of moments. Gradients lie likewise, but for a plan that updates in the
//! backward pass: then all layers use the memory of one. Matrices may lie [in cells](crate::cells).

use std::borrow::Cow;
use std::ops::Range;

use backend::Error;
use model::{ModelConfig, ParamId, Params, Role, Slot, TokenId};

use crate::cells::{Cells, Order};
use crate::gemm::Into;
use crate::moments::{BLOCK, Chance, Moments};
use crate::packed::{PackedWeights, Weight};
use crate::weights::{Weights, WeightsMut};
use crate::{Buffer, CpuError, Isa, Mat, MatMut, Plan, Pool, Precision};

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
        let joins = |role| matches!(role, Role::K | Role::V | Role::KBias | Role::VBias | Role::Up);
        let (starts, len) = places(table.iter().map(|p| (joins(p.role), p.len())));
        Self { table, starts, len }
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

    /// Places of all parameters when those of all layers start where those of the first layer do, and
    /// numbers in all.
    fn one_layer(&self) -> (Vec<usize>, usize) {
        let starts_of = |layer| self.table.iter().position(|p| p.layer == Some(layer));
        let Some(first) = starts_of(0) else { return (self.starts.clone(), self.len) };
        let per_layer = self.table.iter().filter(|p| p.layer == Some(0)).count();
        let behind = self.table.iter().rposition(|p| p.layer.is_some()).map_or(first, |last| last + 1);
        let start = |index: usize| self.starts.get(index).copied().unwrap_or(self.len);
        let saved = start(behind) - start(first + per_layer);
        let place = |(index, &at): (usize, &usize)| match index {
            _ if index >= behind => at - saved,
            _ if index >= first => self.starts[first + (index - first) % per_layer],
            _ => at,
        };
        (self.starts.iter().enumerate().map(place).collect(), self.len - saved)
    }

    /// The parameters of a layer, or those before and behind all layers.
    pub fn of_layer(&self, layer: Option<usize>) -> Vec<Range<ParamIndex>> {
        let alike = |p: &&model::Param| p.layer == layer;
        let mut spans: Vec<Range<ParamIndex>> = Vec::new();
        for index in self.table.iter().filter(alike).map(|p| p.id.index()) {
            match spans.last_mut() {
                Some(span) if span.end == index => span.end += 1,
                _ => spans.push(index..index + 1),
            }
        }
        spans
    }

    /// The parameters of a layer that go with one of its four products, named after its first matrix: the norm before it,
    /// its matrices, biases and norms behind them. The four together are the layer.
    pub fn of_product(&self, product: Role, layer: usize) -> Range<ParamIndex> {
        let start = |role| self.span(role, role, Some(layer)).start;
        match product {
            Role::Q => start(Role::AttnNorm)..start(Role::O),
            Role::O => start(Role::O)..start(Role::FfnNorm),
            Role::Gate => start(Role::FfnNorm)..start(Role::Down),
            Role::Down => start(Role::Down)..start(Role::Down) + 1,
            other => unreachable!("no product of a layer starts with {other:?}"),
        }
    }

    /// The place of neighbouring parameters, with the gaps between them.
    pub fn around(&self, params: Range<ParamIndex>) -> Range<usize> {
        self.starts[params.start]..self.starts.get(params.end).copied().unwrap_or(self.len)
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

/// Where tensors start that lie one behind the other, and numbers in all. A tensor starts a block of moments, unless it
/// joins the one before; each comes with whether it does, and its numbers.
pub fn places(tensors: impl Iterator<Item = (bool, usize)>) -> (Vec<usize>, usize) {
    let (mut starts, mut end) = (Vec::new(), 0usize);
    for (joins, len) in tensors {
        if !joins {
            end = end.next_multiple_of(BLOCK);
        }
        starts.push(end);
        end += len;
    }
    (starts, end)
}

/// Its row in the table.
pub type ParamIndex = usize;

/// What an update moves.
pub struct Tensors<'a> {
    /// Gradients of the place.
    pub gradients: &'a [f32],
    /// Its weights.
    pub weights: WeightsMut<'a>,
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
    weights: Weights,
    /// First and second moments.
    pub moments: Moments,
    gradients: Buffer,
    /// Where the gradient of each parameter starts.
    gradient_starts: Vec<usize>,
    /// Which gradients count as zero whatever memory holds: clearing them costs nothing, and the
    /// first product of the next step overwrites instead of adding.
    clear: Vec<bool>,
    /// Sums of the squares of the gradients of neighbours, where the last product that wrote them took them.
    squares: Vec<(Range<ParamIndex>, f64)>,
    packed: Option<PackedWeights>,
    /// Which matrices lie in cells.
    cells: Cells,
    isa: Isa,
}

impl Storage {
    /// Zeros for a model.
    pub fn new(config: &ModelConfig, plan: &Plan) -> Result<Self, CpuError> {
        let layout = Layout::new(config);
        let len = layout.len();
        let packed = plan.precision == Precision::Bf16;
        let (gradient_starts, gradients) = match plan.update_in_backward {
            true => layout.one_layer(),
            false => (layout.starts.clone(), len),
        };
        Ok(Self {
            weights: Weights::new(plan.weights, &layout)?,
            gradients: Buffer::zeros("gradients", gradients)?,
            gradient_starts,
            moments: Moments::new(plan.moments, len)?,
            clear: vec![true; layout.table.len()],
            squares: Vec::new(),
            packed: packed.then(|| PackedWeights::new(plan.isa, &layout, plan.recompute)).transpose()?,
            cells: Cells::new(config, plan),
            isa: plan.isa,
            layout,
        })
    }

    /// The weights from role `first` to role `last`. Like [`Storage::matrix`] it refers to no other numbers, which an
    /// update [may be moving](crate::update).
    ///
    /// # Panics
    ///
    /// For matrices that are kept in bf16, or in cells.
    pub fn weight(&self, first: Role, last: Role, layer: Option<usize>) -> &[f32] {
        let start = self.layout.span(first, last, layer).start;
        assert!(self.order(start) == Order::Rows, "products read matrices in cells: `Storage::matrix`");
        self.weights.exact(start, self.layout.place(first, last, layer))
    }

    /// The embeddings of tokens, `[tokens, dim]`.
    pub fn embed(&self, pool: &Pool, tokens: &[TokenId], dim: usize, x: &mut [f32]) {
        let order = self.order_of(Role::Embed, None);
        self.weights.rows(pool, tokens, self.layout.place(Role::Embed, Role::Embed, None), order, dim, x);
    }

    /// Scratch numbers that each thread needs to pack and to move weights.
    pub fn scratch(&self) -> usize {
        self.packed.as_ref().map_or(0, |packed| packed.panel().iter().sum())
    }

    /// The matrix of `cols` columns from role `first` to role `last`, for products.
    /// [`Storage::pack`] comes before.
    pub fn matrix(&self, first: Role, last: Role, layer: Option<usize>, cols: usize) -> Weight<'_> {
        let place = self.layout.place(first, last, layer);
        let plain = match &self.weights {
            Weights::F32(weights) => {
                let order = self.order_of(first, layer);
                Mat::ordered(order, weights.part(place.clone()), place.len() / cols, cols)
            }
            // Always packed.
            Weights::Bf16 { .. } => Mat::new(&[], 0, 0),
        };
        let id = || self.layout.table.find(first, layer).expect("the model has this parameter");
        Weight { plain, packed: self.packed.as_ref().map(|packed| packed.get(id())) }
    }

    /// Makes the packed copies those of the weights, for a layer or for what is outside of all layers.
    pub fn pack(&mut self, pool: &Pool, layer: Option<usize>) {
        if let Some(packed) = &mut self.packed {
            packed.refresh(pool, &self.weights, layer);
        }
    }

    /// Says that the weights of a place changed.
    pub fn weights_changed(&mut self, place: Range<usize>) {
        if let Some(packed) = &mut self.packed {
            packed.weights_changed(place);
        }
    }

    /// The gradients from role `first` to role `last` as they lie, and how to add to them.
    pub fn gradient(&mut self, first: Role, last: Role, layer: Option<usize>) -> (&mut [f32], Into) {
        let span = self.layout.span(first, last, layer);
        self.forget_squares(&span);
        let start = self.gradient_starts[span.start];
        let place = start..start + self.layout.place(first, last, layer).len();
        if self.clear[span.clone()].iter().all(|&c| c) {
            self.clear[span].fill(false);
            return (&mut self.gradients[place], Into::Stream);
        }
        for index in span {
            self.zero(index);
        }
        (&mut self.gradients[place], Into::Add)
    }

    /// [`Storage::gradient`] of a matrix of `cols` columns, for products.
    pub fn gradient_matrix(
        &mut self,
        (first, last, layer): (Role, Role, Option<usize>),
        cols: usize,
    ) -> (MatMut<'_>, Into) {
        let order = self.order_of(first, layer);
        let (gradient, into) = self.gradient(first, last, layer);
        let rows = gradient.len() / cols;
        (MatMut::ordered(order, gradient, rows, cols), into)
    }

    /// The gradients from role `first` to role `last`, to add to.
    pub fn gradient_sum(&mut self, first: Role, last: Role, layer: Option<usize>) -> &mut [f32] {
        let (gradient, into) = self.gradient(first, last, layer);
        if into != Into::Add {
            gradient.fill(0.0);
        }
        gradient
    }

    /// Keeps the sum of the squares of the gradients from role `first` to role `last`, until they change.
    pub fn keep_squares(&mut self, (first, last, layer): (Role, Role, Option<usize>), squares: Option<f64>) {
        let span = self.layout.span(first, last, layer);
        self.forget_squares(&span);
        self.squares.extend(squares.map(|squares| (span, squares)));
    }

    /// The sum that is kept of these gradients.
    pub fn kept_squares(&self, (first, last, layer): (Role, Role, Option<usize>)) -> Option<f64> {
        let span = self.layout.span(first, last, layer);
        self.squares.iter().find(|(kept, _)| *kept == span).map(|&(_, squares)| squares)
    }

    /// Neighbours in order: each with the sum of squares that is kept, or those between with none.
    pub fn pieces(&self, params: Range<ParamIndex>) -> Vec<(Range<ParamIndex>, Option<f64>)> {
        let mut kept: Vec<_> =
            self.squares.iter().filter(|(k, _)| params.start <= k.start && k.end <= params.end).collect();
        kept.sort_by_key(|(span, _)| span.start);
        let (mut pieces, mut next) = (Vec::new(), params.start);
        for (span, squares) in kept {
            pieces.extend((next < span.start).then_some((next..span.start, None)));
            pieces.push((span.clone(), Some(*squares)));
            next = span.end;
        }
        pieces.extend((next < params.end).then_some((next..params.end, None)));
        pieces
    }

    fn forget_squares(&mut self, span: &Range<ParamIndex>) {
        self.squares.retain(|(kept, _)| kept.end <= span.start || span.end <= kept.start);
    }

    /// What an update of a place from parameter `first` on moves. [`Storage::settle`] comes before.
    pub fn tensors(&mut self, first: ParamIndex, place: Range<usize>) -> Tensors<'_> {
        let vector = self.is_vector(first);
        let start = self.gradient_starts[first];
        Tensors {
            gradients: self.gradients.part(start..start + place.len()),
            packed: self.packed.as_mut(),
            weights: self.weights.part(first, place, vector),
            moments: &mut self.moments,
        }
    }

    /// [`Storage::order`] of a role.
    pub fn order_of(&self, role: Role, layer: Option<usize>) -> Order {
        self.order(self.layout.span(role, role, layer).start)
    }

    /// The columns of a matrix that lies in cells.
    fn columns_in_cells(&self, id: ParamId) -> Option<usize> {
        match self.layout.table.get(id).shape[..] {
            [_, cols] if self.order(id.index()) == Order::Cells => Some(cols),
            _ => None,
        }
    }

    /// How this parameter, its gradient and its moments lie.
    pub fn order(&self, index: ParamIndex) -> Order {
        self.layout.table.iter().nth(index).map_or(Order::Rows, |p| self.cells.order(p))
    }

    /// Whether this parameter is a gain or a bias.
    fn is_vector(&self, index: ParamIndex) -> bool {
        self.layout.table.iter().nth(index).is_some_and(|p| p.shape.len() == 1)
    }

    /// Whether an update may move a parameter in one go with what starts with another and ends at this place before it:
    /// they lie together, and with them their blocks of moments.
    pub fn joins(&self, (first, end): (ParamIndex, usize), other: ParamIndex) -> bool {
        match [first, other].map(|index| self.is_vector(index)) {
            _ if !self.weights.narrow() => true,
            [true, true] => self.layout.starts[other] == end,
            vectors => vectors == [false, false],
        }
    }

    /// How many weights from `start` on an update can pack as one matrix.
    pub fn packed_from(&self, start: usize) -> Option<usize> {
        self.packed.as_ref()?.len_at(start)
    }

    /// Writes the zeros of gradients that count as zero, and gives the gradients of neighbouring
    /// parameters.
    pub fn settle(&mut self, params: Range<ParamIndex>) -> &[f32] {
        params.clone().for_each(|index| self.zero(index));
        let start = self.gradient_starts[params.start];
        &self.gradients[start..start + self.layout.around(params).len()]
    }

    /// Clears the gradients of these parameters.
    pub fn clear_gradients(&mut self, params: Range<ParamIndex>) {
        self.forget_squares(&params);
        self.clear[params].fill(true);
    }

    fn zero(&mut self, index: ParamIndex) {
        if std::mem::take(&mut self.clear[index]) {
            let (start, len) = (self.gradient_starts[index], self.layout.around(index..index + 1).len());
            self.gradients[start..start + len].fill(0.0);
        }
    }

    fn gradient_place(&self, id: ParamId) -> Range<usize> {
        let start = self.gradient_starts[id.index()];
        start..start + self.layout.table.get(id).len()
    }

    /// One tensor, row by row.
    pub fn read(&mut self, id: ParamId, slot: Slot) -> Cow<'_, [f32]> {
        let place = self.layout.range(id);
        let cells = self.columns_in_cells(id);
        let kept = match slot {
            Slot::Weight => self.weights.read(id.index(), place, self.is_vector(id.index())),
            Slot::Gradient => {
                self.zero(id.index());
                self.gradients[self.gradient_place(id)].into()
            }
            Slot::Moment1 | Slot::Moment2 => self.moments.read(place, slot),
        };
        match cells {
            Some(cols) => Order::Cells.to_rows(&kept, cols).into(),
            None => kept,
        }
    }

    /// Replaces one tensor by rows.
    pub fn write(&mut self, id: ParamId, slot: Slot, values: &[f32]) -> backend::Result<()> {
        let place = self.layout.range(id);
        check_len(&self.layout.table, id, values)?;
        let values: Cow<'_, [f32]> = match self.columns_in_cells(id) {
            Some(cols) => Order::Cells.arrange(values, cols).into(),
            None => values.into(),
        };
        match slot {
            Slot::Weight => {
                self.weights_changed(self.layout.around(0..self.clear.len()));
                let vector = self.is_vector(id.index());
                self.weights.write(id.index(), place, vector, &values);
            }
            Slot::Gradient => {
                self.clear[id.index()] = false;
                self.forget_squares(&(id.index()..id.index() + 1));
                let place = self.gradient_place(id);
                self.gradients[place].copy_from_slice(&values);
            }
            Slot::Moment1 | Slot::Moment2 => {
                self.moments.write(self.isa, place, slot, &values, Chance::new(0));
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
