//! Texts: equal to the processor's, drawn on the device, without creating anything on the way.

mod common;

use std::num::NonZeroUsize;

use backend::reference::ReferenceInfer;
use backend::{Decode, Draw, Error, Feed, Prefill, SeqId, Stream, conformance};
use common::gpu;
use metal_decode::{GpuError, GpuInfer, Memory, Settings, self_test};
use model::quant::Format;
use model::{ModelConfig, TokenId, Weights};

const GREEDY: Draw = Draw { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };

fn config() -> ModelConfig {
    let (_, config) = conformance::configs().swap_remove(1);
    ModelConfig { max_seq: 160, ..config }
}

fn model(format: Format) -> (ModelConfig, Weights) {
    let config = config();
    let mut weights = conformance::weights(&config, 9);
    weights.round_to(format).unwrap();
    (config, weights)
}

fn draw(device: &mut GpuInfer, draw: &Draw, prompt: &[TokenId], n: usize) -> Vec<TokenId> {
    let (last, before) = prompt.split_last().unwrap();
    // One sequence is planned, and a prompt needs its place.
    device.release(SeqId(0));
    let (kv, _) = device.prefill(before).unwrap();
    device.seed(SeqId(0), &kv).unwrap();
    let mut tokens = Vec::new();
    let mut emit = |token| {
        tokens.push(token);
        tokens.len() < n
    };
    device.run(SeqId(0), *last, draw, &mut emit).unwrap();
    tokens
}

fn first_largest(logits: &[f32]) -> TokenId {
    let larger = |best: (u32, f32), next: (u32, f32)| if next.1 > best.1 { next } else { best };
    TokenId((0..).zip(logits.iter().copied()).reduce(larger).unwrap().0)
}

#[test]
fn sixty_four_greedy_tokens_equal_the_reference_in_every_format() {
    for format in Format::ALL {
        let (config, weights) = model(format);
        let prompt = conformance::tokens(&config, 6, 3);
        let mut device = GpuInfer::new(gpu(), &config, &weights, Settings::new(format)).unwrap();
        let got = draw(&mut device, &GREEDY, &prompt, 64);
        let mut reference = ReferenceInfer::new(&config, weights);
        let (kv, mut logits) = reference.prefill(&prompt).unwrap();
        reference.seed(SeqId(0), &kv).unwrap();
        let mut wanted = Vec::new();
        while wanted.len() < 64 {
            wanted.push(first_largest(logits.last()));
            logits =
                reference.extend(&[Feed { seq: SeqId(0), tokens: &wanted[wanted.len() - 1..] }]).unwrap();
        }
        assert_eq!(got, wanted, "{format}");
    }
}

#[test]
fn a_token_creates_nothing_and_is_one_submission() {
    let (config, weights) = model(Format::Q8_0);
    let mut device = GpuInfer::new(gpu(), &config, &weights, Settings::new(Format::Q8_0)).unwrap();
    let prompt = conformance::tokens(&config, 6, 3);
    // What the first token makes is kept.
    draw(&mut device, &GREEDY, &prompt, 3);
    device.extend(&[Feed { seq: SeqId(0), tokens: &prompt[..1] }]).unwrap();
    device.truncate(SeqId(0), 5).unwrap();
    let before = (device.gpu().created(), device.gpu().submitted());
    let mut count = 0;
    let mut emit = |_| {
        count += 1;
        count < 20
    };
    device.run(SeqId(0), prompt[5], &GREEDY, &mut emit).unwrap();
    for _ in 0..5 {
        device.extend(&[Feed { seq: SeqId(0), tokens: &prompt[..1] }]).unwrap();
    }
    let after = (device.gpu().created(), device.gpu().submitted());
    assert_eq!(after.0, before.0, "created on the way");
    // One token is under way when the last wanted one is read.
    assert_eq!(after.1 - before.1, 20 + 1 + 5);
}

#[test]
fn drawing_ends_where_the_positions_end_and_leaves_what_was_emitted() {
    let (config, weights) = model(Format::F16);
    let settings = Settings { context: 20, ..Settings::new(Format::F16) };
    let mut device = GpuInfer::new(gpu(), &config, &weights, settings).unwrap();
    let prompt = conformance::tokens(&config, 6, 3);
    assert_eq!(draw(&mut device, &GREEDY, &prompt, 1000).len(), 15);
    let full = device.run(SeqId(0), prompt[0], &GREEDY, &mut |_| true);
    assert!(matches!(full, Err(Error::SequenceTooLong { .. })));
    // A text that is cut off goes on as if it had not been.
    let whole = draw(&mut device, &GREEDY, &prompt, 10);
    let mut parts = draw(&mut device, &GREEDY, &prompt, 4);
    let mut emit = |token| {
        parts.push(token);
        parts.len() < 10
    };
    device.run(SeqId(0), whole[3], &GREEDY, &mut emit).unwrap();
    assert_eq!(parts, whole);
}

