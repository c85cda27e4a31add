//! Convolution and pooling over `[N, C, W]` or `[N, C, H, W]`.
//!
//! ```text
//! y[n, o, p] = bias[o] + Σ_{c, k} weight[o, c, k] · x[n, g(o)·C/groups + c, p·stride + k·dilation − pad]
//! ```
//!
//! A 1×1 convolution is a matrix product on the activations as they lie; others gather patches first.
//! `pad` counts only under `pad_type = "custom"`.

use super::elementwise::same_as_x;
use super::linear::check_bias;
use super::{Call, Fault, Kind, OpDef, Param, Support, Work, may, need};
use crate::eval::{Bias, Io, Kernel, Lower, Mat, store};
use crate::types::{Shape, TensorType};

const POOL: &[Param] = &[
    need("kernel_sizes", Kind::Ints),
    may("strides", Kind::Ints),
    need("pad_type", Kind::Str),
    may("pad", Kind::Ints),
    may("ceil_mode", Kind::Bool),
    need("x", Kind::Tensor),
];
const AVG_POOL: &[Param] = &[
    need("kernel_sizes", Kind::Ints),
    may("strides", Kind::Ints),
    need("pad_type", Kind::Str),
    may("pad", Kind::Ints),
    may("ceil_mode", Kind::Bool),
    may("exclude_padding_from_average", Kind::Bool),
    need("x", Kind::Tensor),
];
const CONTESTED_POOL: Support = Support::Contested("refused by one project, native by another");

/// The family's rows of the op table.
pub const OPS: &[OpDef] = &[
    OpDef {
        name: "conv",
        params: &[
            may("dilations", Kind::Ints),
            may("groups", Kind::Int),
            may("pad", Kind::Ints),
            may("pad_type", Kind::Str),
            may("strides", Kind::Ints),
            need("weight", Kind::Tensor),
            need("x", Kind::Tensor),
            may("bias", Kind::Tensor),
        ],
        infer: |call| {
            let window = conv_window(call)?;
            Ok(vec![TensorType { dtype: call.ty("x")?.dtype, shape: window.result() }])
        },
        lower: |call| conv_window(call).map_or(Lower::Missing, |w| Lower::kernel(Conv(w))),
        work: Work::Count(|call| {
            let Some(w) = call.opt_ty("weight") else { return 0 };
            let per_result: usize = w.shape.get(1..).map_or(0, |d| d.iter().product());
            2 * (per_result as u64).saturating_mul(call.result(0).shape.elements() as u64)
        }),
        support: Support::Checked,
    },
    OpDef {
        name: "max_pool",
        params: POOL,
        infer: infer_pool,
        lower: |call| {
            pool_window(call).map_or(Lower::Missing, |window| Lower::kernel(Pool { window, how: How::Max }))
        },
        work: Work::PerInput(1),
        support: CONTESTED_POOL,
    },
    OpDef {
        name: "avg_pool",
        params: AVG_POOL,
        infer: infer_pool,
        lower: |call| {
            let exclude = call.bool("exclude_padding_from_average").unwrap_or(false);
            pool_window(call).map_or(Lower::Missing, |window| {
                Lower::kernel(Pool { window, how: if exclude { How::MeanOfReal } else { How::Mean } })
            })
        },
        work: Work::PerInput(1),
        support: CONTESTED_POOL,
    },
];

/// One spatial axis.
#[derive(Clone, Copy, Debug)]
struct Axis {
    input: usize,
    output: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    before: usize,
}

/// Geometry of a convolution or pooling, padded to two spatial axes.
#[derive(Clone, Debug)]
struct Window {
    batch: usize,
    channels: usize,
    outputs: usize,
    groups: usize,
    axes: [Axis; 2],
    spatial: usize,
}

impl Window {
    fn result(&self) -> Shape {
        let mut dims = vec![self.batch, self.outputs];
        dims.extend(self.axes[2 - self.spatial..].iter().map(|a| a.output));
        Shape::new(dims)
    }

    fn positions(&self) -> usize {
        self.axes[0].output * self.axes[1].output
    }

    fn taps(&self) -> usize {
        self.axes[0].kernel * self.axes[1].kernel
    }

