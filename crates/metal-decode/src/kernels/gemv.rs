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

use super::{Epilogue, argmax, dots, each};
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
    /// Workgroups of the way through integer arithmetic, [`super::dots`]; 0: through floats. Where a format or
    /// several vectors do not allow it, it is floats too.
    #[serde(default)]
    pub dots: u32,
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

    fn groups(&self, m: usize, lanes: u32) -> u32 {
        (m as u32).div_ceil(self.rows * (self.threads / lanes / self.split))
    }
}

impl Gemv {
    /// Whether it runs in integer arithmetic.
    fn in_dots(&self) -> bool {
        self.tiling.dots > 0 && self.columns == 1 && layout::scaled(self.format)
    }

    /// The grid for `m` rows.
    pub fn grid(&self, m: usize, lanes: u32) -> [u32; 3] {
        let groups = self.tiling.groups(m, lanes);
        if self.in_dots() {
            return [groups.min(self.tiling.dots), 1, 1];
        }
        [groups.min(GRID), groups.div_ceil(GRID), 1]
    }

    /// The text. Overrides: `NB` blocks of a row, `M` rows, `ROW0` the first row's number, `XS` vec4s of a
    /// row of `x`, `YS` numbers of a row of `y`, `KF` the number of `k`, `EPS`; `SCALE` of residuals; `FIRST` the
    /// place of the first workgroup's largest.
    pub fn text(&self, lanes: u32) -> String {
        if self.in_dots() {
            return dots::text(self, lanes);
        }
        let Tiling { rows, threads, split, .. } = self.tiling;
        let (rows, columns, v) = (rows as usize, self.columns as usize, layout::words(self.format));
        let scaled = layout::scaled(self.format);
        let mut s = bindings(self, lanes);
        s += match self.format {
            Format::Q8_0 | Format::Q4_0 => layout::SCALE_FN,
            Format::Bf16 => layout::BF16_FN,
            Format::F16 => "",
        };
        if split > 1 && self.norm {
            s += &format!("var<workgroup> SQ: array<f32, {}>;\n", (threads / lanes) as usize * columns);
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
                let powers = powers(self.format);
                if self.norm {
                    s += &format!(
                        "      let r{t} = {at}; sq{t} += dot(r{t}, r{t}); let x{t} = r{t} * g{powers};\n"
                    );
                } else {
                    s += &format!("      let x{t} = {at}{powers};\n");
                }
            }
            for r in 0..rows {
                let piece = piece(self.format, &format!("q{r}_"), i as usize);
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
        if self.columns > 1 {
            self.finish(&mut s);
            return s;
        }
        let largest = self.epilogue == Epilogue::Largest;
        s += if largest { "  var z = 0.0; var best = 0xffffffffu;\n" } else { "" };
        s += &store(self, false);
        s += &if largest { store_largest(self, lanes, "group") } else { String::new() };
        s + "}\n"
    }

    /// Adds the shares of `k` of several vectors and stores.
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
            let text = statement(
                self.epilogue,
                &format!("{t}u * YS + "),
                &format!("a{i}"),
                &format!("a{}", i + columns),
            );
            *s += &format!("  {{ let row = row0 + {r}u; if (row < M) {{ {text} }} }}\n");
        }
        *s += "}\n";
    }
}

/// WGSL: stores the value of `row`, which with [`Epilogue::Swiglu`] is a gate and `next` its partner.
fn statement(epilogue: Epilogue, at: &str, value: &str, next: &str) -> String {
    match epilogue {
        Epilogue::Store => format!("Y[{at}ROW0 + row] = {value};"),
        Epilogue::Bias => format!("Y[{at}ROW0 + row] = {value} + B[ROW0 + row];"),
        Epilogue::Residual => format!("Y[{at}place(ROW0 + row)] += SCALE * {value};"),
        Epilogue::Swiglu => {
            format!("Y[{at}place((ROW0 + row) >> 1u)] = {value} / (1.0 + exp(-{value})) * {next};")
        }
        Epilogue::Largest => format!(
            "if (!nan({value}) && better({value}, ROW0 + row, z, best)) {{ z = {value}; best = ROW0 + row; }}"
        ),
    }
}

