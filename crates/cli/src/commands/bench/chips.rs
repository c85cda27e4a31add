//! `rustane bench chips`: the chip model beside the published times.

use std::process::ExitCode;

use ane_bridge::Chip;
use bench::chips::{Pair, Row, Scale, Variant, cliff, cliff_hidden, evidence, rows, scales};
use serde_json::json;

use crate::table::Table;

/// Flags of `rustane bench chips`.
#[derive(clap::Args)]
pub struct Args {
    /// One chip [default: all, in brief]
    #[arg(long, value_name = "CHIP", value_parser = crate::device::chip)]
    chip: Option<&'static Chip>,
    /// One JSON object per chip
    #[arg(long)]
    json: bool,
}

/// Prints predictions; nothing is measured.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.json {
        for chip in Chip::ALL.iter().filter(|chip| args.chip.is_none_or(|asked| asked == *chip)) {
            let object = json!({
                "chip": chip.name, "evidence": evidence(chip), "rows": rows(chip), "scales": scales(chip),
                "cliff": cliff(chip), "cliff_hidden_512": cliff_hidden(chip, 512),
            });
            println!("{object}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    match args.chip {
        Some(chip) => one(chip),
        None => all(),
    }
    println!("All times are predictions of a model with published constants; none was measured by us.");
    Ok(ExitCode::SUCCESS)
}

/// One line for each chip.
fn all() {
    let mut table = Table::new(["chip", "600m-A step", "3b-A step", "7B forward", "20B forward", "known"]);
    for chip in Chip::ALL {
        let rows = rows(chip);
        let ms = |name: &str, step: bool| {
            let row = rows.iter().find(|row| row.name == name);
            let pair = row.and_then(|row| if step { row.step } else { Some(row.forward) });
            pair.map_or("-".into(), |pair| format!("{:.0} ms", pair.predicted_ms))
        };
        table.row([
            chip.name.to_owned(),
            ms("600m-A", true),
            ms("3b-A", true),
            ms("fwd-7b", false),
            ms("fwd-20b", false),
            evidence(chip).to_owned(),
        ]);
    }
    println!("{table}\n--chip NAME prints all configurations of one.");
}

fn one(chip: &Chip) {
    println!("{}: {}\n", chip.name, evidence(chip));
    let mut table = Table::new([
        "run",
        "forward ms",
        "published",
        "error",
        "step ms",
        "published",
        "error",
        "spill",
        "row",
    ]);
    for Row { name, forward, step, used, parts } in rows(chip) {
        let cells = |pair: Option<Pair>| match pair {
            Some(p) => [
                format!("{:.0}", p.predicted_ms),
                p.published_ms.map_or("-".into(), |ms| format!("{ms:.0}")),
                p.error().map_or("-".into(), |e| format!("{:.1} %", 100.0 * e)),
            ],
            None => ["-".into(), "-".into(), "-".into()],
        };
        let mut row = vec![name.to_owned()];
        row.extend(cells(Some(forward)));
        row.extend(cells(step));
        row.push(format!("{:.0} %", 100.0 * parts.spill));
        row.push(used.unwrap_or("no published time").to_owned());
        table.row(row);
    }
    println!("{table}");
    println!("Shapes of one scale: A baseline, B deep and narrow, C wide and shallow; fastest by");
    let mut table = Table::new([
        "scale",
        "step, model",
        "step, published",
        "ms per parameter, model",
        "ms per parameter, published",
    ]);
    let letter = |found: Option<char>| found.map_or("-".into(), String::from);
    for scale in scales(chip) {
        let model = |v: &Variant| Some(v.step.predicted_ms);
        let published = |v: &Variant| v.step.published_ms;
        table.row([
            scale.name.to_owned(),
            letter(scale.fastest(model)),
            letter(scale.fastest(published)),
            letter(scale.fastest(|v| model(v).map(|ms| ms / v.params))),
            letter(scale.fastest(|v| published(v).map(|ms| ms / v.params))),
        ]);
    }
    println!("{table}");
    let mut even = *chip;
    even.host.conflict = 0.0;
    let without: Vec<Scale> = bench::chips::scales(&even);
    let winners = |scales: &[Scale]| -> String {
        let fastest = scales.iter().filter_map(|s| s.fastest(|v| Some(v.step.predicted_ms)));
        fastest.map(String::from).collect::<Vec<_>>().join(", ")
    };
    println!("The crossover: the model has {}. Its causes there:", winners(&scales(chip)));
    println!(
        "- size: the variants of a scale differ by up to 11 % in parameters, and nearly all of a step is\n  \
         proportional to them: C has the fewest up to 1.5B, B at 3B and 5B;"
    );
    println!(
        "- conflicts: rows of a multiple of 4 KiB (hidden 4096, 6144, 8192 and more) are slow to transpose for the\n  \
         backward pass; 6912 is not, which A has at 3B and B at 5B. Without that the model has {}.",
        winners(&without)
    );
    println!(
        "The cliff: beyond hidden {:.0} at 512 tokens the fused feed-forward's three [hidden, tokens] intermediates\n\
         outgrow {:.0} MiB on the chip; the rest is computed in tiles, and each tile streams the weights again (spill).",
        cliff_hidden(chip, 512),
        chip.ane.sram_bytes / f64::from(1 << 20)
    );
    let mut table = Table::new(["dim", "hidden", "layer forward ms", "TFLOPS", "spill"]);
    for p in cliff(chip) {
        table.row([
            p.dim.to_string(),
            p.hidden.to_string(),
            format!("{:.1}", p.layer_ms),
            format!("{:.2}", p.tflops),
            format!("{:.0} %", 100.0 * p.spill),
        ]);
    }
    println!("{table}");
}
