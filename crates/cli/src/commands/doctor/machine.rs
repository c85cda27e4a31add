//! Facts about this machine, mostly as Linux tells them; elsewhere many are not known.

use std::path::{Path, PathBuf};

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The value behind `key` in lines such as `key : value`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then_some(value.trim())
    })
}

/// Operating system, its version and the kind of processor.
pub fn system() -> String {
    let name = read("/etc/os-release").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
        Some(line.trim_matches('"').to_owned())
    });
    let kernel =
        read("/proc/sys/kernel/osrelease").map_or(String::new(), |text| format!(", kernel {}", text.trim()));
    format!("{}{kernel}, {}", name.unwrap_or_else(|| std::env::consts::OS.into()), std::env::consts::ARCH)
}

/// Name of the processor.
pub fn processor() -> String {
    chip().unwrap_or_else(|| "not known on this system".into())
}

/// Name of the processor, where the system tells it to programs.
pub fn chip() -> Option<String> {
    let info = read("/proc/cpuinfo").unwrap_or_default();
    let name = field(&info, "model name").or_else(|| field(&info, "Hardware"));
    name.map(str::to_owned).or_else(|| Some(ane_bridge::apple::machine()?.chip))
}

/// Memory of a Mac.
pub fn apple_memory() -> Option<u64> {
    Some(ane_bridge::apple::machine()?.memory)
}

/// What a program of macOS prints; nothing where there is none.
fn apple(program: &str, args: &[&str]) -> Option<String> {
    if !Path::new("/System/Library/CoreServices/SystemVersion.plist").exists() {
        return None;
    }
    let output = std::process::Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| output.status.success() && !text.is_empty())
}

/// Processes that wanted a processor, mean of the last minute.
pub fn load() -> Option<f64> {
    let told = read("/proc/loadavg").or_else(|| apple("/usr/sbin/sysctl", &["-n", "vm.loadavg"]))?;
    told.trim_start_matches(['{', ' ']).split_whitespace().next()?.parse().ok()
}

/// Logical processors of the machine.
pub fn processors() -> Option<usize> {
    let info = read("/proc/cpuinfo")?;
    Some(info.lines().filter(|line| line.starts_with("processor")).count()).filter(|n| *n > 0)
}

/// Processors that this process may run on, such as `0-3,8`.
pub fn affinity() -> Option<String> {
    field(&read("/proc/self/status")?, "Cpus_allowed_list").map(str::to_owned)
}

/// Vector and matrix instructions that matter for language models.
pub struct Features(pub Vec<&'static str>);

impl Features {
    /// Asks the processor, and the kernel where the processor is not enough.
    pub fn detect() -> Self {
        let info = read("/proc/cpuinfo").unwrap_or_default();
        let flags = field(&info, "flags").or_else(|| field(&info, "Features")).unwrap_or_default();
        Self::among(&|name| processor_has(name) || flags.split_whitespace().any(|flag| flag == name))
    }

    fn among(has: &dyn Fn(&str) -> bool) -> Self {
        // Names as the kernel lists them.
        let known = [
            ("avx2", "avx2"),
            ("fma", "fma"),
            ("f16c", "f16c"),
            ("avx512f", "avx512f"),
            ("avx512_bf16", "avx512_bf16"),
            ("avx512_vnni", "avx512_vnni"),
            ("avx_vnni", "avx_vnni"),
            ("amx_tile", "amx"),
            ("amx_bf16", "amx_bf16"),
            ("amx_int8", "amx_int8"),
            ("asimd", "neon"),
            ("sve", "sve"),
            ("i8mm", "i8mm"),
            ("bf16", "bf16"),
        ];
        Self(known.iter().filter(|(flag, _)| has(flag)).map(|(_, name)| *name).collect())
    }
}

#[cfg(target_arch = "x86_64")]
fn processor_has(name: &str) -> bool {
    match name {
        "avx2" => is_x86_feature_detected!("avx2"),
        "fma" => is_x86_feature_detected!("fma"),
        "f16c" => is_x86_feature_detected!("f16c"),
        "avx512f" => is_x86_feature_detected!("avx512f"),
        "avx512_bf16" => is_x86_feature_detected!("avx512bf16"),
        "avx512_vnni" => is_x86_feature_detected!("avx512vnni"),
        "avx_vnni" => is_x86_feature_detected!("avxvnni"),
        _ => false,
    }
}

#[cfg(target_arch = "aarch64")]
fn processor_has(name: &str) -> bool {
    match name {
        "asimd" => std::arch::is_aarch64_feature_detected!("neon"),
        "sve" => std::arch::is_aarch64_feature_detected!("sve"),
        "i8mm" => std::arch::is_aarch64_feature_detected!("i8mm"),
        "bf16" => std::arch::is_aarch64_feature_detected!("bf16"),
        _ => false,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn processor_has(_: &str) -> bool {
    false
}

/// Memory of the machine, in bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What can be used without swapping.
    pub available: u64,
}

/// Memory, where the system tells.
pub fn memory() -> Option<Memory> {
    meminfo(&read("/proc/meminfo")?)
}

fn meminfo(text: &str) -> Option<Memory> {
    let kib = |key| field(text, key)?.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024);
    Some(Memory { total: kib("MemTotal")?, available: kib("MemAvailable")? })
}

/// The mode of transparent huge pages: always, madvise or never.
pub fn huge_pages() -> Option<String> {
    chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")?)
}

/// The word in brackets of `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
}

