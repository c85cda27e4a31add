//! Weight files: MILBlob storage, version 2.
//!
//! ```text
//! 0     u32 count, u32 version = 2, 56 reserved bytes
//! m     u32 sentinel 0xDEADBEEF, u32 dtype, u64 bytes, u64 data offset, u64 padding bits, 32 reserved
//! m+64  data, row-major; the next record starts at the next multiple of 64
//! ```
//!
//! Everything is little endian; `m` starts at 64 and is what `BLOBFILE(offset = …)` names. The last
//! tensor is not padded. Source: coremltools 9.0, `mlmodel/src/MILBlob/Blob/StorageFormat.hpp`;
//! checked both ways by `tests/interop/mil_blob.py`.

use std::collections::BTreeMap;

use half::f16;

use crate::types::DType;

const ALIGN: usize = 64;
const VERSION: u32 = 2;
const SENTINEL: u32 = 0xDEAD_BEEF;

/// Code of each element type in a record. Source: `BlobDataType.hpp`.
const CODES: [(u32, DType); 10] = [
    (1, DType::Fp16),
    (2, DType::Fp32),
    (3, DType::UInt8),
    (4, DType::Int8),
    (6, DType::Int16),
    (7, DType::UInt16),
    (8, DType::Int4),
    (11, DType::UInt4),
    (14, DType::Int32),
    (15, DType::UInt32),
];

/// Why a record of a weight file could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum BlobError {
    #[error("the file has {bytes} bytes, fewer than its 64-byte header; write it again")]
    Header { bytes: usize },
    #[error("the file is MILBlob version {found}, not 2; write it with `BlobWriter` or coremltools ≥ 6")]
    Version { found: u32 },
    #[error("offset {offset} is no multiple of 64 from 64 on; give the offset that the writer returned")]
    Offset { offset: u64 },
    #[error("a record at {offset} needs {need} bytes, but the file ends at {bytes}; it is truncated")]
    Truncated { offset: u64, need: u64, bytes: usize },
    #[error(
        "no record starts at {offset}: its first word is {found:#010x}, not 0xdeadbeef; \
         give the record's offset (64 for the first), not that of its data"
    )]
    Sentinel { offset: u64, found: u32 },
    #[error("the record at {offset} has the unknown element code {code}; use fp16")]
    DType { offset: u64, code: u32 },
    #[error(
        "the record at {offset} puts its data at {data}, over a header or a record; \
         the data belongs at {wanted}"
    )]
    DataOffset { offset: u64, data: u64, wanted: u64 },
}

/// One tensor of a weight file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Position of the record, the `offset` of a BLOBFILE.
    pub offset: u64,
    /// Element type.
    pub dtype: DType,
    /// Data, little endian, row-major.
    pub data: &'a [u8],
    /// Unused bits in the last byte of types below 8 bits.
    pub padding_bits: u64,
}

impl Record<'_> {
    /// Number of elements that the data holds.
    pub fn elements(&self) -> usize {
        let bits = self.data.len() as u64 * 8;
        (bits.saturating_sub(self.padding_bits) / self.dtype.bits() as u64) as usize
    }
}

/// Reads the record at `offset`. Nothing is copied.
///
/// # Errors
/// [`BlobError`] when the header, the record or its data do not fit the format or the file.
pub fn read(file: &[u8], offset: u64) -> Result<Record<'_>, BlobError> {
    check_header(file)?;
    if offset < ALIGN as u64 || !offset.is_multiple_of(ALIGN as u64) {
        return Err(BlobError::Offset { offset });
    }
    let truncated = |need: u64| BlobError::Truncated { offset, need, bytes: file.len() };
    let record = usize::try_from(offset)
        .ok()
        .and_then(|at| file.get(at..)?.get(..ALIGN))
        .ok_or_else(|| truncated(ALIGN as u64))?;
    let sentinel = u32_at(record, 0);
    if sentinel != SENTINEL {
        return Err(BlobError::Sentinel { offset, found: sentinel });
    }
    let code = u32_at(record, 4);
    let dtype =
        CODES.iter().find(|(c, _)| *c == code).map(|(_, d)| *d).ok_or(BlobError::DType { offset, code })?;
    let (bytes, data, padding_bits) = (u64_at(record, 8), u64_at(record, 16), u64_at(record, 24));
    let wanted = offset + ALIGN as u64;
    if data < wanted {
        return Err(BlobError::DataOffset { offset, data, wanted });
    }
    let data = usize::try_from(data)
        .ok()
        .and_then(|at| file.get(at..)?.get(..usize::try_from(bytes).ok()?))
        .ok_or_else(|| truncated(bytes.saturating_add(ALIGN as u64)))?;
    Ok(Record { offset, dtype, data, padding_bits })
}

/// Every record of a file, in order. The header's count is not trusted: readers ignore it.
///
/// # Errors
/// The first record that cannot be read.
pub fn records(file: &[u8]) -> Result<Vec<Record<'_>>, BlobError> {
    check_header(file)?;
    let mut records = Vec::new();
    let mut at = ALIGN;
    while at < file.len() {
        let record = read(file, at as u64)?;
        // `read` found the data inside the file, so this neither wraps nor stands still.
        at = (at + ALIGN + record.data.len()).next_multiple_of(ALIGN);
        records.push(record);
    }
    Ok(records)
}

