//! Hands the tokens of a call over: from immediates, so that no buffer is created for them.
//!
//! A row is token, position, slot of the cache, and nothing. Grid: (1, 1, 1).

/// Most rows of a call.
pub const MOST: usize = 8;

/// The text.
pub fn text() -> String {
    format!(
        "struct Rows {{ row: array<vec4<u32>, {MOST}> }}
var<immediate> I: Rows;
@group(0) @binding(0) var<storage, read_write> R: array<vec4<u32>>;
@compute @workgroup_size({MOST})
fn main(@builtin(local_invocation_index) li: u32) {{ R[li] = I.row[li]; }}\n"
    )
}

/// Copies row `n − 1` of activations to row 0, for the head behind a prompt; `n` is in the last word of
/// the first row. Override: `N`, vec4s of a row. Grid: (N / 64).
pub fn last() -> &'static str {
    "override N: u32;
@group(0) @binding(0) var<storage, read> R: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> X: array<vec4<f32>>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < N) { X[id.x] = X[(R[0].w - 1u) * N + id.x]; }
}\n"
}
