//! From a time budget to a number of steps.

use std::time::Duration;

/// Measures steps until their time is known well enough to plan the rest.
#[derive(Debug)]
pub struct Budget {
    limit: Duration,
    /// Steps measured, without the first, which is slower.
    steps: Vec<Duration>,
    first: bool,
}

impl Budget {
    /// Steps before a plan, the time that they must fill at least, and the share of the budget after
    /// which less of both will do.
    const STEPS: usize = 20;
    const TIME: Duration = Duration::from_secs(10);
    const SHARE: f64 = 0.03;
    /// Share of the budget that is left to validation, samples and checkpoints.
    const ASIDE: f64 = 0.05;

    /// A budget of which nothing is spent.
    pub fn new(limit: Duration) -> Self {
        Self { limit, steps: Vec::new(), first: true }
    }

    /// Takes in one step; the number of steps of the whole run, once it is known. `done` steps
    /// took `elapsed` altogether.
    pub fn plan(&mut self, step: Duration, done: u64, elapsed: Duration) -> Option<u64> {
        if std::mem::take(&mut self.first) {
            return None;
        }
        self.steps.push(step);
        let share = elapsed >= self.limit.mul_f64(Self::SHARE);
        let enough =
            (self.steps.len() >= 2 && share) || (self.steps.len() >= Self::STEPS && elapsed >= Self::TIME);
        if !enough {
            return None;
        }
        self.steps.sort();
        let median = self.steps[self.steps.len() / 2].as_secs_f64().max(1e-9);
        let left = self.limit.mul_f64(1.0 - Self::ASIDE).saturating_sub(elapsed).as_secs_f64();
        Some(done + (left / median) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_what_fits() {
        let step = Duration::from_millis(100);
        let mut budget = Budget::new(Duration::from_secs(100));
        assert_eq!(budget.plan(Duration::from_secs(2), 1, Duration::from_secs(2)), None);
        let mut elapsed = Duration::from_secs(2);
        let total = (2..).find_map(|done| {
            elapsed += step;
            budget.plan(step, done, elapsed)
        });
        // 95 s less the slow first step leave room for 931 steps of 0.1 s.
        assert!((925..=935).contains(&total.unwrap()), "{total:?}");
    }

    #[test]
    fn a_few_quick_steps_are_no_evidence() {
        let step = Duration::from_micros(500);
        let mut budget = Budget::new(Duration::from_secs(3));
        let planned_at = (1..).find(|&done| budget.plan(step, done, step * done as u32).is_some());
        // 3 % of 3 s.
        assert_eq!(planned_at, Some(180));
    }

    #[test]
    fn a_budget_that_is_spent_ends_the_run() {
        let mut budget = Budget::new(Duration::from_secs(1));
        let slow = Duration::from_secs(2);
        assert_eq!(budget.plan(slow, 1, slow), None);
        assert_eq!(budget.plan(slow, 2, slow * 2), None);
        assert_eq!(budget.plan(slow, 3, slow * 3), Some(3));
    }
}
