//! Settings in layers: default < preset < file < variable < flag, each value with its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use engine::RunConfig;
use engine::presets::Preset;
use serde::Serialize;

use crate::failure::Failure;

/// Longest settings file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A built-in preset.
    Preset(&'static str),
    /// A settings file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag.
    Flag(String),
    /// The tokenizer, which decides the vocabulary.
    Tokenizer,
    /// What this machine has.
    Machine,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "default"),
            Origin::Preset(name) => write!(f, "preset {name}"),
            Origin::File(path) => write!(f, "{}", path.display()),
            Origin::Variable(name) => write!(f, "{name}"),
            Origin::Flag(name) => write!(f, "--{name}"),
            Origin::Tokenizer => write!(f, "tokenizer"),
            Origin::Machine => write!(f, "this machine"),
        }
    }
}

/// The values so far.
pub struct Layers {
    values: BTreeMap<String, (toml::Value, Origin)>,
}

impl Layers {
    /// The defaults.
    pub fn new() -> Self {
        let mut layers = Self { values: BTreeMap::new() };
        layers.merge("", toml::Value::Table(RunConfig::default().to_table()), &Origin::Default);
        layers
    }

    /// A preset on top.
    pub fn preset(&mut self, preset: &'static Preset) {
        let table = preset.text.parse::<toml::Table>().expect("presets are tested");
        self.merge("", toml::Value::Table(table), &Origin::Preset(preset.name));
    }

    /// A file on top.
    pub fn file(&mut self, path: &Path) -> anyhow::Result<()> {
        let context = || format!("cannot read the settings {}", path.display());
        let bytes = std::fs::metadata(path).with_context(context)?.len();
        if bytes > MAX_FILE {
            let text = format!("{}: {bytes} bytes, wanted at most {MAX_FILE}", path.display());
            return Err(Failure::Usage(text).into());
        }
        let text = std::fs::read_to_string(path).with_context(context)?;
        // The types of the settings find unknown keys and wrong types, with their lines.
        toml::from_str::<RunConfig>(&text).map_err(|e| Failure::Usage(explain(path, &text, &e)))?;
        let table = text.parse::<toml::Table>().map_err(|e| Failure::Usage(explain(path, &text, &e)))?;
        self.merge("", toml::Value::Table(table), &Origin::File(path.to_owned()));
        Ok(())
    }

    /// One value on top.
    pub fn set(&mut self, key: &str, value: impl Serialize, origin: Origin) {
        // By way of text, which keeps the shortest form of an f32.
        let text = toml::to_string(&BTreeMap::from([("value", value)])).expect("a flag is TOML");
        let mut table = text.parse::<toml::Table>().expect("what was written is TOML");
        self.merge(key, table.remove("value").expect("one key was written"), &origin);
    }

    /// A `key=value` on top; the value as in a file, or a bare word.
    pub fn assign(&mut self, assignment: &str) -> Result<(), Failure> {
        let Some((key, text)) = assignment.split_once('=') else {
            return Err(Failure::Usage(format!(
                "--set {assignment}: wanted KEY=VALUE, such as model.dim=256"
            )));
        };
        let parsed = format!("value = {text}").parse::<toml::Table>();
        let value = match parsed {
            Ok(mut table) => table.remove("value").unwrap_or(toml::Value::Boolean(false)),
            Err(_) => toml::Value::String(text.to_owned()),
        };
        self.merge(key.trim(), value, &Origin::Flag(format!("set {key}")));
        Ok(())
    }

    /// Where a value comes from.
    pub fn origin(&self, key: &str) -> &Origin {
        self.values.get(key).map_or(&Origin::Default, |(_, origin)| origin)
    }

    /// A value is gone, as when a flag takes the place of another setting.
    pub fn remove(&mut self, key: &str) {
        self.values.remove(key);
    }

    fn merge(&mut self, key: &str, value: toml::Value, origin: &Origin) {
        match value {
            toml::Value::Table(table) => {
                for (name, value) in table {
                    let key = if key.is_empty() { name } else { format!("{key}.{name}") };
                    self.merge(&key, value, origin);
                }
            }
            value => {
                self.values.insert(key.to_owned(), (value, origin.clone()));
            }
        }
    }

    /// The settings; names the key and the origin of a value that cannot be.
    pub fn finish(&self) -> Result<RunConfig, Failure> {
        let config: RunConfig = self
            .table()
            .try_into()
            .map_err(|e: toml::de::Error| Failure::Usage(suggest(e.message().trim().to_owned())))?;
        config.validate().map_err(|e| {
            let origin = self.origin(&e.key);
            Failure::Usage(format!("{e} (from {origin})"))
        })?;
        Ok(config)
    }

    fn table(&self) -> toml::Table {
        let mut root = toml::Table::new();
        for (key, (value, _)) in &self.values {
            let mut table = &mut root;
            let mut parts = key.split('.').peekable();
            while let Some(part) = parts.next() {
                if parts.peek().is_none() {
                    table.insert(part.to_owned(), value.clone());
                    break;
                }
                let next = table.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
                let toml::Value::Table(next) = next else { break };
                table = next;
            }
        }
        root
    }
}