#[test]
fn a_window_makes_the_cache_a_ring_and_the_text_may_be_longer() {
    let window = NonZeroUsize::new(20);
    let config = ModelConfig { max_seq: 320, ..config() };
    let mut weights = conformance::weights(&config, 9);
    weights.round_to(Format::F16).unwrap();
    let settings = Settings { window, prefill: 32, ..Settings::new(Format::F16) };
    let capacity = settings.capacity(&config);
    assert_eq!(capacity, 128);
    let whole = Settings { window: None, ..settings.clone() };
    assert!(Memory::plan(&config, &settings).cache < Memory::plan(&config, &whole).cache / 2);
    let mut device = GpuInfer::new(gpu(), &config, &weights, settings).unwrap();
    let mut reference = ReferenceInfer::new(&config, weights).with_window(20);
    let seq = SeqId(0);
    let close = |what: &str, got: &[f32], wanted: &[f32]| {
        let error = conformance::relative_error(got, wanted);
        assert!(error < 1e-3, "{what}: {error:.1e}");
    };
    // A prompt that is longer than the ring.
    let tokens = conformance::tokens(&config, 160, 3);
    let (kv, logits) = device.prefill(&tokens[..150]).unwrap();
    let (kv_wanted, wanted) = reference.prefill(&tokens[..150]).unwrap();
    close("prompt", &logits.values, &wanted.values);
    close("keys", &kv.keys, &kv_wanted.keys);
    close("values", &kv.values, &kv_wanted.values);
    device.seed(seq, &kv).unwrap();
    reference.seed(seq, &kv_wanted).unwrap();
    let feed = |tokens| [Feed { seq, tokens }];
    for range in [150..151, 151..158] {
        let got = device.extend(&feed(&tokens[range.clone()])).unwrap();
        close("tokens", &got.values, &reference.extend(&feed(&tokens[range])).unwrap().values);
    }
    // A text that goes round the ring.
    let mut drawn = Vec::new();
    let mut emit = |token| {
        drawn.push(token);
        drawn.len() < 100
    };
    device.run(seq, tokens[158], &GREEDY, &mut emit).unwrap();
    let mut last = tokens[158];
    for (i, &token) in drawn.iter().enumerate() {
        let logits = reference.extend(&[Feed { seq, tokens: &[last] }]).unwrap();
        assert_eq!(token, first_largest(logits.last()), "token {i}");
        last = token;
    }
    // 258 positions; one more was under way. What the window needs is there for 240, not for 140.
    device.truncate(seq, 240).unwrap();
    reference.truncate(seq, 240).unwrap();
    let got = device.extend(&feed(&tokens[..3])).unwrap();
    close("taken back", &got.values, &reference.extend(&feed(&tokens[..3])).unwrap().values);
    let gone = device.truncate(seq, 140).unwrap_err();
    assert!(matches!(gone, Error::Overwritten { len: 140, oldest } if oldest > 121), "{gone}");
    self_test(gpu(), &config, &Settings { window, ..Settings::new(Format::F16) }).unwrap();
}

#[test]
fn what_was_taken_back_leaves_no_trace_and_a_full_cache_is_said() {
    let (config, weights) = model(Format::F16);
    let settings = Settings { context: 20, ..Settings::new(Format::F16) };
    let mut device = GpuInfer::new(gpu(), &config, &weights, settings).unwrap();
    let tokens = conformance::tokens(&config, 20, 3);
    let other = conformance::tokens(&config, 8, 4);
    let feed = |tokens| [Feed { seq: SeqId(0), tokens }];
    let (kv, _) = device.prefill(&tokens[..10]).unwrap();
    device.seed(SeqId(0), &kv).unwrap();
    let straight = device.extend(&feed(&tokens[10..])).unwrap();
    // Not one position more, and nothing happens to those there are.
    let full = device.extend(&feed(&other[..1]));
    assert!(matches!(full, Err(Error::SequenceTooLong { got: 21, max: 20 })), "{full:?}");
    // Taken back to the prompt, another way, back again, and the first way as before.
    device.truncate(SeqId(0), 10).unwrap();
    device.extend(&feed(&other)).unwrap();
    device.truncate(SeqId(0), 14).unwrap();
    device.truncate(SeqId(0), 10).unwrap();
    assert_eq!(device.extend(&feed(&tokens[10..])).unwrap().values, straight.values);
    // Positions that are not there cannot be kept: all 20 stay.
    device.truncate(SeqId(0), 1000).unwrap();
    assert!(device.extend(&feed(&other[..1])).is_err());
    // Down to nothing, and a text from its first token.
    device.truncate(SeqId(0), 0).unwrap();
    let first = device.extend(&feed(&tokens[..1])).unwrap();
    device.release(SeqId(0));
    let (_, wanted) = device.prefill(&tokens[..1]).unwrap();
    let error = conformance::relative_error(&first.values, &wanted.values);
    assert!(error < 1e-3, "{error:.1e}");
}

