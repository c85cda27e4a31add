//! Power during a measurement: from what the system lets this process read, else not at all.
//!
//! | system | source | who may read it |
//! |---|---|---|
//! | Linux | energy counters below `/sys/class/powercap` (RAPL) | root, where nobody changed the files' modes |
//! | macOS | `powermetrics` through `sudo -n` | root, or whom sudo asks for no password |
//!
//! RAPL counts microjoules of a processor package and wraps around. `powermetrics` prints milliwatts of
//! the CPU, the GPU and the Neural Engine per interval; they are estimates of Apple's.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

const POWERCAP: &str = "/sys/class/powercap";
const POWERMETRICS: &str = "/usr/bin/powermetrics";
/// Time between two samples of `powermetrics`.
const INTERVAL: Duration = Duration::from_millis(250);

/// Mean power of the parts that the system tells.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Power {
    /// Where the numbers come from.
    pub source: &'static str,
    /// Parts and their watts.
    pub watts: Vec<(String, f64)>,
}

/// Why power was not measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum PowerError {
    #[error("this system has neither {POWERCAP} nor {POWERMETRICS}")]
    NoSource,
    #[error("{POWERCAP} lists no processor package")]
    NoPackage,
    #[error("{} cannot be read ({source}); run as root, or let your group read it", path.display())]
    Forbidden {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} holds no number", path.display())]
    Malformed { path: PathBuf },
    #[error("powermetrics did not run: {reason}; it needs root, or sudo without a password")]
    Powermetrics { reason: String },
    #[error("powermetrics printed no sample in {seconds:.1} s; measure longer")]
    TooShort { seconds: f64 },
}

/// A running measurement.
pub struct Meter(Source);

enum Source {
    Rapl {
        domains: Vec<Domain>,
        start: Instant,
    },
    Powermetrics {
        child: Child,
        text: JoinHandle<String>,
        errors: JoinHandle<String>,
        enough: Arc<AtomicBool>,
        start: Instant,
    },
}

impl Meter {
    /// Starts to measure.
    ///
    /// # Errors
    /// [`PowerError`] when nothing here may be read.
    pub fn start() -> Result<Self, PowerError> {
        if Path::new(POWERCAP).exists() {
            return Ok(Self(Source::Rapl { domains: domains(Path::new(POWERCAP))?, start: Instant::now() }));
        }
        if Path::new(POWERMETRICS).exists() {
            return powermetrics();
        }
        Err(PowerError::NoSource)
    }

    /// Ends the measurement.
    ///
    /// # Errors
    /// [`PowerError`] when the source gave nothing.
    pub fn stop(self) -> Result<Power, PowerError> {
        match self.0 {
            Source::Rapl { domains, start } => {
                let seconds = start.elapsed().as_secs_f64();
                let watts = domains.into_iter().map(|domain| {
                    let joules = domain.since(counter(&domain.folder.join("energy_uj"))?) as f64 / 1e6;
                    Ok((domain.name, joules / seconds))
                });
                Ok(Power { source: "RAPL", watts: watts.collect::<Result<_, _>>()? })
            }
            Source::Powermetrics { mut child, text, errors, enough, start } => {
                let seconds = start.elapsed().as_secs_f64();
                enough.store(true, Ordering::Relaxed);
                // A process of root's may not be ours to kill; it ends when nobody reads it any more,
                // which the reader sees to with the next sample.
                let _ = child.kill();
                let text = text.join().unwrap_or_default();
                let _ = child.wait();
                let watts = samples(&text);
                if watts.is_empty() {
                    let reason = errors.join().unwrap_or_default();
                    return Err(match reason.trim() {
                        "" => PowerError::TooShort { seconds },
                        reason => PowerError::Powermetrics { reason: reason.into() },
                    });
                }
                Ok(Power { source: "powermetrics", watts })
            }
        }
    }
}

/// A processor package whose energy is counted.
#[derive(Debug)]
struct Domain {
    name: String,
    folder: PathBuf,
    /// Counter at the start, µJ.
    start: u64,
    /// Where the counter begins anew, µJ.
    wraps_at: u64,
}

impl Domain {
    /// Microjoules from the start to `now`, which is before the second wrap.
    fn since(&self, now: u64) -> u64 {
        if now >= self.start { now - self.start } else { now + self.wraps_at.saturating_sub(self.start) }
    }
}

fn counter(path: &Path) -> Result<u64, PowerError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| PowerError::Forbidden { path: path.into(), source })?;
    text.trim().parse().map_err(|_| PowerError::Malformed { path: path.into() })
}

/// The packages below `root`. Their parts (cores, memory) are counted in them already.
fn domains(root: &Path) -> Result<Vec<Domain>, PowerError> {
    let list =
        std::fs::read_dir(root).map_err(|source| PowerError::Forbidden { path: root.into(), source })?;
    let mut folders: Vec<PathBuf> = list.flatten().map(|entry| entry.path()).collect();
    folders.sort();
    let mut found = Vec::new();
    for folder in folders {
        let Ok(name) = std::fs::read_to_string(folder.join("name")) else { continue };
        if !name.starts_with("package") {
            continue;
        }
        let start = counter(&folder.join("energy_uj"))?;
        let wraps_at = counter(&folder.join("max_energy_range_uj"))?;
        found.push(Domain { name: name.trim().into(), folder, start, wraps_at });
    }
    if found.is_empty() { Err(PowerError::NoPackage) } else { Ok(found) }
}

