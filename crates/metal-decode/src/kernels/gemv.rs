//! A matrix times one to eight vectors.
//!
//! ```text
//! y[t, m] = Σ_k w[m, k] · x[t, k]                                        (see Epilogue)
//! y[t, m] = r[t] · Σ_k w[m, k] · x[t, k] · gain[k],  r = (mean_k x² + ε)^-½      with a norm
//! ```
//!
//! A subgroup computes [`Tiling::rows`] rows; its lanes walk the blocks of `k`. Every lane reads all of its
//! share of `x` anyway, so the sum of squares rides along and the norm costs neither a pass nor a dispatch.
//! With [`Tiling::split`] subgroups share the rows and cut `k` among them. Sums are f32.

use model::quant::Format;
use serde::{Deserialize, Serialize};

use super::{Epilogue, each};
use crate::layout;

/// How the work is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tiling {
    /// Rows of one subgroup.
    pub rows: u32,
    /// Threads of a workgroup.
    pub threads: u32,
    /// Subgroups that share rows.
    pub split: u32,
}

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Gemv {
    /// Of the matrix.
    pub format: Format,
    /// How the work is cut.
    pub tiling: Tiling,
    /// Vectors.
    pub columns: u32,
    /// Whether `x` is normalised on the way.
    pub norm: bool,
    /// What becomes of the results.
    pub epilogue: Epilogue,
}

/// Most workgroups along the first axis of a grid.
pub const GRID: u32 = 32768;

impl Tiling {
    /// Whether a device with these subgroups can run it, and the epilogue finds its pairs.
    pub fn fits(&self, lanes: u32, max_threads: u32, epilogue: Epilogue) -> bool {
        let subgroups = self.threads / lanes;
        self.threads <= max_threads
            && subgroups >= self.split
            && subgroups.is_multiple_of(self.split)
            && (epilogue != Epilogue::Swiglu || self.rows.is_multiple_of(2))
    }

    /// The grid for `m` rows.
    pub fn grid(&self, m: usize, lanes: u32) -> [u32; 3] {
        let rows = self.rows * (self.threads / lanes / self.split);
        let groups = (m as u32).div_ceil(rows);
        [groups.min(GRID), groups.div_ceil(GRID), 1]
    }
}

