//! `model.safetensors.index.json`: which tensor is in which file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use crate::FileError;
use crate::error::shorten;
use crate::safetensors::MAX_TENSORS;

pub const SINGLE: &str = "model.safetensors";
pub const INDEX: &str = "model.safetensors.index.json";
/// Longest index that is read, in bytes.
pub const MAX_INDEX: u64 = 32_000_000;

/// Name of shard `i` of `count`, from 0.
pub fn shard_name(i: usize, count: usize) -> String {
    if count == 1 { SINGLE.into() } else { format!("model-{:05}-of-{count:05}.safetensors", i + 1) }
}

/// Tensor to file name, from the text of an index. Every file name is a plain one.
pub fn parse(path: &Path, text: &[u8]) -> Result<BTreeMap<String, String>, FileError> {
    let index: Index = serde_json::from_slice(text).map_err(|e| FileError::json(path, 0, text, &e))?;
    for name in index.weight_map.0.values() {
        check_name(path, name)?;
    }
    Ok(index.weight_map.0)
}

/// Refuses a name that would leave the directory or hide in it.
pub fn check_name(path: &Path, name: &str) -> Result<(), FileError> {
    let reason = if name.is_empty() || name.len() > 255 {
        "wanted 1 to 255 bytes"
    } else if name.contains(['/', '\\', '\0', ':']) {
        "wanted a file name without `/`, `\\` or `:`"
    } else if name.starts_with('.') {
        "wanted a file name that does not begin with a dot"
    } else {
        return Ok(());
    };
    Err(FileError::UnsafePath { path: path.to_owned(), name: shorten(name), reason: reason.into() })
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: WeightMap,
}

/// A map in which no key occurs twice: a tensor has one place.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WeightMapVisitor)
    }
}

struct WeightMapVisitor;

impl<'de> Visitor<'de> for WeightMapVisitor {
    type Value = WeightMap;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object from tensor names to file names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
        let mut files = BTreeMap::new();
        while let Some((tensor, file)) = map.next_entry::<String, String>()? {
            if files.contains_key(&tensor) {
                return Err(de::Error::custom(format!("duplicate key `{}`", shorten(&tensor))));
            }
            files.insert(tensor, file);
            if files.len() > MAX_TENSORS {
                return Err(de::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
        }
        Ok(WeightMap(files))
    }
}
