//! The header: JSON to tensors, with every number checked against the file's length.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{Dtype, MAX_METADATA, MAX_RANK, MAX_TENSORS, Tensor};
use crate::FileError;
use crate::error::shorten;

/// Tensors by name, and the metadata. `file_bytes` is the length of the whole file, of which `text`
/// is the part from byte 8.
pub fn parse(
    path: &Path,
    text: &[u8],
    file_bytes: u64,
) -> Result<(Vec<Tensor>, BTreeMap<String, String>), FileError> {
    let broken = |offset: usize, reason: &str| FileError::Json {
        path: path.to_owned(),
        offset: 8 + offset as u64,
        reason: reason.into(),
    };
    let utf8 = std::str::from_utf8(text).map_err(|e| broken(e.valid_up_to(), "the header is not UTF-8"))?;
    if !utf8.starts_with('{') {
        return Err(broken(0, "the header does not begin with `{`"));
    }
    let raw: Header = serde_json::from_str(utf8).map_err(|e| FileError::json(path, 8, text, &e))?;
    let data_start = 8 + text.len() as u64;
    let mut tensors = Vec::with_capacity(raw.tensors.len());
    for (name, raw) in raw.tensors {
        tensors.push(raw.check(path, name)?);
    }

    // The ranges, in the order of the file, must tile it.
    tensors.sort_by_key(|t: &Ranged| (t.begin, t.end));
    let mut at = 0;
    for t in &tensors {
        if t.begin != at {
            let what = if t.begin > at { "leaves a hole" } else { "overlaps the one before" };
            let reason =
                format!("{what}: it begins at byte {} of the numbers, the one before ends at {at}", t.begin);
            return Err(layout(path, &t.tensor.name, reason));
        }
        at = t.end;
    }
    let have = file_bytes - data_start;
    if at != have {
        let cut = tensors.iter().find(|t| t.end > have);
        let reason = match cut {
            Some(t) => format!(
                "{have} bytes of numbers, the header describes {at}: cut short by {} in `{}`",
                at - have,
                shorten(&t.tensor.name)
            ),
            None => format!("{have} bytes of numbers, the header describes {at}: {} too many", have - at),
        };
        return Err(FileError::Contents { path: path.to_owned(), reason });
    }

    let mut tensors: Vec<Tensor> =
        tensors.into_iter().map(|t| Tensor { start: data_start + t.begin, ..t.tensor }).collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok((tensors, raw.metadata))
}

fn layout(path: &Path, tensor: &str, reason: String) -> FileError {
    FileError::Layout { path: path.to_owned(), tensor: shorten(tensor), reason }
}

struct Ranged {
    tensor: Tensor,
    begin: u64,
    end: u64,
}

struct Header {
    tensors: HashMap<String, RawTensor>,
    metadata: BTreeMap<String, String>,
}

#[derive(serde::Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Numbers<MAX_RANK>,
    data_offsets: Numbers<2>,
}

impl RawTensor {
    fn check(&self, path: &Path, name: String) -> Result<Ranged, FileError> {
        let fault = |reason: String| layout(path, &name, reason);
        let Some(dtype) = Dtype::parse(&self.dtype) else {
            return Err(FileError::Dtype {
                path: path.to_owned(),
                tensor: shorten(&name),
                dtype: shorten(&self.dtype),
                wanted: "F32, F16, BF16, or another format of whole bytes",
            });
        };
        let shape = self.shape.0.as_ref().map_err(|n| fault(format!("has the extent {n} in its shape")))?;
        let offsets = self.data_offsets.0.as_ref().map_err(|n| fault(format!("has the offset {n}")))?;
        let [begin, end] = offsets[..] else {
            return Err(fault(format!("has {} offsets, wanted 2", offsets.len())));
        };
        if begin > end {
            return Err(fault(format!("begins at {begin} and ends before, at {end}")));
        }
        let size = shape
            .iter()
            .try_fold(1u64, |product, &n| product.checked_mul(n))
            .and_then(|n| n.checked_mul(dtype.bytes()))
            .filter(|&bytes| usize::try_from(bytes).is_ok())
            .ok_or_else(|| {
                fault(format!("has the shape {shape:?}, more numbers than there are addresses"))
            })?;
        if end - begin != size {
            let dtype = dtype.name();
            return Err(fault(format!(
                "has {} bytes, its shape {shape:?} of {dtype} takes {size}",
                end - begin
            )));
        }
        let shape = shape.iter().map(|&n| n as usize).collect();
        Ok(Ranged { tensor: Tensor { name, dtype, shape, start: 0 }, begin, end })
    }
}

/// At most `MAX` whole numbers, or the first that is none, for the message.
struct Numbers<const MAX: usize>(Result<Vec<u64>, String>);

struct Number(Result<u64, String>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header { tensors: HashMap::new(), metadata: BTreeMap::new() };
        let mut metadata_seen = false;
        while let Some(name) = map.next_key::<String>()? {
            let twice = if name == "__metadata__" {
                let Metadata(metadata) = map.next_value()?;
                header.metadata = metadata;
                std::mem::replace(&mut metadata_seen, true)
            } else if header.tensors.contains_key(&name) {
                true
            } else {
                header.tensors.insert(name.clone(), map.next_value()?);
                false
            };
            if twice {
                return Err(de::Error::custom(format!("duplicate key `{}`", shorten(&name))));
            }
            if header.tensors.len() > MAX_TENSORS {
                return Err(de::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
        }
        Ok(header)
    }
}

/// Strings by name, a bounded number of them.
struct Metadata(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MetadataVisitor)
    }
}

struct MetadataVisitor;

impl<'de> Visitor<'de> for MetadataVisitor {
    type Value = Metadata;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "an object of at most {MAX_METADATA} strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
        let mut strings = BTreeMap::new();
        while let Some((name, value)) = map.next_entry::<String, String>()? {
            strings.insert(name, value);
            if strings.len() > MAX_METADATA {
                return Err(de::Error::invalid_length(strings.len(), &self));
            }
        }
        Ok(Metadata(strings))
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for Numbers<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(NumbersVisitor::<MAX>)
    }
}

struct NumbersVisitor<const MAX: usize>;

impl<'de, const MAX: usize> Visitor<'de> for NumbersVisitor<MAX> {
    type Value = Numbers<MAX>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "a list of at most {MAX} numbers")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut numbers = Vec::new();
        let mut fault = None;
        while let Some(Number(number)) = seq.next_element()? {
            if numbers.len() == MAX {
                return Err(de::Error::invalid_length(MAX + 1, &self));
            }
            let number = number.unwrap_or_else(|text| {
                fault.get_or_insert(text);
                0
            });
            numbers.push(number);
        }
        Ok(Numbers(fault.map_or(Ok(numbers), Err)))
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_u64<E>(self, n: u64) -> Result<Number, E> {
        Ok(Number(Ok(n)))
    }

    fn visit_i64<E>(self, n: i64) -> Result<Number, E> {
        Ok(Number(Err(n.to_string())))
    }

    fn visit_f64<E>(self, n: f64) -> Result<Number, E> {
        Ok(Number(Err(n.to_string())))
    }
}