impl Gemv {
    /// The text. Overrides: `NB` blocks of a row, `M` rows, `ROW0` the first row's number, `XS` vec4s of a
    /// row of `x`, `YS` numbers of a row of `y`, `KF` the number of `k`, `EPS`; `SCALE` of residuals.
    pub fn text(&self, lanes: u32) -> String {
        let Tiling { rows, threads, split } = self.tiling;
        let (rows, columns, v) = (rows as usize, self.columns as usize, layout::words(self.format));
        let scaled = layout::scaled(self.format);
        let mut s = String::from(
            "override NB: u32; override M: u32; override ROW0: u32 = 0u; override XS: u32; override YS: u32;\n",
        );
        s += "@group(0) @binding(0) var<storage, read> W: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> S: array<u32>;
@group(0) @binding(2) var<storage, read> X: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> Y: array<f32>;\n";
        let mut binding = 4;
        if self.norm {
            s += "override KF: f32; override EPS: f32;\n";
            s += "@group(0) @binding(4) var<storage, read> G: array<vec4<f32>>;\n";
            binding += 1;
        }
        if self.epilogue == Epilogue::Residual {
            s += "override SCALE: f32;\n";
        }
        if self.epilogue == Epilogue::Bias {
            s += &format!("@group(0) @binding({binding}) var<storage, read> B: array<f32>;\n");
        }
        s += match self.format {
            Format::Q8_0 | Format::Q4_0 => layout::SCALE_FN,
            Format::Bf16 => layout::BF16_FN,
            Format::F16 => "",
        };
        s += &layout::place_fn(lanes);
        if split > 1 {
            let subgroups = (threads / lanes) as usize;
            s += &format!("var<workgroup> RED: array<f32, {}>;\n", subgroups * rows * columns);
            if self.norm {
                s += &format!("var<workgroup> SQ: array<f32, {}>;\n", subgroups * columns);
            }
        }
        s += &format!(
            "@compute @workgroup_size({threads})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(subgroup_id) sg: u32,
        @builtin(subgroup_invocation_id) lane: u32) {{
  let group = wid.y * {GRID}u + wid.x;
  let row0 = (group * {}u + sg / {split}u) * {rows}u; let part = sg % {split}u;\n",
            threads / lanes / split
        );
        if !scaled {
            s += "  _ = &S;\n";
        }
        // Rows beyond the last compute the last one again and store nothing.
        s +=
            &each(rows, |r| format!("  let n{r} = min(row0 + {r}u, M - 1u) * NB; let b{r} = n{r} * {v}u;\n"));
        s += &each(rows * columns, |i| format!("  var a{i} = 0.0;\n"));
        if self.norm {
            s += &each(columns, |t| format!("  var sq{t} = 0.0;\n"));
        }
        s += &format!(
            "  for (var j = part * {lanes}u + lane; j < NB; j += {}u) {{
    let tile = j & ~{}u; let w = min({lanes}u, NB - tile); let at = tile * {v}u + (j - tile);
    let xb = tile * 8u + (j - tile);\n",
            lanes * split,
            lanes - 1
        );
        s += &each(rows * v, |i| {
            let (r, n) = (i / v, i % v);
            format!("    let q{r}_{n} = W[b{r} + at + {n}u * w];\n")
        });
        if scaled {
            s += &each(rows, |r| format!("    let d{r} = scale(n{r} + j);\n"));
        }
        // One vector: four sums per row, which the scale multiplies once per block. Several: a sum each, and
        // the scale multiplies the weights, which all vectors share.
        let alone = columns == 1;
        if alone {
            s += &each(rows, |r| format!("    var p{r} = vec4<f32>(0.0);\n"));
        }
        for i in 0..8 {
            s += "    {\n";
            if self.norm {
                s += &format!("      let g = G[xb + {}u];\n", i * lanes);
            }
            for t in 0..columns {
                let at = format!("X[{t}u * XS + xb + {}u]", i * lanes);
                let powers = self.powers();
                if self.norm {
                    s += &format!(
                        "      let r{t} = {at}; sq{t} += dot(r{t}, r{t}); let x{t} = r{t} * g{powers};\n"
                    );
                } else {
                    s += &format!("      let x{t} = {at}{powers};\n");
                }
            }
            for r in 0..rows {
                let piece = self.piece(r, i as usize);
                if alone {
                    s += &format!("      p{r} = fma({piece}, x0, p{r});\n");
                    continue;
                }
                let scale = if scaled { format!(" * d{r}") } else { String::new() };
                s += &format!("      let w{r} = {piece}{scale};\n");
                s += &each(columns, |t| {
                    let a = format!("a{}", r * columns + t);
                    let sum = ["x", "y", "z", "w"]
                        .iter()
                        .fold(a.clone(), |sum, e| format!("fma(w{r}.{e}, x{t}.{e}, {sum})"));
                    format!("      {a} = {sum};\n")
                });
            }
            s += "    }\n";
        }
        if alone {
            s += &each(rows, |r| {
                let sum = format!("(p{r}.x + p{r}.y) + (p{r}.z + p{r}.w)");
                if scaled {
                    format!("    a{r} = fma(d{r}, {sum}, a{r});\n")
                } else {
                    format!("    a{r} += {sum};\n")
                }
            });
        }
        s += "  }\n";
        s += &each(rows * columns, |i| format!("  a{i} = subgroupAdd(a{i});\n"));
        if self.norm {
            s += &each(columns, |t| format!("  sq{t} = subgroupAdd(sq{t});\n"));
        }
        self.finish(&mut s);
        s
    }

    /// Four weights as f32 without their scale: piece `i` of a lane's block of row `r`.
    ///
    /// GPUs convert integers to floats at a fraction of the rate at which they multiply. So integers are put
    /// into the low bits of 2²³ as a float, from which 2²³ and the offset are subtracted, exactly; those that
    /// stay in higher bits come out larger by a power of two, and `powers` makes their activations smaller.
    fn piece(&self, r: usize, i: usize) -> String {
        let field = |n: usize| ["x", "y", "z", "w"][n];
        let float = |bits: String, masks: &str, offsets: [u32; 4]| {
            let [a, b, c, d] = offsets.map(|o| (1 << 23) + o);
            format!(
                "(bitcast<vec4<f32>>(({bits} & vec4<u32>({masks})) | vec4<u32>(0x4b000000u)) - vec4<f32>({a}.0, {b}.0, {c}.0, {d}.0))"
            )
        };
        match self.format {
            Format::Q8_0 => {
                // Signed bytes with the sign bit turned are bytes 128 larger.
                let u = format!("(q{r}_{}.{} ^ 0x80808080u)", i / 4, field(i % 4));
                let bits = format!("(vec4<u32>({u}) >> vec4<u32>(0u, 0u, 16u, 16u))");
                float(bits, "0xffu, 0xff00u, 0xffu, 0xff00u", [128, 128 << 8, 128, 128 << 8])
            }
            Format::Q4_0 => {
                let word = format!("q{r}_0.{}", field(i / 2));
                let bits = if i.is_multiple_of(2) { word } else { format!("({word} >> 16u)") };
                let bits = format!("vec4<u32>({bits})");
                float(bits, "0xfu, 0xf0u, 0xf00u, 0xf000u", [8, 8 << 4, 8 << 8, 8 << 12])
            }
            Format::F16 | Format::Bf16 => {
                let unpack = if self.format == Format::F16 { "unpack2x16float" } else { "bf" };
                let (n, c) = (i / 2, i % 2 * 2);
                format!("vec4<f32>({unpack}(q{r}_{n}.{}), {unpack}(q{r}_{n}.{}))", field(c), field(c + 1))
            }
        }
    }

    /// The factors on four activations that undo the powers of two of [`Gemv::piece`].
    fn powers(&self) -> &'static str {
        match self.format {
            Format::Q8_0 => " * vec4<f32>(1.0, 0.00390625, 1.0, 0.00390625)",
            Format::Q4_0 => " * vec4<f32>(1.0, 0.0625, 0.00390625, 0.000244140625)",
            Format::F16 | Format::Bf16 => "",
        }
    }

