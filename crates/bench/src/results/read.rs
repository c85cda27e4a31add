//! Reading results: a file of this schema, whole and consistent, or a message that says what is wrong.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Origin, Results, SCHEMA, Summary};

/// Longest file that is read, in bytes.
pub const MAX_FILE: u64 = 16 << 20;

/// Why a file is no results.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages name the fields")]
pub enum ResultsError {
    #[error("cannot read {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{name}: {bytes} bytes or more, wanted at most {MAX_FILE}")]
    TooLong { name: String, bytes: u64 },
    #[error("{name}: not JSON: {reason}")]
    Json { name: String, reason: String },
    #[error(
        "{name}: `schema` is {got}, wanted \"{SCHEMA}\"; make the file with `rustane bench … --out FILE`"
    )]
    Schema { name: String, got: String },
    #[error("{name}: {reason}; docs/benchmarks.md describes the fields")]
    Content { name: String, reason: String },
}

/// Reads a file.
///
/// # Errors
/// [`ResultsError`].
pub fn read(path: &Path) -> Result<Results, ResultsError> {
    let io = |source| ResultsError::Io { path: path.to_owned(), source };
    let mut text = Vec::new();
    File::open(path).map_err(io)?.take(MAX_FILE + 1).read_to_end(&mut text).map_err(io)?;
    parse(&path.display().to_string(), &text)
}

/// Parses and checks the bytes of the file that messages call `name`.
///
/// # Errors
/// [`ResultsError`], but for `Io`.
pub fn parse(name: &str, text: &[u8]) -> Result<Results, ResultsError> {
    let named = || name.to_owned();
    if text.len() as u64 > MAX_FILE {
        return Err(ResultsError::TooLong { name: named(), bytes: text.len() as u64 });
    }
    let value: Value = serde_json::from_slice(text)
        .map_err(|e| ResultsError::Json { name: named(), reason: e.to_string() })?;
    // The version first: fields of another one would only confuse.
    if value["schema"] != SCHEMA {
        let got = if value["schema"].is_null() { "absent".into() } else { value["schema"].to_string() };
        return Err(ResultsError::Schema { name: named(), got });
    }
    let content = |reason: String| ResultsError::Content { name: named(), reason };
    let results: Results = serde_json::from_value(value).map_err(|e| content(e.to_string()))?;
    check(&results).map_err(content)?;
    Ok(results)
}

