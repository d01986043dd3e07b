//! A simulated confidential processor, for tests alone: made-up vendors, and a program that stands where a node expects QEMU
//! and acts as processor and firmware of SEV-SNP guests and TDX trust domains.
//!
//! ```text
//!   node ── QEMU's arguments ──▶ simulated-tee-qemu ── measures firmware, kernel, initramfs, command line
//!                                   │                  holds the ID block to it, as the SNP firmware does
//!                                   ├── child: reports over what the guest asks, signed under a made-up root
//!                                   └── exec ──▶ the real QEMU, software emulation, port `lambda.tee` ──▶ child
//! ```
//!
//! Nothing is hidden from the host, and the guest does not boot through the firmware that was measured: what is shown is
//! the way of measurements, reports, collateral and policies from launch to release, not the protection. The roots are made
//! of keys that stand in the source tree; no shipped program can be told to trust them.
//!
//! The program reads `tee.json` beside itself at each start: see [`Setup`].

mod amd;
mod arguments;
mod bundle;
mod events;
mod firmware;
mod host;
mod id_block;
pub mod image;
mod intel;
mod launch;
mod processor;
mod setup;
mod vendor;

pub use setup::{Operator, Setup, install};
pub use vendor::Vendor;

use std::process::ExitCode;

/// The program: with QEMU's arguments, or as the processor of a guest.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let done = match arguments.split_first() {
        Some((first, rest)) if first == image::COMMAND => image::command(rest),
        Some((first, rest)) if first == processor::COMMAND => processor::serve(rest),
        _ => host::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("simulated-tee-qemu: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What may go wrong is told, not handled.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;
