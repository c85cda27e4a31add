//! Training through the Apple device on the fake framework: the same bits as on the virtual device.

#![cfg(feature = "gnustep")]

use ane_bridge::apple;
use ane_bridge::{AppleAne, Device, Ledger, Settings, VirtualAne};
use backend::conformance::tokens;
use backend::{AdamW, Rule, Rules, Tokens, Train, Update, forward_backward};
use backend_ane::{Ane, AneDevice, Care, Plan};
use model::{ModelConfig, Slot, TokenId, Weights};

const STEPS: u64 = 10;

fn config() -> ModelConfig {
    ModelConfig {
        dim: 64,
        hidden: 160,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        vocab: 96,
        max_seq: 64,
        ..ModelConfig::default()
    }
}

fn update(step: u64) -> Update {
    let rule = Rule::AdamW(AdamW { lr: 3e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 });
    let rules = Rules { embedding: rule, head: rule, matrix: rule, gain: rule, bias: rule };
    Update { step, grad_scale: 1.0, clip: Some(1.0), rules }
}

/// Losses and norms of a run, as bits, and the weights at its end.
fn trained<D: AneDevice + Clone>(device: D) -> (Vec<(u32, u32)>, Vec<Vec<f32>>, D) {
    // Nothing wears here, and compiles are counted: a busy machine must not look like a worn executable.
    let care = Care { factor: f64::INFINITY, ..Care::default() };
    let plan = Plan { threads: 2, care, ..Plan::new(64, 2) };
    let mut ane = Ane::new(device.clone(), &config(), plan).expect("a backend");
    let weights = Weights::init(&config(), 2);
    for p in weights.params() {
        ane.write(p.id, Slot::Weight, weights.get(p.id)).expect("weights are written");
    }
    let step = |number: u64| {
        let ids: Vec<TokenId> = tokens(&config(), 129, number);
        let batch = Tokens { ids: &ids[..128], seq: 64 };
        let loss = forward_backward(&mut ane, batch, &ids[1..]).expect("a step");
        (loss.to_bits(), ane.update(&update(number)).expect("an update").to_bits())
    };
    let losses = (1..=STEPS).map(step).collect();
    let read = |p: &model::Param| ane.read(p.id, Slot::Weight).expect("weights are read").into_owned();
    let weights = weights.params().iter().map(read).collect();
    (losses, weights, device)
}

#[test]
fn trains_as_on_the_virtual_device_bit_for_bit() {
    fake_ane::install();
    let before = fake_ane::live();
    let settings = apple::Settings { framework: "libobjc.so.4".into(), ..apple::Settings::default() };
    let (losses, weights, apple) = trained(AppleAne::open(settings).expect("the fake framework is complete"));
    let (wanted_losses, wanted_weights, virtual_ane) = trained(VirtualAne::new(Settings::default()));
    assert_eq!(losses, wanted_losses);
    assert!(weights == wanted_weights, "the weights differ although the losses do not");

    // The same programs, as often.
    let counts = |ledger: Ledger| -> Vec<_> {
        ledger.entries().map(|(name, entry)| (name.to_owned(), entry.compiles, entry.dispatches)).collect()
    };
    assert_eq!(counts(apple.ledger()), counts(virtual_ane.ledger()));
    assert_eq!(counts(apple.ledger()).len(), 10);
    assert_eq!((fake_ane::live(), fake_ane::loaded()), (before, 0), "something is left");
}
