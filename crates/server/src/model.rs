//! What is served, and how a request becomes tokens.

use ::model::hf::ChatTemplate;
use ::model::{TokenId, Tokenizer};
use axum::http::StatusCode;
use engine::infer::Sampling;

use crate::error::ApiError;
use crate::request::{Ask, Prompt};

/// A model as far as the host has it.
pub struct Model {
    /// What clients call it.
    pub name: String,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// How a conversation becomes text; without it there are no chat completions.
    pub template: Option<ChatTemplate>,
    /// Positions.
    pub max_seq: usize,
    /// Tokens that the model knows.
    pub vocab: usize,
    /// Tokens that end a text, besides the tokenizer's own.
    pub ends: Vec<TokenId>,
    /// Tokens that end an answer besides those: what the template puts behind one.
    pub turn_ends: Vec<TokenId>,
}

/// One choice of an answer, as it is to be written.
#[derive(Debug)]
pub struct Text {
    /// What is continued.
    pub prompt: Vec<TokenId>,
    /// How.
    pub sampling: Sampling,
}

impl Model {
    /// The choices of an answer, in their order: all of the first prompt, then those of the next.
    pub fn read(&self, ask: &Ask) -> Result<Vec<Text>, ApiError> {
        let prompts = match &ask.prompt {
            Prompt::Chat(messages) => {
                let Some(template) = &self.template else {
                    let message = format!("`{}` has no chat template; ask /v1/completions", self.name);
                    return Err(ApiError::new(StatusCode::BAD_REQUEST, message).with_code("no_chat_template"));
                };
                let text =
                    template.render(messages).map_err(|e| ApiError::field("messages", e.to_string()))?;
                vec![self.encode("messages", &text, None)?]
            }
            Prompt::Texts(texts) => texts
                .iter()
                .map(|text| self.encode("prompt", text, self.tokenizer.bos()))
                .collect::<Result<_, _>>()?,
            Prompt::Tokens(prompts) => {
                if let Some(token) = prompts.iter().flatten().find(|token| token.0 as usize >= self.vocab) {
                    let message = format!(
                        "`prompt` has the token {}; the model knows 0 to {}",
                        token.0,
                        self.vocab - 1
                    );
                    return Err(ApiError::field("prompt", message));
                }
                prompts.clone()
            }
        };
        let chat = matches!(ask.prompt, Prompt::Chat(_));
        let mut ends = self.ends.clone();
        if chat {
            ends.extend(&self.turn_ends);
        }
        let mut texts = Vec::new();
        for prompt in prompts {
            self.check(if chat { "messages" } else { "prompt" }, &prompt)?;
            // The last token that is drawn needs no position.
            let room = self.max_seq - prompt.len() + 1;
            for copy in 0..ask.copies {
                let sampling = Sampling {
                    seed: ask.sampling.seed.wrapping_add(copy as u64),
                    max_tokens: ask.max_tokens.unwrap_or(room),
                    ends: ends.clone(),
                    ..ask.sampling.clone()
                };
                texts.push(Text { prompt: prompt.clone(), sampling });
            }
        }
        Ok(texts)
    }

    fn encode(&self, field: &str, text: &str, first: Option<TokenId>) -> Result<Vec<TokenId>, ApiError> {
        let tokens = self.tokenizer.encode_with_specials(text);
        let tokens = tokens.map_err(|error| ApiError::field(field, error.to_string()))?;
        Ok(first.into_iter().chain(tokens).collect())
    }

    fn check(&self, field: &str, prompt: &[TokenId]) -> Result<(), ApiError> {
        if prompt.is_empty() {
            let message = format!("`{field}` leaves the model no token to begin with; say something");
            return Err(ApiError::field(field, message));
        }
        if prompt.len() > self.max_seq {
            let message = format!(
                "`{field}` has {} tokens, the model reads at most {}; shorten it",
                prompt.len(),
                self.max_seq
            );
            return Err(ApiError::field(field, message).with_code("context_length_exceeded"));
        }
        Ok(())
    }
}
