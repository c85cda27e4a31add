//! Reading a directory, one parameter at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::{CONFIG, GENERATION_CONFIG, SpecialTokens, config_json, index};
use crate::error::shorten;
use crate::safetensors::{Tensor, TensorFile};
use crate::{FileError, ModelConfig, Param, ParamId, Params, Role, durable};

/// Longest `config.json` that is read, in bytes.
const MAX_CONFIG: u64 = 4_000_000;
/// Names that a message lists before it only counts.
const MAX_LISTED: usize = 4;

/// An open directory whose tensors were matched with the parameters of its `config.json`.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    config: ModelConfig,
    params: Params,
    tokens: SpecialTokens,
    files: Vec<TensorFile>,
    /// For each parameter, its file and the index of its tensor there.
    places: Vec<(usize, usize)>,
}

impl Reader {
    /// Opens a directory and checks everything but the numbers: every field, every file's length,
    /// every tensor's shape, and that none is missing or left over. `lm_head.weight` of a tied model and
    /// `rotary_emb.inv_freq` are copies of what is known already and are passed over.
    pub fn open(dir: &Path) -> Result<Self, FileError> {
        let config_path = dir.join(CONFIG);
        let (config, mut tokens) =
            config_json::parse_config(&config_path, &durable::read(&config_path, MAX_CONFIG)?)?;
        let generation = dir.join(GENERATION_CONFIG);
        if generation.exists() {
            let text = durable::read(&generation, MAX_CONFIG)?;
            config_json::merge_generation_config(&generation, &text, config.vocab, &mut tokens)?;
        }
        let params = Params::new(&config);
        let files = open_files(dir)?;
        let places = match_tensors(dir, &config, &params, &files)?;
        for (param, &(file, tensor)) in params.iter().zip(&places) {
            check_shape(&config_path, param, &files[file], &files[file].tensors()[tensor])?;
        }
        Ok(Self { dir: dir.to_owned(), config, params, tokens, files, places })
    }

    /// Where the model is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The table of its parameters.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Tokens that begin and end a text.
    pub fn tokens(&self) -> &SpecialTokens {
        &self.tokens
    }

    /// The numbers of one parameter.
    pub fn read(&self, id: ParamId) -> Result<Vec<f32>, FileError> {
        let (file, tensor) = self.place(id);
        file.read(tensor)
    }

    /// As [`Reader::read`], into a buffer of the parameter's length.
    ///
    /// # Panics
    /// If `values` has another length.
    pub fn read_into(&self, id: ParamId, values: &mut [f32]) -> Result<(), FileError> {
        let (file, tensor) = self.place(id);
        file.read_into(tensor, values)
    }

    fn place(&self, id: ParamId) -> (&TensorFile, &Tensor) {
        let (file, tensor) = self.places[id.index()];
        (&self.files[file], &self.files[file].tensors()[tensor])
    }
}

/// The one file, or all shards of the index, each with exactly the tensors that the index gives it.
fn open_files(dir: &Path) -> Result<Vec<TensorFile>, FileError> {
    let single = dir.join(index::SINGLE);
    let index_path = dir.join(index::INDEX);
    if single.exists() || !index_path.exists() {
        return Ok(vec![TensorFile::open(&single)?]);
    }
    let weight_map = index::parse(&index_path, &durable::read(&index_path, index::MAX_INDEX)?)?;
    let mut listed_in: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (tensor, name) in &weight_map {
        listed_in.entry(name).or_default().insert(tensor);
    }
    let mut files = Vec::new();
    for (name, listed) in &listed_in {
        let path = dir.join(name);
        if path.symlink_metadata().is_err() {
            let reason = format!("listed in {} but absent", index::INDEX);
            return Err(FileError::Contents { path, reason });
        }
        let file = TensorFile::open(&path)?;
        let present = file.tensors().iter().map(|t| t.name.as_str()).collect();
        compare(&path, listed, &present)?;
        files.push(file);
    }
    Ok(files)
}

