//! Experiments as a picture: every mean, and the lowest so far.

use bench::exp::Standing;

use crate::plot::{Chart, Line, Note, Series, svg};

/// Draws the experiments of a budget.
pub fn picture(standing: &Standing<'_>) -> anyhow::Result<String> {
    let (mut all, mut lead, mut notes) = (Vec::new(), Vec::<(f64, f64)>::new(), Vec::new());
    for (i, ((experiment, mean), led)) in standing.experiments.iter().zip(standing.led()).enumerate() {
        let x = (i + 1) as f64;
        let Some(mean) = *mean else { continue };
        all.push((x, mean));
        if let Some(&(_, before)) = lead.last() {
            lead.push((x, before));
        }
        if led {
            lead.push((x, mean));
            let text: String = experiment.first().desc.chars().take(44).collect();
            notes.push(Note { at: (x, mean), text });
        }
    }
    let runs = standing.seeds.len();
    svg(&Chart {
        title: format!("Experiments of {} per run", standing.budget),
        x_label: "experiment".into(),
        y_label: format!("bits per byte, mean of {runs} seed{}", if runs == 1 { "" } else { "s" }),
        log: false,
        series: vec![
            Series { name: "every experiment".into(), points: all, line: Line::Dots },
            Series { name: "best so far".into(), points: lead, line: Line::Noisy(0) },
        ],
        notes,
    })
}
