//! `rustane doctor`: what this machine offers, and what is missing.

pub mod condition;
pub mod machine;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use ane_bridge::apple::{self, Machine};
use anyhow::Context;
use backend::{Slot, Train};
use backend_cpu::{Cpu, Isa, Plan, Precision};
use model::{ModelConfig, Params, TokenId, Weights};
use serde::Serialize;

use self::machine::{Cgroup, Features};
use super::tokenizer::print;
use crate::ane;
use crate::device::bytes;
use crate::paths;

/// Free memory below which training is cramped.
const LITTLE_MEMORY: u64 = 1 << 30;
/// Free disk below which checkpoints soon fill it.
const LITTLE_DISK: u64 = 5_000_000_000;
/// Free disk that the smallest run needs.
const LEAST_DISK: u64 = 200_000_000;

/// Flags of `rustane doctor`.
#[derive(clap::Args)]
pub struct Args {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Mark {
    /// As it should be.
    Ok,
    /// It works, but not well.
    Warn,
    /// Something needed does not work.
    Fail,
    /// It is not here, and nothing needs it.
    None,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    mark: Mark,
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, mark: Mark::Ok, found: found.into(), hint: None }
    }

    fn but(self, mark: Mark, hint: impl Into<String>) -> Self {
        Self { mark, hint: Some(hint.into()), ..self }
    }
}

/// Examines the machine; exit code 1 when something needed does not work.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let checks = checks();
    let failed = checks.iter().filter(|check| check.mark == Mark::Fail).count();
    let text = if args.json {
        let object = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"), "ok": failed == 0, "checks": checks,
        });
        serde_json::to_string_pretty(&object).expect("a JSON value is JSON") + "\n"
    } else {
        checks.iter().map(line).collect::<String>() + &verdict(&checks)
    };
    print(&text)?;
    Ok(ExitCode::from(u8::from(failed > 0)))
}

fn line(check: &Check) -> String {
    let mark = match check.mark {
        Mark::Ok => "ok",
        Mark::Warn => "warn",
        Mark::Fail => "FAIL",
        Mark::None => "-",
    };
    let hint = check.hint.as_ref().map_or(String::new(), |hint| format!("\n{:19}{hint}", ""));
    format!("{mark:<5} {:<12} {}{hint}\n", check.name, check.found)
}

fn verdict(checks: &[Check]) -> String {
    let count = |mark| checks.iter().filter(|check| check.mark == mark).count();
    match (count(Mark::Fail), count(Mark::Warn)) {
        (0, 0) => "everything that training needs works\n".into(),
        (0, warned) => format!("everything that training needs works; {warned} could be better\n"),
        (failed, _) => format!("{failed} of the things that training needs do not work\n"),
    }
}

fn checks() -> Vec<Check> {
    let cgroup = Cgroup::read();
    let mac = apple::machine();
    let mac = mac.as_ref();
    let mut checks = vec![
        build(),
        Check::ok("system", mac.map_or_else(machine::system, mac_system)),
        Check::ok("processor", mac.map_or_else(machine::processor, mac_processor)),
        vector(&Features::detect()),
        cores(&cgroup),
        memory(&cgroup, mac),
        huge_pages(),
    ];
    checks.extend(condition::checks(mac));
    checks.extend([
        folder("runs", &PathBuf::from("runs"), Mark::Fail),
        folder("cache", &paths::cache(), Mark::Fail),
    ]);
    checks.push(match hub::Settings::from_vars(|name| std::env::var(name).ok()) {
        Ok(settings) => folder("hub cache", &settings.cache, Mark::Warn),
        Err(error) => Check::ok("hub cache", "no place for it").but(Mark::Warn, error.to_string()),
    });
    checks.push(cpu());
    checks.extend(neural_engine());
    checks.extend(absent());
    checks
}

fn build() -> Check {
    let version = env!("CARGO_PKG_VERSION");
    if cfg!(debug_assertions) {
        return Check::ok("rustane", format!("{version}, built for debugging"))
            .but(Mark::Warn, "slow; build with `cargo build --release`");
    }
    Check::ok("rustane", format!("{version}, built for speed"))
}

