//! The numbers of a model on the host, in f32.

use crate::{ModelConfig, ParamId, Params, init};

/// Every parameter of a model as f32, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    params: Params,
    values: Vec<Vec<f32>>,
}

impl Weights {
    /// All zeros.
    pub fn zeros(config: &ModelConfig) -> Self {
        let params = Params::new(config);
        let values = params.iter().map(|p| vec![0.0; p.len()]).collect();
        Self { params, values }
    }

    /// Fresh weights for training, a function of the shape and the seed alone: normal with
    /// deviation 0.02, the two projections back into the residual stream smaller by
    /// `sqrt(2·layers)`, gains 1, biases 0. Source: Radford et al. 2019 (GPT-2), §2.3.
    pub fn init(config: &ModelConfig, seed: u64) -> Self {
        let mut weights = Self::zeros(config);
        for param in &weights.params {
            init::fill(config, param, seed, &mut weights.values[param.id.index()]);
        }
        weights
    }

    /// The table of parameters.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The numbers of one parameter.
    pub fn get(&self, id: ParamId) -> &[f32] {
        &self.values[id.index()]
    }

    /// The numbers of one parameter, to change.
    pub fn get_mut(&mut self, id: ParamId) -> &mut [f32] {
        &mut self.values[id.index()]
    }
}
