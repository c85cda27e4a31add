//! What goes into a program and what comes out: random numbers or a file, and a summary.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ane_bridge::{Element, Port, Region};
use mil::TensorType;
use model::from_fn;
use model::safetensors::{self, Entry, Float, TensorFile};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::failure::Failure;

/// A tensor for one input: `NAME=FILE`.
#[derive(Clone)]
pub struct Given {
    /// Name of the input.
    pub name: String,
    file: PathBuf,
}

/// Parses `NAME=FILE`.
pub fn given(text: &str) -> Result<Given, String> {
    let (name, file) = text.split_once('=').ok_or("wanted NAME=FILE, such as x=inputs.safetensors")?;
    Ok(Given { name: name.into(), file: file.into() })
}

/// All of a port.
pub fn region(port: &Port) -> Region {
    Region::new(0..port.layout.rows(), 0..port.layout.width)
}

/// Uniform numbers from −`size` to `size`; every input has a stream of its own.
pub fn random(seed: u64, input: u64, size: f32, port: &Port) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(input);
    let mut draw = || (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0;
    (0..region(port).elements()).map(|_| size * draw()).collect()
}

fn float(element: Element) -> Float {
    match element {
        Element::Fp16 => Float::F16,
        Element::Fp32 => Float::F32,
    }
}

impl Given {
    /// The numbers of the tensor that is called as the input, or of the only one.
    pub fn read(&self, port: &Port, ty: &TensorType) -> anyhow::Result<Vec<f32>> {
        let file = TensorFile::open(&self.file)?;
        let path = self.file.display();
        let bad = |text: String| Failure::Data { code: "E3092", text: format!("{path}: {text}") };
        let tensor = match (file.find(&self.name), file.tensors()) {
            (Some(tensor), _) | (None, [tensor]) => tensor,
            (None, tensors) => {
                let names: Vec<_> = tensors.iter().take(8).map(|t| format!("`{}`", t.name)).collect();
                let more = if tensors.len() > names.len() { ", …" } else { "" };
                return Err(bad(format!(
                    "no tensor is called `{}`; it has {}{more}",
                    self.name,
                    names.join(", ")
                ))
                .into());
            }
        };
        let wanted = float(port.layout.element);
        if tensor.dtype != safetensors::Dtype::Float(wanted) || tensor.shape[..] != ty.shape[..] {
            return Err(bad(format!(
                "`{}` is {} {:?}, but the input `{}` takes {} {}; save it so",
                tensor.name,
                tensor.dtype.name(),
                tensor.shape,
                port.name,
                wanted.name(),
                ty.shape
            ))
            .into());
        }
        Ok(file.read(tensor)?)
    }
}

/// What an output holds, in numbers.
pub struct Summary {
    /// Smallest and largest finite number.
    pub range: Option<(f32, f32)>,
    /// Mean of the finite numbers.
    pub mean: f64,
    /// Root of their mean square.
    pub rms: f64,
    /// Infinities and NaN.
    pub not_finite: usize,
    /// BLAKE3 of all numbers as little-endian f32, the first 16 digits.
    pub checksum: String,
}

impl Summary {
    /// Sums up.
    pub fn of(values: &[f32]) -> Self {
        let (mut sum, mut squares, mut count) = (0f64, 0f64, 0usize);
        let mut range: Option<(f32, f32)> = None;
        let mut hash = blake3::Hasher::new();
        for &x in values {
            hash.update(&x.to_le_bytes());
            if !x.is_finite() {
                continue;
            }
            let (low, high) = range.unwrap_or((x, x));
            range = Some((low.min(x), high.max(x)));
            sum += f64::from(x);
            squares += f64::from(x).powi(2);
            count += 1;
        }
        let n = count.max(1) as f64;
        Self {
            range,
            mean: sum / n,
            rms: (squares / n).sqrt(),
            not_finite: values.len() - count,
            checksum: hash.finalize().to_hex()[..16].to_owned(),
        }
    }
}

/// An output: name, element type, type and numbers.
pub struct Output {
    /// Where it came from.
    pub port: Port,
    /// Its declared type.
    pub ty: TensorType,
    /// Row-major.
    pub values: Vec<f32>,
}

/// Writes outputs under their names, in the program's types.
pub fn save(path: &Path, metadata: &BTreeMap<String, String>, outputs: &[Output]) -> anyhow::Result<()> {
    let entry = |output: &Output| Entry {
        name: output.port.name.clone(),
        float: float(output.port.layout.element),
        shape: output.ty.shape.to_vec(),
    };
    let entries: Vec<_> = outputs.iter().map(entry).collect();
    let mut source = from_fn(|i: usize| Ok(Cow::Borrowed(outputs[i].values.as_slice())));
    safetensors::write(path, metadata, &entries, &mut source)?;
    Ok(())
}
