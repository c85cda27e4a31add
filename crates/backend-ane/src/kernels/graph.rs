//! What the programs share: inputs by part, linear layers, heads, rotation, probabilities, constants.

use half::f16;
use mil::blob::BlobWriter;
use mil::{Builder, DType, Flip, Program, ValueId, Weights};

use crate::dims::Dims;
use crate::packing::{Packing, Part};
use crate::plan::{Choices, Linear};

/// Where the programs' constants are.
pub(crate) const WEIGHTS: &str = "@model_path/weights/weight.bin";

/// What masks a later key. Far below every score, and its sum with one stays above −32768, where the
/// ANE would make it infinite.
pub(crate) const MASKED: f32 = -16384.0;

/// A program under construction.
pub(crate) struct Graph<'a> {
    /// Its operations.
    pub b: Builder,
    d: &'a Dims,
    c: &'a Choices,
    packing: Packing,
    inputs: Vec<ValueId>,
    blob: BlobWriter,
    constants: usize,
}

impl<'a> Graph<'a> {
    /// A program with the inputs of `packing`.
    pub fn new(d: &'a Dims, c: &'a Choices, packing: Packing) -> Self {
        let mut b = Builder::new("main");
        let inputs = packing
            .inputs
            .iter()
            .map(|p| b.input(&p.name, DType::Fp16, [1, p.channels, 1, p.width]))
            .collect();
        Self { b, d, c, packing, inputs, blob: BlobWriter::new(), constants: 0 }
    }

    /// An input matrix, `[1, channels, 1, columns]`.
    pub fn part(&mut self, part: Part) -> ValueId {
        let place = self.packing.input(part);
        let (port, columns) = (&self.packing.inputs[place.port], place.region.columns);
        let input = self.inputs[place.port];
        if columns == (0..port.width) {
            return input;
        }
        let (begin, size) = ([0, 0, 0, columns.start], [1, port.channels, 1, columns.len()]);
        self.b.named(part.name()).slice(input, &begin, &size)
    }

    /// `y[o, s] = Σ_i w[i, o] · x[i, s]` for `w` `[1, I, 1, O]` and `x` `[1, I, 1, S]`.
    pub fn linear(&mut self, name: &str, w: ValueId, x: ValueId) -> ValueId {
        let (inputs, outputs, s) = (self.channels(w), self.columns(w), self.columns(x));
        match self.c.linear {
            Linear::Matmul => {
                let w = self.b.reshape(w, &[1, 1, inputs, outputs]);
                let x = self.b.reshape(x, &[1, 1, inputs, s]);
                let y = self.b.matmul_flip(w, x, Flip::X);
                self.b.named(name).reshape(y, &[1, outputs, 1, s])
            }
            Linear::Conv => {
                let w = self.b.transpose(w, &[3, 1, 0, 2]);
                self.b.named(name).conv1x1(x, w)
            }
        }
    }

    /// `y[o, s] = Σ_i w[o, i] · x[i, s]` for `w` `[1, O, 1, I]` and `x` `[1, I, 1, S]`.
    pub fn linear_rows(&mut self, name: &str, w: ValueId, x: ValueId) -> ValueId {
        let (outputs, inputs, s) = (self.channels(w), self.columns(w), self.columns(x));
        match self.c.linear {
            Linear::Matmul => {
                let w = self.b.reshape(w, &[1, 1, outputs, inputs]);
                let x = self.b.reshape(x, &[1, 1, inputs, s]);
                let y = self.b.matmul(w, x);
                self.b.named(name).reshape(y, &[1, outputs, 1, s])
            }
            Linear::Conv => {
                let w = self.b.reshape(w, &[outputs, inputs, 1, 1]);
                self.b.named(name).conv1x1(x, w)
            }
        }
    }

    /// Takes the power of two of the weights out of a result.
    pub fn unscale_weight(&mut self, name: &str, y: ValueId) -> ValueId {
        self.times(name, y, power(-self.c.scaling.weight))
    }

    /// `factor · x`; nothing when the factor is 1.
    pub fn times(&mut self, name: &str, x: ValueId, factor: f32) -> ValueId {
        if factor == 1.0 {
            return x;
        }
        let factor = self.b.fp16(factor);
        self.b.named(name).mul(x, factor)
    }

    /// `2^attention · x`.
    pub fn raise(&mut self, name: &str, x: ValueId) -> ValueId {
        self.times(name, x, power(self.c.scaling.attention))
    }

    /// `2^−attention`.
    pub fn lowered(&self) -> f32 {
        power(-self.c.scaling.attention)
    }

    /// `1 / √d`.
    pub fn score_scale(&self) -> f32 {
        (1.0 / (self.d.head_dim as f64).sqrt()) as f32
    }

    /// `[1, h·d, 1, S]` as `[1, h, d, S]`.
    pub fn heads(&mut self, x: ValueId) -> ValueId {
        let (heads, d, s) = (self.channels(x) / self.d.head_dim, self.d.head_dim, self.d.s());
        self.b.reshape(x, &[1, heads, d, s])
    }

    /// Query heads `[1, h, d, S]` by key head, `[1, k, d, r·S]`: the queries of a group follow each
    /// other on the width axis, so one product serves them all and gradients of keys and values add
    /// up over the group inside it.
    pub fn grouped(&mut self, x: ValueId) -> ValueId {
        let (k, r, d, s) = self.group_extents();
        if r == 1 {
            return x;
        }
        let x = self.b.reshape(x, &[k, r, d, s]);
        let x = self.b.transpose(x, &[0, 2, 1, 3]);
        self.b.reshape(x, &[1, k, d, r * s])
    }

