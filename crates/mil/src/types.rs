//! Element types, shapes, and the bytes that a tensor takes on a device surface.

use std::fmt;
use std::ops::Deref;

/// Element type of a value, spelled as in MIL text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each name is its own meaning")]
pub enum DType {
    Fp16,
    Fp32,
    Bool,
    String,
    Int4,
    UInt4,
    Int8,
    UInt8,
    Int16,
    UInt16,
    Int32,
    UInt32,
    Int64,
    UInt64,
}

impl DType {
    /// Every type with its spelling in MIL text.
    pub const ALL: [(DType, &'static str); 14] = [
        (DType::Fp16, "fp16"),
        (DType::Fp32, "fp32"),
        (DType::Bool, "bool"),
        (DType::String, "string"),
        (DType::Int4, "int4"),
        (DType::UInt4, "uint4"),
        (DType::Int8, "int8"),
        (DType::UInt8, "uint8"),
        (DType::Int16, "int16"),
        (DType::UInt16, "uint16"),
        (DType::Int32, "int32"),
        (DType::UInt32, "uint32"),
        (DType::Int64, "int64"),
        (DType::UInt64, "uint64"),
    ];

    /// The type that MIL text spells `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(d, _)| *d)
    }

    /// The spelling in MIL text.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(d, _)| *d == self).map_or("", |(_, n)| n)
    }

    /// Bits of one element; 0 for strings, which have no fixed size.
    pub fn bits(self) -> usize {
        match self {
            DType::String => 0,
            DType::Int4 | DType::UInt4 => 4,
            DType::Bool | DType::Int8 | DType::UInt8 => 8,
            DType::Fp16 | DType::Int16 | DType::UInt16 => 16,
            DType::Fp32 | DType::Int32 | DType::UInt32 => 32,
            DType::Int64 | DType::UInt64 => 64,
        }
    }

    /// True for `fp16` and `fp32`.
    pub fn is_float(self) -> bool {
        matches!(self, DType::Fp16 | DType::Fp32)
    }

    /// True for the signed and unsigned integers.
    pub fn is_int(self) -> bool {
        !self.is_float() && !matches!(self, DType::Bool | DType::String)
    }

    /// Smallest and largest value of an integer type (`i64` holds all but the top half of `uint64`).
    pub fn int_range(self) -> Option<(i64, i64)> {
        Some(match self {
            DType::Int4 => (-8, 7),
            DType::UInt4 => (0, 15),
            DType::Int8 => (i8::MIN.into(), i8::MAX.into()),
            DType::UInt8 => (0, u8::MAX.into()),
            DType::Int16 => (i16::MIN.into(), i16::MAX.into()),
            DType::UInt16 => (0, u16::MAX.into()),
            DType::Int32 => (i32::MIN.into(), i32::MAX.into()),
            DType::UInt32 => (0, u32::MAX.into()),
            DType::Int64 => (i64::MIN, i64::MAX),
            DType::UInt64 => (0, i64::MAX),
            DType::Fp16 | DType::Fp32 | DType::Bool | DType::String => return None,
        })
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Extents of a tensor, outermost first; empty for a scalar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Shape(Vec<usize>);

impl Shape {
    /// A shape from its extents.
    pub fn new(dims: impl Into<Vec<usize>>) -> Self {
        Self(dims.into())
    }

    /// The shape of a scalar.
    pub fn scalar() -> Self {
        Self(Vec::new())
    }

    /// Number of elements; saturates at `usize::MAX`.
    pub fn elements(&self) -> usize {
        // A zero anywhere wins over a product that saturates before it.
        if self.0.contains(&0) {
            return 0;
        }
        self.0.iter().fold(1, |n: usize, &d| n.saturating_mul(d))
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// `axis` counted from the front; negative values count from the back.
    pub fn axis(&self, axis: i64) -> Option<usize> {
        let rank = self.0.len() as i64;
        let front = if axis < 0 { axis + rank } else { axis };
        (0..rank).contains(&front).then_some(front as usize)
    }

    /// The shape that two operands take together under numpy broadcasting.
    pub fn broadcast(&self, other: &Shape) -> Option<Shape> {
        let rank = self.rank().max(other.rank());
        let at = |s: &Shape, i: usize| match (i + s.rank()).checked_sub(rank) {
            Some(j) => s.0[j],
            None => 1,
        };
        let mut dims = Vec::with_capacity(rank);
        for i in 0..rank {
            dims.push(match (at(self, i), at(other, i)) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => return None,
            });
        }
        Some(Shape(dims))
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Self(dims.to_vec())
    }
}

impl From<Vec<usize>> for Shape {
    fn from(dims: Vec<usize>) -> Self {
        Self(dims)
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Self(dims.to_vec())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

/// Element type and shape of a value; a scalar has rank 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub shape: Shape,
}

impl TensorType {
    /// A tensor type.
    pub fn new(dtype: DType, shape: impl Into<Shape>) -> Self {
        Self { dtype, shape: shape.into() }
    }

    /// A scalar type.
    pub fn scalar(dtype: DType) -> Self {
        Self { dtype, shape: Shape::scalar() }
    }

    /// Bytes of the dense data; saturates.
    pub fn bytes(&self) -> usize {
        self.shape.elements().saturating_mul(self.dtype.bits()).div_ceil(8)
    }

    /// Bytes from one row to the next on an ANE surface: the last axis, rounded up to
    /// [`ROW_ALIGN`] bytes. Source: docs/ane-rules.md, `pitch`.
    pub fn row_pitch(&self) -> usize {
        let width = self.shape.last().copied().unwrap_or(1);
        let bytes = width.saturating_mul(self.dtype.bits()).div_ceil(8);
        bytes.checked_next_multiple_of(ROW_ALIGN).unwrap_or(usize::MAX)
    }

    /// Bytes that an ANE surface must have to hold the value: rows × [`Self::row_pitch`].
    /// A smaller surface makes the evaluation fail with status 0x1d.
    pub fn surface_bytes(&self) -> usize {
        let rows = match self.shape.split_last() {
            Some((_, outer)) => outer.iter().fold(1usize, |n, &d| n.saturating_mul(d)),
            None => 1,
        };
        rows.saturating_mul(self.row_pitch())
    }

    /// True when rows follow each other without padding, so dense and pitched bytes are the same.
    pub fn is_pitch_dense(&self) -> bool {
        let width = self.shape.last().copied().unwrap_or(1);
        (width * self.dtype.bits()).is_multiple_of(8 * ROW_ALIGN)
    }
}

/// Row pitch granularity of an ANE surface, bytes.
pub const ROW_ALIGN: usize = 64;

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shape.rank() == 0 {
            write!(f, "{}", self.dtype)
        } else {
            write!(f, "tensor<{}, {}>", self.dtype, self.shape)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasts_like_numpy() {
        let a = Shape::from([1, 8, 1, 4]);
        assert_eq!(a.broadcast(&Shape::from([8, 3, 1])), Some(Shape::from([1, 8, 3, 4])));
        assert_eq!(a.broadcast(&Shape::scalar()), Some(a.clone()));
        assert_eq!(a.broadcast(&Shape::from([7, 1, 1])), None);
    }

    #[test]
    fn surface_rows_are_padded_to_64_bytes() {
        let narrow = TensorType::new(DType::Fp16, [1, 200, 1, 1]);
        assert_eq!(narrow.surface_bytes(), 12_800);
        assert!(!narrow.is_pitch_dense());
        let wide = TensorType::new(DType::Fp16, [1, 64, 1, 192]);
        assert_eq!((wide.row_pitch(), wide.surface_bytes()), (384, 24_576));
        assert!(wide.is_pitch_dense());
    }
}