fn vector(features: &Features) -> Check {
    let names = if features.0.is_empty() { "none known".into() } else { features.0.join(" ") };
    let isa = Isa::detect();
    let [f32, bf16] = [Precision::F32, Precision::Bf16].map(|precision| precision.kernel(isa));
    let found = format!(
        "{names}; the CPU backend uses {}; it multiplies f32 with {f32}, bf16 with {bf16}",
        isa.name()
    );
    let check = Check::ok("vector", found);
    if cfg!(target_arch = "x86_64") && !features.0.contains(&"avx2") {
        return check.but(Mark::Warn, "without AVX2 training is several times slower");
    }
    check
}

fn cores(cgroup: &Cgroup) -> Check {
    let usable = std::thread::available_parallelism().map_or(1, usize::from);
    let all = machine::processors().unwrap_or(usable).max(usable);
    let mut found = format!("{usable} of {all}");
    if let Some(list) = machine::affinity() {
        found += &format!(", affinity {list}");
    }
    if let Some(quota) = cgroup.cpus {
        found += &format!(", cgroup limit {quota:.1}");
    }
    let check = Check::ok("cores", found);
    if usable < all {
        return check.but(Mark::Warn, "an affinity mask or a cgroup keeps the others from this process");
    }
    check
}

fn mac_system(mac: &Machine) -> String {
    format!("macOS {} ({}), {}", mac.os_version, mac.os_build, std::env::consts::ARCH)
}

fn mac_processor(mac: &Machine) -> String {
    format!("{}, {}+{} cores", mac.chip, mac.performance_cores, mac.efficiency_cores)
}

fn memory(cgroup: &Cgroup, mac: Option<&Machine>) -> Check {
    let Some(memory) = machine::memory() else {
        let found = mac.map_or("not known on this system".into(), |mac| bytes(mac.memory));
        return Check::ok("memory", found);
    };
    let mut found = format!("{} free of {}", bytes(memory.available), bytes(memory.total));
    let mut available = memory.available;
    if let Some(limit) = cgroup.memory.filter(|limit| *limit < memory.total) {
        found += &format!(", cgroup limit {}", bytes(limit));
        available = available.min(limit.saturating_sub(cgroup.memory_used.unwrap_or(0)));
    }
    let check = Check::ok("memory", found);
    if available < LITTLE_MEMORY {
        return check.but(Mark::Warn, "little; use a small preset, --recompute or a smaller --batch");
    }
    check
}

fn huge_pages() -> Check {
    match machine::huge_pages() {
        None => Check { mark: Mark::None, ..Check::ok("huge pages", "not known on this system") },
        Some(mode) if mode == "never" => Check::ok("huge pages", "never").but(
            Mark::Warn,
            "large matrices are slower; `echo madvise > /sys/kernel/mm/transparent_hugepage/enabled` as root",
        ),
        Some(mode) => Check::ok("huge pages", mode),
    }
}

/// A folder that files will be written to: whether they can be, and how much room there is. `worst` is
/// what it means when they cannot.
fn folder(name: &'static str, folder: &Path, worst: Mark) -> Check {
    let free = match writable(folder) {
        Ok(free) => free,
        Err(error) => {
            let check = Check::ok(name, format!("{}: {error:#}", folder.display()));
            return check.but(worst, format!("make it writable, or {}", elsewhere(name)));
        }
    };
    let check = Check::ok(name, format!("{}, {} free", folder.display(), bytes(free)));
    match free {
        0..LEAST_DISK => check.but(worst, format!("free some space, or {}", elsewhere(name))),
        LEAST_DISK..LITTLE_DISK => check.but(Mark::Warn, "little room; a large model fills it"),
        _ => check,
    }
}

fn elsewhere(name: &str) -> &'static str {
    match name {
        "runs" => "train with --out in another folder",
        "cache" => "set RUSTANE_CACHE to another folder",
        _ => "set HF_HUB_CACHE to another folder",
    }
}

/// Writes a file into the folder, or into what is there of its path, and removes it. Returns the free
/// bytes.
fn writable(folder: &Path) -> anyhow::Result<u64> {
    let whole = if folder.is_absolute() { folder.to_owned() } else { Path::new(".").join(folder) };
    let there = whole.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
    if !there.is_dir() {
        anyhow::bail!("{} is no folder", there.display());
    }
    let file = there.join(format!(".rustane-doctor-{}", std::process::id()));
    std::fs::write(&file, b"\n").context("cannot write")?;
    std::fs::remove_file(&file).context("cannot delete what was written")?;
    let room = rustix::fs::statvfs(there).context("cannot ask for free space")?;
    Ok(room.f_bavail.saturating_mul(room.f_frsize))
}

