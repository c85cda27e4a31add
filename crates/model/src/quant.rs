//! Weights in few bits: rows of blocks, as GGUF files hold them.
//!
//! ```text
//! Q8_0   32 values as i8, one f16 scale d       w = d · q            d = max|w| / 127
//! Q4_0   32 values as u4, one f16 scale d       w = d · (q − 8)      d = w(of max|w|) / −8
//! ```
//!
//! A Q8_0 block is the scale, then the 32 integers: 34 bytes. A Q4_0 block is the scale, then 16 bytes,
//! of which byte `i` holds value `i` in its low half and value `i + 16` in its high half: 18 bytes. A row
//! whose length is no multiple of 32 ends in a block filled up with zeros. Everything is little-endian.
//! Source of the layout: the GGUF specification, <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use half::{bf16, f16};

use crate::{Group, Weights};

/// How weight matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// 8.5 bits per weight.
    Q8_0,
    /// 4.5 bits per weight.
    Q4_0,
}

/// A weight that no format can hold.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "the weight at row {row}, column {column} is {value}; wanted a finite number within {format}'s range"
)]
pub struct QuantError {
    /// Its row.
    pub row: usize,
    /// Its column.
    pub column: usize,
    /// What it is.
    pub value: f32,
    /// The format asked for.
    pub format: Format,
}

impl Format {
    /// Every format, the finest first.
    pub const ALL: [Format; 4] = [Format::F16, Format::Bf16, Format::Q8_0, Format::Q4_0];
    /// Values of one block of [`Format::Q8_0`] and [`Format::Q4_0`].
    pub const BLOCK: usize = 32;

