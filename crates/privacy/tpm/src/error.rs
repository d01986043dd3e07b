/// What can go wrong with a TPM structure or command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The transport failed; the text is the transport's own.
    #[error("the TPM cannot be reached: {0}")]
    Transport(String),
    /// The TPM answered with an error code (Part 2, TPM_RC).
    #[error("the TPM refused {command} with response code {code:#06x}")]
    Refused {
        /// Name of the command.
        command: &'static str,
        /// TPM_RC.
        code: u32,
    },
    /// A structure ends before its last field.
    #[error("{what} is cut short at byte {at}")]
    Truncated {
        /// The structure.
        what: &'static str,
        /// Offset of the field that is not there.
        at: usize,
    },
    /// Bytes follow a complete structure.
    #[error("{what} is followed by {count} bytes that do not belong to it")]
    Trailing {
        /// The structure.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// A field has a value that it must not have.
    #[error("{what}: {why}")]
    Malformed {
        /// The structure.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A length is beyond its bound.
    #[error("{what} is longer than {limit} bytes")]
    TooLong {
        /// The structure.
        what: &'static str,
        /// Most bytes it may have.
        limit: usize,
    },
    /// A well-formed structure that uses an algorithm outside the supported list.
    #[error("{what} uses algorithm {algorithm:#06x}, which is not supported")]
    Unsupported {
        /// The structure.
        what: &'static str,
        /// TPM_ALG_ID or TPM_ECC_CURVE.
        algorithm: u16,
    },
}
