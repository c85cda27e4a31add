//! The protocol of the published training sweep, so that its loss can be compared with ours.
//!
//! ```text
//! weights    x ← a·x + c mod 2⁶⁴ from 42 + the tensor's size;  w = (2·⌊x/2³²⌋/(2³²−1) − 1)·scale
//!            scale 1/√dim for Wq, Wk, Wv; 1/√hidden for W1, W3; 0.005 for the embedding;
//!            Wo and W2 zero, gains one
//! tokens     t[i] = (31·i + 7) mod vocab, targets t[i+1]; the same sequence in every step
//! residual   branches times 1/√(2·layers)
//! optimizer  AdamW 0.9, 0.95, 1e-8; lr 3e-4·step/100, times 0.05 for matrices and 5 for the embedding;
//!            decay 0.1 on matrices alone; the gradient's norm clipped at 1
//! ```
//!
//! Its rotary pairs are channels `2i` and `2i + 1` of a head, ours `i` and `i + head_dim/2`: the same model
//! with the rows of Wq and Wk in another order, which [`draw`] gives them. Its static loss scale of 256 is
//! not part of the mathematics; a backend that needs scaling has its own.
//!
//! Source: ncdrone/rustane, `bench_param_sweep` and `TrainConfig::default`.

use backend::{AdamW, Rule, Rules, Update};
use model::{ModelConfig, Param, Role, TokenId};

/// Updates over which the learning rate rises.
const WARMUP: f32 = 100.0;
/// Learning rate at their end.
const LR: f32 = 3e-4;

/// The model of the protocol: the shape with its scale on the residual stream.
pub fn model(shape: &ModelConfig) -> ModelConfig {
    let residual_scale = (2.0 * shape.layers as f64).sqrt().recip() as f32;
    ModelConfig { residual_scale, ..shape.clone() }
}

/// The sequence and its targets.
pub fn tokens(seq: usize, vocab: usize) -> (Vec<TokenId>, Vec<TokenId>) {
    let token = |i: usize| TokenId(((31 * i + 7) % vocab) as u32);
    ((0..seq).map(token).collect(), (1..=seq).map(token).collect())
}

/// The update after `done` earlier ones.
pub fn update(done: u64) -> Update {
    let lr = LR * ((done + 1) as f32 / WARMUP).min(1.0);
    let adamw =
        |factor, weight_decay| AdamW { lr: lr * factor, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay };
    let [embedding, matrix, gain] =
        [(5.0, 0.0), (0.05, 0.1), (1.0, 0.0)].map(|(f, d)| Rule::AdamW(adamw(f, d)));
    let rules = Rules { embedding, head: embedding, matrix, gain, bias: gain };
    Update { step: done + 1, grad_scale: 1.0, clip: Some(1.0), rules }
}

/// Writes the first weights of a parameter; the numbers do not depend on `threads`.
pub fn draw(config: &ModelConfig, param: &Param, threads: usize, out: &mut [f32]) {
    fill_rows(param, threads, out, &|row, out| draw_row(config, param, row, out));
}

/// Lets `row` write every row of a parameter on some threads; a vector is one row.
pub fn fill_rows(param: &Param, threads: usize, out: &mut [f32], row: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    let columns = *param.shape.last().expect("a parameter has an extent");
    let share = (out.len() / columns).div_ceil(threads.max(1));
    std::thread::scope(|scope| {
        for (part, out) in out.chunks_mut(share * columns).enumerate() {
            scope.spawn(move || {
                let rows = out.chunks_exact_mut(columns).enumerate();
                rows.for_each(|(i, out)| row(part * share + i, out));
            });
        }
    });
}

/// Writes a row of the first weights of a parameter; a vector is one row.
pub fn draw_row(config: &ModelConfig, param: &Param, row: usize, out: &mut [f32]) {
    let root = |n: usize| (1.0 / (n as f64).sqrt()) as f32;
    let numbers = Numbers { seed: 42 + param.len() as u64 };
    // The original keeps matrices as [inputs, outputs], ours are the other way round.
    let rows = param.shape[0] as u64;
    match param.role {
        Role::AttnNorm | Role::FfnNorm | Role::FinalNorm | Role::QNorm | Role::KNorm => out.fill(1.0),
        Role::O | Role::Down | Role::QBias | Role::KBias | Role::VBias => out.fill(0.0),
        Role::Embed | Role::Head => numbers.fill((row * out.len()) as u64, 1, 0.005, out),
        Role::Q | Role::K => {
            let d = config.head_dim;
            let first = row / d * d + interleaved(row % d, d);
            numbers.fill(first as u64, rows, root(config.dim), out);
        }
        Role::V => numbers.fill(row as u64, rows, root(config.dim), out),
        Role::Gate | Role::Up => numbers.fill(row as u64, rows, root(config.hidden), out),
    }
}

/// Where the original keeps what is channel `i` of a head here.
fn interleaved(i: usize, head_dim: usize) -> usize {
    let half = head_dim / 2;
    if i < half { 2 * i } else { 2 * (i - half) + 1 }
}

/// Some steps of the generator at once: `x ↦ a·x + c` modulo 2⁶⁴.
#[derive(Clone, Copy)]
struct Jump {
    a: u64,
    c: u64,
}

