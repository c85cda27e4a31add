//! Reads memory and does nothing with it: the ceiling that other kernels are compared with, and fills
//! memory with weights that mean nothing, for benchmarks of shapes.

/// Threads of a workgroup.
pub const THREADS: u32 = 256;

/// Reads `N` vec4s. Grid: any.
pub const READ: &str = "override N: u32;
@group(0) @binding(0) var<storage, read> W: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> Y: array<u32>;
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>) {
  var a = vec4<u32>(0u); let step = n.x * 256u;
  var i = id.x;
  for (; i + 3u * step < N; i += 4u * step) {
    a ^= W[i] ^ W[i + step] ^ W[i + 2u * step] ^ W[i + 3u * step];
  }
  for (; i < N; i += step) { a ^= W[i]; }
  // Never true for what `FILL` writes, but the compiler cannot know.
  if (a.x == 0x12345u && a.y == 0x777u && a.z == 0u && a.w == 1u) { Y[0] = 1u; }
}\n";

/// Fills a buffer of `N` words with a hash of the index, masked: `(hash & AND) | OR`. Grid: any.
pub const FILL: &str = "override N: u32; override AND: u32; override OR: u32;
@group(0) @binding(0) var<storage, read_write> W: array<u32>;
@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>) {
  for (var i = id.x; i < N; i += n.x * 256u) {
    var h = i * 747796405u + 2891336453u;
    h = ((h >> ((h >> 28u) + 4u)) ^ h) * 277803737u;
    h = (h >> 22u) ^ h;
    W[i] = (h & AND) | OR;
  }
}\n";
