//! The update of [`backend::AdamW`] in one pass over memory.
//!
//! ```text
//! g = factor · gradient
//! m = β₁·m + (1−β₁)·g        v = β₂·v + (1−β₂)·g²
//! w = w·(1 − lr·decay) − lr/(1−β₁ᵗ) · m / (√v·(1−β₂ᵗ)^-½ + ε)
//! ```
//!
//! Source: Loshchilov & Hutter 2019, arXiv:1711.05101.

use backend::AdamW;

/// Threads of a workgroup.
pub const THREADS: u32 = 256;
/// Workgroups, which walk the numbers together.
pub const GROUPS: u32 = 256;

/// The numbers of one update, in the order of the immediates.
pub fn factors(rule: &AdamW, step: u64, factor: f32) -> [f32; 9] {
    let [lr, beta1, beta2] = [rule.lr, rule.beta1, rule.beta2].map(f64::from);
    let correction = |beta: f64| 1.0 - beta.powf(step as f64);
    [
        factor,
        rule.beta1,
        (1.0 - beta1) as f32,
        rule.beta2,
        (1.0 - beta2) as f32,
        (1.0 - lr * f64::from(rule.weight_decay)) as f32,
        (lr / correction(beta1)) as f32,
        correction(beta2).sqrt().recip() as f32,
        rule.eps,
    ]
}

/// The text. Override: `N` numbers.
pub fn text() -> String {
    format!(
        "struct Factors {{ gradient: f32, keep1: f32, new1: f32, keep2: f32, new2: f32, keep: f32, rate: f32, root: f32, eps: f32 }}
override N: u32;
var<immediate> F: Factors;
@group(0) @binding(0) var<storage, read> G: array<f32>;
@group(0) @binding(1) var<storage, read_write> W: array<f32>;
@group(0) @binding(2) var<storage, read_write> M: array<f32>;
@group(0) @binding(3) var<storage, read_write> V: array<f32>;
@compute @workgroup_size({THREADS})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
  for (var i = id.x; i < N; i += {0}u) {{
    let g = F.gradient * G[i];
    let m = F.keep1 * M[i] + F.new1 * g;
    let v = F.keep2 * V[i] + F.new2 * g * g;
    M[i] = m; V[i] = v;
    W[i] = F.keep * W[i] - F.rate * m / (sqrt(v) * F.root + F.eps);
  }}
}}\n",
        THREADS * GROUPS
    )
}

/// Sums of squares of the gradients of each workgroup: their norm is the host's to add up, in f64.
/// Override: `N`.
pub fn squares(lanes: u32) -> String {
    format!(
        "override N: u32;
@group(0) @binding(0) var<storage, read> G: array<f32>;
@group(0) @binding(1) var<storage, read_write> P: array<f32>;
var<workgroup> SUM: array<f32, {0}>;
@compute @workgroup_size({THREADS})
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(workgroup_id) wid: vec3<u32>,
        @builtin(subgroup_id) sg: u32, @builtin(subgroup_invocation_id) lane: u32) {{
  var sum = 0.0;
  for (var i = id.x; i < N; i += {1}u) {{ sum += G[i] * G[i]; }}
  sum = subgroupAdd(sum);
  if (lane == 0u) {{ SUM[sg] = sum; }}
  workgroupBarrier();
  if (sg == 0u && lane == 0u) {{
    var all = 0.0;
    for (var i = 0u; i < {0}u; i++) {{ all += SUM[i]; }}
    P[wid.x] = all;
  }}
}}\n",
        THREADS / lanes,
        THREADS * GROUPS
    )
}
