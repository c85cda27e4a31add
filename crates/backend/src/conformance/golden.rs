//! Comparison with transformers and PyTorch, through the files of `tests/interop/golden/models`.
//!
//! `tests/interop/README.md` says what the files hold and why the tolerances are what they are.

use std::path::{Path, PathBuf};

use model::safetensors::TensorFile;
use model::{FileError, ModelConfig, Params, Slot, TokenId, Weights, hf};

use crate::checked::relative_error;
use crate::{
    AdamW, Decode, Feed, Prefill, Rule, Rules, SeqId, Tokens, Train, Update, forward, forward_backward,
};

/// Largest difference of a logit.
const LOGIT: f32 = 1e-4;
/// Largest mean Kullback–Leibler divergence of the next token's distribution, in nats.
const KL: f64 = 1e-9;
/// Largest relative error of losses, gradients and trained weights.
const RELATIVE: f64 = 1e-5;
/// Tensors that PyTorch trained.
const STEPS: u64 = 10;

/// A model, and what transformers and PyTorch compute with it.
pub struct Golden {
    /// Name of the case.
    pub name: String,
    /// Shape of the model.
    pub config: ModelConfig,
    /// Its weights.
    pub weights: Weights,
    file: TensorFile,
    tokens: Vec<TokenId>,
    targets: Vec<TokenId>,
    seq: usize,
}

impl Golden {
    /// Every case in a folder, by name.
    pub fn all(folder: &Path) -> Result<Vec<Golden>, FileError> {
        let entries = std::fs::read_dir(folder);
        let mut dirs: Vec<PathBuf> = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.join("golden.safetensors").exists())
            .collect();
        dirs.sort();
        dirs.iter().map(|dir| Self::open(dir)).collect()
    }

    fn open(dir: &Path) -> Result<Golden, FileError> {
        let model = hf::load(dir)?;
        let file = TensorFile::open(&dir.join("golden.safetensors"))?;
        let (tokens, targets) = (ids(&file, "tokens")?, ids(&file, "targets")?);
        let seq = file.find("tokens").map_or(1, |t| t.shape[1]);
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Golden { name, config: model.config, weights: model.weights, file, tokens, targets, seq })
    }

    /// Whether the case holds gradients and trained weights, and not logits alone.
    pub fn trains(&self) -> bool {
        self.file.find("loss").is_some()
    }

    /// Loss, gradients, and weights after 1 and 10 AdamW steps.
    pub fn check_train<B: Train>(&self, mut backend: B) -> Result<(), String> {
        self.load(&mut backend)?;
        let losses = self.numbers("losses");
        close("loss", &[self.loss(&mut backend)?], &losses[..1], RELATIVE)?;
        for step in 1..=STEPS {
            let loss = self.forward_backward(&mut backend)?;
            close(&format!("loss before step {step}"), &[loss], &losses[step as usize - 1..][..1], RELATIVE)?;
            if step == 1 {
                self.compare(&mut backend, Slot::Gradient, "grad.")?;
            }
            let norm = backend.update(&update(step, Some(1.0))).map_err(|e| e.to_string())?;
            let wanted = &self.numbers("grad_norms")[step as usize - 1..][..1];
            close(&format!("gradient norm of step {step}"), &[norm], wanted, RELATIVE)?;
            if step == 1 || step == STEPS {
                self.compare(&mut backend, Slot::Weight, &format!("after{step}."))?;
            }
        }
        if self.file.find("unclipped.losses").is_some() {
            self.load(&mut backend)?;
            for step in 1..=STEPS {
                self.forward_backward(&mut backend)?;
                backend.update(&update(step, None)).map_err(|e| e.to_string())?;
            }
            self.compare(&mut backend, Slot::Weight, "unclipped.after10.")?;
        }
        Ok(())
    }

    /// Logits of both sequences, and greedy text.
    pub fn check_infer<B: Prefill + Decode>(&self, mut backend: B) -> Result<(), String> {
        let wanted = self.numbers("logits");
        for (n, tokens) in self.tokens.chunks_exact(self.seq).enumerate() {
            let mut got = Vec::new();
            let (kv, first) = backend.prefill(&tokens[..1]).map_err(|e| e.to_string())?;
            got.extend(first.values);
            backend.seed(SeqId(0), &kv).map_err(|e| e.to_string())?;
            let feeds = [Feed { seq: SeqId(0), tokens: &tokens[1..] }];
            got.extend(backend.extend(&feeds).map_err(|e| e.to_string())?.values);
            compare_logits(&got, &wanted[n * got.len()..][..got.len()], self.config.vocab)?;
            let (_, last) = backend.prefill(tokens).map_err(|e| e.to_string())?;
            let row = &wanted[(n + 1) * got.len() - self.config.vocab..][..self.config.vocab];
            compare_logits(&last.values, row, self.config.vocab)?;
        }
        if self.file.find("greedy").is_some() {
            self.check_greedy(&mut backend)?;
        }
        Ok(())
    }

    fn check_greedy<B: Prefill + Decode>(&self, backend: &mut B) -> Result<(), String> {
        let prompt = ids(&self.file, "prompt").map_err(|e| e.to_string())?;
        let wanted = ids(&self.file, "greedy").map_err(|e| e.to_string())?;
        let (kv, mut logits) = backend.prefill(&prompt).map_err(|e| e.to_string())?;
        backend.seed(SeqId(0), &kv).map_err(|e| e.to_string())?;
        let mut text = Vec::new();
        while text.len() < wanted.len() {
            let row = logits.last();
            let best = (0..row.len()).reduce(|best, i| if row[i] > row[best] { i } else { best });
            let token = TokenId(best.unwrap_or_default() as u32);
            text.push(token);
            let feeds = [Feed { seq: SeqId(0), tokens: &[token] }];
            logits = backend.extend(&feeds).map_err(|e| e.to_string())?;
        }
        if text == wanted { Ok(()) } else { Err(format!("greedy text is {text:?} instead of {wanted:?}")) }
    }

    fn load<B: Train>(&self, backend: &mut B) -> Result<(), String> {
        for p in &Params::new(&self.config) {
            let zeros = vec![0.0; p.len()];
            for (slot, values) in [
                (Slot::Weight, self.weights.get(p.id)),
                (Slot::Gradient, &zeros),
                (Slot::Moment1, &zeros),
                (Slot::Moment2, &zeros),
            ] {
                backend.write(p.id, slot, values).map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }

    fn input(&self) -> Tokens<'_> {
        Tokens { ids: &self.tokens, seq: self.seq }
    }

    fn loss<B: Train>(&self, backend: &mut B) -> Result<f32, String> {
        forward(backend, self.input(), &self.targets).map_err(|e| e.to_string())
    }

    fn forward_backward<B: Train>(&self, backend: &mut B) -> Result<f32, String> {
        forward_backward(backend, self.input(), &self.targets).map_err(|e| e.to_string())
    }

    fn compare<B: Train>(&self, backend: &mut B, slot: Slot, prefix: &str) -> Result<(), String> {
        for p in &Params::new(&self.config) {
            let got = backend.read(p.id, slot).map_err(|e| e.to_string())?;
            let name = format!("{prefix}{}", p.name);
            close(&name, &got, &self.numbers(&name), RELATIVE)?;
        }
        Ok(())
    }

    /// A tensor of the golden file.
    fn numbers(&self, name: &str) -> Vec<f32> {
        let tensor = self.file.find(name).unwrap_or_else(|| panic!("{}: no tensor `{name}`", self.name));
        self.file.read(tensor).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }
}

