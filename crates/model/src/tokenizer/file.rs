//! What is asked of the JSON of a `tokenizer.json` before and beside its reader.

use std::collections::BTreeMap;

use serde_json::Value;

use super::TokenizerError;

/// Refuses ids that would make a table far larger than the vocabulary, before anything is built.
pub(super) fn check_ids(file: &Value) -> Result<(), TokenizerError> {
    let empty = Vec::new();
    let added = file["added_tokens"].as_array().unwrap_or(&empty);
    let listed = match &file["model"]["vocab"] {
        Value::Object(vocab) => vocab.len(),
        Value::Array(vocab) => vocab.len(),
        _ => 0,
    };
    let tokens = listed + added.len();
    let max = 2 * tokens + 1024;
    let check = |token: &str, id: &Value| match id.as_u64() {
        Some(id) if id < max as u64 => Ok(()),
        Some(id) => Err(TokenizerError::IdOutOfRange {
            token: token.into(),
            id: u32::try_from(id).unwrap_or(u32::MAX),
            max,
            tokens,
        }),
        None => Err(TokenizerError::Malformed {
            reason: format!("the id of token `{token}` is {id}, not a number"),
        }),
    };
    for (token, id) in file["model"]["vocab"].as_object().into_iter().flatten() {
        check(token, id)?;
    }
    for token in added {
        check(token["content"].as_str().unwrap_or("?"), &token["id"])?;
    }
    Ok(())
}

/// Whether `value`, or a part of it, is of this type.
pub(super) fn mentions(value: &Value, kind: &str) -> bool {
    match value {
        Value::Object(map) => {
            map.get("type").is_some_and(|t| t == kind) || map.values().any(|v| mentions(v, kind))
        }
        Value::Array(items) => items.iter().any(|v| mentions(v, kind)),
        _ => false,
    }
}

/// BLAKE3 of `value` with sorted keys, whatever order the parser keeps.
pub(super) fn canonical_hash(value: &Value) -> [u8; 32] {
    fn feed(value: &Value, to: &mut blake3::Hasher) {
        match value {
            Value::Object(map) => {
                to.update(b"{");
                for (key, value) in map.iter().collect::<BTreeMap<_, _>>() {
                    to.update(Value::from(key.as_str()).to_string().as_bytes()).update(b":");
                    feed(value, to);
                    to.update(b",");
                }
                to.update(b"}");
            }
            Value::Array(items) => {
                to.update(b"[");
                for item in items {
                    feed(item, to);
                    to.update(b",");
                }
                to.update(b"]");
            }
            leaf => {
                to.update(leaf.to_string().as_bytes());
            }
        }
    }
    let mut hasher = blake3::Hasher::new();
    feed(value, &mut hasher);
    hasher.finalize().into()
}
