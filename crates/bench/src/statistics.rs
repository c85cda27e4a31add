//! Medians, intervals by percentile bootstrap with a fixed seed, and the paired t.
//!
//! ```text
//! ratio       median(b*) / median(a*), a* and b* drawn with replacement from a and b, each by itself
//! interval    2.5 % and 97.5 % quantiles of the ratio over RESAMPLES draws
//! P(better)   F(−d̄ / e),  e = s / √n,  F Student's t with n − 1 degrees of freedom
//! ```
//!
//! A bootstrap of few pairs cannot doubt what it has not seen: two that agree would give 1. Student's t knows that
//! the spread of two is hardly known. Sources: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter
//! 13; Student 1908, The Probable Error of a Mean.

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

/// Probability that the mean of what the differences are samples of is below 0, if they are nearly normal. The
/// standard error counts as `least` at least, so that equal differences leave a doubt too. `None` under two pairs:
/// one shows nothing about chance.
pub fn p_below_zero(differences: &[f64], least: f64) -> Option<f64> {
    let n = differences.len();
    if n < 2 {
        return None;
    }
    let mean = mean(differences);
    let squares: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
    let error = (squares / (n - 1) as f64 / n as f64).sqrt().max(least);
    Some(student(-mean / error, n - 1))
}

/// Student's distribution function for whole degrees of freedom. Source: Abramowitz and Stegun 1964, 26.7.3 and
/// 26.7.4.
fn student(t: f64, freedom: usize) -> f64 {
    let angle = (t / (freedom as f64).sqrt()).atan();
    let (sin, cos) = angle.sin_cos();
    // Odd degrees: θ + sin θ (cos θ + ⅔ cos³ θ + …), times 2/π; even ones: sin θ (1 + ½ cos² θ + …).
    let odd = freedom % 2 == 1;
    let mut term = if odd { cos } else { 1.0 };
    let mut sum = 0.0;
    for k in 0..freedom / 2 {
        sum += term;
        let k = k as f64;
        let factor = if odd { (2.0 * k + 2.0) / (2.0 * k + 3.0) } else { (2.0 * k + 1.0) / (2.0 * k + 2.0) };
        term *= factor * cos * cos;
    }
    let within = if odd { (angle + sin * sum) / std::f64::consts::FRAC_PI_2 } else { sin * sum };
    0.5 + 0.5 * within
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
    fn few_pairs_that_agree_leave_a_doubt() {
        let p = |differences: &[f64]| p_below_zero(differences, 1e-3).unwrap();
        // ½ + atan(15)/π: the mean is fifteen standard errors away.
        assert!((p(&[-0.16, -0.14]) - 0.978_81).abs() < 1e-5);
        let equal = p(&[-0.2, -0.2]);
        assert!((0.99..0.9999).contains(&equal), "{equal}");
        let (two, three, six) =
            (p(&[-0.1, -0.2]), p(&[-0.1, -0.2, -0.15]), p(&[-0.1, -0.2, -0.15, -0.1, -0.2, -0.15]));
        assert!(two < 0.95 && two < three && three < six && six < 1.0, "{two} {three} {six}");
        assert!((two + p(&[0.1, 0.2]) - 1.0).abs() < 1e-12);
        assert_eq!(p(&[0.0, 0.0]), 0.5);
        assert!((0.55..0.95).contains(&p(&[-0.3, 0.1, -0.2, 0.15, -0.1])));
        assert_eq!(p_below_zero(&[-1.0], 1e-3), None);
    }

    #[test]
    fn student_is_that_of_the_tables() {
        for (freedom, t) in [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (30, 2.0423)] {
            assert!((student(t, freedom) - 0.975).abs() < 1e-5, "{freedom}");
            assert!((student(-t, freedom) - 0.025).abs() < 1e-5, "{freedom}");
        }
    }
}
