//! How a model that writes holds its weights.

use model::quant::Format;

use crate::failure::Failure;

/// A format on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// As they are; on the CPU alone.
    F32,
    /// In fewer bits.
    As(Format),
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Held::F32 => f.write_str("f32"),
            Held::As(format) => format.fmt(f),
        }
    }
}

/// The format of that name.
pub fn held(name: &str) -> Result<Held, String> {
    if name.eq_ignore_ascii_case("f32") {
        return Ok(Held::F32);
    }
    let names = || Format::ALL.map(Format::name).join(", ");
    Format::find(name).map(Held::As).ok_or_else(|| format!("wanted one of f32, {}", names()))
}

impl Held {
    /// What a GPU can hold.
    pub fn on_gpu(this: Option<Held>) -> Result<Format, Failure> {
        match this {
            None => Ok(Format::F16),
            Some(Held::As(format)) => Ok(format),
            Some(Held::F32) => {
                let text = "a GPU does not hold weights as f32; wanted f16, bf16, q8_0 or q4_0";
                Err(Failure::Usage(text.into()))
            }
        }
    }

    /// What the CPU can hold; nothing stands for f32.
    pub fn on_cpu(this: Option<Held>) -> Result<Option<Format>, Failure> {
        match this {
            None | Some(Held::F32) => Ok(None),
            Some(Held::As(Format::F16)) => {
                let text = "the CPU does not hold weights as f16; wanted f32, bf16, q8_0 or q4_0";
                Err(Failure::Usage(text.into()))
            }
            Some(Held::As(format)) => Ok(Some(format)),
        }
    }
}