    /// The way back of [`Self::grouped`], to `[1, h·d, 1, S]`.
    pub fn ungrouped(&mut self, name: &str, x: ValueId) -> ValueId {
        let (k, r, d, s) = self.group_extents();
        if r == 1 {
            return self.flat(name, x);
        }
        let x = self.b.reshape(x, &[k, d, r, s]);
        let x = self.b.transpose(x, &[0, 2, 1, 3]);
        self.flat(name, x)
    }

    /// All axes but the last as channels.
    pub fn flat(&mut self, name: &str, x: ValueId) -> ValueId {
        let shape = &self.b.ty(x).shape;
        let (columns, all) = (shape[3], shape.elements());
        self.b.named(name).reshape(x, &[1, all / columns, 1, columns])
    }

    /// `[1, h·S, 1, S]`, or `[1, h, S, S]`, as one matrix per key head, `[1, k, r·S, S]`.
    pub fn grouped_rows(&mut self, p: ValueId) -> ValueId {
        let (k, r, _, s) = self.group_extents();
        self.b.reshape(p, &[1, k, r * s, s])
    }

    /// `[1, h·S, 1, S]` as `[1, h, S, S]`.
    pub fn head_rows(&mut self, p: ValueId) -> ValueId {
        let (k, r, _, s) = self.group_extents();
        self.b.reshape(p, &[1, k * r, s, s])
    }

    fn group_extents(&self) -> (usize, usize, usize, usize) {
        (self.d.kv_heads, self.d.group(), self.d.head_dim, self.d.s())
    }

    /// `softmax(qᵀk/√d + mask)`, `[1, h, S, S]`, of grouped queries and keys `[1, k, d, S]`.
    ///
    /// The queries are scaled before the product, which keeps scores of large heads finite.
    pub fn probabilities(&mut self, q: ValueId, k: ValueId) -> ValueId {
        let q = self.times("q_scaled", q, self.score_scale());
        let scores = self.b.named("scores").matmul_flip(q, k, Flip::X);
        let scores = self.head_rows(scores);
        let mask = self.mask();
        let masked = self.b.named("masked").add(scores, mask);
        self.b.named("probs").softmax(masked, -1)
    }

    fn mask(&mut self) -> ValueId {
        let s = self.d.s();
        let mask = |i: usize| if i % s > i / s { MASKED } else { 0.0 };
        self.constant("mask", &[1, 1, s, s], (0..s * s).map(mask))
    }

    /// Rotary positions on `[1, h, d, S]`, in the half-split layout: `x ⊙ cos + (R·x) ⊙ sin` with the
    /// constant `R` that puts `−x[i + d/2]` at `i` and `x[i]` at `i + d/2`. A product, because some
    /// chips refuse to concatenate.
    pub fn rotate(&mut self, name: &str, x: ValueId, table: &Rotation) -> ValueId {
        let turned = self.b.matmul(table.swap, x);
        let sin = self.b.mul(turned, table.sin);
        let cos = self.b.mul(x, table.cos);
        self.b.named(name).add(cos, sin)
    }

    /// The constants of [`Self::rotate`].
    pub fn rotation(&mut self) -> Rotation {
        let (d, s) = (self.d.head_dim, self.d.s());
        let half = d / 2;
        let frequencies = self.d.rope.frequencies(d);
        let angle = move |i: usize| (i % s) as f64 * frequencies[i / s % half];
        let shape = [1, 1, d, s];
        let cos = self.constant("cos", &shape, (0..d * s).map(|i| angle(i).cos() as f32));
        let sin = self.constant("sin", &shape, (0..d * s).map(|i| angle(i).sin() as f32));
        let swap = |i: usize| match (i / d, i % d) {
            (row, column) if column == row + half => -1.0,
            (row, column) if row == column + half => 1.0,
            _ => 0.0,
        };
        let swap = self.constant("half_swap", &[1, 1, d, d], (0..d * d).map(swap));
        Rotation { cos, sin, swap }
    }

    fn constant(&mut self, name: &str, shape: &[usize], values: impl Iterator<Item = f32>) -> ValueId {
        let values: Vec<f16> = values.map(f16::from_f32).collect();
        let offset = self.blob.write_fp16(&values);
        self.constants += 1;
        self.b.weight(name, DType::Fp16, shape.to_vec(), WEIGHTS, offset)
    }

    fn channels(&self, x: ValueId) -> usize {
        self.b.ty(x).shape[1]
    }

    fn columns(&self, x: ValueId) -> usize {
        self.b.ty(x).shape[3]
    }

    /// The program that returns `outputs`, which are those of the packing.
    pub fn finish(mut self, outputs: &[(Part, ValueId)]) -> Program {
        assert_eq!(outputs.len(), self.packing.outputs.len(), "a kernel returns what its packing says");
        for (port, &(part, value)) in self.packing.outputs.iter().zip(outputs) {
            assert_eq!(port.blocks[0].part, part, "a kernel returns its outputs in the packing's order");
            self.b.output(&port.name, value);
        }
        let function = self.b.finish().unwrap_or_else(|errors| panic!("a kernel is ill typed: {errors:?}"));
        let program = Program::new(vec![function]);
        if self.constants == 0 {
            return program;
        }
        let mut weights = Weights::new();
        weights.insert(WEIGHTS, self.blob.finish());
        program.with_weights(weights)
    }
}

/// Constants of the rotation.
pub(crate) struct Rotation {
    cos: ValueId,
    sin: ValueId,
    swap: ValueId,
}

/// `2^exponent`.
pub(crate) fn power(exponent: i32) -> f32 {
    (f64::from(exponent)).exp2() as f32
}
