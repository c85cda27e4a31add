//! Memory of a run: all of it is there after the first steps.

use ane_bridge::{Settings, VirtualAne};
use backend::conformance::{tokens, weights};
use backend::{AdamW, Rule, Rules, Tokens, Train, Update, forward_backward};
use backend_ane::{Ane, Plan};
use model::{ModelConfig, Slot};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

#[test]
fn later_steps_keep_no_memory() {
    let config = ModelConfig { max_seq: 64, layers: 2, ..ModelConfig::default() };
    let device = VirtualAne::new(Settings { count_flushed: false, ..Settings::default() });
    let plan = Plan { threads: 2, ..Plan::new(64, 2) };
    let mut ane = Ane::new(device, &config, plan).expect("a backend");
    let weights = weights(&config, 1);
    for p in weights.params() {
        ane.write(p.id, Slot::Weight, weights.get(p.id)).expect("weights are written");
    }
    let rule = Rule::AdamW(AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 });
    let rules = Rules { embedding: rule, head: rule, matrix: rule, gain: rule, bias: rule };
    let (ids, targets) = (tokens(&config, 128, 1), tokens(&config, 128, 2));
    let mut step = |number: u64| {
        forward_backward(&mut ane, Tokens { ids: &ids, seq: 64 }, &targets).expect("step runs");
        let update = Update { step: number, grad_scale: 1.0, clip: Some(1.0), rules: rules.clone() };
        ane.update(&update).expect("update runs");
        MEMORY.current_usage()
    };
    // A thread takes its own scratch memory when its first share of the work comes, whichever step that is: five steps
    // in a row must end with the same memory. Where each step keeps something, no five do.
    let mut ends = vec![step(1)];
    while ends.len() < 50
        && !ends.last_chunk::<6>().is_some_and(|last| last.iter().all(|end| end <= &last[0]))
    {
        ends.push(step(ends.len() as u64 + 1));
    }
    assert!(ends.len() < 50, "bytes after each step: {ends:?}");
}
