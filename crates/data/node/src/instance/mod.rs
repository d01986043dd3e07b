//! One instance: its record, its state machine, and the task that drives it.

mod guest;
mod launch;
pub(crate) mod rebuild;
pub(crate) mod state;
pub(crate) mod task;
pub mod transition;
mod volume;