/// Whether a shared library lies where the loader looks first.
pub fn has_library(name: &str) -> bool {
    let folders = ["/usr/lib", "/usr/lib64", "/lib", "/usr/local/lib"].map(PathBuf::from);
    let arch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    folders.into_iter().chain([arch.into()]).any(|folder| folder.join(name).exists())
}

/// Limits of the control group of this process.
#[derive(Debug, Default, PartialEq)]
pub struct Cgroup {
    /// Processors, as a share of time.
    pub cpus: Option<f64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of it in use.
    pub memory_used: Option<u64>,
}

impl Cgroup {
    /// Reads both versions of the interface; the tightest limit counts.
    pub fn read() -> Self {
        Self::below(Path::new("/sys/fs/cgroup"), &read("/proc/self/cgroup").unwrap_or_default())
    }

    /// `root` is where the groups are mounted, `own` the lines that name those of this process.
    fn below(root: &Path, own: &str) -> Self {
        let mut group = Self::default();
        let least = |old: Option<f64>, new: f64| Some(old.map_or(new, |old| old.min(new)));
        for line in own.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let mount = match controllers {
                "" => root.to_owned(),
                list => root.join(list),
            };
            // In a container the path may be that of the host; its own group is then the root.
            let own = mount.join(path.trim_start_matches('/'));
            for folder in own.ancestors().take_while(|folder| folder.starts_with(&mount)) {
                let number = |name: &str| read(folder.join(name))?.trim().parse::<u64>().ok();
                let quota = read(folder.join("cpu.max")).and_then(|text| {
                    let (quota, period) = text.trim().split_once(' ')?;
                    Some((quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?))
                });
                let old = || Some((number("cpu.cfs_quota_us")? as f64, number("cpu.cfs_period_us")? as f64));
                if let Some((quota, period)) = quota.or_else(old).filter(|(_, period)| *period > 0.0) {
                    group.cpus = least(group.cpus, quota / period);
                }
                let limit = number("memory.max").or_else(|| number("memory.limit_in_bytes"));
                // Version 1 says "no limit" with a number that no machine has.
                let limit = limit.filter(|&limit| limit < 1 << 60);
                if let Some(limit) = limit.filter(|&limit| group.memory.is_none_or(|old| limit < old)) {
                    group.memory = Some(limit);
                    group.memory_used = number("memory.current").or_else(|| number("memory.usage_in_bytes"));
                }
            }
        }
        group
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let text = "MemTotal:        8000000 kB\nMemFree: 1 kB\nMemAvailable:    4000000 kB\n";
        assert_eq!(meminfo(text), Some(Memory { total: 8_192_000_000, available: 4_096_000_000 }));
        assert_eq!(meminfo("MemTotal: many\n"), None);
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
        assert_eq!(chosen("always"), None);
        assert_eq!(
            Features::among(&|flag| flag == "asimd" || flag == "avx512_bf16").0,
            ["avx512_bf16", "neon"]
        );
    }

    fn groups(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_tightest_group_counts_in_both_versions() {
        let root = groups(&[
            ("a/cpu.max", "400000 100000\n"),
            ("a/b/cpu.max", "max 100000\n"),
            ("a/memory.max", "2000\n"),
            ("a/memory.current", "500\n"),
            ("a/b/memory.max", "3000\n"),
        ]);
        let group = Cgroup::below(root.path(), "0::/a/b\n");
        assert_eq!(group, Cgroup { cpus: Some(4.0), memory: Some(2000), memory_used: Some(500) });

        let root = groups(&[
            ("cpu/x/cpu.cfs_quota_us", "150000\n"),
            ("cpu/x/cpu.cfs_period_us", "100000\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/x/memory.limit_in_bytes", "7000\n"),
        ]);
        let group = Cgroup::below(root.path(), "2:cpu:/x\n4:memory:/x\n");
        assert_eq!(group, Cgroup { cpus: Some(1.5), memory: Some(7000), memory_used: None });
        assert_eq!(Cgroup::below(root.path(), "nonsense\n1::\n::\n"), Cgroup::default());
    }
}
