//! The GPU: opened, tested and tuned before a model is loaded.

use std::path::PathBuf;

use metal_decode::{Api, Gpu, GpuError, GpuInfer, Settings, Tuning, self_test};
use model::quant::Format;
use model::{ModelConfig, Weights};

use crate::device::{Device, available_memory};
use crate::failure::Failure;
use crate::paths;

/// The kind of device that a flag names; `None` for those that are no GPU.
pub fn api(device: Device) -> Option<Api> {
    match device {
        Device::Metal => Some(Api::Metal),
        Device::Vulkan => Some(Api::Vulkan),
        _ => None,
    }
}

/// The format of that name.
pub fn format(name: &str) -> Result<Format, String> {
    let names = || Format::ALL.map(Format::name).join(", ");
    Format::find(name).ok_or_else(|| format!("wanted one of {}", names()))
}

/// Opens a GPU.
pub fn open(api: Api) -> Result<Gpu, Failure> {
    Gpu::open(api).map_err(failure)
}

/// Says where a text is written when nobody said where.
pub fn say(place: &str) {
    eprintln!("writing on {place}");
}

/// The exit code that goes with an error.
pub fn failure(error: GpuError) -> Failure {
    let mut text = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        text = format!("{text}: {source}");
    }
    match error {
        GpuError::Memory { .. } => Failure::DoesNotFit(text),
        GpuError::Weight { .. } => Failure::Data { code: "E3030", text },
        GpuError::Sequences { .. } => Failure::Usage(text),
        _ => Failure::NoDevice(text),
    }
}

/// The file that holds what was timed on a device.
pub fn tuning_file(gpu: &Gpu) -> PathBuf {
    let safe = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = gpu.label().chars().map(safe).collect();
    paths::cache().join("tuning").join(format!("{name}.json"))
}

/// What was timed on a device, over what is built in.
pub fn tuning(gpu: &Gpu) -> Tuning {
    let text = std::fs::read_to_string(tuning_file(gpu)).unwrap_or_default();
    // A file of another version counts as none; `rustane tune` writes a new one.
    let timed: Tuning = serde_json::from_str(&text).unwrap_or_default();
    let mut entries = timed.entries;
    let known = |entries: &[metal_decode::Entry], format: &str| entries.iter().any(|e| e.format == format);
    let built_in = Tuning::builtin().entries.into_iter().filter(|e| !known(&entries, &e.format));
    let built_in: Vec<_> = built_in.collect();
    entries.extend(built_in);
    Tuning { entries, ..timed }
}

/// Settings of a model on a GPU.
pub fn settings(gpu: &Gpu, format: Format) -> Settings {
    // A GPU that is a program, or Apple's, shares the memory of the processor.
    let shared = gpu.is_software() || gpu.label().starts_with("Metal");
    Settings {
        tuning: tuning(gpu),
        memory: if shared { available_memory() } else { None },
        ..Settings::new(format)
    }
}

/// Tests the GPU and loads a model; noise for no weights.
pub fn load(
    gpu: Gpu,
    config: &ModelConfig,
    weights: Option<&Weights>,
    settings: Settings,
) -> Result<GpuInfer, Failure> {
    let gpu = self_test(gpu, config, &settings).map_err(failure)?;
    match weights {
        Some(weights) => GpuInfer::new(gpu, config, weights, settings),
        None => GpuInfer::noise(gpu, config, settings),
    }
    .map_err(failure)
}