/// Overrides, bindings and workgroup memory of a product, whatever its arithmetic.
pub(super) fn bindings(gemv: &Gemv, lanes: u32) -> String {
    let Tiling { rows, threads, split, .. } = gemv.tiling;
    let subgroups = threads / lanes;
    let largest = gemv.epilogue == Epilogue::Largest;
    let mut s = format!(
        "override NB: u32; override M: u32; override ROW0: u32 = 0u; override XS: u32; override YS: u32;
@group(0) @binding(0) var<storage, read> W: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> S: array<u32>;
@group(0) @binding(2) var<storage, read> X: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> Y: array<{}>;\n",
        if largest { "vec2<u32>" } else { "f32" }
    );
    let mut binding = 4;
    if gemv.norm {
        s += "override KF: f32; override EPS: f32;\n";
        s += "@group(0) @binding(4) var<storage, read> G: array<vec4<f32>>;\n";
        binding += 1;
    }
    match gemv.epilogue {
        Epilogue::Residual => s += "override SCALE: f32;\n",
        Epilogue::Bias => s += &format!("@group(0) @binding({binding}) var<storage, read> B: array<f32>;\n"),
        Epilogue::Largest => {
            s += "override FIRST: u32;\n";
            s += &format!(
                "var<workgroup> Z: array<f32, {subgroups}>;\nvar<workgroup> N: array<u32, {subgroups}>;\n"
            );
            s += argmax::ORDER_FNS;
        }
        Epilogue::Store | Epilogue::Swiglu => {}
    }
    if split > 1 {
        s += &format!("var<workgroup> RED: array<f32, {}>;\n", subgroups * rows * gemv.columns);
    }
    s + &layout::place_fn(lanes)
}

/// WGSL: what follows the sums `a0`, `a1`, … of a subgroup's rows of one vector, which every lane holds: a lane for
/// each row, so that none waits for another. `whole` says that `sq0` is already over all of `x`.
pub(super) fn store(gemv: &Gemv, whole: bool) -> String {
    let Tiling { rows, split, .. } = gemv.tiling;
    let pairs = gemv.epilogue == Epilogue::Swiglu;
    let mine = |name: &str, from: u32| {
        let step = if pairs { 2 } else { 1 };
        let others = (from + step..rows).step_by(step as usize);
        let others: String =
            others.map(|r| format!(" if (lane == {}u) {{ {name} = a{r}; }}", r - from)).collect();
        format!("    var {name} = a{from};{others}\n")
    };
    let mut s = String::new();
    if split == 1 {
        s += &mine("value", 0);
        s += &if pairs { mine("next", 1) } else { String::new() };
        s += "    {\n";
    } else {
        s += &format!(
            "    var own = a0;{}\n",
            each(rows as usize - 1, |r| format!(" if (lane == {0}u) {{ own = a{0}; }}", r + 1))
        );
        s += &format!("    if (lane < {rows}u) {{ RED[sg * {rows}u + lane] = own; }}\n");
        if gemv.norm && !whole {
            s += "    if (lane == 0u) { SQ[sg] = sq0; }\n";
        }
        s += &format!("    workgroupBarrier();\n    if (part == 0u && lane < {rows}u) {{\n");
        let sum = |at: &str| {
            (0..split).map(|p| format!("RED[(sg + {p}u) * {rows}u + {at}]")).collect::<Vec<_>>().join(" + ")
        };
        s += &format!("      var value = {};\n", sum("lane"));
        if pairs {
            s += &format!("      var next = {};\n", sum(&format!("min(lane + 1u, {}u)", rows - 1)));
        }
        if gemv.norm && !whole {
            // Each share saw its part of `x` alone; the norm is over all of it.
            s += &each(split as usize - 1, |p| format!("      sq0 += SQ[sg + {}u];\n", p + 1));
        }
    }
    if gemv.norm {
        s += "      let norm = inverseSqrt(sq0 / KF + EPS); value *= norm;\n";
        s += if pairs { "      next *= norm;\n" } else { "" };
    }
    let even = if pairs { " && (lane & 1u) == 0u" } else { "" };
    let text = statement(gemv.epilogue, "", "value", "next");
    s += &format!("      let row = row0 + lane; if (lane < {rows}u{even} && row < M) {{ {text} }}\n    }}\n");
    s
}

