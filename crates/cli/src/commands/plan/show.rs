//! A plan in words and as JSON.

use backend::Footprint;
use bench::plan::Course;
use serde_json::{Value, json};

use super::train::{Choice, Here, Planned};
use crate::device::bytes;
use crate::table::Table;

/// The course as lines: every purpose with its bytes in every phase.
pub fn course_text(course: &Course) -> String {
    let phases = course.phases();
    let mut names: Vec<&str> = Vec::new();
    for phase in phases {
        for (name, _) in phase.footprint.items() {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    // The largest at the peak comes first.
    let peak = &course.peak().footprint;
    names.sort_by_key(|name| std::cmp::Reverse(peak.of(name)));
    let mut table = Table::new(std::iter::once("  memory").chain(phases.iter().map(|phase| phase.name)));
    let cells = |of: &dyn Fn(&Footprint) -> u64| -> Vec<String> {
        let cell = |n| if n == 0 { "-".to_owned() } else { bytes(n) };
        phases.iter().map(|phase| cell(of(&phase.footprint))).collect()
    };
    for name in names {
        table.row(std::iter::once(format!("  {name}")).chain(cells(&|f| f.of(name))));
    }
    table.row(std::iter::once("  in all".to_owned()).chain(cells(&Footprint::total)));
    table.to_string()
}

/// Whether it fits, as a line.
pub fn verdict(needed: u64, limit: Option<u64>) -> String {
    match limit {
        None => {
            "whether that fits is not known here: this system does not tell what is free; give --ram\n".into()
        }
        Some(limit) if needed <= limit => {
            format!("fits: {} at the peak, {} are there\n", bytes(needed), bytes(limit))
        }
        Some(limit) => format!("does not fit: {} at the peak, {} are there\n", bytes(needed), bytes(limit)),
    }
}

/// A plan of training.
pub fn training_text(p: &Planned<'_>) -> String {
    let (config, time) = (&p.target.config, &p.time);
    let mut text = format!(
        "{}: {:.1}M parameters, {} × {} tokens, {}\n{}\n{}\n{}",
        p.target.name,
        config.model.param_count() as f64 / 1e6,
        config.train.batch,
        config.train.seq,
        p.device,
        p.machine.as_ref().map_or(String::new(), here),
        course_text(&p.course),
        verdict(p.course.bytes(), p.limit)
    );
    let batch = |choice: &Choice| choice.batch.map_or("-".into(), |n| n.to_string());
    let mut table = Table::new(["  with", "at the peak", "most sequences"]);
    for choice in &p.options {
        table.row([format!("  {}", choice.flags), bytes(choice.bytes), batch(choice)]);
    }
    text += &format!("\n{table}");
    if let Some(seq) = p.seq {
        let all = if seq == config.model.max_seq { ", all positions of the model" } else { "" };
        text += &format!("  longest sequence at batch {}: {seq} tokens{all}\n", config.train.batch);
    }
    let energy = match time.joules_per_token {
        Some([from, to]) => {
            format!("{from:.3} to {to:.3} J per token by the 3 to 5 W that ncdrone/rustane claims")
        }
        None => "energy not known".into(),
    };
    text += &format!(
        "\nabout {:.0} ms a step, {:.1} tok/s, {energy}\n  ({})\n",
        time.ms_per_step, time.tok_per_s, time.basis
    );
    if let Some(command) = &p.command {
        text += &format!("\nrun:  {command}\n");
    }
    text
}

/// This machine, as a line.
fn here(m: &Here) -> String {
    let cores = m.cores.map_or("cores not known".into(), |n| format!("{n} processors"));
    let memory = m.memory_bytes.map_or("memory not known".into(), bytes);
    format!("this machine: {}, {cores}, {memory}, {:.0} GB/s {}\n", m.chip, m.memory_gb_per_s, m.bandwidth)
}

/// The same for programs.
pub fn training_json(p: &Planned<'_>) -> Value {
    let mut object = course_json(&p.course, p.limit);
    let config = &p.target.config;
    let extra = json!({
        "what": "training", "model": p.target.name, "config": config.model, "params": config.model.param_count(),
        "seq": config.train.seq, "batch": config.train.batch, "recompute": config.train.recompute, "weights": config.train.weights,
        "update_in_backward": config.train.update_in_backward,
        "precision": config.train.precision, "optimizer_state": config.optimizer.state,
        "optimizer": config.optimizer.kind, "device": p.device, "options": p.options, "most_sequences": p.batch,
        "longest_seq": p.seq, "time": p.time, "machine": p.machine, "command": p.command,
    });
    merge(&mut object, extra);
    object
}

/// The phases with their bytes.
pub fn course_json(course: &Course, limit: Option<u64>) -> Value {
    let items = |f: &Footprint| {
        f.items().map(|(name, n)| (name.to_owned(), json!(n))).collect::<serde_json::Map<_, _>>()
    };
    let phases = course
        .phases()
        .iter()
        .map(|p| json!({ "name": p.name, "bytes": p.total(), "items": items(&p.footprint) }));
    json!({
        "rustane": env!("CARGO_PKG_VERSION"), "phases": phases.collect::<Vec<_>>(), "peak_phase": course.peak().name,
        "peak_bytes": course.bytes(), "limit_bytes": limit, "fits": limit.map(|limit| course.bytes() <= limit),
    })
}

/// Adds the keys of one object to another.
pub fn merge(object: &mut Value, extra: Value) {
    if let (Some(object), Value::Object(extra)) = (object.as_object_mut(), extra) {
        object.extend(extra);
    }
}
