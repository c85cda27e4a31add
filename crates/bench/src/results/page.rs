//! All results as one static page: tables and pictures, no scripts, nothing fetched.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::plots::{Bar, bars, escape, number};
use super::{Case, Conditions, Curves, Origin, Results};

/// Most bars of one picture; more are in the table alone.
const MOST_BARS: usize = 24;

/// What the page is made of.
pub struct Page<'a> {
    /// Path below the folder of results, and what the file holds; in the order of the page.
    pub files: &'a [(String, Results)],
    /// Draws curves as SVG.
    pub draw: &'a dyn Fn(&Curves) -> String,
}

const STYLE: &str = "\
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
table { border-collapse: collapse; font-size: .85rem; margin: 1rem 0; }
th, td { text-align: left; padding: .2rem .7rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; } figure { margin: 1.5rem 0; overflow-x: auto; } figcaption { font-weight: 600; }
.curve svg { background: #fff; border-radius: 4px; } .scroll { overflow-x: auto; }
.theirs { background: var(--soft); font-style: italic; } .few::after { content: \" few\"; font-size: .75em; }
code { font-size: .85em; overflow-wrap: anywhere; } dt { font-weight: 600; } dd { margin: 0 0 .4rem 1rem; }
";

/// Renders the page.
pub fn page(page: &Page<'_>) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>rustane: results</title>\n<style>\n{STYLE}</style></head><body>\n<h1>rustane: results</h1>\n\
         <p>Every figure is from a JSON file beside this page (schema <code>{}</code>, docs/benchmarks.md) and is the \
         median of its samples; <em>few</em> marks fewer than five. Figures of others are grey and italic, with their \
         source, and were not measured by us. “Virtual ANE” is a simulation on a CPU: its times say nothing about \
         Apple's hardware. Made by <code>rustane results index</code>.</p>\n<ul>\n",
        super::SCHEMA
    );
    for (path, results) in page.files {
        let _ = writeln!(html, "<li><a href=\"#{}\">{}</a></li>", anchor(path), escape(&results.title));
    }
    html += "</ul>\n";
    beside(&mut html, page.files);
    for (path, results) in page.files {
        file(&mut html, path, results, page.draw);
    }
    html += "</body></html>\n";
    html
}

fn anchor(path: &str) -> String {
    path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

/// A case and the file it is from.
type Entry<'a> = (&'a Results, &'a Case);

/// Work that more than one engine, device or machine did.
fn beside(html: &mut String, files: &[(String, Results)]) {
    let mut groups: BTreeMap<(&str, &str, &str), Vec<Entry<'_>>> = BTreeMap::new();
    for (_, results) in files {
        for case in &results.cases {
            groups.entry((&case.name, &case.quantity, &case.unit)).or_default().push((results, case));
        }
    }
    groups.retain(|_, entries| entries.len() > 1);
    if groups.is_empty() {
        return;
    }
    html.push_str("<h2 id=\"beside\">The same work beside each other</h2>\n");
    for ((name, quantity, unit), entries) in groups {
        let rows: Vec<Bar<'_>> = entries
            .iter()
            .map(|(results, case)| Bar {
                label: format!("{}, {}", who(case), machine(results)),
                group: case.engine.clone(),
                case,
                origin: results.origin,
            })
            .collect();
        figure(
            html,
            &format!("{name}: {quantity}"),
            &axis(quantity, unit),
            &rows[..rows.len().min(MOST_BARS)],
        );
    }
}

fn who(case: &Case) -> String {
    if case.device.is_empty() || case.engine.contains(&case.device) {
        return case.engine.clone();
    }
    format!("{} on {}", case.engine, case.device)
}

fn machine(results: &Results) -> String {
    let chip = results.machine.gpu.as_deref().or(results.machine.chip.as_deref());
    chip.unwrap_or("machine not known").split(',').next().unwrap_or_default().to_owned()
}

fn axis(quantity: &str, unit: &str) -> String {
    format!("{quantity}, {unit}")
}

fn figure(html: &mut String, caption: &str, axis: &str, rows: &[Bar<'_>]) {
    let picture = bars(caption, axis, rows);
    let _ = writeln!(html, "<figure><figcaption>{}</figcaption>\n{picture}</figure>", escape(caption));
}

fn file(html: &mut String, path: &str, results: &Results, draw: &dyn Fn(&Curves) -> String) {
    let _ = writeln!(html, "<h2 id=\"{}\">{}</h2>", anchor(path), escape(&results.title));
    facts(html, path, results);
    let mut quantities: Vec<(&str, &str)> = Vec::new();
    for case in &results.cases {
        let key = (case.quantity.as_str(), case.unit.as_str());
        if !quantities.contains(&key) {
            quantities.push(key);
        }
    }
    for (quantity, unit) in quantities {
        let cases: Vec<&Case> =
            results.cases.iter().filter(|c| c.quantity == quantity && c.unit == unit).collect();
        let one_device = cases.iter().all(|c| who(c) == who(cases[0]));
        let rows: Vec<Bar<'_>> = cases
            .iter()
            .map(|case| Bar {
                label: if one_device { case.name.clone() } else { format!("{}: {}", case.name, who(case)) },
                group: who(case),
                case,
                origin: results.origin,
            })
            .collect();
        if (2..=MOST_BARS).contains(&rows.len()) {
            figure(html, quantity, &axis(quantity, unit), &rows);
        }
    }
    for curves in &results.curves {
        let _ = writeln!(
            html,
            "<figure class=\"curve\"><figcaption>{}</figcaption>\n{}</figure>",
            escape(&curves.title),
            draw(curves)
        );
    }
    if !results.cases.is_empty() {
        table(html, results);
    }
}

fn facts(html: &mut String, path: &str, results: &Results) {
    let (m, s) = (&results.machine, &results.software);
    let parts = [m.gpu.clone(), m.chip.clone(), m.cores.map(|n| format!("{n} processors"))];
    let memory = m.memory_bytes.map(|n| format!("{} GB of memory", number(n as f64 / 1e9)));
    let machine: Vec<String> = parts.into_iter().chain([memory, m.os.clone()]).flatten().collect();
    let build = [s.version.clone(), s.commit.clone().map(|c| format!("commit {c}")), s.profile.clone()];
    let build: Vec<String> = build.into_iter().flatten().collect();
    html.push_str("<dl>\n");
    let mut entry = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(html, "<dt>{name}</dt><dd>{}</dd>", escape(value));
        }
    };
    match &results.source {
        Some(source) => entry("published by others", source),
        None => entry("measured", &results.date),
    }
    entry("machine", &machine.join(", "));
    entry("build", &build.join(", "));
    entry("state before", &conditions(&results.state.before));
    entry("state after", &conditions(&results.state.after));
    entry("protocol", results.protocol.as_deref().unwrap_or_default());
    entry("commands", &results.commands.join("; "));
    let unknown: Vec<String> = results.not_known.iter().map(|(k, why)| format!("{k}: {why}")).collect();
    entry("not known", &unknown.join("; "));
    let _ = writeln!(html, "<dt>file</dt><dd><a href=\"{0}\">{0}</a></dd>\n</dl>", escape(path));
}

fn conditions(c: &Conditions) -> String {
    let load = c.load.map(|n| format!("load {}", number(n)));
    let parts: Vec<String> =
        [c.power_source.clone(), c.thermal.clone(), load].into_iter().flatten().collect();
    parts.join(", ")
}

fn table(html: &mut String, results: &Results) {
    html.push_str(
        "<details><summary>All figures</summary><div class=\"scroll\"><table>\n<tr><th>work</th><th>by</th>\
         <th>quantity</th><th class=\"n\">median</th><th>unit</th><th class=\"n\">repeats</th><th class=\"n\">least</th>\
         <th class=\"n\">greatest</th><th class=\"n\">spread</th><th class=\"n\">drift</th><th class=\"n\">memory</th>\
         <th>dispatches</th><th class=\"n\">published</th></tr>\n",
    );
    let percent = |x: Option<f64>| x.map_or(String::new(), |x| format!("{:.1} %", 100.0 * x));
    for case in &results.cases {
        let s = &case.summary;
        let theirs = results.origin == Origin::Published;
        let dispatches: Vec<String> =
            case.dispatches.iter().flatten().map(|(device, n)| format!("{n} on {device}")).collect();
        let few = !theirs && s.repeats < 5;
        let _ = writeln!(
            html,
            "<tr{}><td>{}</td><td>{}</td><td>{}</td><td class=\"n{}\">{}</td><td>{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td>{}</td><td class=\"n\">{}</td></tr>",
            if theirs { " class=\"theirs\"" } else { "" },
            escape(&case.name),
            escape(&who(case)),
            escape(&case.quantity),
            if few { " few" } else { "" },
            number(s.median),
            escape(&case.unit),
            s.repeats,
            number(s.min),
            number(s.max),
            percent(s.spread),
            percent(s.decay.map(|d| d - 1.0)),
            case.memory_peak_bytes.map_or(String::new(), |n| format!("{:.2} GB", n as f64 / 1e9)),
            escape(&dispatches.join(", ")),
            case.published.as_ref().map_or(String::new(), |p| format!(
                "<span title=\"{}\">{}</span>",
                escape(&p.source),
                number(p.value)
            )),
        );
    }
    html.push_str("</table></div></details>\n");
}
