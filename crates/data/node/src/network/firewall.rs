//! nftables rules of the node's namespace. The text is made by pure functions; every change is one transaction.
//!
//! ```text
//!   from a tap:   source address check (MAC and IPv4 of its instance, else drop)  ─▶ input: answers only
//!                 ARP: sender fields and frame address must be the instance's
//!   to a tap:     output: TCP that the node opens to that tap's instance, and answers
//!   forward:      nothing
//! ```
//! IPv6 has no element that could match, so the policy drops it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{NetworkError, Segment, mac_text};

/// Who may send from, and be reached through, a tap.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    pub(crate) tap: String,
    pub(crate) segment: Segment,
}

const TABLES: &str = r"
add table inet lambda
delete table inet lambda
add table arp lambda
delete table arp lambda
table inet lambda {
  set guests { typeof iifname . ether saddr . ip saddr; }
  set reach { typeof oifname . ip daddr; }
  chain source {
    type filter hook prerouting priority raw; policy drop;
    iifname . ether saddr . ip saddr @guests accept
  }
  chain input {
    type filter hook input priority filter; policy drop;
    ct state established,related accept
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
  }
  chain output {
    type filter hook output priority filter; policy drop;
    ct state established,related accept
    meta l4proto tcp ct state new oifname . ip daddr @reach accept
  }
}
table arp lambda {
  set guests { typeof iifname . ether saddr . arp saddr ether . arp saddr ip; }
  chain input {
    type filter hook input priority filter; policy drop;
    iifname . ether saddr . arp saddr ether . arp saddr ip @guests accept
  }
}
";

/// The whole rule set, replacing whatever is there.
pub(crate) fn replace_all(guests: &[Guest]) -> String {
    let mut text = TABLES.to_owned();
    guests.iter().for_each(|guest| elements(&mut text, "add", guest));
    text
}

/// Admits a guest; harmless when it is there.
pub(crate) fn admit(guest: &Guest) -> String {
    let mut text = String::new();
    elements(&mut text, "add", guest);
    text
}

/// Removes a guest; harmless when it is gone, since the transaction adds it first.
pub(crate) fn remove(guest: &Guest) -> String {
    let mut text = admit(guest);
    elements(&mut text, "delete", guest);
    text
}

fn elements(text: &mut String, verb: &str, guest: &Guest) {
    let (tap, mac, ip) = (&guest.tap, mac_text(guest.segment.mac), guest.segment.guest);
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "{verb} element inet lambda guests {{ \"{tap}\" . {mac} . {ip} }}\n\
         {verb} element inet lambda reach {{ \"{tap}\" . {ip} }}\n\
         {verb} element arp lambda guests {{ \"{tap}\" . {mac} . {mac} . {ip} }}\n"
    );
}

/// Applies a transaction. Must run inside the namespace.
///
/// # Errors
/// When nft is missing or refuses; then nothing has changed.
pub(crate) fn apply(nft: &Path, text: &str) -> Result<(), NetworkError> {
    let missing = |source| NetworkError::Nft { program: nft.into(), source };
    let mut child = Command::new(nft)
        .args(["-f", "-"])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes()).map_err(missing)?;
    }
    let output = child.wait_with_output().map_err(missing)?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(NetworkError::Rules(reason.lines().next().unwrap_or("no reason given").to_owned()))
}
