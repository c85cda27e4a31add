//! The learning rate over a run.
//!
//! ```text
//! warm-up:   (n + 1) / warmup                                   for n < warmup
//! constant:  1
//! cosine:    f + (1 − f)·½(1 + cos π·p)     p = progress after the warm-up, f = final_lr
//! wsd:       1, then 1 − (1 − f)·d          d = progress through the last `decay` of the run
//! ```
//!
//! Sources: Loshchilov & Hutter 2017, arXiv:1608.03983 (cosine); Hu et al. 2024, arXiv:2404.06395
//! (warm-up, stable, decay).

use serde::{Deserialize, Serialize};

use crate::config::OptimizerConfig;

/// Shape of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Falls along half a cosine.
    Cosine,
    /// Stable, then falls in a line.
    Wsd,
    /// Stable.
    Constant,
}

impl Schedule {
    /// Share of the peak learning rate for the update after `updates` of `total`.
    pub fn factor(self, config: &OptimizerConfig, updates: u64, total: u64) -> f32 {
        // A warm-up longer than the run would never reach the peak.
        let warmup = config.warmup.min(total / 2);
        if updates < warmup {
            return (updates + 1) as f32 / warmup as f32;
        }
        let last = config.final_lr;
        let share =
            |from: f64| ((updates as f64 - from) / (total as f64 - from).max(1.0)).clamp(0.0, 1.0) as f32;
        match self {
            Schedule::Constant => 1.0,
            Schedule::Cosine => {
                let p = share(warmup as f64);
                last + (1.0 - last) * 0.5 * (1.0 + (std::f32::consts::PI * p).cos())
            }
            Schedule::Wsd => {
                let start = (total as f64 * (1.0 - f64::from(config.decay))).max(warmup as f64);
                if (updates as f64) < start { 1.0 } else { 1.0 - (1.0 - last) * share(start) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(schedule: Schedule, total: u64) -> Vec<f32> {
        let config =
            OptimizerConfig { warmup: 10, final_lr: 0.1, decay: 0.2, schedule, ..Default::default() };
        (0..=total).map(|n| schedule.factor(&config, n, total)).collect()
    }

    #[test]
    fn rises_to_the_peak_and_ends_where_told() {
        for (schedule, last) in [(Schedule::Cosine, 0.1), (Schedule::Wsd, 0.1), (Schedule::Constant, 1.0)] {
            let curve = curve(schedule, 100);
            assert_eq!(curve[0], 0.1);
            assert_eq!(curve[9], 1.0);
            assert!((curve[100] - last).abs() < 1e-6, "{schedule:?} ends at {}", curve[100]);
            assert!(curve[10..].windows(2).all(|w| w[0] >= w[1]), "{schedule:?} rises after the warm-up");
        }
        let wsd = curve(Schedule::Wsd, 100);
        assert_eq!(wsd[79], 1.0);
        assert!((wsd[90] - 0.55).abs() < 1e-6);
    }

    #[test]
    fn a_run_shorter_than_its_warm_up_still_peaks() {
        assert!(curve(Schedule::Cosine, 6).contains(&1.0));
        assert!(curve(Schedule::Cosine, 1).iter().all(|f| f.is_finite()));
    }
}
