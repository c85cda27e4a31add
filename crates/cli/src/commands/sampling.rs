//! Flags of drawing tokens.

use engine::infer::Sampling;
use model::TokenId;

/// How a text is drawn.
#[derive(Clone, Debug, clap::Args)]
pub struct SamplingArgs {
    /// Longest continuation, in tokens
    #[arg(long, short = 'n', default_value_t = 256, value_name = "N")]
    max_tokens: usize,
    /// Division of the logits; 0: always the most likely token
    #[arg(long, short, default_value_t = 0.8, value_name = "X", value_parser = not_negative)]
    temperature: f32,
    /// Draw among the so many most likely tokens; 0: among all
    #[arg(long, default_value_t = 0, value_name = "N")]
    top_k: usize,
    /// Draw among the most likely tokens that together have this probability
    #[arg(long, default_value_t = 0.95, value_name = "P", value_parser = share)]
    top_p: f32,
    /// Draw among tokens at least this share as likely as the most likely one
    #[arg(long, default_value_t = 0.0, value_name = "P", value_parser = share)]
    min_p: f32,
    /// Weakens tokens that came before; 1: not at all
    #[arg(long, default_value_t = 1.0, value_name = "X", value_parser = positive)]
    repetition_penalty: f32,
    /// Decides the draws
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Text that ends the continuation; repeatable
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Go on behind the token that ends a text
    #[arg(long)]
    ignore_eos: bool,
}

impl SamplingArgs {
    /// The same, with the tokens that end a text besides the tokenizer's own.
    pub fn sampling(&self, ends: Vec<TokenId>) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            max_tokens: self.max_tokens,
            stop: self.stop.clone(),
            ends,
            ignore_eos: self.ignore_eos,
        }
    }
}

fn number(text: &str, holds: fn(f32) -> bool, wanted: &str) -> Result<f32, String> {
    text.parse().ok().filter(|&x: &f32| x.is_finite() && holds(x)).ok_or_else(|| format!("wanted {wanted}"))
}

fn not_negative(text: &str) -> Result<f32, String> {
    number(text, |x| x >= 0.0, "a number of at least 0")
}

fn positive(text: &str) -> Result<f32, String> {
    number(text, |x| x > 0.0, "a number above 0")
}

fn share(text: &str) -> Result<f32, String> {
    number(text, |x| (0.0..=1.0).contains(&x), "a number from 0 to 1")
}
