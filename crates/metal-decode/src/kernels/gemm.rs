//! A matrix times many vectors: prompts.
//!
//! ```text
//! y[t, m] = Σ_k w[m, k] · x[t, k]                                        (see Epilogue)
//! ```
//!
//! A workgroup computes 64 rows of 32 vectors. It walks `k` by blocks of 32: their weights, scaled, and
//! their activations go through workgroup memory, and each thread computes 4 × 4 results. Sums are f32.

use model::quant::Format;

use super::{Epilogue, each};
use crate::layout;

/// Rows of a workgroup.
pub const ROWS: usize = 64;
/// Vectors of a workgroup.
pub const VECTORS: u32 = 32;

/// The text; overrides as in [`super::gemv::Gemv::text`]. Grid: (m / 64, vectors / 32).
pub fn text(format: Format, lanes: u32, epilogue: Epilogue) -> String {
    let more = match epilogue {
        Epilogue::Bias => "@group(0) @binding(4) var<storage, read> B: array<f32>;\n",
        Epilogue::Residual => "override SCALE: f32;\n",
        _ => "",
    };
    let store = |e: usize, t: usize| {
        let (a, row, field) = (format!("a{t}"), format!("ROW0 + m + {e}u"), ["x", "y", "z", "w"]);
        let to = format!("(t + {t}u) * YS");
        let store = match epilogue {
            Epilogue::Store => format!("Y[{to} + {row}] = {a}.{};", field[e]),
            Epilogue::Bias => format!("Y[{to} + {row}] = {a}.{} + B[{row}];", field[e]),
            Epilogue::Residual => format!("Y[{to} + place({row})] += SCALE * {a}.{};", field[e]),
            Epilogue::Swiglu if e.is_multiple_of(2) => {
                let (gate, up) = (format!("{a}.{}", field[e]), format!("{a}.{}", field[e + 1]));
                format!("Y[{to} + place(({row}) >> 1u)] = {gate} / (1.0 + exp(-{gate})) * {up};")
            }
            Epilogue::Swiglu => return String::new(),
            Epilogue::Largest => unreachable!("prompts have no head"),
        };
        format!("  if (m + {e}u < M) {{ {store} }}\n")
    };
    format!(
        "override NB: u32; override M: u32; override ROW0: u32 = 0u; override XS: u32; override YS: u32;
@group(0) @binding(0) var<storage, read> W: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> S: array<u32>;
@group(0) @binding(2) var<storage, read> X: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> Y: array<f32>;
{more}{}{}var<workgroup> WT: array<vec4<f32>, 512>;
var<workgroup> XT: array<vec4<f32>, 256>;
@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) li: u32) {{
  _ = &S;
  let mg = li & 15u; let tg = li >> 4u;
{}  for (var j = 0u; j < NB; j++) {{
    let tile = j & ~{}u; let xb = tile * 8u + (j - tile);
{}{}    workgroupBarrier();
    for (var k = 0u; k < 32u; k++) {{
      let w = WT[k * 16u + mg]; let x = XT[k * 8u + tg];
      a0 += w * x.x; a1 += w * x.y; a2 += w * x.z; a3 += w * x.w;
    }}
    workgroupBarrier();
  }}
  let m = wid.x * 64u + mg * 4u; let t = wid.y * 32u + tg * 4u;
{}}}\n",
        layout::place_fn(lanes),
        layout::weight4_fn(format, lanes),
        each(4, |t| format!("  var a{t} = vec4<f32>(0.0);\n")),
        lanes - 1,
        // 64 rows of 8 pieces: 4 for each thread.
        each(4, |n| format!(
            "    {{ let e = li + {}u; let row = e & 63u; let i = e >> 6u;
      let v = weight4(min(wid.x * 64u + row, M - 1u), j, i); let at = i * 64u + (row >> 2u); let c = row & 3u;
      WT[at][c] = v.x; WT[at + 16u][c] = v.y; WT[at + 32u][c] = v.z; WT[at + 48u][c] = v.w; }}\n",
            n * 128
        )),
        // 32 vectors of 8 pieces: 2 for each thread.
        each(2, |n| format!(
            "    {{ let e = li + {}u; let v = e & 31u; let i = e >> 5u;
      let x = X[(wid.y * 32u + v) * XS + xb + i * {lanes}u]; let at = i * 32u + (v >> 2u); let c = v & 3u;
      XT[at][c] = x.x; XT[at + 8u][c] = x.y; XT[at + 16u][c] = x.z; XT[at + 24u][c] = x.w; }}\n",
            n * 128
        )),
        each(16, |i| store(i % 4, i / 4)),
    )
}
