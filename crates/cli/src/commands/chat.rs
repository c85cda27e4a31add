//! `rustane chat`: a conversation, line by line.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use engine::infer::{Sampling, Session};
use model::hf::{ChatTemplate, Message};
use model::{TokenId, Tokenizer};

use super::generate::{load, resolve, told};
use super::sampling::SamplingArgs;
use crate::device::{DeviceArgs, WriterArgs};
use crate::failure::{Failure, unboxed};

/// Flags of `rustane chat`.
#[derive(clap::Args)]
pub struct Args {
    /// A run, a checkpoint or a Hugging Face directory [default: the newest run]
    model: Option<PathBuf>,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Say how fast each answer was
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    writing: WriterArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

const HELP: &str =
    "/new forgets the conversation, /exit or the end of the input leaves; everything else is said";

/// Talks.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let dir = resolve(args.model.as_deref())?;
    let (loaded, tokenizer) = load(&dir)?;
    let template = ChatTemplate::load(&dir)?.ok_or_else(|| {
        let text = format!(
            "{} has no chat template: it continues texts, which `rustane generate` does; a template is \
             `chat_template` in tokenizer_config.json, or chat_template.jinja",
            dir.display()
        );
        Failure::Usage(text)
    })?;
    let mut ends = loaded.tokens.eos;
    ends.extend(end_of_turn(&template, &tokenizer)?);
    let sampling = args.sampling.sampling(ends);
    let most = loaded.config.max_seq;
    let (mut writer, label) =
        args.device.writer_in(&loaded.config, loaded.weights, &args.writing).map_err(unboxed)?;
    let mut talk = Conversation::new(args.system, template, tokenizer, most);
    let mut session = Session::default();
    let (input, terminal) = (std::io::stdin(), std::io::stdin().is_terminal());
    let mut out = std::io::stdout();
    if terminal {
        eprintln!("{}, on {label}; {HELP}", dir.display());
    }
    let mut line = String::new();
    loop {
        if terminal {
            write!(out, "> ").and_then(|()| out.flush()).context("cannot write")?;
        }
        line.clear();
        if input.lock().read_line(&mut line).context("cannot read what you say")? == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        match line.trim() {
            "" => continue,
            "/exit" | "/bye" | "/quit" => return Ok(ExitCode::SUCCESS),
            "/help" => {
                eprintln!("{HELP}");
                continue;
            }
            "/new" => {
                talk.forget();
                continue;
            }
            said => talk.say(said),
        }
        let Some(prompt) = talk.prompt(&sampling)? else { continue };
        let mut answer = String::new();
        let mut open = true;
        let mut show = |piece: &str| {
            answer.push_str(piece);
            open = out.write_all(piece.as_bytes()).and_then(|()| out.flush()).is_ok();
            open
        };
        let done = session
            .generate(&mut *writer, &talk.tokenizer, &prompt, &sampling, &mut show)
            .context("cannot write an answer")?;
        if !open || writeln!(out).is_err() {
            // Nobody reads any more.
            return Ok(ExitCode::SUCCESS);
        }
        if args.stats {
            eprintln!("{}", told(&done, prompt.len(), &label));
        }
        talk.answered(answer);
    }
}

/// The token that the template puts behind an answer. A model that was tuned on conversations writes it there, also
/// where its configuration still names another end.
pub fn end_of_turn(template: &ChatTemplate, tokenizer: &Tokenizer) -> anyhow::Result<Option<TokenId>> {
    const ANSWER: &str = "An answer.";
    let messages = [Message::new("user", "A question?"), Message::new("assistant", ANSWER)];
    let text = template.render(&messages)?;
    let Some((_, behind)) = text.rsplit_once(ANSWER) else { return Ok(None) };
    let tokens = tokenizer.encode_with_specials(behind.trim_start())?;
    Ok(tokens.first().copied().filter(|token| tokenizer.is_special(*token)))
}

/// What was said so far.
struct Conversation {
    messages: Vec<Message>,
    /// Messages that stay when old ones are forgotten.
    fixed: usize,
    template: ChatTemplate,
    tokenizer: Tokenizer,
    /// Positions of the model.
    most: usize,
}

impl Conversation {
    fn new(system: Option<String>, template: ChatTemplate, tokenizer: Tokenizer, most: usize) -> Self {
        let messages: Vec<_> = system.map(|text| Message::new("system", text)).into_iter().collect();
        Self { fixed: messages.len(), messages, template, tokenizer, most }
    }

    fn say(&mut self, text: &str) {
        self.messages.push(Message::new("user", text));
    }

    fn answered(&mut self, text: String) {
        self.messages.push(Message::new("assistant", text.trim()));
    }

    fn forget(&mut self) {
        self.messages.truncate(self.fixed);
    }

    /// The conversation as tokens, with room for an answer: old exchanges are forgotten for it, and said to be.
    /// `None` when the last words alone are too many; they are taken back.
    fn prompt(&mut self, sampling: &Sampling) -> anyhow::Result<Option<Vec<TokenId>>> {
        // An eighth of the positions at least, if so much is wanted.
        let room = sampling.max_tokens.min(self.most / 8).max(1);
        loop {
            let text = self.template.render(&self.messages)?;
            let tokens = self.tokenizer.encode_with_specials(&text)?;
            if tokens.is_empty() {
                return Err(Failure::Usage("the chat template leaves nothing to read".into()).into());
            }
            if tokens.len() + room <= self.most {
                return Ok(Some(tokens));
            }
            if self.messages.len() > self.fixed + 1 {
                self.messages.drain(self.fixed..self.fixed + 2);
                eprintln!(
                    "the oldest question and its answer are forgotten: the model reads {} tokens",
                    self.most
                );
                continue;
            }
            self.messages.pop();
            eprintln!(
                "that is {} tokens, the model reads {} and needs {room} for an answer; say it shorter",
                tokens.len(),
                self.most
            );
            return Ok(None);
        }
    }
}
