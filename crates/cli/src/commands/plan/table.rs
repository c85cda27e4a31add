//! What trains and what runs forward on Apple's machines: the table of the original project, from the ledger.

use engine::RunConfig;
use engine::presets::{PRESETS, Preset};

use super::serve::on_cpu;
use super::train::{course, thrifty};
use super::usable;
use crate::device::{DeviceArgs, chip};

/// A row of the original table: name, memory in GiB, the chip whose limits count, and its two ceilings.
const MACHINES: &[(&str, u64, &str, &str, &str)] = &[
    ("M1/M2/M3 Pro", 18, "M3 Pro", "~300M", "~3B"),
    ("M1/M2/M3 Pro", 36, "M3 Pro", "~1B", "~7B"),
    ("M1 to M5 Max", 64, "M4 Max", "~3B", "~15B"),
    ("M3/M4/M5 Max", 96, "M4 Max", "~5B", "~20B"),
    ("M3/M4/M5 Max", 128, "M4 Max", "~5B (tested)", "~30B (tested)"),
    ("M3 Ultra", 192, "M3 Ultra", "~10B", "~40B+"),
    ("M3 Ultra", 512, "M3 Ultra", "~20B", "~100B+"),
];

/// Models of one depth and width per size, small to large.
const LADDER: &[&str] = &[
    "tiny", "15m", "48m", "110m", "600m-a", "1b-a", "1.5b-a", "3b-a", "5b-a", "7b", "10b", "13b", "15b",
    "20b", "25b", "30b",
];

/// The table in Markdown.
pub fn markdown(device: &DeviceArgs) -> anyhow::Result<String> {
    let mut text = String::from(
        "| machine | memory | trains on the ANE | trains on the CPU, thrifty | writes on the CPU | published: trains | \
         published: forward |\n|---|---|---|---|---|---|---|\n",
    );
    let mut configs = Vec::new();
    for name in LADDER {
        let preset = Preset::find(name).unwrap_or(&PRESETS[0]);
        let mut config: RunConfig = toml::from_str(preset.text)?;
        config.train.batch = 1;
        config.train.seq = 512.min(config.model.max_seq);
        config.train.sample_tokens = 0;
        configs.push((preset.name, config));
    }
    let mut cpu = device.clone();
    cpu.device = crate::device::Device::Cpu;
    for (machine, gib, name, trains, forward) in MACHINES {
        let chip = chip(name).map_err(anyhow::Error::msg)?;
        let room = usable(gib << 30);
        let largest = |bytes: &dyn Fn(&RunConfig) -> anyhow::Result<u64>| -> anyhow::Result<String> {
            let mut best = "none".to_owned();
            for (name, config) in &configs {
                if bytes(config)? <= room {
                    best = format!("{name} ({})", params(config));
                }
            }
            Ok(best)
        };
        let ane = largest(&|c| Ok(course(device, Some(chip), c, 0)?.bytes()))?;
        let thrifty = largest(&|c| {
            let mut c = c.clone();
            thrifty(&mut c);
            Ok(course(&cpu, None, &c, 0)?.bytes())
        })?;
        let whole = largest(&|c| Ok(on_cpu(&c.model, &cpu, None, (c.train.seq, 1), 0)?.bytes()))?;
        text += &format!("| {machine} | {gib} GB | {ane} | {thrifty} | {whole} | {trains} | {forward} |\n");
    }
    Ok(text)
}

fn params(config: &RunConfig) -> String {
    let n = config.model.param_count() as f64;
    if n < 1e9 { format!("{:.0}M", n / 1e6) } else { format!("{:.1}B", n / 1e9) }
}