impl Jump {
    const NONE: Self = Self { a: 1, c: 0 };
    const ONE: Self = Self { a: 6_364_136_223_846_793_005, c: 1_442_695_040_888_963_407 };

    fn apply(self, x: u64) -> u64 {
        self.a.wrapping_mul(x).wrapping_add(self.c)
    }

    /// `n` steps, by squaring.
    fn of(mut n: u64) -> Self {
        let (mut power, mut all) = (Self::ONE, Self::NONE);
        while n > 0 {
            if n & 1 == 1 {
                all = Self { a: power.a.wrapping_mul(all.a), c: power.apply(all.c) };
            }
            power = Self { a: power.a.wrapping_mul(power.a), c: power.apply(power.c) };
            n >>= 1;
        }
        all
    }
}

/// The numbers of one tensor, in the order of the original.
struct Numbers {
    seed: u64,
}

impl Numbers {
    /// Numbers in ±scale from the one at `first` on, `stride` apart.
    fn fill(&self, first: u64, stride: u64, scale: f32, out: &mut [f32]) {
        let mut x = Jump::of(first + 1).apply(self.seed);
        let jump = Jump::of(stride);
        for w in out {
            let unit = (x >> 32) as f32 / u32::MAX as f32;
            *w = (2.0 * unit - 1.0) * scale;
            x = jump.apply(x);
        }
    }
}

#[cfg(test)]
mod tests {
    use model::Params;

    use super::*;

    fn config() -> ModelConfig {
        ModelConfig {
            dim: 24,
            hidden: 40,
            layers: 2,
            heads: 2,
            kv_heads: 2,
            head_dim: 12,
            vocab: 50,
            ..ModelConfig::default()
        }
    }

    /// The definition, number by number.
    fn sequence(n: usize, scale: f32) -> Vec<f32> {
        let mut x = 42 + n as u64;
        let next = |_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (2.0 * ((x >> 32) as f32 / 4_294_967_295u32 as f32) - 1.0) * scale
        };
        (0..n).map(next).collect()
    }

    fn drawn(role: Role) -> Vec<f32> {
        let c = config();
        let params = Params::new(&c);
        let layer = (role != Role::Embed).then_some(1);
        let p = params.get(params.find(role, layer).unwrap());
        let [one, three] = [1, 3].map(|threads| {
            let mut out = vec![f32::NAN; p.len()];
            draw(&c, p, threads, &mut out);
            out
        });
        assert_eq!(one, three, "{role:?} depends on the number of threads");
        one
    }

    #[test]
    fn draws_what_the_definition_says() {
        assert_eq!(drawn(Role::Embed), sequence(50 * 24, 0.005));
        let (up, wanted) = (drawn(Role::Up), sequence(24 * 40, (1.0 / 40f64.sqrt()) as f32));
        let (v, values) = (drawn(Role::V), sequence(24 * 24, (1.0 / 24f64.sqrt()) as f32));
        for input in 0..24 {
            (0..40).for_each(|output| assert_eq!(up[output * 24 + input], wanted[input * 40 + output]));
            (0..24).for_each(|output| assert_eq!(v[output * 24 + input], values[input * 24 + output]));
        }
        assert!(drawn(Role::O).iter().chain(&drawn(Role::Down)).all(|w| *w == 0.0));
        assert!(drawn(Role::FfnNorm).iter().all(|w| *w == 1.0));
    }

    #[test]
    fn neighbours_of_the_original_are_half_a_head_apart() {
        let (q, values) = (drawn(Role::Q), sequence(24 * 24, (1.0 / 24f64.sqrt()) as f32));
        for input in 0..24 {
            for (head, pair) in [(0, 0), (0, 5), (1, 3)] {
                let theirs = head * 12 + 2 * pair;
                let ours = head * 12 + pair;
                assert_eq!(q[ours * 24 + input], values[input * 24 + theirs]);
                assert_eq!(q[(ours + 6) * 24 + input], values[input * 24 + theirs + 1]);
            }
        }
    }

    #[test]
    fn the_rate_rises_in_each_group() {
        let rate = |rule| match rule {
            Rule::AdamW(rule) => (rule.lr, rule.weight_decay),
            Rule::Muon(_) => panic!("the protocol has no Muon"),
        };
        let first = update(0);
        assert_eq!((first.step, first.clip, first.grad_scale), (1, Some(1.0), 1.0));
        let tenth = update(9).rules;
        assert_eq!(rate(first.rules.gain), (3e-6, 0.0));
        for (rule, lr, decay) in
            [(tenth.gain, 3e-5, 0.0), (tenth.embedding, 1.5e-4, 0.0), (tenth.matrix, 1.5e-6, 0.1)]
        {
            assert!((rate(rule).0 / lr - 1.0).abs() < 1e-6 && rate(rule).1 == decay, "{rule:?}");
        }
        assert_eq!(rate(update(1000).rules.gain).0, 3e-4);
    }

    #[test]
    fn the_sequence_goes_on_into_its_targets() {
        let (ids, targets) = tokens(300, 8192);
        assert_eq!((ids[0].0, ids[1].0, ids[299].0), (7, 38, (31 * 299 + 7) % 8192));
        assert_eq!(ids[1..], targets[..299]);
    }
}