fn ids(file: &TensorFile, name: &str) -> Result<Vec<TokenId>, FileError> {
    let ids = file.find(name).map(|tensor| file.read_i32(tensor)).transpose()?;
    Ok(ids.unwrap_or_default().into_iter().map(|id| TokenId(id as u32)).collect())
}

/// The rule that `golden.json` states: decay on every matrix, none on vectors.
fn update(step: u64, clip: Option<f32>) -> Update {
    let adamw =
        |weight_decay| Rule::AdamW(AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay });
    let (matrix, vector) = (adamw(0.1), adamw(0.0));
    let rules = Rules { embedding: matrix, head: matrix, matrix, gain: vector, bias: vector };
    Update { step, grad_scale: 1.0, clip, rules }
}

fn close(what: &str, got: &[f32], wanted: &[f32], allowed: f64) -> Result<(), String> {
    let error = relative_error(got, wanted);
    // Written so that NaN fails.
    if error <= allowed {
        Ok(())
    } else {
        Err(format!("{what}: relative error {error:.1e}, allowed {allowed:.0e}"))
    }
}

fn compare_logits(got: &[f32], wanted: &[f32], vocab: usize) -> Result<(), String> {
    let worst = got.iter().zip(wanted).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max);
    if worst.is_nan() || worst > LOGIT || got.iter().any(|g| g.is_nan()) {
        return Err(format!("logits differ by {worst:.1e}, allowed {LOGIT:.0e}"));
    }
    let rows = got.chunks_exact(vocab).zip(wanted.chunks_exact(vocab));
    let count = rows.len() as f64;
    let kl = rows.map(|(got, wanted)| divergence(wanted, got)).sum::<f64>() / count;
    if kl <= KL { Ok(()) } else { Err(format!("logits have a KL of {kl:.1e}, allowed {KL:.0e}")) }
}

/// Σ p·(log p − log q) of the distributions that two rows of logits stand for.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let log_softmax = |z: &[f32]| -> Vec<f64> {
        let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = z.iter().map(|z| f64::from(z - max).exp()).sum();
        z.iter().map(|z| f64::from(z - max) - sum.ln()).collect()
    };
    let (p, q) = (log_softmax(p), log_softmax(q));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}
