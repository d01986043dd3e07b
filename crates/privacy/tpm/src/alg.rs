//! Algorithm, curve and structure-tag numbers (Part 2, TPM_ALG_ID, TPM_ECC_CURVE, TPM_ST): the ones that Lambda speaks.

/// TPM_ALG_RSA.
pub const RSA: u16 = 0x0001;
/// TPM_ALG_SHA1; recognised so that it can be refused by name.
pub const SHA1: u16 = 0x0004;
/// TPM_ALG_AES.
pub const AES: u16 = 0x0006;
/// TPM_ALG_SHA256.
pub const SHA256: u16 = 0x000b;
/// TPM_ALG_SHA384.
pub const SHA384: u16 = 0x000c;
/// TPM_ALG_SHA512.
pub const SHA512: u16 = 0x000d;
/// TPM_ALG_NULL.
pub const NULL: u16 = 0x0010;
/// TPM_ALG_RSASSA.
pub const RSASSA: u16 = 0x0014;
/// TPM_ALG_RSAPSS.
pub const RSAPSS: u16 = 0x0016;
/// TPM_ALG_ECDSA.
pub const ECDSA: u16 = 0x0018;
/// TPM_ALG_ECC.
pub const ECC: u16 = 0x0023;
/// TPM_ALG_CFB.
pub const CFB: u16 = 0x0043;

/// TPM_ECC_NIST_P256.
pub const NIST_P256: u16 = 0x0003;

/// Digest length of a hash algorithm, when it is one of the SHA family.
#[must_use]
pub const fn digest_len(hash: u16) -> Option<usize> {
    match hash {
        SHA1 => Some(20),
        SHA256 => Some(32),
        SHA384 => Some(48),
        SHA512 => Some(64),
        _ => None,
    }
}
