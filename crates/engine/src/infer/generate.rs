//! Continues a prompt, token by token.

use std::time::{Duration, Instant};

use backend::{Error, Feed, Logits, Result, SeqId};
use model::{TokenId, Tokenizer};

use super::{Infer, Sampler, Sampling};

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it.
    Eos,
    /// A stop text came.
    Stop,
    /// As long as asked for, or as the model's positions allow.
    Length,
    /// The caller wanted no more.
    Cancelled,
}

/// A finished text.
#[derive(Clone, Debug)]
pub struct Generated {
    /// Every token drawn.
    pub tokens: Vec<TokenId>,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt that the device had from the text before.
    pub reused: usize,
    /// Time to read the prompt.
    pub prefill: Duration,
    /// Time to write the tokens.
    pub decode: Duration,
}

/// Continues `prompt`, which holds at least one token, and hands each piece of text to `emit` as
/// soon as it is certain to be part of it. `emit` is asked after every token, with no text where none is
/// certain yet, and returns whether to go on.
pub fn generate(
    infer: &mut dyn Infer,
    tokenizer: &Tokenizer,
    prompt: &[TokenId],
    sampling: &Sampling,
    emit: &mut dyn FnMut(&str) -> bool,
) -> Result<Generated> {
    let done = Session::default().generate(infer, tokenizer, prompt, sampling, emit);
    infer.release(SEQ);
    done
}

/// The one sequence of this module.
const SEQ: SeqId = SeqId(0);

/// A sequence that a device keeps between texts: what the next prompt begins with like this one is not read again.
#[derive(Debug, Default)]
pub struct Session {
    /// Tokens whose keys and values the device has.
    held: Vec<TokenId>,
}

