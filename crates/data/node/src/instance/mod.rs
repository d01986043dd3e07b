//! One instance: its record, its state machine, and the task that drives it.

pub(crate) mod state;
pub mod transition;
