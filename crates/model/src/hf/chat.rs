//! Conversations as text, by the template that a model's directory has.
//!
//! Templates are Jinja, with the settings and helpers of transformers' `apply_chat_template`: blocks leave no line
//! behind, `tojson` separates as Python does, and `raise_exception` and `strftime_now` are there. A template is
//! a program of somebody else's: its steps are bounded, and it reads nothing but what it is given.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, context};
use serde::Serialize;

use crate::FileError;

/// What a template may compute, in steps of its interpreter.
const FUEL: u64 = 10_000_000;
/// Name in the environment.
const NAME: &str = "chat_template";
/// A file that has a template of its own.
const FILE: &str = "chat_template.jinja";
/// The file that may have it among other settings.
const CONFIG: &str = "tokenizer_config.json";

/// Part of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user`, `assistant` or what else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// Somebody's words.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A model's template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

/// Why a conversation has no text.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The template is wrong, or refuses the conversation.
    #[error("the chat template: {0}")]
    Template(String),
}

impl From<Error> for TemplateError {
    fn from(error: Error) -> Self {
        // What a template raises is its own sentence.
        let line = error.line().filter(|_| error.kind() != ErrorKind::InvalidOperation);
        let at = line.map_or(String::new(), |line| format!(" (line {line})"));
        Self::Template(format!("{}{at}", error.detail().map_or_else(|| error.to_string(), str::to_owned)))
    }
}

impl ChatTemplate {
    /// The template of a directory; `None` where it has none.
    ///
    /// # Errors
    /// [`FileError`] for files that cannot be read, settings that are no JSON, and a template that is none.
    pub fn load(dir: &Path) -> Result<Option<Self>, FileError> {
        let read = |name: &str| match std::fs::read(dir.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(FileError::Io { doing: "read", path: dir.join(name), source }),
        };
        let path = dir.join(CONFIG);
        let settings = match read(CONFIG)? {
            Some(bytes) => {
                serde_json::from_slice(&bytes).map_err(|e| FileError::json(&path, 0, &bytes, &e))?
            }
            None => serde_json::Value::Null,
        };
        let (text, path) = match (read(FILE)?, template(&settings["chat_template"])) {
            (Some(bytes), _) => (String::from_utf8_lossy(&bytes).into_owned(), dir.join(FILE)),
            (None, Some(text)) => (text.to_owned(), path),
            (None, None) => return Ok(None),
        };
        let (bos, eos) = (token(&settings["bos_token"]), token(&settings["eos_token"]));
        let template = Self::parse(&text, bos, eos);
        template.map(Some).map_err(|error| FileError::Contents { path, reason: error.to_string() })
    }

    /// A template with the texts of the tokens that begin and end a text.
    ///
    /// # Errors
    /// When it is no template.
    pub fn parse(text: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise);
        environment.add_function("strftime_now", now);
        environment.add_filter("tojson", to_json);
        environment.add_template_owned(NAME, without_marks(text))?;
        Ok(Self { environment, bos: bos.into(), eos: eos.into() })
    }

    /// The conversation up to where the model is to answer.
    ///
    /// # Errors
    /// When the template refuses it, or does not come to an end.
    pub fn render(&self, messages: &[Message]) -> Result<String, TemplateError> {
        let template = self.environment.get_template(NAME)?;
        Ok(template.render(context! {
            messages => Serde(messages),
            add_generation_prompt => true,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
        })?)
    }
}

/// The template without `{% generation %}` and its end: they mark what is learnt in training and leave no text.
fn without_marks(text: &str) -> String {
    let mut text = text.to_owned();
    for (mark, nothing) in [("generation", "if true"), ("endgeneration", "endif")] {
        for (open, close) in [("{%", "%}"), ("{%-", "%}"), ("{%", "-%}"), ("{%-", "-%}")] {
            text = text.replace(&format!("{open} {mark} {close}"), &format!("{open} {nothing} {close}"));
        }
    }
    text
}

