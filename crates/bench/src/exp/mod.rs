//! Experiments: training runs with equal budgets and equal seeds, kept in a ledger and compared in pairs.

mod ledger;
mod standing;

pub use ledger::{Budget, Ledger, LedgerError, Outcome, Record};
pub use standing::{Experiment, Paired, Standing};
