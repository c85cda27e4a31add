//! How a surface lies in memory.

use std::fmt;

use mil::types::ROW_ALIGN;
use mil::{DType, TensorType};

/// Element type of a surface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Element {
    Fp16,
    Fp32,
}

impl Element {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Element::Fp16 => 2,
            Element::Fp32 => 4,
        }
    }
}

/// How a surface is laid out: `channels · height` rows of `width` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Element type.
    pub element: Element,
    /// Channels, times the batch where there is one.
    pub channels: usize,
    /// Rows per channel, 1 in every kernel of ours.
    pub height: usize,
    /// Elements of a row.
    pub width: usize,
}

impl Layout {
    /// `[1, channels, 1, width]` in fp16.
    pub fn fp16(channels: usize, width: usize) -> Self {
        Self { element: Element::Fp16, channels, height: 1, width }
    }

    /// The layout of a program's input or output; `None` for other types than fp16 and fp32.
    pub fn of(ty: &TensorType) -> Option<Self> {
        let element = match ty.dtype {
            DType::Fp16 => Element::Fp16,
            DType::Fp32 => Element::Fp32,
            _ => return None,
        };
        let (width, outer) = match ty.shape.split_last() {
            Some((width, outer)) => (*width, outer),
            None => (1, &[][..]),
        };
        let (height, channels) = match outer.split_last() {
            Some((height, outer)) => (*height, outer),
            None => (1, &[][..]),
        };
        let channels = channels.iter().fold(1usize, |n, &d| n.saturating_mul(d));
        Some(Self { element, channels, height, width })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.channels.saturating_mul(self.height)
    }

    /// Elements from one row to the next.
    pub fn row_step(&self) -> usize {
        self.row_pitch() / self.element.bytes()
    }

    /// Bytes from one row to the next.
    pub fn row_pitch(&self) -> usize {
        let bytes = self.width.saturating_mul(self.element.bytes());
        bytes.checked_next_multiple_of(ROW_ALIGN).unwrap_or(usize::MAX - (ROW_ALIGN - 1))
    }

    /// Bytes of the surface; saturates.
    pub fn bytes(&self) -> usize {
        self.rows().saturating_mul(self.row_pitch())
    }

    /// True when rows follow each other without padding.
    pub fn is_flat(&self) -> bool {
        self.row_step() == self.width
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let element = match self.element {
            Element::Fp16 => "fp16",
            Element::Fp32 => "fp32",
        };
        write!(f, "{element} [{}, {}, {}]", self.channels, self.height, self.width)
    }
}
