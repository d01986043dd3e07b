//! QEMU: its command line, its monitor, and the probe of what accelerates it.

pub(crate) mod arguments;
pub(crate) mod launch;
pub(crate) mod probe;
pub(crate) mod qmp;
