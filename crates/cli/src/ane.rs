//! Whether this Mac's Neural Engine is used: it is examined before its first use, once per build of macOS
//! and version of rustane, and the verdict is kept in the cache folder.
//!
//! The private framework may crash or hang the process that examines it. So the verdict says
//! "unfinished" while the examination runs, and who finds that later leaves the Neural Engine alone.

use std::path::{Path, PathBuf};
use std::sync::{Once, OnceLock};

use ane_bridge::apple::{self, Probe, Route};
use serde::{Deserialize, Serialize};

use crate::paths;

/// What an examination led to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What was examined: build of macOS, version of rustane.
    of: [String; 2],
    outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// The process of this number began, and did not come back.
    Unfinished(u32),
    /// It works directly.
    Direct,
    /// It works through the daemon.
    Daemon,
    /// It is not to be used, for this reason.
    Unusable(String),
}

impl Verdict {
    /// How evaluations reach the Neural Engine; `None` when it is not to be used.
    pub fn route(&self) -> Option<Route> {
        match self.outcome {
            Outcome::Direct => Some(Route::Direct),
            Outcome::Daemon => Some(Route::Daemon),
            Outcome::Unfinished(_) | Outcome::Unusable(_) => None,
        }
    }

    /// The verdict as a sentence without an end.
    pub fn sentence(&self) -> String {
        match &self.outcome {
            Outcome::Direct => "the Neural Engine works, without the daemon".into(),
            Outcome::Daemon => "the Neural Engine works, through the daemon".into(),
            Outcome::Unusable(sentence) => format!("{sentence} (`rustane doctor` examines it anew)"),
            Outcome::Unfinished(_) => "the Neural Engine is not used: its examination ended the process \
                                       last time (`rustane doctor` examines it anew)"
                .into(),
        }
    }
}

/// The verdict of this machine, from the cache or by an examination.
pub fn verdict() -> &'static Verdict {
    static VERDICT: OnceLock<Verdict> = OnceLock::new();
    VERDICT.get_or_init(|| consult(&file(), &examined(), examine))
}

/// Examines the machine, whatever the cache says.
pub fn examine_anew() -> Probe {
    let mut found = None;
    renew(&file(), &examined(), || found.insert(examine()).clone());
    found.expect("the examination ran")
}

/// Says once that the CPU stands in for a Neural Engine that is not used.
pub fn say_why_not() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| eprintln!("note: {}; the CPU is", verdict().sentence()));
}

fn examine() -> Probe {
    apple::probe(&apple::Settings::default())
}

fn examined() -> [String; 2] {
    [apple::system_build().unwrap_or_default(), env!("CARGO_PKG_VERSION").into()]
}

fn file() -> PathBuf {
    paths::cache().join("ane.json")
}

fn consult(file: &Path, of: &[String; 2], examine: impl FnOnce() -> Probe) -> Verdict {
    let kept = std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice::<Verdict>(&bytes).ok());
    match kept.filter(|verdict| verdict.of == *of) {
        // Another process is at it right now.
        Some(Verdict { outcome: Outcome::Unfinished(pid), .. }) if alive(pid) => judged(of, &examine()),
        Some(verdict) => verdict,
        None => renew(file, of, examine),
    }
}

fn renew(file: &Path, of: &[String; 2], examine: impl FnOnce() -> Probe) -> Verdict {
    keep(file, &Verdict { of: of.clone(), outcome: Outcome::Unfinished(std::process::id()) });
    let verdict = judged(of, &examine());
    keep(file, &verdict);
    verdict
}

fn judged(of: &[String; 2], probe: &Probe) -> Verdict {
    let outcome = match probe.route {
        Some(Route::Direct) => Outcome::Direct,
        Some(Route::Daemon) => Outcome::Daemon,
        None => Outcome::Unusable(probe.sentence()),
    };
    Verdict { of: of.clone(), outcome }
}

/// A verdict that cannot be kept is found again the next time; `rustane doctor` tells about the folder.
fn keep(file: &Path, verdict: &Verdict) {
    let bytes = serde_json::to_vec_pretty(verdict).expect("a verdict is JSON");
    if let Some(folder) = file.parent() {
        let _ = std::fs::create_dir_all(folder);
    }
    let _ = std::fs::write(file, bytes);
}

fn alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

#[cfg(test)]
mod tests {
    use ane_bridge::apple::Finding;

    use super::*;

    fn of(build: &str) -> [String; 2] {
        [build.into(), "1.2.3".into()]
    }

    fn probe(route: Option<Route>) -> Probe {
        let finding = Finding { name: "calls", ok: route.is_some(), found: "there is no class X".into() };
        Probe { findings: vec![finding], route }
    }

    fn never() -> Probe {
        panic!("examined although the verdict was kept")
    }

    #[test]
    fn a_build_of_macos_is_examined_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cache/ane.json");
        for route in [Some(Route::Direct), Some(Route::Daemon), None] {
            let build = of(&format!("{route:?}"));
            let first = consult(&file, &build, || probe(route));
            assert_eq!(first.route(), route);
            assert_eq!(consult(&file, &build, never), first);
        }
        // The last one is kept; an update of macOS or rustane asks again.
        assert_eq!(consult(&file, &of("25D126"), || probe(Some(Route::Direct))).route(), Some(Route::Direct));
        std::fs::write(&file, "{").unwrap();
        assert_eq!(consult(&file, &of("25D126"), || probe(None)).route(), None);
    }

    #[test]
    fn what_is_not_used_is_said_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let verdict = consult(&dir.path().join("ane.json"), &of("1"), || probe(None));
        let sentence = verdict.sentence();
        assert_eq!(
            sentence,
            "the Neural Engine is not used: there is no class X (`rustane doctor` examines it anew)"
        );
    }

    #[test]
    fn an_examination_that_ended_the_process_is_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ane.json");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = child.id();
        child.wait().unwrap();
        keep(&file, &Verdict { of: of("1"), outcome: Outcome::Unfinished(gone) });
        let verdict = consult(&file, &of("1"), never);
        assert_eq!(verdict.route(), None);
        assert!(verdict.sentence().contains("ended the process last time"), "{}", verdict.sentence());
        // One that is under way says nothing against the Neural Engine.
        keep(&file, &Verdict { of: of("1"), outcome: Outcome::Unfinished(std::process::id()) });
        let verdict = consult(&file, &of("1"), || probe(Some(Route::Direct)));
        assert_eq!(verdict.route(), Some(Route::Direct));
    }
}
