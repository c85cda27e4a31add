//! The check that every parameter can learn.

use backend::Train;
use model::{Params, Slot};

use super::TrainError;

/// Fails for the first parameter whose summed gradient is zero everywhere or not finite somewhere.
///
/// A gradient that is dropped on the way makes no error and still lets the loss fall: only looking
/// finds it.
pub fn check_gradients<B: Train>(backend: &mut B) -> Result<(), TrainError> {
    for p in &Params::new(&backend.config().clone()) {
        let gradient = backend.read(p.id, Slot::Gradient)?;
        let what = if !gradient.iter().all(|g| g.is_finite()) {
            "a not finite"
        } else if gradient.iter().all(|&g| g == 0.0) {
            "no"
        } else {
            continue;
        };
        return Err(TrainError::Gradient { name: p.name.clone(), what });
    }
    Ok(())
}
