//! Files of named tensors in the safetensors format.
//!
//! ```text
//! u64 n, little-endian │ n bytes of JSON: name → {dtype, shape, data_offsets} │ numbers, little-endian
//! ```
//!
//! Read with the rules of the format's own library (ranges without holes or overlap that end with the
//! file) and tighter limits: a header of at most 16 MB, 200 000 tensors, 8 dimensions, no name twice.
//! Source: the format's description, github.com/huggingface/safetensors.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::{FileError, durable};

mod header;
mod write;

pub use write::{Entry, write};
pub(crate) use write::{header_bytes, write_to};

/// Longest header that is read, in bytes.
pub const MAX_HEADER: u64 = 16_000_000;
/// Most tensors in one file.
pub const MAX_TENSORS: usize = 200_000;
/// Most free-form strings in one header.
pub const MAX_METADATA: usize = 10_000;
/// Most dimensions of a tensor.
pub const MAX_RANK: usize = 8;

/// A format of floating-point numbers that is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float {
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// The upper half of a single.
    Bf16,
}

impl Float {
    /// Bytes of one number.
    pub fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The name in a header.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    /// The name in `config.json`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    fn decode(self, from: &[u8], to: &mut [f32]) {
        let halves = from.chunks_exact(2).map(|b| [b[0], b[1]]);
        match self {
            Self::F32 => {
                for (b, v) in from.chunks_exact(4).zip(to) {
                    *v = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            Self::F16 => halves.zip(to).for_each(|(b, v)| *v = half::f16::from_le_bytes(b).to_f32()),
            Self::Bf16 => halves.zip(to).for_each(|(b, v)| *v = half::bf16::from_le_bytes(b).to_f32()),
        }
    }

    /// Appends; halves are rounded to the nearest, ties to even.
    fn encode(self, from: &[f32], to: &mut Vec<u8>) {
        match self {
            Self::F32 => to.extend(from.iter().flat_map(|v| v.to_le_bytes())),
            Self::F16 => to.extend(from.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes())),
            Self::Bf16 => to.extend(from.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes())),
        }
    }
}

/// The number format of a tensor in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// One that can be read as f32.
    Float(Float),
    /// One that is known, but holds no weights.
    Other {
        /// Its name in the header.
        name: &'static str,
        /// Bytes of one number.
        bytes: u64,
    },
}

impl Dtype {
    fn parse(name: &str) -> Option<Self> {
        const OTHERS: [(&str, u64); 16] = [
            ("BOOL", 1),
            ("U8", 1),
            ("I8", 1),
            ("F8_E5M2", 1),
            ("F8_E4M3", 1),
            ("F8_E8M0", 1),
            ("F8_E4M3FNUZ", 1),
            ("F8_E5M2FNUZ", 1),
            ("U16", 2),
            ("I16", 2),
            ("U32", 4),
            ("I32", 4),
            ("C64", 8),
            ("F64", 8),
            ("U64", 8),
            ("I64", 8),
        ];
        let floats = [Float::F32, Float::F16, Float::Bf16];
        floats.into_iter().find(|f| f.name() == name).map(Self::Float).or_else(|| {
            let &(name, bytes) = OTHERS.iter().find(|(other, _)| *other == name)?;
            Some(Self::Other { name, bytes })
        })
    }

    /// Bytes of one number.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Float(float) => float.bytes(),
            Self::Other { bytes, .. } => bytes,
        }
    }

    /// The name in a header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float(float) => float.name(),
            Self::Other { name, .. } => name,
        }
    }
}

/// A tensor in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Format of its numbers.
    pub dtype: Dtype,
    /// Extents, the last one contiguous.
    pub shape: Vec<usize>,
    /// First byte of its numbers in the file.
    start: u64,
}

impl Tensor {
    /// Numbers it holds; the product was checked when the file was opened.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether some extent is 0.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An open file whose header was checked; tensors are read one at a time.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    tensors: Vec<Tensor>,
    metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// Opens a file and checks its header against its length. Reads no numbers.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let (file, bytes) = durable::open(path)?;
        let mut length = [0; 8];
        if bytes < 8 {
            return Err(FileError::TooShort { path: path.to_owned(), bytes });
        }
        file.read_exact_at(&mut length, 0).map_err(FileError::io("read", path))?;
        let length = u64::from_le_bytes(length);
        for (what, limit) in [("the rest of the file", bytes - 8), ("the limit", MAX_HEADER)] {
            if length > limit {
                return Err(FileError::HeaderLength { path: path.to_owned(), length, what, limit });
            }
        }
        let mut text = vec![0; length as usize];
        file.read_exact_at(&mut text, 8).map_err(FileError::io("read", path))?;
        let (tensors, metadata) = header::parse(path, &text, bytes)?;
        Ok(Self { path: path.to_owned(), file, tensors, metadata })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All tensors, by name.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The free-form strings of the header, such as `format`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensor of that name.
    pub fn find(&self, name: &str) -> Option<&Tensor> {
        let index = self.tensors.binary_search_by(|t| t.name.as_str().cmp(name)).ok()?;
        Some(&self.tensors[index])
    }

    /// The numbers of one of this file's tensors.
    pub fn read(&self, tensor: &Tensor) -> Result<Vec<f32>, FileError> {
        let float = self.float(tensor)?;
        let mut values = vec![0.0; tensor.len()];
        self.decode(tensor, float, &mut values)?;
        Ok(values)
    }

    /// As [`TensorFile::read`], into a buffer of the tensor's length.
    ///
    /// # Panics
    /// If `values` has another length.
    pub fn read_into(&self, tensor: &Tensor, values: &mut [f32]) -> Result<(), FileError> {
        assert_eq!(values.len(), tensor.len(), "buffer for `{}`", tensor.name);
        self.decode(tensor, self.float(tensor)?, values)
    }

    /// The whole numbers of a tensor of dtype I32, such as token ids.
    pub fn read_i32(&self, tensor: &Tensor) -> Result<Vec<i32>, FileError> {
        if tensor.dtype.name() != "I32" {
            return Err(self.wrong_dtype(tensor, "I32"));
        }
        let mut bytes = vec![0; 4 * tensor.len()];
        self.file.read_exact_at(&mut bytes, tensor.start).map_err(FileError::io("read", &self.path))?;
        Ok(bytes.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    fn wrong_dtype(&self, tensor: &Tensor, wanted: &'static str) -> FileError {
        let tensor_name = crate::error::shorten(&tensor.name);
        FileError::Dtype {
            path: self.path.clone(),
            tensor: tensor_name,
            dtype: tensor.dtype.name().into(),
            wanted,
        }
    }

    fn float(&self, tensor: &Tensor) -> Result<Float, FileError> {
        match tensor.dtype {
            Dtype::Float(float) => Ok(float),
            Dtype::Other { .. } => Err(self.wrong_dtype(tensor, "F32, F16 or BF16")),
        }
    }

    fn decode(&self, tensor: &Tensor, float: Float, values: &mut [f32]) -> Result<(), FileError> {
        const NUMBERS: usize = 1 << 18;
        let mut buffer = vec![0; values.len().min(NUMBERS) * float.bytes() as usize];
        let mut at = tensor.start;
        for chunk in values.chunks_mut(NUMBERS) {
            let bytes = &mut buffer[..chunk.len() * float.bytes() as usize];
            self.file.read_exact_at(bytes, at).map_err(FileError::io("read", &self.path))?;
            float.decode(bytes, chunk);
            at += bytes.len() as u64;
        }
        Ok(())
    }
}
