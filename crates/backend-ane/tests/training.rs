//! Training on the virtual ANE beside the CPU in f32: gradients, loss curves, faults.

use ane_bridge::{Faults, Settings, SlowDown, VirtualAne};
use backend::conformance::{tokens, weights};
use backend::{AdamW, Error, Rule, Rules, Tokens, Train, Update, forward_backward};
use backend_ane::{Ane, Care, Classifier, Plan, Scaling};
use backend_cpu::Cpu;
use mil::eval::Arithmetic;
use model::{ModelConfig, Params, Slot, TokenId, Weights};

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

fn plan() -> Plan {
    Plan { threads: 2, ..Plan::new(64, 2) }
}

fn scaled(scaling: Scaling) -> Plan {
    let mut plan = plan();
    plan.choices.scaling = scaling;
    plan
}

/// The classifier on the device, in parts of 20 tokens and one of 16.
fn with_classifier(plan: Plan) -> Plan {
    Plan { classifier: Classifier::Device, vocab_shards: 5, ..plan }
}

fn device(arithmetic: Arithmetic) -> VirtualAne {
    VirtualAne::new(Settings { arithmetic, count_flushed: false, ..Settings::default() })
}

fn load<B: Train>(backend: &mut B, weights: &Weights) {
    for p in weights.params() {
        backend.write(p.id, Slot::Weight, weights.get(p.id)).expect("weights are written");
    }
}

/// Text with structure to learn: each token follows from the one before it.
fn batch(step: u64) -> (Vec<TokenId>, Vec<TokenId>) {
    let starts = tokens(&config(), 2, step + 100);
    let chain = |start: TokenId| (0..65u32).map(move |i| TokenId((start.0 + i * (1 + start.0 % 3)) % 96));
    let ids = starts.iter().flat_map(|&s| chain(s).take(64)).collect();
    let targets = starts.iter().flat_map(|&s| chain(s).skip(1)).collect();
    (ids, targets)
}

fn update(step: u64) -> Update {
    let adamw = |lr| Rule::AdamW(AdamW { lr, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 });
    let rules = Rules {
        embedding: adamw(3e-3),
        head: adamw(3e-3),
        matrix: adamw(3e-3),
        gain: adamw(3e-3),
        bias: adamw(3e-3),
    };
    Update { step, grad_scale: 1.0, clip: Some(1.0), rules }
}

fn step<B: Train>(backend: &mut B, number: u64) -> (f32, f32) {
    let (ids, targets) = batch(number);
    let loss = forward_backward(backend, Tokens { ids: &ids, seq: 64 }, &targets).expect("step runs");
    (loss, backend.update(&update(number)).expect("update runs"))
}

