//! The update of [`backend::Muon`], by matrix products in f32.
//!
//! ```text
//! m = μ·m + g        u = g + μ·m,   g = factor · gradient
//! X₀ = u/‖u‖         X ← a·X + (b·A + c·A²)·X,   A = X·Xᵀ   (five times)
//! w = w·(1 − lr·decay) − lr · √max(1, rows/columns) · X
//! ```
//!
//! The Gram matrix `A` is over the shorter side. Source: Jordan et al. 2024,
//! <https://kellerjordan.github.io/posts/muon/>.

use backend::Muon;

use super::adamw::{GROUPS, THREADS};

/// Rows and columns of the tile of a workgroup of [`product`].
pub const TILE: u32 = 16;

/// `m` and `u`. Immediates: factor, momentum. Override: `N`.
pub fn momentum() -> String {
    format!(
        "struct Factors {{ gradient: f32, momentum: f32 }}
override N: u32;
var<immediate> F: Factors;
@group(0) @binding(0) var<storage, read> G: array<f32>;
@group(0) @binding(1) var<storage, read_write> M: array<f32>;
@group(0) @binding(2) var<storage, read_write> X: array<f32>;
@compute @workgroup_size({THREADS})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
  for (var i = id.x; i < N; i += {}u) {{
    let g = F.gradient * G[i]; let m = F.momentum * M[i] + g;
    M[i] = m; X[i] = g + F.momentum * m;
  }}
}}\n",
        THREADS * GROUPS
    )
}

/// `x / (‖x‖ + ε)`, from the sums of squares of [`super::adamw::squares`]. Override: `N`.
pub fn normalise() -> String {
    format!(
        "override N: u32;
@group(0) @binding(0) var<storage, read> P: array<f32>;
@group(0) @binding(1) var<storage, read_write> X: array<f32>;
@compute @workgroup_size({THREADS})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
  var sum = 0.0;
  for (var i = 0u; i < {GROUPS}u; i++) {{ sum += P[i]; }}
  let r = 1.0 / (sqrt(sum) + {:?});
  for (var i = id.x; i < N; i += {}u) {{ X[i] *= r; }}
}}\n",
        Muon::EPS,
        THREADS * GROUPS
    )
}

/// `c[i, j] = alpha · Σ_k a[i, k] · b[k, j] + beta · d[i, j]`, with strides, so that a transpose is one.
/// Overrides: `ROWS`, `COLS`, `K`; `AR`, `AK` strides of `a`; `BK`, `BC` of `b`; `ALPHA`, `BETA`.
/// Grid: (columns / 16, rows / 16).
pub fn product() -> String {
    "override ROWS: u32; override COLS: u32; override K: u32; override AR: u32; override AK: u32;
override BK: u32; override BC: u32; override ALPHA: f32; override BETA: f32;
@group(0) @binding(0) var<storage, read> A: array<f32>;
@group(0) @binding(1) var<storage, read> B: array<f32>;
@group(0) @binding(2) var<storage, read> D: array<f32>;
@group(0) @binding(3) var<storage, read_write> C: array<f32>;
var<workgroup> AT: array<f32, 256>;
var<workgroup> BT: array<f32, 256>;
@compute @workgroup_size(16, 16)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_id) l: vec3<u32>) {
  let i = wid.y * 16u + l.y; let j = wid.x * 16u + l.x;
  var sum = 0.0;
  for (var k0 = 0u; k0 < K; k0 += 16u) {
    var a = 0.0; var b = 0.0;
    if (i < ROWS && k0 + l.x < K) { a = A[i * AR + (k0 + l.x) * AK]; }
    if (j < COLS && k0 + l.y < K) { b = B[(k0 + l.y) * BK + j * BC]; }
    AT[l.y * 16u + l.x] = a; BT[l.y * 16u + l.x] = b;
    workgroupBarrier();
    for (var k = 0u; k < 16u; k++) { sum = fma(AT[l.y * 16u + k], BT[k * 16u + l.x], sum); }
    workgroupBarrier();
  }
  if (i < ROWS && j < COLS) {
    var c = ALPHA * sum;
    if (BETA != 0.0) { c += BETA * D[i * COLS + j]; }
    C[i * COLS + j] = c;
  }
}\n"
    .to_owned()
}

/// The step of the weights. Immediates: what is kept of a weight, the rate. Override: `N`.
pub fn step() -> String {
    format!(
        "struct Factors {{ keep: f32, rate: f32 }}
override N: u32;
var<immediate> F: Factors;
@group(0) @binding(0) var<storage, read> X: array<f32>;
@group(0) @binding(1) var<storage, read_write> W: array<f32>;
@compute @workgroup_size({THREADS})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
  for (var i = id.x; i < N; i += {}u) {{ W[i] = F.keep * W[i] - F.rate * X[i]; }}
}}\n",
        THREADS * GROUPS
    )
}
