//! Writing a directory, one parameter at a time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::{CONFIG, Export, GENERATION_CONFIG, config_json, index};
use crate::safetensors::{Entry, header_bytes, write_to};
use crate::source::{Keyed, Source};
use crate::{FileError, ModelConfig, ParamId, Params, Written, durable};

/// Writes a directory that transformers, mlx-lm and llama.cpp's converter load. `dir` is created; if it is
/// there it must be empty, because a stale shard would be taken for a part of the model. `source` is
/// asked for each parameter once, in the order of the table.
pub fn save(
    dir: &Path,
    config: &ModelConfig,
    export: &Export,
    source: &mut dyn Source<ParamId>,
) -> Result<Vec<Written>, FileError> {
    durable::ensure_dir(dir)?;
    let mut entries = fs::read_dir(dir).map_err(FileError::io("read", dir))?;
    if entries.next().is_some() {
        let (found, wanted) = ("holds files already", "a new or empty directory");
        return Err(FileError::Occupied { path: dir.to_owned(), found, wanted });
    }
    let written = save_into(dir, config, export, source)?;
    durable::sync_dir(dir)?;
    Ok(written)
}

/// As [`save`], into a directory that is there and stays to be synced.
pub(crate) fn save_into(
    dir: &Path,
    config: &ModelConfig,
    export: &Export,
    source: &mut dyn Source<ParamId>,
) -> Result<Vec<Written>, FileError> {
    let config_text = config_json::config_text(&dir.join(CONFIG), config, export)?;
    for (name, _) in &export.files {
        index::check_name(dir, name)?;
    }
    let mut written = vec![
        durable::write(dir, CONFIG, &config_text)?,
        durable::write(dir, GENERATION_CONFIG, &config_json::generation_config_text(&export.tokens))?,
    ];
    for (name, content) in &export.files {
        written.push(durable::write(dir, name, content)?);
    }

    let params = Params::new(config);
    let shards = shards(&params, export);
    let mut ids = params.iter().map(|p| p.id);
    for (i, entries) in shards.iter().enumerate() {
        let name = index::shard_name(i, shards.len());
        let mut file = durable::HashedFile::create(&dir.join(&name))?;
        write_to(
            &mut file,
            &metadata(),
            entries,
            &mut Keyed { source, key: |_| ids.next().expect("the shards hold each parameter once") },
        )?;
        written.push(file.finish(&name)?);
    }
    if shards.len() > 1 {
        written.push(durable::write(dir, index::INDEX, &index_text(&shards))?);
    }
    Ok(written)
}

/// Bytes that [`save`] will write.
pub(crate) fn planned_bytes(config: &ModelConfig, export: &Export) -> u64 {
    const SMALL_FILES: u64 = 1 << 16;
    let shards = shards(&Params::new(config), export);
    let tensors = shards.iter().map(|entries| {
        header_bytes(&metadata(), entries).len() as u64 + entries.iter().map(Entry::bytes).sum::<u64>()
    });
    let index = if shards.len() > 1 { index_text(&shards).len() as u64 } else { 0 };
    let extras = export.files.iter().map(|(_, content)| content.len() as u64);
    tensors.sum::<u64>() + index + extras.sum::<u64>() + SMALL_FILES
}

fn metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("format".into(), "pt".into())])
}

/// The parameters in order, cut before the one that would exceed the limit.
fn shards(params: &Params, export: &Export) -> Vec<Vec<Entry>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for param in params {
        let entry = Entry { name: param.name.clone(), float: export.float, shape: param.shape.clone() };
        let bytes = entry.bytes();
        if filled > 0 && filled + bytes > export.shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        shards.last_mut().expect("there is always a shard").push(entry);
    }
    shards
}

fn index_text(shards: &[Vec<Entry>]) -> Vec<u8> {
    let mut weight_map = BTreeMap::new();
    let mut total_size = 0;
    let mut total_parameters = 0;
    for (i, entries) in shards.iter().enumerate() {
        for entry in entries {
            weight_map.insert(entry.name.as_str(), index::shard_name(i, shards.len()));
            total_size += entry.bytes();
            total_parameters += entry.bytes() / entry.float.bytes();
        }
    }
    config_json::pretty(&serde_json::json!({
        "metadata": { "total_size": total_size, "total_parameters": total_parameters },
        "weight_map": weight_map,
    }))
}
