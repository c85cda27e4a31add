//! A dispatch takes no memory from the allocator once the first ones ran.

use std::alloc::{GlobalAlloc, Layout as Block, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use ane_bridge::{Device, Executable, Request, Settings, Surface, VirtualAne};
use mil::{Builder, DType, Flip, Program, Target, verify};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, block: Block) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same here.
        unsafe { System.alloc(block) }
    }

    unsafe fn dealloc(&self, at: *mut u8, block: Block) {
        // SAFETY: `at` came from `System.alloc` with the same block.
        unsafe { System.dealloc(at, block) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Attention over heads behind a projection: products of one matrix and of a batch, softmax, sums.
fn program() -> Program {
    let (heads, s, d) = (4, 160, 32);
    let mut b = Builder::new("main");
    let x = b.input("i00_x", DType::Fp16, [1, heads * d, 1, s]);
    let w = b.input("i01_w", DType::Fp16, [1, heads * d, 1, heads * d]);
    let flat = b.reshape(x, &[1, 1, heads * d, s]);
    let w = b.reshape(w, &[1, 1, heads * d, heads * d]);
    let q = b.matmul_flip(w, flat, Flip::X);
    let q = b.reshape(q, &[1, heads, d, s]);
    let k = b.reshape(x, &[1, heads, d, s]);
    let scores = b.matmul_flip(q, k, Flip::X);
    let p = b.softmax(scores, -1);
    let sum = b.reduce_sum(p, &[-1]);
    let centred = b.sub(p, sum);
    let y = b.matmul_flip(k, centred, Flip::Y);
    let y = b.reshape(y, &[1, heads * d, 1, s]);
    b.output("o00_y", y);
    Program::new(vec![b.finish().expect("shapes fit")])
}

#[test]
fn later_dispatches_allocate_nothing() {
    let program = verify(program(), &Target::default()).expect("the program is legal");
    let device = VirtualAne::new(Settings { count_flushed: false, ..Settings::default() });
    let executable = device.compile("attention", &program).expect("the budget is fresh");
    let surfaces = |ports: &[ane_bridge::Port]| -> Vec<Surface> {
        ports.iter().map(|p| device.surface(p.layout).expect("memory")).collect()
    };
    let (inputs, outputs) = (surfaces(executable.inputs()), surfaces(executable.outputs()));
    inputs.iter().for_each(|s| s.write().expect("no guard is alive").fill(0.25));
    let request = executable
        .bind(&[("i00_x", &inputs[0]), ("i01_w", &inputs[1])], &[("o00_y", &outputs[0])])
        .expect("the surfaces fit");
    // One thread: each of several takes its memory in its own first turn. Inside the pool: its queue
    // for calls from outside takes a block now and then.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    let counted = pool.install(|| {
        request.run().expect("no guard is alive");
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        (0..100).for_each(|_| request.run().expect("no guard is alive"));
        ALLOCATIONS.load(Ordering::Relaxed) - before
    });
    assert_eq!(counted, 0, "allocations in 100 dispatches");
}
