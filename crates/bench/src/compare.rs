//! Two files of results beside each other.

use crate::results::{Better, Case, Results};
use crate::statistics::{Interval, ratio_interval};

/// One quantity in both files.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The work, with the engine where that is not ours.
    pub name: String,
    /// What was measured.
    pub quantity: String,
    /// Its unit.
    pub unit: String,
    /// Median and number of samples of the first file.
    pub a: (f64, usize),
    /// The same of the second.
    pub b: (f64, usize),
    /// `b / a`.
    pub ratio: f64,
    /// Its interval, where both have two samples or more.
    pub interval: Option<Interval>,
    /// What that means.
    pub verdict: Verdict,
}

/// What a ratio means for the second file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The interval is on the good side of 1.
    Better,
    /// It is on the bad side.
    Worse,
    /// It holds 1.
    WithinNoise,
    /// There is no interval.
    OneSample,
}

/// What two files have in common, and what only one of them has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// In the order of the first file.
    pub rows: Vec<Row>,
    /// Names that only the first has.
    pub only_a: Vec<String>,
    /// Names that only the second has.
    pub only_b: Vec<String>,
    /// Why the ratios say less than they seem to.
    pub warnings: Vec<String>,
}

/// Compares cases of the same work, quantity and engine. Where a file has such a case on one device only, the
/// device may differ: that is what is compared then.
pub fn compare(a: &Results, b: &Results) -> Comparison {
    let mut comparison = Comparison { warnings: warnings(a, b), ..Comparison::default() };
    let mut used = vec![false; b.cases.len()];
    for case in &a.cases {
        match partner(case, a, b) {
            Some(i) => {
                used[i] = true;
                comparison.rows.push(row(case, &b.cases[i]));
            }
            None => comparison.only_a.push(label(case)),
        }
    }
    comparison.only_b =
        b.cases.iter().zip(used).filter(|(_, used)| !used).map(|(case, _)| label(case)).collect();
    comparison
}

fn label(case: &Case) -> String {
    format!("{}, {} ({})", case.name, case.quantity, case.engine)
}

fn same(x: &Case, y: &Case) -> bool {
    (&x.name, &x.quantity, &x.engine, &x.unit) == (&y.name, &y.quantity, &y.engine, &y.unit)
}

fn partner(case: &Case, a: &Results, b: &Results) -> Option<usize> {
    let found: Vec<usize> = (0..b.cases.len()).filter(|&i| same(case, &b.cases[i])).collect();
    let exact = found.iter().copied().find(|&i| b.cases[i].device == case.device);
    let alone = a.cases.iter().filter(|other| same(case, other)).count() == 1;
    exact.or(match found[..] {
        [only] if alone => Some(only),
        _ => None,
    })
}

fn row(a: &Case, b: &Case) -> Row {
    let interval = ratio_interval(&a.values, &b.values);
    let verdict = match interval {
        None => Verdict::OneSample,
        Some(Interval { low, high }) if low <= 1.0 && high >= 1.0 => Verdict::WithinNoise,
        Some(Interval { high, .. }) if (high < 1.0) == (a.better == Better::Lower) => Verdict::Better,
        Some(_) => Verdict::Worse,
    };
    Row {
        name: if a.engine == "rustane" { a.name.clone() } else { format!("{}, {}", a.name, a.engine) },
        quantity: a.quantity.clone(),
        unit: a.unit.clone(),
        a: (a.summary.median, a.values.len()),
        b: (b.summary.median, b.values.len()),
        ratio: b.summary.median / a.summary.median,
        interval,
        verdict,
    }
}

fn warnings(a: &Results, b: &Results) -> Vec<String> {
    let mut warnings = Vec::new();
    let machine = |r: &Results| (r.machine.chip.clone(), r.machine.gpu.clone(), r.machine.cores);
    if machine(a) != machine(b) {
        warnings.push("the machines differ, so the ratios compare machines too".into());
    }
    if a.software.profile != b.software.profile {
        warnings.push("the build profiles differ or are not known".into());
    }
    let few = a.cases.iter().chain(&b.cases).filter(|c| (2..5).contains(&c.values.len())).count();
    if few > 0 {
        warnings
            .push(format!("{few} cases have under 5 samples; their intervals are narrower than the truth"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Machine, Origin, Quantity, SCHEMA, Software, State};

    fn results(cases: Vec<Case>) -> Results {
        Results {
            schema: SCHEMA.into(),
            title: "t".into(),
            origin: Origin::Measured,
            source: None,
            date: "2026-11-21".into(),
            machine: Machine::default(),
            software: Software::default(),
            commands: Vec::new(),
            protocol: None,
            state: State::default(),
            cases,
            curves: Vec::new(),
            not_known: Default::default(),
            details: Default::default(),
        }
    }

    fn case(name: &str, device: &str, values: &[f64]) -> Case {
        Case::new(name, device, Quantity::ms("step"), values.to_vec())
    }

    #[test]
    fn says_what_is_faster_and_what_is_noise() {
        let quick = [10.0, 10.1, 9.9, 10.0, 10.2];
        let slow = [20.0, 20.4, 19.8, 20.1, 20.0];
        let noisy = [9.0, 10.5, 11.0, 9.5, 10.0];
        let a = results(vec![case("x", "cpu", &slow), case("y", "cpu", &quick), case("gone", "cpu", &quick)]);
        let b = results(vec![case("x", "gpu", &quick), case("y", "cpu", &noisy), case("new", "cpu", &quick)]);
        let c = compare(&a, &b);
        let got: Vec<_> = c.rows.iter().map(|r| (r.name.as_str(), r.verdict)).collect();
        assert_eq!(got, [("x", Verdict::Better), ("y", Verdict::WithinNoise)]);
        assert!((c.rows[0].ratio - 0.5).abs() < 0.01);
        assert_eq!(
            (c.only_a, c.only_b),
            (vec!["gone, step (rustane)".to_owned()], vec!["new, step (rustane)".into()])
        );
        assert_eq!(compare(&b, &a).rows[0].verdict, Verdict::Worse);
    }

    #[test]
    fn a_rate_is_better_when_it_is_higher() {
        let rate = |values: &[f64]| {
            let mut case = Case::new("x", "cpu", Quantity::tok_per_s("speed"), values.to_vec());
            case.summary.median = values[0];
            results(vec![case])
        };
        let (low, high) = (rate(&[10.0, 10.0, 10.0]), rate(&[20.0, 20.0, 20.0]));
        assert_eq!(compare(&low, &high).rows[0].verdict, Verdict::Better);
        assert_eq!(compare(&high, &low).rows[0].verdict, Verdict::Worse);
        assert_eq!(compare(&rate(&[1.0]), &high).rows[0].verdict, Verdict::OneSample);
    }

    #[test]
    fn the_same_device_goes_first() {
        let a = results(vec![case("x", "cpu", &[1.0, 1.0]), case("x", "ane", &[2.0, 2.0])]);
        let b = results(vec![case("x", "ane", &[4.0, 4.0]), case("x", "cpu", &[1.0, 1.0])]);
        let ratios: Vec<f64> = compare(&a, &b).rows.iter().map(|r| r.ratio).collect();
        assert_eq!(ratios, [1.0, 2.0]);
        let warned = compare(&a, &b).warnings.join("\n");
        assert!(warned.contains("4 cases have under 5 samples"), "{warned}");
    }
}