/// The template of a setting: a text, or the one called `default` of several.
fn template(setting: &serde_json::Value) -> Option<&str> {
    match setting {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Array(list) => {
            list.iter().find(|entry| entry["name"] == "default")?["template"].as_str()
        }
        _ => None,
    }
}

/// A token's text: itself, or the `content` of an object.
fn token(setting: &serde_json::Value) -> &str {
    setting.as_str().or_else(|| setting["content"].as_str()).unwrap_or_default()
}

fn raise(text: String) -> Result<String, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, text))
}

/// The date, in those of `strftime`'s fields that templates use; UTC, since a library without a time zone would
/// otherwise guess.
fn now(format: &str) -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    date(seconds, format)
}

fn date(seconds: u64, format: &str) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    // Days to a date. Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    let shifted = seconds / 86_400 + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let name = MONTHS[month as usize - 1];
    [
        ("%Y", year.to_string()),
        ("%m", format!("{month:02}")),
        ("%d", format!("{day:02}")),
        ("%B", name.to_owned()),
        ("%b", name[..3].to_owned()),
        ("%H", format!("{:02}", seconds / 3600 % 24)),
        ("%M", format!("{:02}", seconds / 60 % 60)),
        ("%S", format!("{:02}", seconds % 60)),
    ]
    .iter()
    .fold(format.to_owned(), |text, (field, value)| text.replace(field, value))
}

/// JSON with Python's spaces behind commas and colons, or indented.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let fault = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let indent: Option<usize> = options.get("indent")?;
    // Python escapes nothing beyond ASCII only when told; transformers tells it.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut out = Vec::new();
    match indent {
        Some(width) => {
            let spaces = vec![b' '; width.min(16)];
            let style = serde_json::ser::PrettyFormatter::with_indent(&spaces);
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, style)).map_err(fault)?;
        }
        None => {
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)).map_err(fault)?;
        }
    }
    Ok(Value::from_safe_string(String::from_utf8_lossy(&out).into_owned()))
}

/// Python's separators.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0, "%Y-%m-%d %H:%M:%S"), "1970-01-01 00:00:00");
        assert_eq!(date(951_827_696, "%d %b %Y, %H:%M:%S"), "29 Feb 2000, 12:34:56");
        assert_eq!(date(4_102_444_799, "%d %B %Y"), "31 December 2099");
    }

    #[test]
    fn a_template_that_does_not_end_or_refuses_is_an_error() {
        let said = |text: &str| {
            let template = ChatTemplate::parse(text, "", "").unwrap();
            template.render(&[Message::new("user", "Hi")]).unwrap_err().to_string()
        };
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}";
        assert!(said(endless).contains("fuel"), "{}", said(endless));
        assert_eq!(said("{{ raise_exception('only tools') }}"), "the chat template: only tools");
        assert!(ChatTemplate::parse("{% if %}", "", "").is_err());
    }

    #[test]
    fn templates_are_found_in_both_files() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        assert!(ChatTemplate::load(dir.path()).unwrap().is_none());
        put(CONFIG, r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>"}"#);
        assert!(ChatTemplate::load(dir.path()).unwrap().is_none());
        put(
            CONFIG,
            r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>",
                "chat_template": [{"name": "tools", "template": "no"},
                                  {"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"}]}"#,
        );
        let text = || ChatTemplate::load(dir.path()).unwrap().unwrap().render(&[Message::new("user", "Hi")]);
        assert_eq!(text().unwrap(), "<s>Hi</s>");
        put(FILE, "{{ messages[0]['role'].upper() }}");
        assert_eq!(text().unwrap(), "USER");
        put(FILE, "{% endfor %}");
        let error = ChatTemplate::load(dir.path()).err().unwrap().to_string();
        assert!(error.contains(FILE) && error.contains("line 1"), "{error}");
        std::fs::remove_file(dir.path().join(FILE)).unwrap();
        put(CONFIG, "{");
        assert!(ChatTemplate::load(dir.path()).err().unwrap().to_string().contains(CONFIG));
    }
}
