//! The node agent as a process of its own, against a control plane of the test's, with real swtpm, namespaces, cgroups
//! and nftables. Needs root.

mod faults;
mod harness;
mod kills;
mod lifecycle;

mod real;
mod tunnels;