fn check(results: &Results) -> Result<(), String> {
    if results.title.trim().is_empty() {
        return Err("`title` is empty, wanted a line about what was measured".into());
    }
    let parts: Vec<&str> = results.date.split('-').collect();
    let digits = |part: &str, n: usize| part.len() == n && part.bytes().all(|b| b.is_ascii_digit());
    if !matches!(parts[..], [y, m, d] if digits(y, 4) && digits(m, 2) && digits(d, 2)) {
        return Err(format!("`date` is `{}`, wanted YYYY-MM-DD", results.date));
    }
    match (results.origin, &results.source) {
        (Origin::Published, None) => return Err("published figures have no `source`".into()),
        (Origin::Measured, Some(_)) => return Err("`source` is for published figures only".into()),
        _ => {}
    }
    if results.cases.is_empty() && results.curves.is_empty() {
        return Err("there are neither `cases` nor `curves`".into());
    }
    if let Some(field) = results.nulls().into_iter().find(|field| !results.not_known.contains_key(*field)) {
        return Err(format!("`{field}` is null, and `not_known` does not say why"));
    }
    let mut seen = BTreeSet::new();
    for case in &results.cases {
        let what = format!("{}, {}, {}", case.name, case.engine, case.quantity);
        if !seen.insert((&case.name, &case.engine, &case.device, &case.quantity)) {
            return Err(format!("{what}: twice on {}", case.device));
        }
        let summary = Summary::of(&case.values).ok_or_else(|| format!("{what}: `values` is empty"))?;
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-300);
        let near_option = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => near(a, b),
            (a, b) => a == b,
        };
        let told = &case.summary;
        let same = told.repeats == summary.repeats
            && near(told.median, summary.median)
            && near(told.min, summary.min)
            && near(told.max, summary.max)
            && near_option(told.spread, summary.spread)
            && near_option(told.decay, summary.decay);
        if !same {
            return Err(format!("{what}: `summary` is not that of `values`: wanted {summary:?}"));
        }
    }
    for curves in &results.curves {
        let odd = curves.series.iter().find(|s| s.points.is_empty());
        if let Some(series) = odd {
            return Err(format!("{}: the series `{}` has no points", curves.title, series.name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::results::{Case, Quantity};

    fn good() -> Value {
        let case = Case::new("step/x", "cpu", Quantity::ms("training step"), vec![2.0, 1.0, 3.0]);
        let conditions = json!({"power_source": "mains", "thermal": "50 °C", "load": 0.5});
        json!({
            "schema": SCHEMA, "title": "a step", "origin": "measured", "source": null, "date": "2026-11-21",
            "machine": {"chip": "a chip", "cores": 2, "memory_bytes": 1, "os": "Linux"},
            "software": {"version": "0.1.0", "commit": "abc", "profile": "release"},
            "commands": ["rustane bench step"], "protocol": null,
            "state": {"before": conditions, "after": conditions},
            "cases": [case],
            "not_known": {"cases.dispatches": "no ledger", "cases.memory_peak_bytes": "not asked"},
        })
    }

    #[test]
    fn reads_what_it_wrote() {
        let results = parse("x.json", good().to_string().as_bytes()).unwrap();
        let again = serde_json::to_vec(&results).unwrap();
        assert_eq!(parse("x.json", &again).unwrap(), results);
    }

    #[test]
    fn refuses_with_a_message_what_is_something_else() {
        type Change = fn(&mut Value);
        let cases: &[(Change, &str)] = &[
            (|v| v["schema"] = json!(1), "`schema` is 1, wanted \"rustane-results/1\"; make the file with"),
            (|v| v["schema"] = json!("rustane-results/2"), "`schema` is \"rustane-results/2\""),
            (|v| drop(v.as_object_mut().unwrap().remove("schema")), "`schema` is absent"),
            (|v| v["date"] = json!("yesterday"), "`date` is `yesterday`, wanted YYYY-MM-DD"),
            (|v| v["title"] = json!(" "), "`title` is empty"),
            (|v| v["cases"] = json!([]), "neither `cases` nor `curves`"),
            (|v| v["cases"][0]["values"] = json!([]), "`values` is empty"),
            (|v| v["cases"][0]["values"] = json!([1.0, 9.0, 3.0]), "`summary` is not that of `values`"),
            (|v| v["cases"][0]["values"][0] = json!(null), "invalid type: null"),
            (|v| v["not_known"] = json!({}), "`cases.dispatches` is null, and `not_known` does not say why"),
            (|v| v["software"]["commit"] = json!(null), "`software.commit` is null"),
            (|v| v["origin"] = json!("published"), "published figures have no `source`"),
            (|v| v["source"] = json!("someone"), "`source` is for published figures only"),
            (|v| v["hostname"] = json!("mine"), "unknown field `hostname`"),
            (|v| v["machine"]["user"] = json!("me"), "unknown field `user`"),
            (|v| *v = json!([1]), "`schema` is absent"),
            (
                |v| {
                    let case = v["cases"][0].clone();
                    v["cases"].as_array_mut().unwrap().push(case);
                },
                "twice on cpu",
            ),
        ];
        for (change, wanted) in cases {
            let mut value = good();
            change(&mut value);
            let error = parse("x.json", value.to_string().as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("x.json: ") && error.contains(wanted), "{wanted}: {error}");
        }
        assert!(parse("x.json", b"{").unwrap_err().to_string().contains("not JSON: EOF"));
        let long = vec![b' '; MAX_FILE as usize + 1];
        assert!(parse("x.json", &long).unwrap_err().to_string().contains("wanted at most"));
    }
}