/// The gradients of one step, by parameter.
fn gradients<B: Train>(backend: &mut B, weights: &Weights) -> Vec<(String, Vec<f32>)> {
    load(backend, weights);
    let (ids, targets) = batch(1);
    forward_backward(backend, Tokens { ids: &ids, seq: 64 }, &targets).expect("step runs");
    let params = Params::new(backend.config());
    let read = |p: &model::Param| {
        (p.name.clone(), backend.read(p.id, Slot::Gradient).expect("gradient is read").into_owned())
    };
    params.iter().map(read).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The worst cosine with the CPU's gradient over all tensors.
fn worst_cosine(arithmetic: Arithmetic, plan: Plan, weights: &Weights) -> (f64, String) {
    let mut ane = Ane::new(device(arithmetic), &config(), plan).expect("a backend");
    let mut cpu = Cpu::new(&config(), backend_cpu::Plan::new(128).with_threads(2)).expect("a backend");
    let got = gradients(&mut ane, weights);
    let wanted = gradients(&mut cpu, weights);
    let each = got.iter().zip(&wanted).map(|((name, got), (_, wanted))| (cosine(got, wanted), name.clone()));
    each.min_by(|a, b| a.0.total_cmp(&b.0)).expect("there are parameters")
}

#[test]
fn gradients_point_where_the_cpu_points() {
    for weights in [Weights::init(&config(), 1), weights(&config(), 1)] {
        for plan in [plan(), with_classifier(plan())] {
            let (cosine, name) = worst_cosine(Arithmetic::Fast, plan, &weights);
            assert!(cosine >= 0.999, "`{name}`: cosine {cosine}");
        }
    }
}

/// On the ANE's product grid, gradients of fresh weights vanish unless operands are scaled up.
#[test]
fn scaling_brings_gradients_back_on_the_product_grid() {
    let weights = Weights::init(&config(), 1);
    let (with, name) = worst_cosine(Arithmetic::Exact, plan(), &weights);
    let (without, _) = worst_cosine(Arithmetic::Exact, scaled(Scaling::OFF), &weights);
    let gradients_alone = Scaling { gradient: Some(6), ..Scaling::OFF };
    let (half, _) = worst_cosine(Arithmetic::Exact, scaled(gradients_alone), &weights);
    println!(
        "worst gradient cosine on the product grid: {without:.4} as it is, {half:.6} with gradients scaled, {with:.8} with weights too"
    );
    assert!(with > half, "scaled weights gain nothing: {with} after {half}");
    assert!(with >= 0.999, "`{name}`: cosine {with}");
    assert!(without < 0.9, "the unscaled gradient has the cosine {without}");
    let (classifier, name) = worst_cosine(Arithmetic::Exact, with_classifier(plan()), &weights);
    assert!(classifier >= 0.999, "`{name}`: cosine {classifier}");
}

#[test]
fn the_loss_curve_is_that_of_the_cpu() {
    let weights = Weights::init(&config(), 2);
    let mut ane = Ane::new(device(Arithmetic::Fast), &config(), plan()).expect("a backend");
    let mut cpu = Cpu::new(&config(), backend_cpu::Plan::new(128).with_threads(2)).expect("a backend");
    load(&mut ane, &weights);
    load(&mut cpu, &weights);
    let mut last = f32::INFINITY;
    for number in 1..=100 {
        let ((got, _), (wanted, _)) = (step(&mut ane, number), step(&mut cpu, number));
        assert!((got - wanted).abs() <= 0.01 * wanted, "step {number}: loss {got} instead of {wanted}");
        last = got;
    }
    assert!(last < 2.0, "nothing was learned: the loss is {last}");
}

/// A gradient that overflows on the device at the planned power of two is computed at a smaller one.
#[test]
fn gradients_that_overflow_are_computed_at_a_smaller_power() {
    let weights = weights(&config(), 1);
    let too_high = Scaling { gradient: Some(14), ..Scaling::default() };
    let plan = with_classifier(scaled(too_high));
    let (cosine, name) = worst_cosine(Arithmetic::Fast, plan.clone(), &weights);
    assert!(cosine >= 0.999, "`{name}`: cosine {cosine}");
    let mut ane = Ane::new(device(Arithmetic::Fast), &config(), plan).expect("a backend");
    load(&mut ane, &weights);
    let (_, norm) = step(&mut ane, 1);
    assert!(norm.is_finite());
    for program in ["head_bwd", "ffn_bwd_w2"] {
        assert!(ane.ledger().of(program).stats.overflows > 0, "nothing overflowed in {program}");
    }
}

/// The same for logits: they are computed again without powers of two.
#[test]
fn logits_that_overflow_are_computed_without_powers_of_two() {
    let mut weights = weights(&config(), 1);
    let gain = weights.params().iter().find(|p| p.name == "model.norm.weight").expect("a final norm").id;
    weights.get_mut(gain).iter_mut().for_each(|w| *w *= 2048.0);
    let plan = with_classifier(plan());
    let mut ane = Ane::new(device(Arithmetic::Fast), &config(), plan).expect("a backend");
    let mut cpu = Cpu::new(&config(), backend_cpu::Plan::new(128).with_threads(2)).expect("a backend");
    load(&mut ane, &weights);
    load(&mut cpu, &weights);
    let ((got, norm), (wanted, _)) = (step(&mut ane, 1), step(&mut cpu, 1));
    assert!(norm.is_finite() && (got - wanted).abs() <= 0.01 * wanted, "loss {got} instead of {wanted}");
    assert!(ane.ledger().of("head_fwd, unscaled").dispatches > 0 && ane.health().retried > 0);
}

/// Activations beyond ±4094 overflow with weights times 16; they are computed again without.
#[test]
fn activations_that_overflow_are_computed_without_powers_of_two() {
    // What makes one result large, what makes it small again, and the program at fault.
    let cases = [
        ("v_proj", Some("o_proj"), "sdpa_fwd, unscaled"),
        ("o_proj", None, "wo_fwd, unscaled"),
        ("up_proj", Some("down_proj"), "ffn_fwd, unscaled"),
    ];
    for (large, small, program) in cases {
        let mut weights = weights(&config(), 1);
        let params: Vec<_> = weights.params().iter().map(|p| (p.id, p.name.clone())).collect();
        for (id, name) in params.iter().filter(|(_, name)| name.contains("layers.1.")) {
            let factor = match name {
                name if name.contains(large) => 8192.0,
                name if small.is_some_and(|small| name.contains(small)) => 1.0 / 8192.0,
                _ => continue,
            };
            weights.get_mut(*id).iter_mut().for_each(|w| *w *= factor);
        }
        let mut ane = Ane::new(device(Arithmetic::Fast), &config(), plan()).expect("a backend");
        let mut cpu = Cpu::new(&config(), backend_cpu::Plan::new(128).with_threads(2)).expect("a backend");
        let (got, wanted) = (gradients(&mut ane, &weights), gradients(&mut cpu, &weights));
        for ((name, got), (_, wanted)) in got.iter().zip(&wanted) {
            let cosine = cosine(got, wanted);
            assert!(cosine >= 0.999, "{large}: the gradient of `{name}` has the cosine {cosine}");
        }
        let (ledger, retried) = (ane.ledger(), ane.health().retried);
        assert!(ledger.of(program).dispatches > 0 && retried > 0, "{large}: {ledger:?}");
        let unscaled = ledger.entries().filter(|(name, _)| name.ends_with(", unscaled"));
        let unscaled: Vec<_> = unscaled.map(|(name, _)| name).collect();
        let also = if program.starts_with("sdpa") { vec!["sdpa_bwd_qk, unscaled"] } else { vec![] };
        assert_eq!(unscaled, [also, vec![program]].concat(), "other programs of layer 1 did not overflow");
        // The next micro-batch begins as a fresh backend would, and compiles nothing.
        let compiles = ledger.total().compiles;
        assert!(step(&mut ane, 2).1.is_finite());
        assert_eq!(ane.ledger().total().compiles, compiles);
    }
}

/// A loss that is not finite leaves weights alone, and says so.
#[test]
fn a_step_that_no_scaling_saves_is_skipped() {
    let mut weights = weights(&config(), 1);
    let gate = weights.params().iter().find(|p| p.name.contains("up_proj")).expect("an up-projection").id;
    weights.get_mut(gate).iter_mut().for_each(|w| *w *= 1e5);
    let mut ane = Ane::new(device(Arithmetic::Fast), &config(), plan()).expect("a backend");
    load(&mut ane, &weights);
    let (loss, norm) = step(&mut ane, 1);
    assert!(!loss.is_finite() && !norm.is_finite());
    let read = ane.read(gate, Slot::Weight).expect("weights are read");
    assert_eq!(*read, *weights.get(gate));
}

#[test]
fn a_dispatch_that_fails_runs_again_on_a_new_executable() {
    let weights = Weights::init(&config(), 2);
    let run = |faults: Faults| {
        let device = device(Arithmetic::Fast);
        device.inject(faults);
        let mut ane = Ane::new(device, &config(), plan()).expect("a backend");
        load(&mut ane, &weights);
        let losses: Vec<_> = (1..=3).map(|n| step(&mut ane, n)).collect();
        (losses, ane.health().recreated, ane.ledger().total())
    };
    let (healthy, none, total) = run(Faults::default());
    let (failing, one, failed) =
        run(Faults { evaluate_fails_at: Some(total.dispatches / 2), ..Faults::default() });
    assert_eq!(healthy, failing, "the failure left a trace in the numbers");
    assert_eq!((none, one), (0, 1));
    assert_eq!((failed.failures, failed.dispatches), (1, total.dispatches));
}

#[test]
fn a_compile_that_fails_is_an_error_that_names_the_program() {
    let device = device(Arithmetic::Fast);
    device.inject(Faults { compile_fails: [2].into(), ..Faults::default() });
    let mut ane = Ane::new(device, &config(), plan()).expect("a backend");
    let error = ane.compile().expect_err("the second compile fails");
    let text = std::iter::successors(Some(&error as &dyn std::error::Error), |e| e.source());
    let text: Vec<_> = text.map(ToString::to_string).collect();
    assert!(text.join(": ").contains("wo_fwd"), "{text:?}");
    ane.compile().expect("the next try compiles the rest");
}

#[test]
fn executables_that_became_slow_are_made_anew() {
    let weights = Weights::init(&config(), 2);
    let run = |budget: Option<u32>| {
        let slow_down = Some(SlowDown { after: 60, factor: 30.0 });
        let settings = Settings {
            compile_budget: budget,
            count_flushed: false,
            faults: Faults { slow_down, ..Faults::default() },
            ..Settings::default()
        };
        let care = Care { warm: 4, factor: 4.0, patience: 2, reserve: 2 };
        let mut ane =
            Ane::new(VirtualAne::new(settings), &config(), Plan { care, ..plan() }).expect("a backend");
        load(&mut ane, &weights);
        let mut worst = 0f64;
        for n in 1..=24 {
            step(&mut ane, n);
            worst = worst.max(ane.health().dispatch_s / ane.health().normal_dispatch_s);
        }
        (ane.health(), worst)
    };
    let (health, worst) = run(Some(119));
    assert!(worst > 4.0, "the fault was not felt: {worst}");
    assert!(health.recreated >= 10 && !health.restart, "{health:?}");
    // Ten programs and nothing to spare: the run is told to restart.
    let (health, _) = run(Some(12));
    assert!(health.restart && health.recreated == 0, "{health:?}");
}

/// Shorter sequences, other batches and evaluation in between leave nothing behind in the surfaces.
#[test]
fn what_ran_before_does_not_matter() {
    let weights = Weights::init(&config(), 2);
    let mut fresh = Ane::new(device(Arithmetic::Fast), &config(), plan()).expect("a backend");
    let mut used = Ane::new(device(Arithmetic::Fast), &config(), plan()).expect("a backend");
    load(&mut fresh, &weights);
    load(&mut used, &weights);
    let (ids, targets) = batch(9);
    forward_backward(&mut used, Tokens { ids: &ids, seq: 64 }, &targets).expect("step runs");
    load(&mut used, &weights);
    for p in weights.params() {
        used.write(p.id, Slot::Gradient, &vec![0.0; p.len()]).expect("gradients are cleared");
    }
    let run = |ane: &mut Ane<VirtualAne>| {
        forward_backward(ane, Tokens { ids: &ids[..38], seq: 19 }, &targets[..38]).expect("step runs");
        let params = weights.params().iter();
        params.map(|p| ane.read(p.id, Slot::Gradient).expect("gradient").into_owned()).collect::<Vec<_>>()
    };
    assert!(run(&mut fresh) == run(&mut used));
}

#[test]
fn refuses_what_the_plan_has_no_room_for() {
    let small = Plan { seq: 32, sequences: 1, ..plan() };
    let mut ane = Ane::new(device(Arithmetic::Fast), &config(), small.clone()).expect("a backend");
    let ids = tokens(&config(), 64, 1);
    let mut embed = |n: usize, seq: usize| ane.embed(Tokens { ids: &ids[..n], seq }).map(drop);
    assert!(matches!(embed(33, 33), Err(Error::SequenceTooLong { got: 33, max: 32 })));
    assert!(matches!(embed(32, 16), Err(Error::BatchTooLarge { got: 32, max: 16 })));
    assert!(embed(32, 32).is_ok());
    let refused = |plan| {
        let error = Ane::new(device(Arithmetic::Fast), &config(), plan).err().expect("an error");
        std::error::Error::source(&error).and_then(|e| e.source()).expect("a cause").to_string()
    };
    assert!(refused(Plan { seq: 65, ..plan() }).contains("65 tokens"));
    assert!(
        refused(Plan { head_shards: 4, ..plan() }).contains("head_shards = 4 does not divide kv_heads = 2")
    );
    assert!(Ane::new(device(Arithmetic::Fast), &config(), Plan { sequences: usize::MAX, ..plan() }).is_err());
}

#[test]
fn a_backend_for_inference_says_that_it_cannot_go_back() {
    let mut ane = Ane::for_inference(device(Arithmetic::Fast), &config(), plan()).expect("a backend");
    load(&mut ane, &Weights::init(&config(), 2));
    let (ids, targets) = batch(1);
    let batch = Tokens { ids: &ids, seq: 64 };
    assert!(backend::forward(&mut ane, batch, &targets).expect("a loss").is_finite());
    let error = forward_backward(&mut ane, batch, &targets).expect_err("no backward");
    assert!(std::error::Error::source(&error).expect("a cause").to_string().contains("Ane::new"));
    assert_eq!(ane.ledger().total().compiles, 3, "backward programs were compiled");
}