fn powermetrics() -> Result<Meter, PowerError> {
    let failed = |error: std::io::Error| PowerError::Powermetrics { reason: error.to_string() };
    let mut child = Command::new("/usr/bin/sudo")
        .args(["-n", POWERMETRICS, "--samplers", "cpu_power,gpu_power,ane_power", "--buffer-size", "1"])
        .args(["--sample-rate", &INTERVAL.as_millis().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let enough = Arc::new(AtomicBool::new(false));
    let stop = enough.clone();
    let text = std::thread::spawn(move || read_until(out, &stop));
    let errors = std::thread::spawn(move || read_until(err, &AtomicBool::new(false)));
    // Without permission it ends at once.
    std::thread::sleep(INTERVAL);
    if child.try_wait().map_err(failed)?.is_some() {
        return Err(PowerError::Powermetrics { reason: errors.join().unwrap_or_default().trim().into() });
    }
    Ok(Meter(Source::Powermetrics { child, text, errors, enough, start: Instant::now() }))
}

/// What comes until the end, or until `enough` is set and something more comes.
fn read_until(from: Option<impl Read>, enough: &AtomicBool) -> String {
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    if let Some(mut from) = from {
        while let Ok(1..) = from.read(&mut chunk).inspect(|&n| text.extend_from_slice(&chunk[..n])) {
            if enough.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Mean watts per part of lines such as `ANE Power: 112 mW`.
fn samples(text: &str) -> Vec<(String, f64)> {
    let mut sums: Vec<(String, f64, u32)> = Vec::new();
    for line in text.lines() {
        let Some((part, value)) = line.split_once(" Power: ") else { continue };
        let Some(Ok(milliwatts)) = value.strip_suffix(" mW").map(|value| value.trim().parse::<f64>()) else {
            continue;
        };
        match sums.iter_mut().find(|(name, ..)| name == part) {
            Some((_, sum, count)) => (*sum, *count) = (*sum + milliwatts, *count + 1),
            None => sums.push((part.into(), milliwatts, 1)),
        }
    }
    sums.into_iter().map(|(name, sum, count)| (name, sum / f64::from(count) / 1e3)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(root: &Path, folder: &str, name: &str, energy: &str) {
        let folder = root.join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        for (file, text) in [("name", name), ("energy_uj", energy), ("max_energy_range_uj", "1000000\n")] {
            std::fs::write(folder.join(file), text).unwrap();
        }
    }

    #[test]
    fn packages_are_counted_once_and_wrap() {
        let root = tempfile::tempdir().unwrap();
        package(root.path(), "intel-rapl:0", "package-0\n", "900000\n");
        package(root.path(), "intel-rapl:0:0", "core\n", "1\n");
        package(root.path(), "intel-rapl:1", "package-1\n", "5\n");
        let found = domains(root.path()).unwrap();
        assert_eq!(found.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["package-0", "package-1"]);
        assert_eq!(found[0].since(950_000), 50_000);
        assert_eq!(found[0].since(100_000), 200_000);
        let meter = Meter(Source::Rapl { domains: found, start: Instant::now() });
        std::thread::sleep(Duration::from_millis(2));
        package(root.path(), "intel-rapl:0", "package-0\n", "910000\n");
        let power = meter.stop().unwrap();
        assert!(power.watts[0].1 > 0.0 && power.watts[0].1 < 5.1, "{power:?}");
        assert_eq!(power.watts[1].1, 0.0);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(domains(root.path()), Err(PowerError::NoPackage)));
        package(root.path(), "intel-rapl:0", "package-0\n", "many\n");
        let error = domains(root.path()).unwrap_err().to_string();
        assert!(error.ends_with("intel-rapl:0/energy_uj holds no number"), "{error}");
        std::fs::remove_file(root.path().join("intel-rapl:0/energy_uj")).unwrap();
        let error = domains(root.path()).unwrap_err().to_string();
        assert!(error.contains("energy_uj cannot be read"), "{error}");
    }

    #[test]
    fn samples_are_averaged_by_part() {
        let text = "*** Sampled system activity\n\nCPU Power: 1000 mW\nGPU Power: 20 mW\nANE Power: 0 mW\n\
                    Combined Power (CPU + GPU + ANE): 1020 mW\nCPU Power: 3000 mW\nANE Power: 500 mW\n\
                    GPU Power: unknown\n";
        let watts = samples(text);
        let of = |name: &str| watts.iter().find(|(part, _)| part == name).map(|(_, watts)| *watts);
        assert_eq!(of("CPU"), Some(2.0));
        assert_eq!(of("ANE"), Some(0.25));
        assert_eq!(of("GPU"), Some(0.02));
        assert_eq!(watts.len(), 3);
        assert!(samples("").is_empty());
    }
}
