//! Medians, and percentile bootstrap with a fixed seed.
//!
//! ```text
//! ratio       median(b*) / median(a*), a* and b* drawn with replacement from a and b, each by itself
//! interval    2.5 % and 97.5 % quantiles of the ratio over RESAMPLES draws
//! P(better)   share of draws of the pairs' differences whose mean is below 0, half of those at 0 counted
//! ```
//!
//! Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapters 13 and 16.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Draws of a bootstrap.
pub const RESAMPLES: usize = 10_000;
/// Seed of its generator: equal samples give equal intervals.
const SEED: u64 = 1;

/// The middle of some numbers; the mean of the two middle ones of an even number; 0 without any.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 { 0.0 } else { (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0 }
}

/// The mean; 0 without any.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// A 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// 2.5 % quantile.
    pub low: f64,
    /// 97.5 % quantile.
    pub high: f64,
}

/// Interval of `median(b) / median(a)`. `None` when either side has under two samples, or `a` a median of 0.
pub fn ratio_interval(a: &[f64], b: &[f64]) -> Option<Interval> {
    if a.len() < 2 || b.len() < 2 || median(a) == 0.0 {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let mut ratios: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let below = median(&draw(&mut rng, a));
            median(&draw(&mut rng, b)) / below
        })
        .filter(|ratio| ratio.is_finite())
        .collect();
    ratios.sort_by(f64::total_cmp);
    let at = |share: f64| ratios.get((share * (ratios.len() - 1) as f64).round() as usize).copied();
    Some(Interval { low: at(0.025)?, high: at(0.975)? })
}

/// Probability that the mean of the differences is below 0. `None` under two pairs: one shows nothing about chance.
pub fn p_below_zero(differences: &[f64]) -> Option<f64> {
    if differences.len() < 2 {
        return None;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(SEED);
    let share: f64 = (0..RESAMPLES)
        .map(|_| match draw(&mut rng, differences).iter().sum::<f64>() {
            sum if sum < 0.0 => 1.0,
            0.0 => 0.5,
            _ => 0.0,
        })
        .sum();
    Some(share / RESAMPLES as f64)
}

/// As many samples, drawn with replacement.
fn draw(rng: &mut ChaCha8Rng, from: &[f64]) -> Vec<f64> {
    from.iter().map(|_| from[(rng.next_u64() % from.len() as u64) as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 9.0]), 3.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), 3.0);
        assert_eq!(mean(&[1.0, 2.0, 6.0]), 3.0);
    }

    #[test]
    fn the_interval_holds_the_ratio_in_19_of_20_experiments() {
        // Two normal samples of 30 with medians 100 and 110; the sum of twelve uniforms is nearly normal.
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut unit = move || (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let mut sample = |centre: f64| -> Vec<f64> {
            (0..30).map(|_| centre + 5.0 * ((0..12).map(|_| unit()).sum::<f64>() - 6.0)).collect()
        };
        let mut inside = 0;
        for _ in 0..60 {
            let (a, b) = (sample(100.0), sample(110.0));
            let interval = ratio_interval(&a, &b).unwrap();
            inside += usize::from(interval.low <= 1.1 && 1.1 <= interval.high);
        }
        assert!((52..=60).contains(&inside), "{inside} of 60");
    }

    #[test]
    fn equal_samples_give_an_interval_around_one() {
        let a = [1.0, 1.1, 0.9, 1.05, 0.95];
        let Interval { low, high } = ratio_interval(&a, &a).unwrap();
        assert!(low < 1.0 && high > 1.0 && low > 0.7 && high < 1.4);
        assert_eq!(ratio_interval(&a, &a), ratio_interval(&a, &a), "the seed is fixed");
        assert_eq!(ratio_interval(&[1.0], &a), None);
        assert_eq!(ratio_interval(&[0.0, 0.0], &a), None);
    }

    #[test]
    fn pairs_that_agree_leave_no_doubt() {
        assert_eq!(p_below_zero(&[-0.1, -0.2, -0.05]), Some(1.0));
        assert_eq!(p_below_zero(&[0.1, 0.2, 0.05]), Some(0.0));
        assert_eq!(p_below_zero(&[0.0, 0.0]), Some(0.5));
        let p = p_below_zero(&[-0.3, 0.1, -0.2, 0.15, -0.1]).unwrap();
        assert!((0.55..0.95).contains(&p), "{p}");
        assert_eq!(p_below_zero(&[-1.0]), None);
    }
}
