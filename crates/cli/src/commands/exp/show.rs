//! Experiments as tables.

use std::collections::BTreeMap;

use bench::exp::{Experiment, Ledger, Outcome, Paired, Standing};
use serde_json::{Value, json};

use super::At;
use crate::failure::Failure;
use crate::table::Table;

/// Longest description in a table.
const LONGEST: usize = 56;

/// Lists the experiments of a budget.
pub fn log(ledger: &Ledger, at: &At, json: bool) -> anyhow::Result<()> {
    let budget = at.budget().or_else(|| ledger.records().last().map(|r| r.budget));
    let records: Vec<_> = ledger.records().iter().filter(|r| Some(r.budget) == budget).collect();
    if records.is_empty() {
        let text = format!(
            "no experiment of {}; leave the length out for the newest",
            budget.expect("it was given")
        );
        return Err(Failure::Usage(text).into());
    }
    let mut by_id: Vec<Experiment<'_>> = Vec::new();
    for record in records {
        match by_id.iter_mut().find(|e| e.id == record.id) {
            Some(experiment) => experiment.runs.push(record),
            None => by_id.push(Experiment { id: &record.id, runs: vec![record] }),
        }
    }
    let standing = Standing::of(ledger.records(), budget);
    let leaders: Vec<&str> = standing
        .iter()
        .flat_map(|s| s.experiments.iter().zip(s.led()).filter(|(_, led)| *led).map(|((e, _), _)| e.id))
        .collect();
    let best = standing.as_ref().and_then(Standing::best).map(|e| e.id);
    let mut table = Table::new(["id", "val_bpb", "seeds", "params", "tokens", "seconds", "", "what"]);
    for e in &by_id {
        if json {
            println!("{}", object(e, leaders.contains(&e.id)));
            continue;
        }
        let bpb: Vec<f64> = e.bpb().into_values().collect();
        let mark = if best == Some(e.id) {
            "best"
        } else if leaders.contains(&e.id) {
            "led"
        } else {
            ""
        };
        let desc: String = e.first().desc.chars().take(LONGEST).collect();
        let (params, tokens, seconds) = done(e).unwrap_or_default();
        table.row([
            e.id.to_owned(),
            if bpb.is_empty() { "failed".into() } else { format!("{:.4}", bench::statistics::mean(&bpb)) },
            format!("{}/{}", bpb.len(), e.runs.len()),
            format!("{:.2}M", params as f64 / 1e6),
            tokens.to_string(),
            format!("{seconds:.1}"),
            mark.into(),
            match (&e.runs[e.runs.len() - 1].outcome, bpb.is_empty()) {
                (Outcome::Failed { error, .. }, true) => format!("{desc}: {error}"),
                _ => desc,
            },
        ]);
    }
    if !json {
        print!("{table}");
        if let Some(standing) = &standing {
            let seeds: Vec<String> = standing.seeds.iter().map(u64::to_string).collect();
            println!("{} per run; ranked on seeds {}", standing.budget, seeds.join(", "));
        }
    }
    Ok(())
}

/// Parameters, tokens and mean seconds of the runs that finished.
fn done(e: &Experiment<'_>) -> Option<(u64, u64, f64)> {
    let runs: Vec<_> = e
        .runs
        .iter()
        .filter_map(|r| match r.outcome {
            Outcome::Done { params, tokens, seconds, .. } => Some((params, tokens, seconds)),
            Outcome::Failed { .. } => None,
        })
        .collect();
    let (params, tokens, _) = *runs.first()?;
    let seconds: Vec<f64> = runs.iter().map(|r| r.2).collect();
    Some((params, tokens, bench::statistics::mean(&seconds)))
}