/// The CPU backend, proven by a training step of a very small model.
fn cpu() -> Check {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let begin = Instant::now();
    let found = |text: String| Check::ok("device cpu", text);
    match training_step(threads) {
        Ok(loss) if loss.is_finite() => {
            let ms = begin.elapsed().as_secs_f64() * 1e3;
            found(format!("a training step of a very small model works, {ms:.0} ms, {threads} threads"))
        }
        Ok(loss) => found(format!("a training step gave the loss {loss}"))
            .but(Mark::Fail, "this is a fault of the program; report it with this text"),
        Err(error) => found(format!("a training step failed: {error:#}"))
            .but(Mark::Fail, "try fewer threads with --threads, or free some memory"),
    }
}

fn training_step(threads: usize) -> anyhow::Result<f32> {
    const SEQ: usize = 32;
    let config = ModelConfig {
        dim: 64,
        hidden: 128,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        vocab: 300,
        max_seq: SEQ,
        ..ModelConfig::default()
    };
    let mut cpu = Cpu::new(&config, Plan::new(2 * SEQ).with_threads(threads))?;
    let weights = Weights::init(&config, 1);
    for p in &Params::new(&config) {
        cpu.write(p.id, Slot::Weight, weights.get(p.id))?;
    }
    let ids: Vec<TokenId> = (0..=2 * SEQ as u32).map(|i| TokenId(i * 37 % 300)).collect();
    let tokens = backend::Tokens { ids: &ids[..2 * SEQ], seq: SEQ };
    let loss = backend::forward_backward(&mut cpu, tokens, &ids[1..])?;
    let update = engine::optim::update(&engine::config::OptimizerConfig::default(), 0, 10, 1);
    let norm = cpu.update(&update)?;
    // Reading finishes the update.
    let mut moved = true;
    for p in &Params::new(&config) {
        moved &= cpu.read(p.id, Slot::Weight)?.iter().all(|w| w.is_finite());
    }
    Ok(if moved && norm.is_finite() { loss } else { f32::NAN })
}

/// The Neural Engine, examined anew; nothing needs it.
fn neural_engine() -> Vec<Check> {
    let none = |found: String| Check { mark: Mark::None, ..Check::ok("ANE", found) };
    if !apple::BUILT {
        return vec![none("not in this build".into())];
    }
    let probe = ane::examine_anew();
    let check = |finding: &apple::Finding| {
        let check = Check::ok("ANE", format!("{}: {}", finding.name, finding.found));
        if finding.ok { check } else { check.but(Mark::Warn, "docs/ane-bridge.md says what to send to whom") }
    };
    let mut checks: Vec<Check> = probe.findings.iter().map(check).collect();
    checks.push(match probe.route {
        Some(_) => Check::ok("ANE", probe.sentence()),
        None => none(probe.sentence()),
    });
    checks
}

/// Devices that this build does not know, and those that it does not open to look. Where a driver is to be
/// seen, that is said.
fn absent() -> Vec<Check> {
    let seen = |found: bool, what: &str| if found { format!("; {what}") } else { String::new() };
    let nvidia = seen(Path::new("/proc/driver/nvidia/version").exists(), "an NVIDIA driver is installed");
    let vulkan = seen(machine::has_library("libvulkan.so.1"), "a Vulkan loader is installed");
    let (lacks, opens) = ("not in this build", "for writing; opened by --device alone");
    [("Metal", opens, String::new()), ("CUDA", lacks, nvidia), ("Vulkan", opens, vulkan)]
        .map(|(name, what, seen)| Check { mark: Mark::None, ..Check::ok(name, format!("{what}{seen}")) })
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_be_written_fails_with_advice() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let check = folder("runs", &file.join("runs"), Mark::Fail);
        assert_eq!(check.mark, Mark::Fail);
        assert!(check.found.ends_with("file is no folder"), "{}", check.found);
        assert_eq!(check.hint.as_deref(), Some("make it writable, or train with --out in another folder"));
        // One that is not there yet is judged by the folder it would be in, and is not made.
        let check = folder("cache", &dir.path().join("a/b"), Mark::Fail);
        assert_ne!(check.mark, Mark::Fail, "{check:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn lines_carry_mark_and_hint() {
        let check = Check::ok("memory", "1 kB").but(Mark::Fail, "buy some");
        assert_eq!(line(&check), "FAIL  memory       1 kB\n                   buy some\n");
        assert_eq!(verdict(&[check]), "1 of the things that training needs do not work\n");
    }
}