    /// Input position under tap `k` at output `p`; `None` in the padding.
    fn input(&self, p: usize, k: usize) -> Option<usize> {
        let [h, w] = &self.axes;
        let y = (p / w.output * h.stride + k / w.kernel * h.dilation).checked_sub(h.before)?;
        let x = (p % w.output * w.stride + k % w.kernel * w.dilation).checked_sub(w.before)?;
        (y < h.input && x < w.input).then_some(y * w.input + x)
    }
}

fn conv_window(call: &Call<'_>) -> Result<Window, Fault> {
    let x = &same_as_x(call)?[0];
    let w = call.ty("weight")?;
    let groups = usize::try_from(call.int("groups").unwrap_or(1)).unwrap_or(0);
    let fits = matches!(x.shape.rank(), 3 | 4)
        && w.shape.rank() == x.shape.rank()
        && w.dtype == x.dtype
        && groups > 0
        && w.shape[1].checked_mul(groups) == Some(x.shape[1])
        && w.shape[0].is_multiple_of(groups);
    if !fits {
        return Err(Fault::ty(
            format!("`{x}` has no convolution with the weight `{w}` in {groups} groups"),
            "give x [N, C, (H,) W] and weight [O, C/groups, (kh,) kw] in one type",
        ));
    }
    check_bias(call, w.shape[0])?;
    window(call, &x.shape, &w.shape[2..], w.shape[0], groups)
}

fn infer_pool(call: &Call<'_>) -> Result<Vec<TensorType>, Fault> {
    let window = pool_window(call)?;
    Ok(vec![TensorType { dtype: call.ty("x")?.dtype, shape: window.result() }])
}

fn pool_window(call: &Call<'_>) -> Result<Window, Fault> {
    let x = &same_as_x(call)?[0];
    if !matches!(x.shape.rank(), 3 | 4) {
        return Err(Fault::ty(format!("`x` is {}, not [N, C, (H,) W]", x.shape), "reshape it"));
    }
    if call.bool("ceil_mode") == Some(true) {
        return Err(Fault::operand("`ceil_mode` is not supported", "pad the input instead"));
    }
    let kernel: Vec<usize> =
        call.need_ints("kernel_sizes")?.iter().map(|&k| usize::try_from(k).unwrap_or(0)).collect();
    window(call, &x.shape, &kernel, x.shape[1], 1)
}

fn window(
    call: &Call<'_>,
    x: &Shape,
    kernel: &[usize],
    outputs: usize,
    groups: usize,
) -> Result<Window, Fault> {
    let spatial = x.rank() - 2;
    let list = |name: &'static str, len: usize, default: i64| -> Result<Vec<usize>, Fault> {
        let values = call.ints(name).map_or_else(|| vec![default; len], <[i64]>::to_vec);
        let values: Option<Vec<usize>> = values.iter().map(|&v| usize::try_from(v).ok()).collect();
        values.filter(|v| v.len() == len && v.iter().all(|&v| v < 1 << 31)).ok_or_else(|| {
            Fault::operand(
                format!("`{name}` does not hold {len} whole numbers"),
                "give one per spatial axis and side",
            )
        })
    };
    let strides = list("strides", spatial, 1)?;
    let dilations = list("dilations", spatial, 1)?;
    let pad = list("pad", 2 * spatial, 0)?;
    if kernel.len() != spatial || strides.iter().chain(&dilations).chain(kernel).any(|&v| v == 0) {
        return Err(Fault::operand(
            format!("the kernel {kernel:?} does not suit {spatial} spatial axes, or an extent is 0"),
            "give positive numbers, one per spatial axis",
        ));
    }
    let mode = call.string("pad_type").unwrap_or("valid");
    let unit = Axis { input: 1, output: 1, kernel: 1, stride: 1, dilation: 1, before: 0 };
    let mut axes = [unit; 2];
    for i in 0..spatial {
        let (input, kernel, stride, dilation) = (x[2 + i], kernel[i], strides[i], dilations[i]);
        let reach = dilation.saturating_mul(kernel - 1).saturating_add(1);
        let (before, after) = match mode {
            "valid" => (0, 0),
            "custom" => (pad[2 * i], pad[2 * i + 1]),
            "same" | "same_lower" => {
                let total = (input.div_ceil(stride).saturating_sub(1) * stride + reach).saturating_sub(input);
                let half = total / 2;
                if mode == "same" { (half, total - half) } else { (total - half, half) }
            }
            other => {
                return Err(Fault::operand(
                    format!("`pad_type` {other:?} does not exist"),
                    "write valid, same, same_lower or custom",
                ));
            }
        };
        let padded = input + before + after;
        let output = padded.checked_sub(reach).map(|room| room / stride + 1).ok_or_else(|| {
            Fault::ty(
                format!("a kernel that reaches over {reach} does not fit {padded}"),
                "pad the input or shrink the kernel",
            )
        })?;
        axes[2 - spatial + i] = Axis { input, output, kernel, stride, dilation, before };
    }
    Ok(Window { batch: x[0], channels: x[1], outputs, groups, axes, spatial })
}