fn object(e: &Experiment<'_>, led: bool) -> Value {
    let bpb = e.bpb();
    let values: Vec<f64> = bpb.values().copied().collect();
    json!({
        "id": e.id, "desc": e.first().desc, "preset": e.first().preset, "settings": e.first().settings,
        "budget": e.first().budget, "val_bpb": (!values.is_empty()).then(|| bench::statistics::mean(&values)),
        "val_bpb_by_seed": bpb, "led": led, "device": e.first().device,
        "errors": e.runs.iter().filter_map(|r| match &r.outcome {
            Outcome::Failed { error, .. } => Some(error.as_str()),
            Outcome::Done { .. } => None,
        }).collect::<Vec<_>>(),
    })
}

/// Shows the leader.
pub fn best(standing: &Standing<'_>, json: bool, toml: bool) -> anyhow::Result<()> {
    let best = standing.best().expect("a standing has an experiment that finished");
    if json {
        println!("{}", object(best, true));
        return Ok(());
    }
    let first = best.first();
    if toml {
        print!("{}", settings_file(&first.settings)?);
        return Ok(());
    }
    let mean = best.mean_over(&standing.seeds).unwrap_or(f64::NAN);
    println!("{}  val_bpb {mean:.6}  {}", best.id, first.desc);
    println!("preset {}, {} per run, {}", first.preset, first.budget, first.device);
    for (key, value) in &first.settings {
        println!("  {key} = {value}");
    }
    let baseline = &standing.experiments.iter().find(|(_, mean)| mean.is_some());
    if let Some((baseline, Some(before))) = baseline
        && baseline.id != best.id
    {
        let paired = Paired::of(baseline, best);
        let odds =
            paired.and_then(|p| Some(format!(", P(better) {:.3} by {} seeds", p.p_better?, p.seeds.len())));
        let odds = odds.unwrap_or_default();
        println!("{:+.4} against the first, {} at {before:.6}{odds}", mean - before, baseline.id);
    }
    Ok(())
}

/// Settings as a file for --config.
fn settings_file(settings: &BTreeMap<String, Value>) -> anyhow::Result<String> {
    let mut root = toml::Table::new();
    for (key, value) in settings {
        let mut table = &mut root;
        let (sections, name) = key.rsplit_once('.').unwrap_or(("", key));
        for section in sections.split('.').filter(|s| !s.is_empty()) {
            let next = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            table = next.as_table_mut().ok_or_else(|| Failure::Data {
                code: "E3101",
                text: format!("the ledger's setting `{key}` is below one that is no section"),
            })?;
        }
        table.insert(name.into(), toml::Value::try_from(value)?);
    }
    Ok(toml::to_string(&root)?)
}

/// Shows two experiments seed by seed.
pub fn compare(a: &Experiment<'_>, b: &Experiment<'_>, json: bool) -> anyhow::Result<()> {
    let Some(paired) = Paired::of(a, b) else {
        let text = format!("{} and {} have no finished seed in common", a.id, b.id);
        return Err(Failure::Usage(text).into());
    };
    if json {
        println!(
            "{}",
            json!({
                "a": a.id, "b": b.id, "seeds": paired.seeds, "differences": paired.differences,
                "difference": paired.mean, "p_better": paired.p_better,
            })
        );
        return Ok(());
    }
    println!("a  {}  {}\nb  {}  {}", a.id, a.first().desc, b.id, b.first().desc);
    let (left, right) = (a.bpb(), b.bpb());
    let mut table = Table::new(["seed", "a", "b", "b − a"]);
    for (seed, difference) in paired.seeds.iter().zip(&paired.differences) {
        table.row([
            seed.to_string(),
            format!("{:.6}", left[seed]),
            format!("{:.6}", right[seed]),
            format!("{difference:+.6}"),
        ]);
    }
    print!("{table}");
    match paired.p_better {
        Some(p) => println!(
            "mean {:+.6}; P(b is better) {p:.3}, Student's t over {} seeds",
            paired.mean,
            paired.seeds.len()
        ),
        None => println!("mean {:+.6}; one seed in common tells nothing about chance", paired.mean),
    }
    Ok(())
}
