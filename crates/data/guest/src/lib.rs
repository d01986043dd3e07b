//! `lambda-guest`: PID 1 of the measured initramfs, and the agent that stays when init has taken over.
//!
//! ```text
//!   boot ── mount, open the channel ──┬── session: Start, Hello, Challenge, Evidence, Release ──┐
//!                                     ├── vTPM keys                                             ├─▶ volume ─▶ overlay
//!                                     └── modules, verity root, header of the volume ───────────┘       │
//!                                                                     agent ◀── spawn ── switch root ◀──┘
//!                                                                                           └─▶ exec /sbin/init
//! ```
//!
//! Before the release there is nothing to protect: any failure is reported with its code, and the machine powers off.
//! After it, secrets live in this process's memory, on tmpfs and on the encrypted volume, and nowhere else: there is no
//! path that mounts a disk without the volume key. At the very end the program comes back as PID 1 and closes the volume
//! ([`shutdown`]). Blocking I/O and few processes, because emulated machines are slow.

pub mod agent;
pub mod channel;
pub mod cmdline;
pub mod dm;
pub mod failure;
pub mod filesystem;
pub mod health;
pub mod init;
pub mod kmsg;
pub mod link;
pub mod luks;
pub mod modules;
pub mod mounts;
pub mod network;
pub mod personality;
pub mod power;
pub mod process;
pub mod root;
pub mod session;
pub mod shutdown;
#[cfg(feature = "simulated-tee")]
pub mod simulated;
pub mod tpm;
pub mod trust;
pub mod tsm;
pub mod volume;
