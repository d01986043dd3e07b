//! QEMU: its command line, its monitor, and the probes of what it can do here.

pub(crate) mod arguments;
pub(crate) mod launch;
pub(crate) mod probe;
pub(crate) mod probe_guest;
pub(crate) mod qmp;
