//! The run that is in the directory already.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use engine::RunConfig;
use engine::train::{self, Drift, Record};
use model::checkpoint::newest_model;

use super::CONFIG;
use super::text::TOKENIZER;
use crate::failure::Failure;
use crate::progress::say;

/// Checks an earlier run in the directory; an exit code when it needs nothing more.
pub(super) fn check_earlier(
    dir: &Path,
    config: &RunConfig,
    allow_drift: bool,
) -> anyhow::Result<Option<ExitCode>> {
    let Ok(newest) = newest_model(dir) else { return Ok(None) };
    let path = newest.join("training").join("state.json");
    // A damaged checkpoint is dealt with where it is loaded.
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(None) };
    let Ok(state) = serde_json::from_str::<train::TrainState>(&text) else { return Ok(None) };
    let drift = Drift::between(&state.config, config);
    if !drift.is_empty() && !allow_drift {
        let lines: Vec<_> =
            drift.iter().map(|d| format!("\n  {}: {} in the run, {} now", d.key, d.saved, d.now)).collect();
        return Err(Failure::Usage(format!(
            "{} holds a run with other settings:{}\ncontinue it with --allow-drift, start over with --fresh, or \
             name another --out",
            dir.display(),
            lines.concat()
        ))
        .into());
    }
    if drift.is_empty() && state.is_finished() && looked_at_last(dir, config, state.step) {
        say(&format!(
            "{} is a finished run of {} steps; train again with --fresh, or name another --out",
            dir.display(),
            state.step
        ));
        return Ok(Some(ExitCode::SUCCESS));
    }
    Ok(None)
}

/// Whether the last validation and sample of a run are written: a kill may come between them and the
/// last checkpoint.
fn looked_at_last(dir: &Path, config: &RunConfig, last: u64) -> bool {
    let records = train::read_metrics(dir).unwrap_or_default();
    let validated = records.iter().any(|r| matches!(r, Record::Eval { step, .. } if *step == last));
    let sampled = records.iter().any(|r| matches!(r, Record::Sample { step, .. } if *step == last));
    validated && (sampled || config.train.sample_tokens == 0)
}

/// Deletes what a run wrote, and nothing else.
pub(super) fn remove_run(dir: &Path) -> anyhow::Result<()> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name.starts_with("step-")
            || name.starts_with(".tmp-")
            || name.starts_with("events.out.tfevents")
            || [CONFIG, TOKENIZER, train::METRICS, "latest"].contains(&name.as_str());
        if ours {
            let path = entry.path();
            let removed =
                if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            removed.with_context(|| format!("cannot delete {}", path.display()))?;
        }
    }
    Ok(())
}
