//! `rustane bench decode`: how fast this machine writes, and on a GPU what its kernels reach.

use std::collections::BTreeMap;
use std::process::ExitCode;

use backend_cpu::probe;
use bench::DecodeSettings;
use bench::results::{Case, Quantity};
use engine::RunConfig;
use metal_decode::kernels::Epilogue;
use metal_decode::kernels::rope_append::Heads;
use metal_decode::measure::{self, Effort};
use metal_decode::{Gpu, Settings};
use model::quant::Format;
use model::{ModelConfig, Weights};
use serde_json::json;

use super::output::{Measurement, OutputArgs};
use crate::commands::presets;
use crate::device::{DeviceArgs, WriterArgs};
use crate::failure::{Failure, unboxed};
use crate::format::{Held, held};
use crate::gpu;

/// Flags of `rustane bench decode`.
#[derive(clap::Args)]
pub struct Args {
    /// Shape of the model: llama-1b, llama-1.1b, llama-8b, smollm-135m, or a preset
    #[arg(long, visible_alias = "preset", default_value = "110m", value_name = "SHAPE")]
    shape: String,
    /// How weights are held: f32 (the CPU), f16 (a GPU), bf16, q8_0 or q4_0 [default: f32 on the CPU, f16 on a GPU]
    #[arg(long, value_name = "FORMAT", value_parser = held)]
    format: Option<Held>,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 64, value_name = "N")]
    prompt: usize,
    /// Tokens written in each repetition
    #[arg(long, default_value_t = 64, value_name = "N")]
    tokens: usize,
    /// Measured repetitions
    #[arg(long, default_value_t = 5, value_name = "N")]
    repetitions: usize,
    /// Positions of the cache
    #[arg(long, default_value_t = 2048, value_name = "N")]
    context: usize,
    /// Time single kernels too, on a GPU; on the CPU they always are
    #[arg(long)]
    kernels: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// The shape of that name: a published model's, or a preset's.
pub fn shape(name: &str) -> anyhow::Result<ModelConfig> {
    if let Some(shape) = bench::shapes::find(name) {
        return Ok(shape);
    }
    let config: RunConfig = toml::from_str(presets::find(name)?.text)?;
    Ok(config.model)
}

/// Measures.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut config = shape(&args.shape)?;
    config.max_seq = config.max_seq.max(args.context);
    if args.repetitions == 0 || args.prompt == 0 || args.tokens == 0 {
        let text = "--repetitions, --prompt and --tokens are at least 1";
        return Err(Failure::Usage(text.into()).into());
    }
    if args.prompt + args.tokens.max(8) > args.context {
        let text = format!(
            "{} tokens of prompt and {} of text do not fit --context {}",
            args.prompt,
            args.tokens.max(8),
            args.context
        );
        return Err(Failure::Usage(text).into());
    }
    let settings = DecodeSettings {
        vocab: config.vocab,
        prompt: args.prompt,
        tokens: args.tokens,
        repetitions: args.repetitions,
    };
    let measurement = args.output.begin("writing token by token", &args.device)?;
    let at = |on_device| Settings { context: args.context, ..on_device };
    let Some(mut writer) = args.device.gpu_writer(&config, None, args.format, at)? else {
        config.max_seq = args.context;
        return on_host(args, measurement, &config, &settings);
    };
    let format = writer.format();
    let (dispatches, seconds) = writer.time_token(args.prompt + 1).map_err(gpu::failure)?;
    let (encoded, sent) = (writer.gpu().encoding(), writer.gpu().submitted());
    let report = bench::decode(&mut writer, &settings)?;
    let (encoding, submitted) = (writer.gpu().encoding() - encoded, writer.gpu().submitted() - sent);
    let bytes = writer.bytes_per_token();
    let device = writer.into_gpu();
    let (label, driver, effort) = (device.label(), device.driver(), Effort::new(&device));
    let ceiling = measure::ceiling(&device, effort).map_err(gpu::failure)?;
    let (products, attention) = if args.kernels {
        (products(&device, &config, format, ceiling)?, attention(&device, &config, ceiling)?)
    } else {
        (Vec::new(), Vec::new())
    };
    let streamed = report.stream_tok_per_s.unwrap_or(0.0) * bytes as f64 / 1e9;
    let extra = json!({
        "device": &label, "driver": driver, "format": format.name(), "ceiling_gb_per_s": ceiling,
        "bytes_per_token": bytes, "dispatches_per_token": dispatches,
        "device_ms_per_token": seconds * 1e3, "device_gb_per_s": bytes as f64 / seconds / 1e9,
        "device_ceiling_share": bytes as f64 / seconds / 1e9 / ceiling,
        "stream_gb_per_s": streamed, "stream_ceiling_share": streamed / ceiling,
        "encode_us_per_submission": encoding.as_secs_f64() * 1e6 / submitted as f64,
        "products": products, "attention": attention,
    });
    show(args, measurement, &report, extra, Some([(label, submitted)].into()))
}