struct Conv(Window);

impl Kernel for Conv {
    fn run(&self, io: &mut Io<'_>) {
        let w = &self.0;
        let (weight, x) = (io.view(0), io.view(1));
        let (taps, positions) = (w.taps(), w.positions());
        let (inputs, outputs) = (w.channels / w.groups, w.outputs / w.groups);
        let plane = w.axes[0].input * w.axes[1].input;
        let direct = taps == 1 && positions == plane && w.axes.iter().all(|a| a.stride == 1 && a.before == 0);

        let mut weights = std::mem::take(&mut io.env.scratch[0]);
        let mut image = std::mem::take(&mut io.env.scratch[1]);
        let mut patches = std::mem::take(&mut io.env.scratch[2]);
        let count = weight.layout.len();
        weights.resize(weights.len().max(count + w.outputs), 0.0);
        image.resize(image.len().max(x.layout.len()), 0.0);
        let (weights_only, bias) = weights.split_at_mut(count);
        weight.load(weights_only);
        x.load(&mut image[..x.layout.len()]);
        let has_bias = io.operands() > 2;
        if has_bias {
            io.view(2).load(&mut bias[..w.outputs]);
        }
        if !direct {
            patches.resize(patches.len().max(inputs * taps * positions), 0.0);
        }
        for n in 0..w.batch {
            for g in 0..w.groups {
                let group = &image[(n * w.channels + g * inputs) * plane..][..inputs * plane];
                let matrix = if direct {
                    group
                } else {
                    let patches = &mut patches[..inputs * taps * positions];
                    for (row, line) in patches.chunks_exact_mut(positions.max(1)).enumerate() {
                        let channel = &group[row / taps * plane..][..plane];
                        for (p, y) in line.iter_mut().enumerate() {
                            *y = w.input(p, row % taps).map_or(0.0, |i| channel[i]);
                        }
                    }
                    patches
                };
                let rows = &weights_only[g * outputs * inputs * taps..][..outputs * inputs * taps];
                let bias = if has_bias { Bias::PerRow(&bias[g * outputs..][..outputs]) } else { Bias::None };
                let at = (n * w.outputs + g * outputs) * positions;
                let (a, b) =
                    (Mat::rows(rows, outputs, inputs * taps), Mat::rows(matrix, inputs * taps, positions));
                io.env.matmul(a, b, bias, &mut io.out, at);
            }
        }
        io.env.scratch[0] = weights;
        io.env.scratch[1] = image;
        io.env.scratch[2] = patches;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Max,
    Mean,
    MeanOfReal,
}

struct Pool {
    window: Window,
    how: How,
}

impl Kernel for Pool {
    fn run(&self, io: &mut Io<'_>) {
        let (w, x) = (&self.window, io.view(0));
        let plane = w.axes[0].input * w.axes[1].input;
        let (taps, positions) = (w.taps(), w.positions());
        let mut image = vec![0f32; x.layout.len()];
        x.load(&mut image);
        let mut line = vec![0f32; positions];
        for (c, channel) in image.chunks_exact(plane.max(1)).enumerate() {
            for (p, y) in line.iter_mut().enumerate() {
                let real = (0..taps).filter_map(|k| w.input(p, k)).map(|i| channel[i]);
                *y = match self.how {
                    How::Max => real.fold(f32::NEG_INFINITY, f32::max),
                    How::Mean => real.sum::<f32>() / taps as f32,
                    How::MeanOfReal => real.clone().sum::<f32>() / real.count().max(1) as f32,
                };
            }
            store(io.env.arch, &mut io.out, c * positions, &mut line, &mut io.env.stats);
        }
    }
}
