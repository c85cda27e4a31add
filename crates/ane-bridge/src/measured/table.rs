//! Written by `rustane ane lab merge` from reports of Macs; not changed by hand.

use super::Measured;

pub const MEASURED: &[Measured] = &[];