/// The matrix products of a token, each in a chain.
fn products(
    device: &Gpu,
    c: &ModelConfig,
    format: Format,
    ceiling: f64,
) -> anyhow::Result<Vec<serde_json::Value>> {
    let (tuning, effort) = (gpu::tuning(device), Effort::new(device));
    let mut rows = Vec::new();
    for measure::Shape { k, m, norm } in measure::shapes(c) {
        let product = measure::Product::new(device, format, k, m, effort).map_err(gpu::failure)?;
        let tiling = tuning.tiling(device, format, k, m, Epilogue::Store);
        let timed = product.time(device, tiling, norm, effort.passes).map_err(gpu::failure)?;
        rows.push(json!({
            "k": k, "m": m, "norm": norm, "tiling": tiling, "us": timed.seconds * 1e6, "mb": timed.bytes as f64 / 1e6,
            "gb_per_s": timed.gb_per_s(), "ceiling_share": timed.gb_per_s() / ceiling,
        }));
    }
    Ok(rows)
}

/// Attention over several lengths, each with the splits that are fastest.
fn attention(device: &Gpu, c: &ModelConfig, ceiling: f64) -> anyhow::Result<Vec<serde_json::Value>> {
    let effort = Effort::new(device);
    let mut rows = Vec::new();
    for len in [512, 2048, 8192, 32_768] {
        let heads = Heads {
            heads: c.heads as u32,
            kv_heads: c.kv_heads as u32,
            head_dim: c.head_dim as u32,
            capacity: 32_768,
            window: 0,
        };
        let mut best: Option<(u32, measure::Timed)> = None;
        for splits in [4, 8, 16, 32, 64].into_iter().filter(|_| !device.is_software()) {
            let timed = measure::attention(device, heads, len, splits, effort).map_err(gpu::failure)?;
            if best.is_none_or(|(_, b)| timed.seconds < b.seconds) {
                best = Some((splits, timed));
            }
        }
        rows.extend(best.map(|(splits, timed)| {
            json!({
                "positions": len, "splits": splits, "us": timed.seconds * 1e6,
                "gb_per_s": timed.gb_per_s(), "ceiling_share": timed.gb_per_s() / ceiling,
            })
        }));
    }
    Ok(rows)
}

/// What holds a kernel of the CPU up, judged by its share of the bandwidth and its length.
fn limit(share: f64, us: f64) -> &'static str {
    match share {
        share if share > 1.1 => "a cache: faster than memory",
        share if share > 0.75 => "memory",
        _ if us < 20.0 => "its start and end: it is short",
        _ => "its arithmetic",
    }
}

/// The processor, or a Neural Engine with it.
fn on_host(
    args: &Args,
    measurement: Measurement<'_>,
    config: &ModelConfig,
    settings: &DecodeSettings,
) -> anyhow::Result<ExitCode> {
    let format = args.format.unwrap_or(Held::F32);
    let weights = || Weights::init(config, 1);
    if !args.device.is_cpu()? {
        let (mut writer, label) =
            args.device.writer_in(config, weights(), &WriterArgs::of(args.format)).map_err(unboxed)?;
        let report = bench::decode(&mut *writer, settings)?;
        let extra = json!({ "device": label, "format": format.to_string() });
        return show(args, measurement, &report, extra, None);
    }
    let mut writer = args.device.cpu_writer(config, weights(), args.format).map_err(unboxed)?;
    // Around every repetition: neighbours that read at the moment take from both, and what they leave moves by a half.
    let reading = probe::Reading::new(args.device.threads())?;
    let report = bench::decode_between(&mut writer, settings, Some(&mut || reading.gb_per_s()))?;
    let bytes = writer.bytes_per_token();
    let around = report.between.windows(2).map(|limits| limits[0].max(limits[1]));
    let shares: Vec<_> =
        around.zip(&report.ms_per_token).map(|(limit, ms)| bytes as f64 / (ms * 1e6) / limit).collect();
    let positions = args.prompt + args.tokens / 2;
    let before = reading.gb_per_s();
    let kernels = writer.measure(positions, 2 * args.repetitions + 1)?;
    let ceiling = before.max(reading.gb_per_s());
    let gb_per_s = report.tok_per_s * bytes as f64 / 1e9;
    let kernels: Vec<_> = kernels
        .iter()
        .map(|k| {
            let (us, gb_per_s) = (k.time.as_secs_f64() * 1e6, k.bytes as f64 / k.time.as_secs_f64() / 1e9);
            json!({
                "name": k.name, "calls": k.calls, "us": us, "us_per_call": us / k.calls as f64,
                "mb": k.bytes as f64 / 1e6, "gb_per_s": gb_per_s, "ceiling_share": gb_per_s / ceiling,
            })
        })
        .collect();
    let extra = json!({
        "device": args.device.label(), "format": format.to_string(), "ceiling_gb_per_s": ceiling,
        "bytes_per_token": bytes, "device_gb_per_s": gb_per_s,
        "device_ceiling_share": bench::statistics::median(&shares), "ceiling_shares": shares, "ceilings_gb_per_s": report.between,
        "positions": positions, "cpu_kernels": kernels,
    });
    show(args, measurement, &report, extra, None)
}

