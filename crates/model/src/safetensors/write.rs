//! Writing: the header first, from the shapes alone, then one tensor at a time.

use std::collections::BTreeMap;
use std::path::Path;

use super::Float;
use crate::durable::HashedFile;
use crate::source::Source;
use crate::{FileError, Written};

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Format in the file.
    pub float: Float,
    /// Extents, the last one contiguous.
    pub shape: Vec<usize>,
}

impl Entry {
    /// Numbers it holds.
    fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of its numbers in the file.
    pub fn bytes(&self) -> u64 {
        self.len() as u64 * self.float.bytes()
    }
}

/// Writes a new file at `path` and syncs it. `source` gives, asked for `i`, the numbers of `entries[i]`, each once and in
/// order, so that no second copy of a model is ever held.
pub fn write(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    entries: &[Entry],
    source: &mut dyn Source<usize>,
) -> Result<Written, FileError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut file = HashedFile::create(path)?;
    write_to(&mut file, metadata, entries, source)?;
    file.finish(&name)
}

pub(crate) fn write_to(
    file: &mut HashedFile,
    metadata: &BTreeMap<String, String>,
    entries: &[Entry],
    source: &mut dyn Source<usize>,
) -> Result<(), FileError> {
    file.write(&header_bytes(metadata, entries))?;
    let mut bytes = Vec::new();
    for (i, entry) in entries.iter().enumerate() {
        let values = source.read(i).map_err(|source| FileError::Source {
            path: file.path().to_owned(),
            tensor: entry.name.clone(),
            source,
        })?;
        if values.len() != entry.len() {
            let reason = format!(
                "is given {} numbers, its shape {:?} takes {}",
                values.len(),
                entry.shape,
                entry.len()
            );
            return Err(FileError::Layout {
                path: file.path().to_owned(),
                tensor: entry.name.clone(),
                reason,
            });
        }
        for chunk in values.chunks(1 << 16) {
            bytes.clear();
            entry.float.encode(chunk, &mut bytes);
            file.write(&bytes)?;
        }
    }
    Ok(())
}

/// Everything before the first number: the length, and the JSON padded to a multiple of 8 bytes.
pub(crate) fn header_bytes(metadata: &BTreeMap<String, String>, entries: &[Entry]) -> Vec<u8> {
    let mut json = String::from("{");
    if !metadata.is_empty() {
        json += &format!("\"__metadata__\":{}", serde_json::json!(metadata));
    }
    let mut begin = 0;
    for entry in entries {
        if json.len() > 1 {
            json.push(',');
        }
        let end = begin + entry.bytes();
        let row = serde_json::json!({
            "dtype": entry.float.name(),
            "shape": entry.shape,
            "data_offsets": [begin, end],
        });
        json += &format!("{}:{row}", serde_json::json!(entry.name));
        begin = end;
    }
    json.push('}');
    json.extend(std::iter::repeat_n(' ', json.len().next_multiple_of(8) - json.len()));
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.into_bytes());
    bytes
}