fn check_header(file: &[u8]) -> Result<(), BlobError> {
    if file.len() < ALIGN {
        return Err(BlobError::Header { bytes: file.len() });
    }
    match u32_at(file, 4) {
        VERSION => Ok(()),
        found => Err(BlobError::Version { found }),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("the slice has four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("the slice has eight bytes"))
}

/// Builds a weight file in memory.
///
/// ```
/// let mut blob = mil::blob::BlobWriter::new();
/// let offset = blob.write_fp16(&[half::f16::ONE; 4]);
/// let file = blob.finish();
/// assert_eq!(mil::blob::read(&file, offset).unwrap().elements(), 4);
/// ```
#[derive(Clone, Debug)]
pub struct BlobWriter {
    bytes: Vec<u8>,
    count: u32,
}

impl Default for BlobWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl BlobWriter {
    /// An empty file.
    pub fn new() -> Self {
        Self { bytes: vec![0; ALIGN], count: 0 }
    }

    /// Adds a tensor of little-endian `data` and returns its BLOBFILE offset.
    ///
    /// # Panics
    /// When the format has no code for `dtype`: `bool`, `string` and 64-bit integers.
    pub fn write(&mut self, dtype: DType, data: &[u8]) -> u64 {
        let code = CODES.iter().find(|(_, d)| *d == dtype).expect("the format has a code for the type").0;
        let offset = self.bytes.len().next_multiple_of(ALIGN);
        self.bytes.resize(offset, 0);
        self.bytes.extend(SENTINEL.to_le_bytes());
        self.bytes.extend(code.to_le_bytes());
        self.bytes.extend((data.len() as u64).to_le_bytes());
        self.bytes.extend((offset as u64 + ALIGN as u64).to_le_bytes());
        self.bytes.resize(offset + ALIGN, 0);
        self.bytes.extend_from_slice(data);
        self.count += 1;
        offset as u64
    }

    /// Adds an `fp16` tensor and returns its BLOBFILE offset.
    pub fn write_fp16(&mut self, data: &[f16]) -> u64 {
        let bytes: Vec<u8> = data.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.write(DType::Fp16, &bytes)
    }

    /// The finished file.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes[..4].copy_from_slice(&self.count.to_le_bytes());
        self.bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        self.bytes
    }
}

/// The weight files of a program, by the exact path that its BLOBFILEs spell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    files: BTreeMap<String, Vec<u8>>,
}

impl Weights {
    /// No files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a file.
    pub fn insert(&mut self, path: impl Into<String>, file: Vec<u8>) {
        self.files.insert(path.into(), file);
    }

    /// The bytes of a file.
    pub fn get(&self, path: &str) -> Option<&[u8]> {
        self.files.get(path).map(Vec::as_slice)
    }

    /// Paths and bytes, sorted by path.
    pub fn files(&self) -> impl ExactSizeIterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(path, file)| (path.as_str(), file.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Vec<u8> {
        let mut w = BlobWriter::new();
        assert_eq!(w.write_fp16(&[f16::ONE; 3]), 64);
        assert_eq!(w.write(DType::Int8, &[1, 2, 3, 4]), 192);
        w.finish()
    }

    #[test]
    fn reads_what_it_writes() {
        let file = two();
        assert_eq!(file.len(), 192 + 64 + 4);
        let all = records(&file).unwrap();
        assert_eq!(
            all.iter().map(|r| (r.offset, r.dtype, r.elements())).collect::<Vec<_>>(),
            [(64, DType::Fp16, 3), (192, DType::Int8, 4),]
        );
        assert_eq!(all[1].data, [1, 2, 3, 4]);
    }

    #[test]
    fn names_the_fault() {
        let file = two();
        assert_eq!(read(&file, 128), Err(BlobError::Sentinel { offset: 128, found: 0x3c00_3c00 }));
        assert_eq!(read(&file, 0), Err(BlobError::Offset { offset: 0 }));
        assert_eq!(read(&file, 100), Err(BlobError::Offset { offset: 100 }));
        assert_eq!(read(&[0; 64], 64), Err(BlobError::Version { found: 0 }));
        assert!(matches!(read(&file[..259], 192), Err(BlobError::Truncated { offset: 192, .. })));
        assert!(matches!(read(&file, u64::MAX - 63), Err(BlobError::Truncated { .. })));
        let mut over_header = file.clone();
        over_header[64 + 16..64 + 24].fill(0);
        assert_eq!(read(&over_header, 64), Err(BlobError::DataOffset { offset: 64, data: 0, wanted: 128 }));
        let mut huge = file;
        huge[64 + 8..64 + 16].fill(0xff);
        assert!(matches!(read(&huge, 64), Err(BlobError::Truncated { .. })));
    }

    #[test]
    fn no_prefix_of_a_file_panics() {
        let file = two();
        for len in 0..file.len() {
            assert!(records(&file[..len]).is_err() || len == 64 || (134..=192).contains(&len), "{len}");
        }
    }
}