fn show(
    args: &Args,
    mut measurement: Measurement<'_>,
    report: &bench::DecodeReport,
    extra: serde_json::Value,
    dispatches: Option<BTreeMap<String, u64>>,
) -> anyhow::Result<ExitCode> {
    let text = |key: &str| extra[key].as_str().unwrap_or_default().to_owned();
    let (device, format) = (text("device"), text("format"));
    let name = format!("decode/{}/{format}/prompt{}", args.shape, args.prompt);
    let mut token = Case::new(&*name, &*device, Quantity::ms("token"), report.ms_per_token.clone());
    token.dispatches = dispatches;
    token.details = serde_json::to_value(report)?;
    let prompt = Quantity::tok_per_s("prompt");
    let mut cases = vec![token, Case::new(&*name, &*device, prompt, vec![report.prefill_tok_per_s])];
    if let Some(ms) = &report.stream_ms_per_token {
        cases.push(Case::new(&*name, &*device, Quantity::ms("token drawn on the device"), ms.clone()));
    }
    for (n, ms) in &report.verify_ms {
        let what = format!("call that checks {n} tokens");
        cases.push(Case::new(&*name, &*device, Quantity::ms(&what), vec![*ms]));
    }
    measurement.details(json!({ "shape": args.shape, "context": args.context, "device": extra }));
    measurement.add(cases)?;
    if args.output.json {
        measurement.finish()?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("{}, {format}, {device}", args.shape);
    println!("  prompt of {:<6}      {:>9.0} tok/s", report.prompt, report.prefill_tok_per_s);
    println!("  token by token        {:>9.1} tok/s", report.tok_per_s);
    if let Some(rate) = report.stream_tok_per_s {
        println!("  drawn on the device   {rate:>9.1} tok/s");
    }
    for (n, ms) in &report.verify_ms {
        println!("  {n} tokens at once      {ms:>9.2} ms");
    }
    let number = |row: &serde_json::Value, key: &str| row[key].as_f64().unwrap_or_default();
    let (got, share) = (number(&extra, "device_gb_per_s"), 100.0 * number(&extra, "device_ceiling_share"));
    let limits = report.between.iter().copied();
    let (least, most) = (limits.clone().fold(f64::INFINITY, f64::min), limits.fold(0.0, f64::max));
    let plain = match report.between[..] {
        [] => format!("the {:.0} GB/s that plain reading reaches", number(&extra, "ceiling_gb_per_s")),
        _ => format!("plain reading around each repetition, {least:.0} to {most:.0} GB/s"),
    };
    println!("  weights at {got:.0} GB/s: {share:.0} % of {plain}");
    let mut kernels_us = 0.0;
    for row in extra["cpu_kernels"].as_array().into_iter().flatten() {
        kernels_us += number(row, "us");
        let share = number(row, "ceiling_share");
        println!(
            "  {:<10} {:>3} × {:>8.1} µs  {:>7.1} MB  {:>6.1} GB/s = {:>3.0} %  limited by {}",
            row["name"].as_str().unwrap_or_default(),
            number(row, "calls"),
            number(row, "us_per_call"),
            number(row, "mb"),
            number(row, "gb_per_s"),
            100.0 * share,
            limit(share, number(row, "us_per_call"))
        );
    }
    if kernels_us > 0.0 {
        let rest = 1e3 / report.tok_per_s - kernels_us / 1e3;
        println!("  norms, rotation, rounding and what these measurements missed: {rest:.2} ms of a token");
    }
    for row in extra["products"].as_array().into_iter().flatten() {
        println!("  product {row}");
    }
    for row in extra["attention"].as_array().into_iter().flatten() {
        println!("  attention {row}");
    }
    Ok(ExitCode::SUCCESS)
}