    /// Its name in flags and reports.
    pub fn name(self) -> &'static str {
        match self {
            Format::F16 => "f16",
            Format::Bf16 => "bf16",
            Format::Q8_0 => "q8_0",
            Format::Q4_0 => "q4_0",
        }
    }

    /// The format of that name; `q8` and `q4` are short for `q8_0` and `q4_0`.
    pub fn find(name: &str) -> Option<Format> {
        let short = |format: &Format| format.name().split('_').next().unwrap_or_default();
        let is = |name: &str, wanted: &str| name.eq_ignore_ascii_case(wanted);
        Self::ALL.into_iter().find(|format| is(name, format.name()) || is(name, short(format)))
    }

    /// Checks that the format can hold rows of `columns` values.
    ///
    /// # Errors
    /// The first value that is not finite, or beyond the format's range.
    pub fn check(self, columns: usize, values: &[f32]) -> Result<(), QuantError> {
        let largest = match self {
            Format::F16 => f32::from(f16::MAX),
            Format::Bf16 => f32::from(bf16::MAX),
            // The scale is an f16.
            Format::Q8_0 => f32::from(f16::MAX) * 127.0,
            Format::Q4_0 => f32::from(f16::MAX) * 8.0,
        };
        // Written so that NaN is found too.
        match values.iter().position(|v| !matches!(v.abs(), size if size <= largest)) {
            Some(at) => {
                Err(QuantError { row: at / columns, column: at % columns, value: values[at], format: self })
            }
            None => Ok(()),
        }
    }

    /// Bytes of a block of [`Format::block_len`] values.
    pub fn block_bytes(self) -> usize {
        match self {
            Format::F16 | Format::Bf16 => 2,
            Format::Q8_0 => 34,
            Format::Q4_0 => 18,
        }
    }

    /// Values that share a scale; 1 where there is none.
    pub fn block_len(self) -> usize {
        match self {
            Format::F16 | Format::Bf16 => 1,
            Format::Q8_0 | Format::Q4_0 => Self::BLOCK,
        }
    }

    /// Bytes of a row of `columns` values.
    pub fn row_bytes(self, columns: usize) -> usize {
        columns.div_ceil(self.block_len()) * self.block_bytes()
    }

    /// Writes a row; `bytes` has [`Format::row_bytes`] of them. Values beyond the format's range become
    /// infinite or saturate: [`Quantized::new`] refuses them.
    pub fn quantize_row(self, row: &[f32], bytes: &mut [u8]) {
        assert_eq!(bytes.len(), self.row_bytes(row.len()), "bytes of a {} row", self.name());
        match self {
            Format::F16 => halves(row, bytes, |v| f16::from_f32(v).to_le_bytes()),
            Format::Bf16 => halves(row, bytes, |v| bf16::from_f32(v).to_le_bytes()),
            Format::Q8_0 => blocks(self, row, bytes, q8_0),
            Format::Q4_0 => blocks(self, row, bytes, q4_0),
        }
    }

    /// Reads a row back; `bytes` has [`Format::row_bytes`] of it.
    pub fn dequantize_row(self, bytes: &[u8], row: &mut [f32]) {
        assert_eq!(bytes.len(), self.row_bytes(row.len()), "bytes of a {} row", self.name());
        let half = |b: &[u8]| f16::from_le_bytes([b[0], b[1]]).to_f32();
        let units = bytes.chunks_exact(self.block_bytes()).zip(row.chunks_mut(self.block_len()));
        match self {
            Format::F16 => units.for_each(|(b, w)| w[0] = half(b)),
            Format::Bf16 => units.for_each(|(b, w)| w[0] = bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            Format::Q8_0 => units.for_each(|(b, w)| {
                let d = half(b);
                w.iter_mut().zip(&b[2..]).for_each(|(w, &q)| *w = d * f32::from(q as i8));
            }),
            Format::Q4_0 => units.for_each(|(b, w)| {
                let d = half(b);
                for (i, w) in w.iter_mut().enumerate() {
                    let pair = b[2 + i % 16];
                    let q = if i < 16 { pair & 15 } else { pair >> 4 };
                    *w = d * (f32::from(q) - 8.0);
                }
            }),
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

fn halves(row: &[f32], bytes: &mut [u8], half: impl Fn(f32) -> [u8; 2]) {
    for (b, &v) in bytes.chunks_exact_mut(2).zip(row) {
        b.copy_from_slice(&half(v));
    }
}

fn blocks(format: Format, row: &[f32], bytes: &mut [u8], block: impl Fn(&[f32; Format::BLOCK], &mut [u8])) {
    let mut values = [0.0; Format::BLOCK];
    for (b, v) in bytes.chunks_exact_mut(format.block_bytes()).zip(row.chunks(Format::BLOCK)) {
        values[..v.len()].copy_from_slice(v);
        values[v.len()..].fill(0.0);
        block(&values, b);
    }
}

fn q8_0(values: &[f32; Format::BLOCK], bytes: &mut [u8]) {
    let d = values.iter().fold(0.0f32, |max, v| max.max(v.abs())) / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    bytes[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (b, v) in bytes[2..].iter_mut().zip(values) {
        *b = (v * inverse).round() as i8 as u8;
    }
}

fn q4_0(values: &[f32; Format::BLOCK], bytes: &mut [u8]) {
    // The value of the largest size keeps its sign and becomes −8, the end that has one more step.
    let most = values.iter().fold(0.0f32, |most, &v| if v.abs() > most.abs() { v } else { most });
    let d = most / -8.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    bytes[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    let four_bits = |v: f32| ((v * inverse + 8.5) as u8).min(15);
    for (i, b) in bytes[2..].iter_mut().enumerate() {
        *b = four_bits(values[i]) | four_bits(values[i + 16]) << 4;
    }
}

/// A weight matrix in few bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    format: Format,
    rows: usize,
    columns: usize,
    bytes: Vec<u8>,
}

impl Quantized {
    /// The matrix `values`, `[rows, columns]`, row-major.
    ///
    /// # Errors
    /// The first value that is not finite, or that the format cannot hold.
    pub fn new(format: Format, columns: usize, values: &[f32]) -> Result<Self, QuantError> {
        format.check(columns, values)?;
        let (rows, row_bytes) = (values.len() / columns, format.row_bytes(columns));
        let mut bytes = vec![0; rows * row_bytes];
        for (row, bytes) in values.chunks_exact(columns).zip(bytes.chunks_exact_mut(row_bytes)) {
            format.quantize_row(row, bytes);
        }
        Ok(Self { format, rows, columns, bytes })
    }

    /// How it is stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// All rows, each of [`Format::row_bytes`].
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[u8] {
        let n = self.format.row_bytes(self.columns);
        &self.bytes[row * n..][..n]
    }

    /// What the matrix holds, `[rows, columns]`.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * self.columns];
        for (row, values) in values.chunks_exact_mut(self.columns).enumerate() {
            self.format.dequantize_row(self.row(row), values);
        }
        values
    }
}

impl Group {
    /// Whether a model in few bits holds these parameters in few bits: the matrices, which are read for
    /// every token, and not the vectors, whose rounding would cost more than their bytes.
    pub fn quantized(self) -> bool {
        matches!(self, Group::Embedding | Group::Head | Group::Matrix)
    }
}

impl Weights {
    /// Rounds every matrix to what `format` holds: the model that a decoder of that format computes,
    /// for one that computes in f32.
    ///
    /// # Errors
    /// As [`Quantized::new`].
    pub fn round_to(&mut self, format: Format) -> Result<(), QuantError> {
        let params = self.params().clone();
        for p in params.iter().filter(|p| p.group.quantized()) {
            let values = self.get_mut(p.id);
            let rounded = Quantized::new(format, p.shape[1], values)?.to_f32();
            values.copy_from_slice(&rounded);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ModelConfig;

    fn round_trip(format: Format, row: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let mut bytes = vec![0; format.row_bytes(row.len())];
        format.quantize_row(row, &mut bytes);
        let mut back = vec![0.0; row.len()];
        format.dequantize_row(&bytes, &mut back);
        (bytes, back)
    }

    #[test]
    fn blocks_are_laid_out_as_in_gguf() {
        let row: Vec<f32> = (0..32).map(|i| (i as f32 - 16.0) * 0.5).collect();
        let (bytes, back) = round_trip(Format::Q4_0, &row);
        // The largest size is −8: scale 1, so the value −8 is 0 and the value 0 is 8.
        assert_eq!(f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(), 1.0);
        assert_eq!(bytes[2] & 15, 0);
        assert_eq!(bytes[2] >> 4, 8);
        assert_eq!((back[0], back[16], back[31]), (-8.0, 0.0, 7.0));
        let row: Vec<f32> = (0..32).map(|i| i as f32 * 127.0 / 31.0).collect();
        let (bytes, _) = round_trip(Format::Q8_0, &row);
        assert_eq!(f16::from_le_bytes([bytes[0], bytes[1]]).to_f32(), 1.0);
        assert_eq!((bytes[2], bytes[3], bytes[33]), (0, 4, 127));
    }

    #[test]
    fn rows_of_any_length_end_in_a_block_of_zeros() {
        for (format, bytes) in [(Format::Q8_0, 68), (Format::Q4_0, 36), (Format::F16, 66), (Format::Bf16, 66)]
        {
            assert_eq!(format.row_bytes(33), bytes);
            let row: Vec<f32> = (0..33).map(|i| i as f32).collect();
            let (_, back) = round_trip(format, &row);
            assert!((back[32] - 32.0).abs() < 0.02, "{format}: {}", back[32]);
        }
    }

    #[test]
    fn formats_are_found_by_their_names() {
        let found = |name| Format::find(name).map(Format::name);
        assert_eq!((found("Q8_0"), found("q8"), found("q4")), (Some("q8_0"), Some("q8_0"), Some("q4_0")));
        assert_eq!((found("bf16"), found("q5"), found("")), (Some("bf16"), None, None));
    }

    #[test]
    fn names_the_weight_that_does_not_fit() {
        let mut values = vec![0.5; 12];
        values[7] = f32::NAN;
        let error = Quantized::new(Format::Q8_0, 4, &values).unwrap_err();
        assert_eq!((error.row, error.column), (1, 3));
        values[7] = 70_000.0;
        assert!(Quantized::new(Format::F16, 4, &values).is_err());
        assert!(Quantized::new(Format::Q4_0, 4, &values).is_ok());
    }

    #[test]
    fn rounds_matrices_and_leaves_vectors() {
        let config = ModelConfig { layers: 1, qkv_bias: true, ..ModelConfig::default() };
        let before = Weights::init(&config, 1);
        let mut after = before.clone();
        after.round_to(Format::Q4_0).unwrap();
        for p in before.params() {
            let same = before.get(p.id) == after.get(p.id);
            assert_eq!(same, !p.group.quantized(), "{}", p.name);
        }
    }

    proptest! {
        #[test]
        fn errors_stay_within_half_a_step(row in prop::collection::vec(-3f32..3.0, 1..100)) {
            for format in Format::ALL {
                let (bytes, back) = round_trip(format, &row);
                for (i, (a, b)) in row.iter().zip(&back).enumerate() {
                    let block = i / 32 * 32;
                    let max = row[block..(block + 32).min(row.len())].iter().fold(0f32, |m, v| m.max(v.abs()));
                    let step = match format {
                        Format::F16 => a.abs() / 1024.0 + 1e-7,
                        Format::Bf16 => a.abs() / 128.0,
                        Format::Q8_0 => max / 127.0 * 1.2,
                        // The positive end has one step fewer and is cut off there.
                        Format::Q4_0 => max / 8.0 * 2.01,
                    };
                    prop_assert!((a - b).abs() <= step / 2.0 + 1e-6, "{format}: {a} became {b}");
                }
                // What a format holds, it holds exactly.
                if matches!(format, Format::F16 | Format::Bf16) {
                    let (again, _) = round_trip(format, &back);
                    prop_assert_eq!(bytes, again);
                }
            }
        }
    }
}
