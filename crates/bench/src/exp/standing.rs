//! Who leads: experiments with the same budget, on the seeds of the first of them.

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::{Budget, Outcome, Record};
use crate::statistics::{mean, p_below_zero};

/// Bits per byte that a standard error counts as at least: seeds that differ by less do so by luck.
const LEAST: f64 = 1e-3;

/// Runs of one experiment.
#[derive(Clone, Debug)]
pub struct Experiment<'a> {
    /// Its name.
    pub id: &'a str,
    /// Its runs, in the order of the ledger.
    pub runs: Vec<&'a Record>,
}

impl Experiment<'_> {
    /// Bits per byte by seed, of the runs that reached their end.
    pub fn bpb(&self) -> BTreeMap<u64, f64> {
        let done = |r: &&Record| match r.outcome {
            Outcome::Done { val_bpb, .. } if val_bpb.is_finite() => Some((r.seed, val_bpb)),
            _ => None,
        };
        self.runs.iter().filter_map(done).collect()
    }

    /// Mean bits per byte over some seeds; `None` when a run of one is missing.
    pub fn mean_over(&self, seeds: &BTreeSet<u64>) -> Option<f64> {
        let bpb = self.bpb();
        let values: Option<Vec<f64>> = seeds.iter().map(|seed| bpb.get(seed).copied()).collect();
        values.filter(|values| !values.is_empty()).map(|values| mean(&values))
    }

    /// The first run, which stands for the others: they differ in the seed alone.
    pub fn first(&self) -> &Record {
        self.runs[0]
    }
}

/// Two experiments on the seeds that both have.
#[derive(Clone, Debug, PartialEq)]
pub struct Paired {
    /// The seeds.
    pub seeds: Vec<u64>,
    /// Bits per byte of the second less those of the first, by seed.
    pub differences: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Probability that the second is better. `None` under two pairs.
    pub p_better: Option<f64>,
}

impl Paired {
    /// `b` against `a`; `None` without a common seed.
    pub fn of(a: &Experiment<'_>, b: &Experiment<'_>) -> Option<Self> {
        let (left, right) = (a.bpb(), b.bpb());
        let pairs: Vec<(u64, f64)> =
            left.iter().filter_map(|(seed, x)| Some((*seed, right.get(seed)? - x))).collect();
        let (seeds, differences): (Vec<u64>, Vec<f64>) = pairs.into_iter().unzip();
        if seeds.is_empty() {
            return None;
        }
        Some(Self {
            mean: mean(&differences),
            p_better: p_below_zero(&differences, LEAST),
            seeds,
            differences,
        })
    }
}

/// Experiments of one budget and who led when.
#[derive(Clone, Debug)]
pub struct Standing<'a> {
    /// What all of them had.
    pub budget: Budget,
    /// The seeds that count: those that the first experiment finished.
    pub seeds: BTreeSet<u64>,
    /// In the order of the ledger, with their mean; `None` for one that lacks a seed.
    pub experiments: Vec<(Experiment<'a>, Option<f64>)>,
}

impl<'a> Standing<'a> {
    /// Of the records of the ledger's newest budget, or of another one.
    pub fn of(records: &'a [Record], budget: Option<Budget>) -> Option<Self> {
        let budget = budget.or_else(|| records.last().map(|r| r.budget))?;
        let mut experiments: Vec<Experiment<'a>> = Vec::new();
        for record in records.iter().filter(|r| r.budget == budget) {
            match experiments.iter_mut().find(|e| e.id == record.id) {
                Some(experiment) => experiment.runs.push(record),
                None => experiments.push(Experiment { id: &record.id, runs: vec![record] }),
            }
        }
        let seeds: BTreeSet<u64> =
            experiments.iter().map(Experiment::bpb).find(|bpb| !bpb.is_empty())?.into_keys().collect();
        let experiments = experiments
            .into_iter()
            .map(|e| {
                let mean = e.mean_over(&seeds);
                (e, mean)
            })
            .collect();
        Some(Self { budget, seeds, experiments })
    }

    /// The experiment with the lowest mean.
    pub fn best(&self) -> Option<&Experiment<'a>> {
        let ranked = self.experiments.iter().filter_map(|(e, mean)| Some((e, (*mean)?)));
        ranked.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(e, _)| e)
    }

    /// Which of the experiments led when they ended, in their order.
    pub fn led(&self) -> Vec<bool> {
        let mut lowest = f64::INFINITY;
        let leads = |(_, mean): &(Experiment<'a>, Option<f64>)| match mean {
            Some(mean) if *mean < lowest => {
                lowest = *mean;
                true
            }
            _ => false,
        };
        self.experiments.iter().map(leads).collect()
    }

    /// The experiment of that name.
    pub fn find(&self, id: &str) -> Option<&Experiment<'a>> {
        self.experiments.iter().map(|(e, _)| e).find(|e| e.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::tests::record;
    use super::*;

    fn records() -> Vec<Record> {
        let mut failed = record("0004", 1, 0.1);
        failed.outcome = Outcome::Failed { code: Some(6), error: "diverged".into() };
        let mut other = record("0005", 1, 0.01);
        other.budget = Budget::Seconds(30);
        vec![
            record("0001", 1, 2.0),
            record("0001", 2, 2.2),
            record("0002", 1, 1.9),
            record("0002", 2, 2.0),
            // One lucky seed alone does not lead.
            record("0003", 1, 0.5),
            failed,
            other,
        ]
    }

    #[test]
    fn ranks_on_the_seeds_of_the_first() {
        let records = records();
        let standing = Standing::of(&records, Some(Budget::Tokens(1000))).unwrap();
        let means: Vec<Option<f64>> = standing.experiments.iter().map(|(_, mean)| *mean).collect();
        assert_eq!(means, [Some(2.1), Some(1.95), None, None]);
        assert_eq!(standing.best().unwrap().id, "0002");
        assert_eq!(standing.led(), [true, true, false, false]);
        assert_eq!(Standing::of(&records, None).unwrap().budget, Budget::Seconds(30));
        assert!(Standing::of(&[], None).is_none());
    }

    #[test]
    fn pairs_seeds() {
        let records = records();
        let standing = Standing::of(&records, Some(Budget::Tokens(1000))).unwrap();
        let [a, b, c, failed] = ["0001", "0002", "0003", "0004"].map(|id| standing.find(id).unwrap());
        let paired = Paired::of(a, b).unwrap();
        assert_eq!(paired.seeds, [1, 2]);
        assert!((paired.mean + 0.15).abs() < 1e-12);
        // −0.1 and −0.2: three standard errors from 0, on two seeds.
        assert!((paired.p_better.unwrap() - 0.897_58).abs() < 1e-5, "{paired:?}");
        assert_eq!(Paired::of(a, c).unwrap().p_better, None, "one pair shows nothing about chance");
        assert_eq!(Paired::of(a, failed), None);
    }
}
