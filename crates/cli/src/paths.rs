//! Where things lie when nothing else is said.

use std::path::{Path, PathBuf};

/// Folder of prepared data: `RUSTANE_CACHE`, or `rustane` in the user's cache folder.
pub fn cache() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let user = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    variable("RUSTANE_CACHE").or_else(|| Some(user()?.join("rustane"))).unwrap_or_else(|| ".rustane".into())
}

/// Folder of a run that was given no name.
pub fn run(preset: &str) -> PathBuf {
    Path::new("runs").join(format!("{}-{preset}", jiff::Zoned::now().date()))
}
