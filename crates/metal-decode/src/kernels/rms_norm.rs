//! RMS norm of each row: prompts. Decoding normalises inside [`super::gemv`].
//!
//! ```text
//! y[t, k] = x[t, k] · gain[k] · (mean_k x² + ε)^-½
//! ```
//!
//! All in the order of activations, whose padding is zero. Grid: (1, rows).

/// Threads of a workgroup.
pub const THREADS: u32 = 128;

/// The text. Overrides: `N` vec4s of a row, `KF`, `EPS`.
pub fn text(lanes: u32) -> String {
    let subgroups = THREADS / lanes;
    format!(
        "override N: u32; override KF: f32; override EPS: f32;
@group(0) @binding(0) var<storage, read> X: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> G: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> Y: array<vec4<f32>>;
var<workgroup> SQ: array<f32, {subgroups}>;
@compute @workgroup_size({THREADS})
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) li: u32,
        @builtin(subgroup_id) sg: u32, @builtin(subgroup_invocation_id) lane: u32) {{
  var sq = 0.0;
  for (var i = li; i < N; i += {THREADS}u) {{ let x = X[wid.y * N + i]; sq += dot(x, x); }}
  sq = subgroupAdd(sq);
  if (lane == 0u) {{ SQ[sg] = sq; }}
  workgroupBarrier();
  var sum = 0.0;
  for (var i = 0u; i < {subgroups}u; i++) {{ sum += SQ[i]; }}
  let r = inverseSqrt(sum / KF + EPS);
  for (var i = li; i < N; i += {THREADS}u) {{ Y[wid.y * N + i] = X[wid.y * N + i] * G[i] * r; }}
}}\n"
    )
}