fn match_tensors(
    dir: &Path,
    config: &ModelConfig,
    params: &Params,
    files: &[TensorFile],
) -> Result<Vec<(usize, usize)>, FileError> {
    let mut present: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (f, file) in files.iter().enumerate() {
        for (t, tensor) in file.tensors().iter().enumerate() {
            present.insert(&tensor.name, (f, t));
        }
    }
    let known_copy =
        |name: &str| name.ends_with("rotary_emb.inv_freq") || (config.tied && name == Role::HEAD_NAME);
    let wanted = params.iter().map(|p| p.name.as_str()).collect();
    let found = present.keys().copied().filter(|name| !known_copy(name)).collect();
    let path = match files {
        [one] => one.path(),
        _ => dir,
    };
    compare(path, &wanted, &found)?;
    Ok(params.iter().map(|p| present[p.name.as_str()]).collect())
}

/// Fails with both differences of the two sets.
fn compare(path: &Path, wanted: &BTreeSet<&str>, found: &BTreeSet<&str>) -> Result<(), FileError> {
    let missing: Vec<&str> = wanted.difference(found).copied().collect();
    let unexpected: Vec<&str> = found.difference(wanted).copied().collect();
    if missing.is_empty() && unexpected.is_empty() {
        return Ok(());
    }
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(format!("missing {}", list(&missing, |name| nearest(name, &unexpected))));
    }
    if !unexpected.is_empty() {
        // A name that stands beside a missing one need not be explained twice.
        let hint = |name: &str| if missing.is_empty() { nearest_of(name, wanted) } else { None };
        parts.push(format!("unexpected {}", list(&unexpected, hint)));
    }
    Err(FileError::Contents { path: path.to_owned(), reason: parts.join("; ") })
}

fn list<'a>(names: &[&'a str], hint: impl Fn(&'a str) -> Option<&'a str>) -> String {
    let shown = names.iter().take(MAX_LISTED).map(|&name| match hint(name) {
        Some(near) => format!("`{}` (nearest: `{}`)", shorten(name), shorten(near)),
        None => format!("`{}`", shorten(name)),
    });
    let mut text = shown.collect::<Vec<_>>().join(", ");
    if names.len() > MAX_LISTED {
        text += &format!(" and {} more", names.len() - MAX_LISTED);
    }
    text
}

fn nearest_of<'a>(name: &str, candidates: &BTreeSet<&'a str>) -> Option<&'a str> {
    nearest(name, &candidates.iter().copied().collect::<Vec<_>>())
}

/// The most similar name, if any is similar. Bounded, whatever names a file holds.
fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    const MAX_CANDIDATES: usize = 1000;
    const MAX_LENGTH: usize = 128;
    let likeness = |c: &str| strsim::normalized_levenshtein(name, c);
    let short = |c: &&&str| c.len() <= MAX_LENGTH;
    let scored = candidates.iter().filter(short).take(MAX_CANDIDATES).map(|&c| (likeness(c), c));
    Some(name).filter(|n| n.len() <= MAX_LENGTH)?;
    scored.filter(|(score, _)| *score > 0.7).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, c)| c)
}

/// A tensor whose extents differ from what `config.json` says.
fn check_shape(
    config_path: &Path,
    param: &Param,
    file: &TensorFile,
    tensor: &Tensor,
) -> Result<(), FileError> {
    if tensor.shape == param.shape {
        return Ok(());
    }
    let axis = param.shape.iter().zip(&tensor.shape).position(|(wanted, got)| wanted != got).unwrap_or(0);
    let field = fields(param.role)[axis];
    let file_name = file.path().file_name().unwrap_or_default().to_string_lossy();
    Err(FileError::Config {
        path: config_path.to_owned(),
        field: field.into(),
        got: format!("such that `{}` has the shape {:?}", param.name, param.shape),
        wanted: format!("the shape {:?} that it has in {file_name}", tensor.shape),
    })
}

/// The field of `config.json` behind each extent.
fn fields(role: Role) -> &'static [&'static str] {
    match role {
        Role::Embed | Role::Head => &["vocab_size", "hidden_size"],
        Role::AttnNorm | Role::FfnNorm | Role::FinalNorm => &["hidden_size"],
        Role::Q => &["num_attention_heads", "hidden_size"],
        Role::K | Role::V => &["num_key_value_heads", "hidden_size"],
        Role::QBias => &["num_attention_heads"],
        Role::KBias | Role::VBias => &["num_key_value_heads"],
        Role::QNorm | Role::KNorm => &["head_dim"],
        Role::O => &["hidden_size", "num_attention_heads"],
        Role::Gate | Role::Up => &["intermediate_size", "hidden_size"],
        Role::Down => &["hidden_size", "intermediate_size"],
    }
}