impl Session {
    /// [`generate`], keeping the sequence. After an error nothing is kept.
    pub fn generate(
        &mut self,
        infer: &mut dyn Infer,
        tokenizer: &Tokenizer,
        prompt: &[TokenId],
        sampling: &Sampling,
        emit: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Generated> {
        let ends: Vec<TokenId> = tokenizer.eos().into_iter().chain(sampling.ends.iter().copied()).collect();
        let begin = Instant::now();
        let (mut logits, reused) = read(infer, &std::mem::take(&mut self.held), prompt)?;
        let prefill = begin.elapsed();
        let begin = Instant::now();
        let mut sampler = Sampler::new(sampling, prompt);
        let mut text = StopFilter::new(&sampling.stop);
        let mut decoder = tokenizer.stream();
        let mut tokens = Vec::new();
        // Why the text ends with this token; nothing when it goes on.
        let mut take = |token: TokenId| {
            tokens.push(token);
            if ends.contains(&token) && !sampling.ignore_eos {
                return Some(Finish::Eos);
            }
            let (piece, stopped) = text.push(&decoder.push(token));
            if !emit(&piece) {
                return Some(Finish::Cancelled);
            }
            if stopped {
                return Some(Finish::Stop);
            }
            (tokens.len() == sampling.max_tokens).then_some(Finish::Length)
        };
        let mut finish = (sampling.max_tokens == 0).then_some(Finish::Length);
        while finish.is_none() {
            let not_a_number = || Error::Device { device: "the model", source: "every logit is NaN".into() };
            let token = sampler.draw(logits.last()).ok_or_else(not_a_number)?;
            finish = take(token);
            if finish.is_some() {
                break;
            }
            if sampling.repetition_penalty == 1.0
                && let Some(stream) = infer.stream()
            {
                let result = stream.run(SEQ, token, &sampling.draw(), &mut |token| {
                    finish = take(token);
                    finish.is_none()
                });
                match result {
                    Ok(()) | Err(Error::SequenceTooLong { .. }) => break,
                    Err(error) => return Err(error),
                }
            }
            logits = match infer.extend(&[Feed { seq: SEQ, tokens: &[token] }]) {
                Ok(logits) => logits,
                Err(Error::SequenceTooLong { .. }) => break,
                Err(error) => return Err(error),
            };
        }
        let mut finish = finish.unwrap_or(Finish::Length);
        if !matches!(finish, Finish::Stop | Finish::Cancelled) {
            let (piece, stopped) = text.push(&decoder.finish());
            let rest = if stopped { piece } else { piece + &text.finish() };
            if stopped {
                finish = Finish::Stop;
            }
            if !rest.is_empty() {
                emit(&rest);
            }
        }
        // The last token was drawn and not fed.
        let fed = tokens.len().saturating_sub(1);
        self.held = [prompt, &tokens[..fed]].concat();
        Ok(Generated { tokens, finish, reused, prefill, decode: begin.elapsed() })
    }
}

/// Reads a prompt of which the device has `held`; the logits after its last token, and how many tokens were not read
/// again.
fn read(infer: &mut dyn Infer, held: &[TokenId], prompt: &[TokenId]) -> Result<(Logits, usize)> {
    // The logits after the last token are wanted, so that one is fed in any case.
    let same = held.iter().zip(&prompt[..prompt.len() - 1]).take_while(|(a, b)| a == b).count();
    if same > 0 {
        match infer.truncate(SEQ, same) {
            Ok(()) => return Ok((infer.extend(&[Feed { seq: SEQ, tokens: &prompt[same..] }])?, same)),
            // A ring has gone on too far.
            Err(Error::Overwritten { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let (kv, logits) = infer.prefill(prompt)?;
    infer.seed(SEQ, &kv)?;
    Ok((logits, 0))
}

/// Holds text back while it could be the beginning of a stop text.
struct StopFilter<'a> {
    stop: &'a [String],
    held: String,
}

impl<'a> StopFilter<'a> {
    fn new(stop: &'a [String]) -> Self {
        Self { stop, held: String::new() }
    }

    /// The text that is certain now, and whether a stop text followed it.
    fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let stops = || self.stop.iter().filter(|s| !s.is_empty());
        if let Some(at) = stops().filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let pending = (0..self.held.len())
            .filter(|&at| self.held.is_char_boundary(at))
            .find(|&at| stops().any(|s| s.starts_with(&self.held[at..])));
        let rest = self.held.split_off(pending.unwrap_or(self.held.len()));
        (std::mem::replace(&mut self.held, rest), false)
    }

    fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use backend::reference::ReferenceInfer;
    use model::{ModelConfig, SplitPattern, Weights};

    use super::*;

    #[test]
    fn holds_back_what_may_become_a_stop_text() {
        let stop = ["END".to_owned(), "né".to_owned()];
        let mut filter = StopFilter::new(&stop);
        assert_eq!(filter.push("abc E"), ("abc ".into(), false));
        assert_eq!(filter.push("Nx"), ("ENx".into(), false));
        assert_eq!(filter.push("yn"), ("y".into(), false));
        assert_eq!(filter.push("é gone"), (String::new(), true));
        let mut filter = StopFilter::new(&stop);
        assert_eq!(filter.push("a EN"), ("a ".into(), false));
        assert_eq!(filter.finish(), "EN");
    }

    #[test]
    fn asks_after_every_token_and_reads_only_what_is_new() {
        let shape =
            ModelConfig { dim: 16, hidden: 24, layers: 1, heads: 2, kv_heads: 1, ..Default::default() };
        let config = ModelConfig { head_dim: 8, vocab: 300, max_seq: 64, ..shape };
        let mut infer = ReferenceInfer::new(&config, Weights::init(&config, 3));
        let text = "The cat sat on the mat, and the dog sat on the cat. ".repeat(20);
        let tokenizer = Tokenizer::train([&text], 300, SplitPattern::Gpt2).unwrap();
        // Hot enough that most tokens are bytes out of the middle of characters.
        let sampling =
            Sampling { temperature: 50.0, ignore_eos: true, max_tokens: 20, ..Sampling::default() };
        let prompt = tokenizer.encode("The cat sat").unwrap();
        let mut session = Session::default();
        let mut pieces = Vec::new();
        let mut listen = |piece: &str| {
            pieces.push(piece.to_owned());
            true
        };
        let whole = session.generate(&mut infer, &tokenizer, &prompt, &sampling, &mut listen).unwrap();
        assert!(whole.tokens.len() == 20 && whole.reused == 0 && pieces.len() >= 20, "{pieces:?}");
        let silent = pieces.iter().position(String::is_empty).expect("some token has no text of its own");
        // Who leaves at a token without text is heard.
        let mut asked = 0;
        let mut leave = |_: &str| {
            asked += 1;
            asked <= silent
        };
        let cut = session.generate(&mut infer, &tokenizer, &prompt, &sampling, &mut leave).unwrap();
        assert_eq!((cut.finish, cut.tokens.len(), asked), (Finish::Cancelled, silent + 1, silent + 1));
        assert_eq!((cut.reused, &cut.tokens[..]), (prompt.len() - 1, &whole.tokens[..=silent]));
        // The text goes on from what was kept of it: all that was read.
        let longer = [&prompt[..], &whole.tokens[..5]].concat();
        let again = session.generate(&mut infer, &tokenizer, &longer, &sampling, &mut |_| true).unwrap();
        assert_eq!(again.reused, prompt.len() + silent.min(4));
        let fresh = generate(&mut infer, &tokenizer, &longer, &sampling, &mut |_| true).unwrap();
        assert_eq!(fresh.tokens, again.tokens);
    }
}
