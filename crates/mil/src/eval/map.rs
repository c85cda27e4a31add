//! Element-by-element kernels over broadcast operands.

use pulp::Arch;

use super::vector::vector_fn;
use super::{Io, Kernel, Lower, TASK, coalesce, parts, store, store_exact};

/// Elements that are widened, computed and rounded at once; they stay in the first cache.
const CHUNK: usize = 1024;

/// `y = f(x)`.
pub(crate) fn unary(f: impl Fn(f32) -> f32 + Copy + Send + Sync + 'static) -> Lower {
    Lower::kernel(Map {
        arity: 1,
        exact: false,
        lanes: move |arch: Arch, a: &mut [f32], _: &[f32], _: &[f32]| map1(arch, a, f),
    })
}

/// `y = f(x, y)`.
pub(crate) fn binary(f: impl Fn(f32, f32) -> f32 + Copy + Send + Sync + 'static) -> Lower {
    Lower::kernel(Map {
        arity: 2,
        exact: false,
        lanes: move |arch: Arch, a: &mut [f32], b: &[f32], _: &[f32]| map2(arch, a, b, f),
    })
}

/// `y = f(a, b, c)`.
pub(crate) fn ternary(f: impl Fn(f32, f32, f32) -> f32 + Copy + Send + Sync + 'static) -> Lower {
    Lower::kernel(Map {
        arity: 3,
        exact: false,
        lanes: move |arch: Arch, a: &mut [f32], b: &[f32], c: &[f32]| map3(arch, a, b, c, f),
    })
}

/// `y = f(x)` where the result's type holds every value of `f` exactly, so nothing is rounded twice.
pub(crate) fn convert(f: impl Fn(f32) -> f32 + Copy + Send + Sync + 'static) -> Lower {
    Lower::kernel(Map {
        arity: 1,
        exact: true,
        lanes: move |_: Arch, a: &mut [f32], _: &[f32], _: &[f32]| {
            for x in a {
                *x = f(*x);
            }
        },
    })
}

vector_fn! {
    fn map1<F: Fn(f32) -> f32>(a: &'a mut [f32], f: F) {
        for x in a.iter_mut() {
            *x = f(*x);
        }
    }
}

vector_fn! {
    fn map2<F: Fn(f32, f32) -> f32>(a: &'a mut [f32], b: &'a [f32], f: F) {
        for (x, y) in a.iter_mut().zip(b) {
            *x = f(*x, *y);
        }
    }
}

vector_fn! {
    fn map3<F: Fn(f32, f32, f32) -> f32>(a: &'a mut [f32], b: &'a [f32], c: &'a [f32], f: F) {
        for ((x, y), z) in a.iter_mut().zip(b).zip(c) {
            *x = f(*x, *y, *z);
        }
    }
}

struct Map<F> {
    arity: usize,
    exact: bool,
    lanes: F,
}

impl<F: Fn(Arch, &mut [f32], &[f32], &[f32]) + Send + Sync + 'static> Kernel for Map<F> {
    fn run(&self, io: &mut Io<'_>) {
        run(io, self.arity, self.exact, &self.lanes);
    }
}

/// Combines up to three rows of equal length into the first.
type Lanes = dyn Fn(Arch, &mut [f32], &[f32], &[f32]) + Sync;

/// The row loop, compiled once for all kernels.
fn run(io: &mut Io<'_>, arity: usize, exact: bool, lanes: &Lanes) {
    // Operands that the arity does not have repeat the first and are not read.
    let views = [0, 1, 2].map(|i| io.view(if i < arity { i } else { 0 }));
    let layouts = views.map(|v| v.layout.broadcast(io.dims));
    let walk = coalesce([&layouts[0], &layouts[1], &layouts[2]], io.dims);
    let arch = io.env.arch;
    io.env.stats += parts(&*io.env.host, &mut io.out, TASK, |start, out, stats| {
        let mut lines = [[0f32; CHUNK]; 3];
        walk.range(start, out.len(), |to, at, n| {
            for first in (0..n).step_by(CHUNK) {
                let len = CHUNK.min(n - first);
                for i in 0..arity {
                    let step = walk.row_step(i);
                    let start = at[i] as isize + first as isize * step;
                    views[i].data.load_row(start as usize, step, &mut lines[i][..len]);
                }
                let [a, b, c] = &mut lines;
                let a = &mut a[..len];
                lanes(arch, a, &b[..len], &c[..len]);
                if exact {
                    store_exact(out, to + first, a);
                } else {
                    store(arch, out, to + first, a, stats);
                }
            }
        });
    });
}
