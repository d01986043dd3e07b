//! Why a cryptographic operation was refused. No variant carries a plaintext or a key.

use std::path::PathBuf;

use crate::KeyId;

/// Why a cryptographic operation was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system gave no randomness.
    #[error("the operating system gave no randomness: {0}")]
    Random(#[from] getrandom::Error),
    /// A key file could not be read or written.
    #[error("cannot access the key file {path}: {source}")]
    KeyFile {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A key file that others may read.
    #[error("the key file {path} has mode {mode:04o}: make it private with `chmod 600`, and consider the key exposed")]
    KeyFileMode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A key file that is not a regular file of exactly 32 bytes.
    #[error("{path} is not a key file: expected a regular file of 32 bytes")]
    KeyFileContent {
        /// Which file.
        path: PathBuf,
    },
    /// Wrapped under another master key.
    #[error("this project key is wrapped under another master key")]
    OtherMasterKey,
    /// Sealed under another key than the one given.
    #[error("sealed under key {id} version {version}, which is not the key at hand")]
    OtherKey {
        /// The key that is needed.
        id: KeyId,
        /// Its version.
        version: u32,
    },
    /// The format version is not known to this program.
    #[error("format version {0} is not known to this program: update it")]
    Format(u8),
    /// The ciphertext is not authentic for this key, object and kind.
    #[error("the ciphertext is not authentic: altered, or it belongs to another object")]
    NotAuthentic,
    /// The bytes end early, are too long, or do not follow the format.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// A value is outside its bounds.
    #[error("{0}")]
    Invalid(&'static str),
    /// A signing key that is not what it should be. Says nothing of its content.
    #[error(
        "not an ECDSA P-384 private key in PKCS #8 PEM, as `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384` makes one"
    )]
    SigningKey,
    /// The ID block's signatures do not hold.
    #[error("the ID block is not authentic: {0}")]
    IdBlock(&'static str),
    /// The recipient's public key is not usable.
    #[error("the recipient's public key is not a usable X25519 key")]
    PublicKey,
    /// The release does not open with this key and context.
    #[error("the release does not open: made for another guest, boot, nonce or policy, or altered")]
    Release,
    /// A sealed report with a counter that is not newer than the last one accepted.
    #[error("the report was replayed or re-ordered")]
    Replay,
    /// A direction's message counter is used up.
    #[error("no message counter is left in this direction")]
    CounterExhausted,
}
