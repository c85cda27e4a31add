//! The evaluator: what a program computes, in fp16 as the ANE does.
//!
//! Values live as fp16 at the boundaries of operations, as on the device. A verified program is
//! compiled once to a [`Plan`]; slices, transposes and reshapes become views, and a run reuses
//! the buffers of the first.
//!
//! | | [`Arithmetic::Fast`] | [`Arithmetic::Exact`] |
//! |---|---|---|
//! | matmul, conv, linear | f32 sums of exact products, fp16 half to even | the grid of [`exact`](self), fp16 half away from zero |
//! | their limit | ±32768 → ±∞ | the same |
//! | sums and means | f32 | exact, half away from zero |
//! | everything else | f32, then fp16 half to even | the same |
//!
//! Verified against published hardware figures: the grid, for one constant operand. Unverified, with
//! the choice named: two computed operands (same grid), elementwise ties (half to even), elementary
//! functions (computed, not tabulated), subnormal operands (kept), bias of a convolution (added after
//! rounding in exact arithmetic, before it in fast), NaN (propagated).

mod compile;
mod convert;
mod exact;
mod gemm;
mod host;
pub(crate) mod map;
pub(crate) mod math;
mod plan;
mod round;
pub(crate) mod stats;
pub(crate) mod vector;
mod view;

use pulp::Arch;

pub use gemm::{Mat, SimdGemm};
pub use host::Host;
pub use plan::{Plan, PlanError, Port, Rows, RunError, Settings, SliceMut, Table};
pub use round::MAC_LIMIT;
pub use stats::Stats;
pub use view::{Layout, Slice, View};

pub(crate) use exact::round_sum;
pub(crate) use host::{TASK, chunks, parts, with_lines};
pub(crate) use round::{Buf, store, store_exact, store_mac};
pub(crate) use view::{MAX_RANK, coalesce};

/// How products are summed and rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// fp16 storage, f32 accumulation, through the fast product.
    #[default]
    Fast,
    /// The ANE's fixed-point grid.
    Exact,
}

/// What an operation becomes in a plan.
pub enum Lower {
    /// A constant: filled when the plan is made.
    Constant,
    /// Other views of operand 0, one per result; `None` asks for a dense copy first.
    View(ViewFn),
    /// Code that fills the one result.
    Compute(Box<dyn Kernel>),
    /// Nothing: the op table has the operation for its types only.
    Missing,
}

/// Views of the results in terms of the operand's.
pub type ViewFn = Box<dyn Fn(&Layout) -> Option<Vec<Layout>> + Send + Sync>;

impl Lower {
    pub(crate) fn kernel(kernel: impl Kernel + 'static) -> Self {
        Lower::Compute(Box::new(kernel))
    }

    pub(crate) fn view(f: impl Fn(&Layout) -> Option<Vec<Layout>> + Send + Sync + 'static) -> Self {
        Lower::View(Box::new(f))
    }
}

/// Code of one operation, with its constants inside.
pub trait Kernel: Send + Sync {
    /// Fills the result from the operands.
    fn run(&self, io: &mut Io<'_>);
}

/// What a kernel sees while it runs.
pub struct Io<'a> {
    pub(crate) operands: &'a [plan::Operand],
    pub(crate) inputs: &'a [Slice<'a>],
    pub(crate) slots: &'a [Buf],
    pub(crate) outputs: &'a [SliceMut<'a>],
    /// Dense result buffer.
    pub(crate) out: SliceMut<'a>,
    /// Extents of the result.
    pub dims: &'a [usize],
    pub(crate) env: &'a mut Env,
}

impl<'a> Io<'a> {
    /// Operand `i`.
    pub fn view(&self, i: usize) -> View<'a> {
        let operand = &self.operands[i];
        let data = match operand.source {
            plan::Source::Input(i) => self.inputs[i],
            plan::Source::Slot(i) => self.slots[i].as_slice(),
            plan::Source::Output(i) => self.outputs[i].as_slice(),
        };
        View { data, layout: operand.layout }
    }

    /// The same operands and environment, with another result.
    pub(crate) fn with_out<'b>(&'b mut self, out: SliceMut<'b>, dims: &'b [usize]) -> Io<'b> {
        let Self { operands, inputs, slots, outputs, .. } = *self;
        Io { operands, inputs, slots, outputs, out, dims, env: self.env }
    }

    /// Number of operands.
    pub fn operands(&self) -> usize {
        self.operands.len()
    }
}

/// What all kernels of a plan share.
pub(crate) struct Env {
    pub arch: Arch,
    pub arithmetic: Arithmetic,
    pub count_flushed: bool,
    pub host: Box<dyn Host>,
    pub scratch: [Vec<f32>; 4],
    pub exact: exact::Scratch,
    pub rounded: Vec<half::f16>,
    pub exponents: stats::Exponents,
    pub stats: Stats,
}

impl Env {
    /// Products are counted, then summed by the plan's arithmetic, rounded and stored from `at` on.
    pub(crate) fn matmul(
        &mut self,
        a: Mat<'_>,
        b: Mat<'_>,
        bias: Bias<'_>,
        out: &mut SliceMut<'_>,
        at: usize,
    ) {
        let (m, n) = (a.rows, b.cols);
        self.stats.products += (m * n * a.cols) as u64;
        if self.count_flushed {
            self.stats.flushed += self.exponents.flushed(a, b);
        }
        match self.arithmetic {
            Arithmetic::Fast => {
                let (host, arch) = (&*self.host, self.arch);
                let mut out = out.part(at, m * n);
                self.stats += parts(host, &mut out, task_rows(m, n, a.cols) * n, |first, out, stats| {
                    let (first, rows) = (first / n, out.len() / n);
                    with_lines([rows * n, 0, 0], |[sums, ..]| {
                        host.matmul(a.rows_from(first, rows), b, sums);
                        bias.add(first, sums, n);
                        store_mac(arch, out, 0, sums, stats);
                    });
                });
            }
            Arithmetic::Exact => {
                let mut sums = std::mem::take(&mut self.scratch[3]);
                sums.resize(sums.len().max(m * n), 0.0);
                let mut rounded = std::mem::take(&mut self.rounded);
                rounded.resize(m * n, half::f16::ZERO);
                exact::matmul(self.arch, a, b, &mut rounded, &mut self.exact);
                let line = &mut sums[..m * n];
                convert::widen(&rounded, line);
                self.rounded = rounded;
                bias.add(0, line, n);
                store(self.arch, out, at, line, &mut self.stats);
                self.scratch[3] = sums;
            }
        }
    }
}

/// Rows of a product that are one task: about 128, so that packing the other operand again costs
/// little; all of them when the product is small.
fn task_rows(m: usize, n: usize, k: usize) -> usize {
    const SMALL: usize = 1 << 18;
    if m * n * k <= SMALL { m.max(1) } else { m.div_ceil(m.div_ceil(128)).next_multiple_of(8) }
}

/// What is added to the sums of a matrix product.
#[derive(Clone, Copy)]
pub(crate) enum Bias<'a> {
    None,
    PerRow(&'a [f32]),
    PerColumn(&'a [f32]),
}

impl Bias<'_> {
    /// Adds to the rows from `first` on.
    fn add(self, first: usize, sums: &mut [f32], columns: usize) {
        for (i, line) in sums.chunks_exact_mut(columns.max(1)).enumerate() {
            match self {
                Bias::None => return,
                Bias::PerRow(bias) => line.iter_mut().for_each(|y| *y += bias[first + i]),
                Bias::PerColumn(bias) => line.iter_mut().zip(bias).for_each(|(y, b)| *y += b),
            }
        }
    }
}