/// WGSL: the largest of a workgroup, from each lane's `z` and `best`.
pub(super) fn store_largest(gemv: &Gemv, lanes: u32, group: &str) -> String {
    // Only as many lanes as rows hold one.
    let across = (1..gemv.tiling.rows).map(|r| {
        format!("    {{ let v = subgroupShuffle(z, {r}u); let n = subgroupShuffle(best, {r}u); if (better(v, n, z, best)) {{ z = v; best = n; }} }}\n")
    });
    format!(
        "{}  if (lane == 0u) {{ Z[sg] = z; N[sg] = best; }}
  workgroupBarrier();
  if (sg == 0u && lane == 0u) {{
    for (var g = 1u; g < {}u; g++) {{
      if (better(Z[g], N[g], z, best)) {{ z = Z[g]; best = N[g]; }}
    }}
    Y[FIRST + {group}] = vec2<u32>(bitcast<u32>(z), best);
  }}\n",
        across.collect::<String>(),
        gemv.tiling.threads / lanes
    )
}

/// Four weights as f32 without their scale: piece `i` of a lane's block, whose words are `{q}0`, `{q}1`, ….
///
/// GPUs convert integers to floats at a fraction of the rate at which they multiply. So integers are put
/// into the low bits of 2²³ as a float, from which 2²³ and the offset are subtracted, exactly; those that
/// stay in higher bits come out larger by a power of two, and `powers` makes their activations smaller.
pub(crate) fn piece(format: Format, q: &str, i: usize) -> String {
    let field = |n: usize| ["x", "y", "z", "w"][n];
    let float = |bits: String, masks: &str, offsets: [u32; 4]| {
        let [a, b, c, d] = offsets.map(|o| (1 << 23) + o);
        format!(
            "(bitcast<vec4<f32>>(({bits} & vec4<u32>({masks})) | vec4<u32>(0x4b000000u)) - vec4<f32>({a}.0, {b}.0, {c}.0, {d}.0))"
        )
    };
    match format {
        Format::Q8_0 => {
            // Signed bytes with the sign bit turned are bytes 128 larger.
            let u = format!("({q}{}.{} ^ 0x80808080u)", i / 4, field(i % 4));
            let bits = format!("(vec4<u32>({u}) >> vec4<u32>(0u, 0u, 16u, 16u))");
            float(bits, "0xffu, 0xff00u, 0xffu, 0xff00u", [128, 128 << 8, 128, 128 << 8])
        }
        Format::Q4_0 => {
            let word = format!("{q}0.{}", field(i / 2));
            let bits = if i.is_multiple_of(2) { word } else { format!("({word} >> 16u)") };
            let bits = format!("vec4<u32>({bits})");
            float(bits, "0xfu, 0xf0u, 0xf00u, 0xf000u", [8, 8 << 4, 8 << 8, 8 << 12])
        }
        Format::F16 | Format::Bf16 => {
            let unpack = if format == Format::F16 { "unpack2x16float" } else { "bf" };
            let (n, c) = (i / 2, i % 2 * 2);
            format!("vec4<f32>({unpack}({q}{n}.{}), {unpack}({q}{n}.{}))", field(c), field(c + 1))
        }
    }
}

/// The factors on four activations that undo the powers of two of [`piece`].
pub(crate) fn powers(format: Format) -> &'static str {
    match format {
        Format::Q8_0 => " * vec4<f32>(1.0, 0.00390625, 1.0, 0.00390625)",
        Format::Q4_0 => " * vec4<f32>(1.0, 0.0625, 0.00390625, 0.000244140625)",
        Format::F16 | Format::Bf16 => "",
    }
}
