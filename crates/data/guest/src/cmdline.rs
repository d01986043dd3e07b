//! The measured kernel command line: the only configuration that the guest trusts before a release.

use crate::failure::{Because, Failure};
use lambda_types::guest::FailureReason;

/// What the command line says about the root file system; `lambda.root_hash=`, `lambda.root_salt=`, `lambda.root_size=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootParameters {
    /// dm-verity root hash, lower-case hex.
    pub hash: String,
    /// dm-verity salt, lower-case hex, possibly empty.
    pub salt: String,
    /// Bytes of data; the hash tree follows.
    pub data_bytes: u64,
}

/// Why the command line does not describe a root file system.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    /// The parameter is missing or stands there more than once.
    #[error("the kernel command line must name {0} exactly once")]
    NotOnce(&'static str),
    /// The parameter's value is malformed.
    #[error("the kernel command line's {0} is malformed")]
    Malformed(&'static str),
}

const HASH: &str = "lambda.root_hash";
const SALT: &str = "lambda.root_salt";
const SIZE: &str = "lambda.root_size";
const MOST_SALT_DIGITS: usize = 512;

impl RootParameters {
    /// Finds the parameters.
    ///
    /// # Errors
    /// When one is missing, repeated or malformed.
    pub fn parse(command_line: &str) -> Result<Self, CommandLineError> {
        let hash = value(command_line, HASH)?;
        if hash.len() != 64 || !is_hex(hash) {
            return Err(CommandLineError::Malformed(HASH));
        }
        let salt = value(command_line, SALT)?;
        if salt.len() > MOST_SALT_DIGITS || !salt.len().is_multiple_of(2) || !is_hex(salt) {
            return Err(CommandLineError::Malformed(SALT));
        }
        let data_bytes: u64 = value(command_line, SIZE)?.parse().map_err(|_| CommandLineError::Malformed(SIZE))?;
        if data_bytes == 0 || !data_bytes.is_multiple_of(4096) {
            return Err(CommandLineError::Malformed(SIZE));
        }
        Ok(Self { hash: hash.to_owned(), salt: salt.to_owned(), data_bytes })
    }

    /// Reads and parses `/proc/cmdline`.
    ///
    /// # Errors
    /// [`FailureReason::RootIntegrity`].
    pub fn of_this_boot() -> Result<Self, Failure> {
        let text = std::fs::read_to_string("/proc/cmdline").because(FailureReason::RootIntegrity, "/proc/cmdline")?;
        Self::parse(&text).because(FailureReason::RootIntegrity, "command line")
    }
}

fn value<'a>(command_line: &'a str, name: &'static str) -> Result<&'a str, CommandLineError> {
    let mut values = command_line
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')));
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value),
        _ => Err(CommandLineError::NotOnce(name)),
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(hash: &str, salt: &str, size: &str) -> String {
        format!("panic=-1 lambda.root_hash={hash} lambda.root_salt={salt} lambda.root_size={size} quiet initrd=initrd")
    }

    #[test]
    fn a_complete_command_line_is_read() {
        let hash = "ab".repeat(32);
        let read = RootParameters::parse(&line(&hash, "00ff", "8192")).unwrap();
        assert_eq!(read, RootParameters { hash, salt: "00ff".into(), data_bytes: 8192 });
    }

    #[test]
    fn missing_repeated_and_malformed_parameters_are_refused() {
        let hash = "ab".repeat(32);
        let good = line(&hash, "00ff", "8192");
        assert_eq!(RootParameters::parse("quiet"), Err(CommandLineError::NotOnce(HASH)));
        assert_eq!(RootParameters::parse(&format!("{good} {good}")), Err(CommandLineError::NotOnce(HASH)));
        for (bad, name) in [
            (line("ab", "00", "4096"), HASH),
            (line(&"AB".repeat(32), "00", "4096"), HASH),
            (line(&hash, "0", "4096"), SALT),
            (line(&hash, "00", "4095"), SIZE),
            (line(&hash, "00", "0"), SIZE),
            (line(&hash, "00", "-1"), SIZE),
        ] {
            assert_eq!(RootParameters::parse(&bad), Err(CommandLineError::Malformed(name)), "{bad}");
        }
    }
}