#[test]
fn draws_follow_the_probabilities_and_the_cuts() {
    let (config, weights) = model(Format::F16);
    let mut device = GpuInfer::new(gpu(), &config, &weights, Settings::new(Format::F16)).unwrap();
    let prompt = conformance::tokens(&config, 6, 3);
    let (last, before) = prompt.split_last().unwrap();
    let (kv, _) = device.prefill(before).unwrap();
    device.seed(SeqId(0), &kv).unwrap();
    let logits = device.extend(&[Feed { seq: SeqId(0), tokens: &[*last] }]).unwrap();
    let hot = 0.7;
    let weight: Vec<f64> = logits.values.iter().map(|z| f64::from(z / hot).exp()).collect();
    let total: f64 = weight.iter().sum();
    let mut order: Vec<usize> = (0..weight.len()).collect();
    order.sort_by(|a, b| weight[*b].total_cmp(&weight[*a]));
    const N: u64 = 400;
    let mut counts = |rule: Draw| {
        let mut counts = vec![0u64; weight.len()];
        for seed in 0..N {
            device.truncate(SeqId(0), before.len()).unwrap();
            let mut emit = |token: TokenId| {
                counts[token.0 as usize] += 1;
                false
            };
            device.run(SeqId(0), *last, &Draw { seed, ..rule }, &mut emit).unwrap();
        }
        counts
    };
    let all = Draw { temperature: hot, ..GREEDY };
    let seen = counts(all);
    // Six standard deviations of a binomial.
    for (n, w) in seen.iter().zip(&weight) {
        let p = w / total;
        let (mean, deviation) = (N as f64 * p, (N as f64 * p * (1.0 - p)).sqrt());
        assert!((*n as f64 - mean).abs() <= 6.0 * deviation + 1.0, "{n} draws of {mean:.1}");
    }
    let drawn = |seen: Vec<u64>| (0..seen.len()).filter(|&i| seen[i] > 0).collect::<Vec<_>>();
    let inside = |drawn: Vec<usize>, most: usize| {
        assert!(drawn.iter().all(|i| order[..most].contains(i)), "{drawn:?} of {:?}", &order[..most]);
    };
    inside(drawn(counts(Draw { top_k: 3, ..all })), 3);
    let mass = |n: usize| order[..n].iter().map(|&i| weight[i]).sum::<f64>();
    let enough = (1..=order.len()).find(|&n| mass(n) >= 0.5 * total).unwrap();
    inside(drawn(counts(Draw { top_p: 0.5, ..all })), enough);
    let likely = order.iter().filter(|&&i| weight[i] >= 0.5 * weight[order[0]]).count();
    inside(drawn(counts(Draw { min_p: 0.5, ..all })), likely);
}

#[test]
fn refuses_what_does_not_fit_before_loading_it() {
    let (config, weights) = model(Format::F16);
    let gpu = gpu();
    let created = gpu.created();
    let small = Settings { memory: Some(1000), ..Settings::new(Format::F16) };
    let needed = Memory::plan(&config, &small).total();
    match GpuInfer::new(gpu, &config, &weights, small) {
        Err(GpuError::Memory { needed: n, available: 1000, .. }) => assert_eq!(n, needed),
        other => panic!("{:?} after {created} creations", other.err()),
    }
    let mut broken = weights.clone();
    let id = broken.params().head();
    broken.get_mut(id)[5] = f32::NAN;
    let error = GpuInfer::new(common::gpu(), &config, &broken, Settings::new(Format::F16)).err().unwrap();
    assert!(matches!(error, GpuError::Weight { .. }), "{error}");
    // One sequence was planned.
    let mut device = GpuInfer::new(common::gpu(), &config, &weights, Settings::new(Format::F16)).unwrap();
    let (kv, _) = device.prefill(&conformance::tokens(&config, 4, 1)).unwrap();
    device.seed(SeqId(0), &kv).unwrap();
    assert!(device.seed(SeqId(1), &kv).is_err());
    device.release(SeqId(0));
    device.seed(SeqId(1), &kv).unwrap();
}

#[test]
fn the_self_test_accepts_this_device() {
    let (_, config) = conformance::configs().swap_remove(5);
    self_test(gpu(), &config, &Settings::new(Format::Q4_0)).unwrap();
}
