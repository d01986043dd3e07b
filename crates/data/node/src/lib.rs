//! The node agent.
mod channel;
mod host;
mod images;
mod instance;
mod layout;
mod network;
mod qemu;
mod vtpm;