impl fmt::Display for Layers {
    /// A settings file, with the origin of each value as a comment.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut section = "";
        // A section may be opened once, so its subsections come after all of its own values.
        let mut lines: Vec<_> =
            self.values.iter().map(|(key, (value, from))| (line(key, value), from)).collect();
        lines.sort();
        let width = lines.iter().map(|((_, text), _)| text.len()).max().unwrap_or(0);
        for ((here, text), origin) in lines {
            if here != section {
                writeln!(f, "{}[{here}]", if section.is_empty() { "" } else { "\n" })?;
                section = here;
            }
            writeln!(f, "{text:<width$}  # {origin}", width = width.min(48))?;
        }
        Ok(())
    }
}

/// The section of a key, and the line in it.
fn line<'a>(key: &'a str, value: &toml::Value) -> (&'a str, String) {
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    (section, format!("{name} = {value}"))
}

/// The error of a settings file with its place and a suggestion.
fn explain(path: &Path, text: &str, error: &toml::de::Error) -> String {
    let place = error.span().map_or(String::new(), |span| {
        let before = &text[..span.start.min(text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        format!(":{line}:{column}")
    });
    suggest(format!("{}{place}: {}", path.display(), error.message().trim().replace('\n', "; ")))
}

/// Adds the known name that is nearest to an unknown one.
fn suggest(message: String) -> String {
    let Some(at) = message.find("unknown field") else { return message };
    let mut names = message[at..].split('`').skip(1).step_by(2);
    let Some(unknown) = names.next().map(str::to_owned) else { return message };
    match nearest(&unknown, names) {
        Some(name) => format!(
            "{}; did you mean `{name}`?",
            message[..at].to_owned() + &format!("unknown key `{unknown}`")
        ),
        None => message,
    }
}

/// Every setting by its key, such as `optimizer.lr`.
pub fn flatten(config: &RunConfig) -> BTreeMap<String, toml::Value> {
    fn walk(prefix: &str, table: toml::Table, out: &mut BTreeMap<String, toml::Value>) {
        for (key, value) in table {
            let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
            match value {
                toml::Value::Table(table) => walk(&key, table, out),
                value => drop(out.insert(key, value)),
            }
        }
    }
    let mut out = BTreeMap::new();
    walk("", config.to_table(), &mut out);
    out
}

/// The candidate that is most like `word`, if any is.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |name: &str| strsim::jaro_winkler(word, name);
    let best = candidates.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) > 0.7).then_some(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Layers, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut layers = Layers::new();
        let name = file.path().display().to_string();
        layers.file(file.path()).map_err(|e| e.to_string().replace(&name, "run.toml"))?;
        Ok(layers)
    }

    #[test]
    fn later_layers_win_and_every_value_knows_its_origin() {
        let mut layers = file("[optimizer]\nlr = 0.5\n[train]\nsteps = 7\n").unwrap();
        layers.set("optimizer.lr", 0.25f32, Origin::Flag("lr".into()));
        layers.assign("model.rope.theta=5e5").unwrap();
        layers.assign("train.on_nan=skip").unwrap();
        let config = layers.finish().unwrap();
        assert_eq!((config.optimizer.lr, config.train.steps, config.model.rope.theta), (0.25, 7, 5e5));
        assert_eq!(config.train.on_nan, engine::config::OnNan::Skip);
        assert_eq!(layers.origin("optimizer.lr"), &Origin::Flag("lr".into()));
        assert_eq!(layers.origin("train.batch"), &Origin::Default);
        let printed = layers.to_string();
        assert!(printed.contains("# --lr") && printed.contains("[model.rope]"), "{printed}");
        // What is printed is a settings file again.
        assert_eq!(toml::from_str::<RunConfig>(&printed).unwrap(), config);
    }

    #[test]
    fn faults_of_a_file_have_a_place() {
        let error = |text: &str| file(text).err().expect("an error");
        assert_eq!(error("[optimizer]\nlrr = 1.0\n"), "run.toml:2:1: unknown key `lrr`; did you mean `lr`?");
        assert!(error("[train]\nsteps = \"many\"\n").starts_with("run.toml:2:9: invalid type: string"));
        assert!(error("[train]\nsteps = 1\nsteps = 2\n").starts_with("run.toml:3:1: duplicate key"));
        assert!(error("[train\n").starts_with("run.toml:1:7: "));
        assert!(error(&format!("# {}", "x".repeat(2 << 20))).contains("wanted at most"));
    }

    #[test]
    fn a_value_that_cannot_be_names_its_origin() {
        let mut layers = Layers::new();
        layers.set("optimizer.lr", -1.0f32, Origin::Flag("lr".into()));
        assert_eq!(
            layers.finish().unwrap_err().to_string(),
            "`optimizer.lr` is -1, wanted a number above 0, such as 1e-3 (from --lr)"
        );
        let mut layers = Layers::new();
        layers.assign("model.dimm=3").unwrap();
        assert!(layers.finish().unwrap_err().to_string().contains("did you mean `dim`?"));
        assert!(layers.assign("nothing").is_err());
    }
}