    /// Adds the shares of `k` and stores.
    fn finish(&self, s: &mut String) {
        let (rows, columns, split) =
            (self.tiling.rows as usize, self.columns as usize, self.tiling.split as usize);
        let n = rows * columns;
        if split > 1 {
            *s += "  if (lane == 0u) {\n";
            *s += &each(n, |i| format!("    RED[sg * {n}u + {i}u] = a{i};\n"));
            if self.norm {
                *s += &each(columns, |t| format!("    SQ[sg * {columns}u + {t}u] = sq{t};\n"));
            }
            *s += "  }\n  workgroupBarrier();\n  if (part != 0u || lane != 0u) { return; }\n";
            let rest = |name: &str, n: usize, i: usize| {
                each(split - 1, |p| format!(" + {name}[(sg + {}u) * {n}u + {i}u]", p + 1))
            };
            *s += &each(n, |i| format!("  a{i} = a{i}{};\n", rest("RED", n, i)));
            if self.norm {
                // Each share saw its part of `x` alone; the norm is over all of it.
                *s += &each(columns, |t| format!("  sq{t} = sq{t}{};\n", rest("SQ", columns, t)));
            }
        } else {
            *s += "  if (lane != 0u) { return; }\n";
        }
        if self.norm {
            *s += &each(columns, |t| format!("  let rn{t} = inverseSqrt(sq{t} / KF + EPS);\n"));
            *s += &each(n, |i| format!("  a{i} *= rn{};\n", i % columns));
        }
        let pairs = self.epilogue == Epilogue::Swiglu;
        for i in (0..n).filter(|i| !pairs || (i / columns).is_multiple_of(2)) {
            let (r, t) = (i / columns, i % columns);
            let row = format!("ROW0 + row0 + {r}u");
            let store = match self.epilogue {
                Epilogue::Store => format!("Y[{t}u * YS + {row}] = a{i};"),
                Epilogue::Bias => format!("Y[{t}u * YS + {row}] = a{i} + B[{row}];"),
                Epilogue::Residual => format!("Y[{t}u * YS + place({row})] += SCALE * a{i};"),
                Epilogue::Swiglu => {
                    let up = i + columns;
                    format!("Y[{t}u * YS + place(({row}) >> 1u)] = a{i} / (1.0 + exp(-a{i})) * a{up};")
                }
            };
            *s += &format!("  if (row0 + {r}u < M) {{ {store} }}\n");
        }
        *s += "}\n";
    }
}
