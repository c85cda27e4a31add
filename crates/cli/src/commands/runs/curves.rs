//! Curves of runs, ready for [`crate::plot`].

use super::run::{Metrics, Run};
use crate::failure::Failure;
use crate::plot::{Chart, Line, Series, svg};

/// What goes to the right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum X {
    /// Updates
    Step,
    /// Tokens trained on
    Tokens,
    /// Time spent in training steps
    Time,
}

/// What goes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Y {
    /// Training loss
    Loss,
    /// Bits per byte of the validation data
    ValBpb,
    /// Norm of the gradient before clipping
    GradNorm,
    /// Learning rate
    Lr,
    /// Speed
    TokPerS,
}

/// The picture, as SVG.
pub fn picture(runs: &[Run], x: X, y: Y, log: bool, smooth: Option<usize>) -> anyhow::Result<String> {
    let (title, y_label) = match y {
        Y::Loss => ("Training loss", "nats per token"),
        Y::ValBpb => ("Validation", "bits per byte"),
        Y::GradNorm => ("Norm of the gradient", "before clipping"),
        Y::Lr => ("Learning rate", ""),
        Y::TokPerS => ("Speed", "tokens per second"),
    };
    let mut series = Vec::new();
    for run in runs {
        let metrics = run.curve()?;
        let points = points(metrics, x, y);
        if points.is_empty() {
            let text = format!("{} has no validation yet; choose another --y", run.dir.display());
            return Err(Failure::Usage(text).into());
        }
        let line = match y {
            Y::ValBpb => Line::Exact,
            // A schedule has no noise.
            Y::Lr => Line::Noisy(0),
            _ => Line::Noisy(smooth.map_or(points.len() / 60, |steps| steps / 2)),
        };
        series.push(Series { name: run.name.clone(), points, line });
    }
    let right = series.iter().filter_map(|s| s.points.last()).map(|p| p.0).fold(0.0, f64::max);
    let (unit, x_label) = unit(x, right);
    series.iter_mut().flat_map(|s| &mut s.points).for_each(|point| point.0 /= unit);
    svg(&Chart {
        title: title.into(),
        x_label: x_label.into(),
        y_label: y_label.into(),
        log,
        series,
        notes: Vec::new(),
    })
}

fn points(metrics: &Metrics, x: X, y: Y) -> Vec<(f64, f64)> {
    let right = |step: u64| match (x, metrics.at_step(step)) {
        (X::Step, _) => step as f64,
        (X::Tokens, at) => at.map_or(0.0, |s| s.tokens as f64),
        (X::Time, at) => at.map_or(0.0, |s| s.seconds),
    };
    if y == Y::ValBpb {
        return metrics.evals.iter().map(|e| (right(e.step), e.val_bpb)).collect();
    }
    let up = |s: &super::run::Step| match y {
        Y::Loss | Y::ValBpb => s.loss,
        Y::GradNorm => s.grad_norm,
        Y::Lr => s.lr,
        Y::TokPerS => s.tok_per_s,
    };
    let along = |s: &super::run::Step| match x {
        X::Step => s.step as f64,
        X::Tokens => s.tokens as f64,
        X::Time => s.seconds,
    };
    metrics.steps.iter().map(|s| (along(s), up(s))).collect()
}

/// The unit in which the largest value has few digits, and the words for it.
fn unit(x: X, largest: f64) -> (f64, &'static str) {
    match (x, largest) {
        (X::Step, _) => (1.0, "step"),
        (X::Tokens, n) if n >= 2e9 => (1e9, "tokens, billions"),
        (X::Tokens, n) if n >= 2e6 => (1e6, "tokens, millions"),
        (X::Tokens, n) if n >= 2e3 => (1e3, "tokens, thousands"),
        (X::Tokens, _) => (1.0, "tokens"),
        (X::Time, s) if s >= 3.0 * 3600.0 => (3600.0, "training time, hours"),
        (X::Time, s) if s >= 180.0 => (60.0, "training time, minutes"),
        (X::Time, _) => (1.0, "training time, seconds"),
    }
}
