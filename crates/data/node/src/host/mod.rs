//! What the agent takes from the host's kernel: processes in their sandbox, cgroups.

pub(crate) mod cgroup;
pub(crate) mod process;
pub(crate) mod tee;
