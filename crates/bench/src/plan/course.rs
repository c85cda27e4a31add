//! Memory over the course of a run: what is held throughout, and what each phase adds.

use backend::Footprint;
use model::ModelConfig;

/// A part of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// What it touches.
    pub footprint: Footprint,
}

/// The phases of a run, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Course(Vec<Phase>);

impl Course {
    /// Training: weights are drawn beside the backend and copied into it, then come the steps. `held` is
    /// the backend's; `program` what the process had before.
    pub fn training(held: &Footprint, model: &ModelConfig, program: u64) -> Self {
        let mut start = Footprint::default();
        start.add("the program", program);
        for what in ["weights", "rotary positions"] {
            start.add(what, held.of(what));
        }
        start.add("first weights, drawn", 4 * model.param_count());
        let mut steps = held.clone();
        steps.add("the program", program);
        Self(vec![
            Phase { name: "first weights", footprint: start },
            Phase { name: "steps", footprint: steps },
        ])
    }

    /// The same with samples: a copy of the weights, from which the writer is built while the copy lasts.
    #[must_use]
    pub fn with_samples(mut self, model: &ModelConfig, writer: &Footprint) -> Self {
        let Some(steps) = self.0.last() else { return self };
        let mut footprint = steps.footprint.clone();
        footprint.add("copy of the weights", 4 * model.param_count());
        footprint.add("the writer of samples", writer.total());
        self.0.push(Phase { name: "samples", footprint });
        self
    }

    /// One phase that lasts: serving.
    pub fn steady(name: &'static str, footprint: Footprint) -> Self {
        Self(vec![Phase { name, footprint }])
    }

    /// A phase more, in front.
    #[must_use]
    pub fn after(mut self, name: &'static str, footprint: Footprint) -> Self {
        self.0.insert(0, Phase { name, footprint });
        self
    }

    /// All phases.
    pub fn phases(&self) -> &[Phase] {
        &self.0
    }

    /// The phase that takes most; of equal ones the first.
    ///
    /// # Panics
    /// Never: every course has a phase.
    pub fn peak(&self) -> &Phase {
        let (first, rest) = self.0.split_first().expect("every constructor makes a phase");
        rest.iter().fold(first, |peak, phase| if phase.total() > peak.total() { phase } else { peak })
    }

    /// Bytes at the peak.
    pub fn bytes(&self) -> u64 {
        self.peak().total()
    }
}

impl Phase {
    /// Its bytes.
    pub fn total(&self) -> u64 {
        self.footprint.total()
    }
}
