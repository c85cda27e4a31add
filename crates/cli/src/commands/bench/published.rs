//! Losses and memory that ncdrone/rustane published beside its times. None is ours.

use ane_bridge::predict::{Measured, PUBLISHED};

/// What explains the difference between the published losses and ours.
pub const WHY: &str = "The published losses fall much less because two of that engine's backward programs (ffnBwdW13t \
     and kvBwd) read their four operands in another order than its host packed them, so that most of the gradient was \
     noise; found by reading its source, not run on Apple hardware by us. Its times are not touched by that.";

/// The rules of its runs, in a line.
pub const PROTOCOL: &str =
    "the published protocol: the original's weights, tokens and learning rates; one sequence a step";

/// Where the figures are from.
pub const SOURCE: &str = "ncdrone/rustane on an M4 Max: README.md and results/2026-03-18_1830_param-sweep.md";

/// Losses before and after ten steps, nats per token.
const LOSSES: &[(&str, f64, f64)] = &[
    ("600m-a", 9.0108, 8.9857),
    ("600m-b", 9.014, 8.998),
    ("600m-c", 9.018, 8.984),
    ("600m-d", 9.011, 8.982),
    ("600m-e", 9.006, 8.962),
    ("1b-a", 9.018, 8.996),
    ("1b-b", 9.018, 9.002),
    ("1b-c", 9.026, 8.992),
    ("1b-d", 9.018, 8.988),
    ("1b-e", 9.020, 8.968),
    ("1.5b-a", 9.026, 9.002),
    ("1.5b-b", 9.018, 9.002),
    ("1.5b-c", 9.035, 9.008),
    ("1.5b-d", 9.026, 8.994),
    ("1.5b-e", 9.029, 8.976),
    ("3b-a", 9.035, 9.019),
    ("3b-b", 9.026, 9.009),
    ("3b-c", 9.065, 9.043),
    ("3b-d", 9.035, 9.008),
    ("3b-e", 9.028, 8.982),
    ("5b-a", 9.065, 9.054),
    ("5b-b", 9.035, 9.025),
    ("5b-c", 9.145, 9.154),
    ("5b-d", 9.065, 9.044),
    ("5b-e", 9.068, 9.019),
];

/// Estimated gigabytes of a training run, by scale.
const TRAINING_GB: &[(&str, f64)] =
    &[("600m", 12.0), ("1b", 25.0), ("1.5b", 30.0), ("3b", 55.0), ("5b", 85.0)];

/// Estimated gigabytes of a forward pass, and its loss where one was printed.
const FORWARD: &[(&str, f64, Option<f64>)] = &[
    ("5b", 25.2, None),
    ("7b", 31.1, Some(9.3228)),
    ("10b", 46.4, None),
    ("13b", 58.6, None),
    ("15b", 70.2, None),
    ("20b", 93.3, None),
    ("25b", 116.5, None),
    ("30b", 130.4, None),
];

/// Times on the M4 Max, of a sweep's configuration or of `fwd-` and a name of the ladder.
pub fn times(name: &str) -> Option<&'static Measured> {
    PUBLISHED.iter().find(|m| m.chip == "M4 Max" && m.name.eq_ignore_ascii_case(name))
}

/// Losses before and after ten steps.
pub fn losses(name: &str) -> Option<(f64, f64)> {
    LOSSES.iter().find(|row| row.0 == name).map(|row| (row.1, row.2))
}

/// Estimated gigabytes of training.
pub fn training_gb(name: &str) -> Option<f64> {
    let scale = name.split_once('-')?.0;
    TRAINING_GB.iter().find(|row| row.0 == scale).map(|row| row.1)
}

/// Estimated gigabytes of a forward pass, and its loss.
pub fn forward(name: &str) -> Option<(f64, Option<f64>)> {
    FORWARD.iter().find(|row| row.0 == name).map(|row| (row.1, row.2))
}

#[cfg(test)]
mod tests {
    use engine::presets::Preset;

    use super::*;

    #[test]
    fn every_published_row_has_its_preset_shape_and_times() {
        let shape = |name: &str| -> engine::RunConfig {
            toml::from_str(Preset::find(name).unwrap_or_else(|| panic!("no preset {name}")).text).unwrap()
        };
        let check = |name: &str, preset: &str| {
            let (row, c) = (times(name).unwrap_or_else(|| panic!("no times of {name}")), shape(preset));
            let model = (c.model.dim, c.model.hidden, c.model.layers, c.train.seq);
            assert_eq!((row.model.dim, row.model.hidden, row.model.layers, row.model.seq), model, "{name}");
        };
        assert_eq!(LOSSES.len(), 25);
        for (name, ..) in LOSSES {
            check(name, name);
            assert!(training_gb(name).is_some(), "{name}");
        }
        for (name, ..) in FORWARD {
            check(&format!("fwd-{name}"), if *name == "5b" { "5b-a" } else { name });
        }
    }
}
