//! `rustane runs compare`: what was set differently, and what came of it.

use std::collections::{BTreeMap, BTreeSet};

use engine::RunConfig;

use super::run::{Run, Step};
use super::{count, number};
use crate::settings::flatten;
use crate::table::Table;

/// Prints the settings that differ, and results at the end and at equal steps and tokens.
pub fn compare(runs: &[Run]) -> anyhow::Result<()> {
    for run in runs {
        run.curve()?;
    }
    let settings = settings(runs);
    if settings.is_empty() {
        println!("no setting differs");
    } else {
        print!("{settings}");
    }
    println!();
    print!("{}", results(runs));
    Ok(())
}

fn heading(first: &str, runs: &[Run]) -> Table {
    Table::new(std::iter::once(first).chain(runs.iter().map(|run| run.name.as_str())))
}

fn settings(runs: &[Run]) -> Table {
    let flat: Vec<BTreeMap<String, String>> =
        runs.iter().map(|run| run.config.as_ref().map_or(BTreeMap::new(), words)).collect();
    let keys: BTreeSet<&String> = flat.iter().flat_map(BTreeMap::keys).collect();
    let mut table = heading("setting", runs);
    for key in keys {
        let values: Vec<String> =
            flat.iter().map(|run| run.get(key).cloned().unwrap_or_else(|| "-".into())).collect();
        if values.iter().any(|value| *value != values[0]) {
            table.row(std::iter::once(key.clone()).chain(values));
        }
    }
    table
}

/// Every setting by its key, such as `optimizer.lr`.
fn words(config: &RunConfig) -> BTreeMap<String, String> {
    flatten(config).into_iter().map(|(key, value)| (key, value.to_string())).collect()
}

fn results(runs: &[Run]) -> Table {
    let mut table = heading("result", runs);
    let mut row = |name: &str, cell: &dyn Fn(&Run) -> String| {
        table.row(std::iter::once(name.to_owned()).chain(runs.iter().map(cell)));
    };
    row("state", &|run| run.activity.name().into());
    row("parameters", &|run| run.config.as_ref().map_or("-".into(), |c| count(c.model.param_count())));
    row("steps", &|run| run.step().to_string());
    row("tokens", &|run| last(run).map_or("-".into(), |s| count(s.tokens)));
    row("tok/s, median", &|run| number(run.metrics.median_tok_per_s(), 0));
    row("training time, s", &|run| number(last(run).map(|s| s.seconds), 1));
    row("loss at the end", &|run| number(last(run).map(|s| s.ema), 4));
    row("val_bpb, best", &|run| number(run.metrics.best_bpb(), 4));

    let steps = runs.iter().filter_map(last).map(|s| s.step).min().unwrap_or(0);
    row(&format!("loss at step {steps}"), &|run| number(run.metrics.at_step(steps).map(|s| s.ema), 4));
    let validated = |run: &Run, step| run.metrics.eval_at(step).map(|e| e.step);
    let common = runs.iter().map(|run| validated(run, steps)).min().flatten();
    // The newest step at which every run was validated, if there is one.
    if let Some(step) = common.filter(|&step| runs.iter().all(|run| validated(run, step) == Some(step))) {
        row(&format!("val_bpb at step {step}"), &|run| {
            number(run.metrics.eval_at(step).map(|e| e.val_bpb), 4)
        });
    }
    let tokens = runs.iter().filter_map(last).map(|s| s.tokens).min().unwrap_or(0);
    let same_batch = runs.iter().all(|run| run.metrics.at_step(steps).is_some_and(|s| s.tokens == tokens));
    if !same_batch {
        let name = format!("loss at {} tokens", count(tokens));
        row(&name, &|run| number(run.metrics.at_tokens(tokens).map(|s| s.ema), 4));
    }
    table
}

fn last(run: &Run) -> Option<&Step> {
    run.metrics.steps.last()
}
