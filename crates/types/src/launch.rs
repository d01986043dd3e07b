//! What a confidential launch takes beside a shape and an image.

use serde::{Deserialize, Serialize};

use crate::shape::LaunchProfile;
use crate::{Binary, InstanceId};

/// Bytes of an SNP ID block (SEV-SNP Firmware ABI, ID_BLOCK).
pub const ID_BLOCK_BYTES: usize = 96;

/// Bytes of an SNP ID authentication information structure (SEV-SNP Firmware ABI, ID_AUTH).
pub const ID_AUTH_BYTES: usize = 4096;

/// Guest policy where the customer gives none: SMT allowed, the reserved bit that must be set, and nothing else: no
/// debugging, no migration agent (SEV-SNP Firmware ABI, GUEST_POLICY).
pub const SNP_POLICY: u64 = 0x3_0000;

/// Guest policy bit: the host may debug the guest.
const SNP_DEBUG: u64 = 1 << 19;

/// Guest policy bit that must be set.
const SNP_RESERVED_ONE: u64 = 1 << 17;

/// How an SNP guest is launched. Made by the customer, opaque to the operator, checked by the processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpLaunch {
    /// GUEST_POLICY.
    pub policy: u64,
    /// ID_BLOCK, [`ID_BLOCK_BYTES`]: the measurement that the processor insists on. Comes with `id_auth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_block: Option<Binary>,
    /// ID_AUTH, [`ID_AUTH_BYTES`]: the customer's keys, and the signature over the block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_auth: Option<Binary>,
}

impl Default for SnpLaunch {
    fn default() -> Self {
        Self { policy: SNP_POLICY, id_block: None, id_auth: None }
    }
}

/// Why a launch is refused before it is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// Launch data for another profile.
    #[error("`launch` is for the profile `snp` only")]
    Profile,
    /// The policy lets the host read the guest's memory.
    #[error("`launch.policy` allows debugging (bit 19): the host could read the guest's memory")]
    Debug,
    /// The firmware would refuse it.
    #[error("`launch.policy` lacks bit 17, which must be set")]
    Reserved,
    /// Half of it.
    #[error("`launch.id_block` and `launch.id_auth` come together or not at all")]
    Half,
    /// Not the structure.
    #[error("`launch.id_block` has {ID_BLOCK_BYTES} bytes and `launch.id_auth` {ID_AUTH_BYTES}")]
    Length,
}

impl SnpLaunch {
    /// Whether it could be launched under this profile.
    ///
    /// # Errors
    /// When the profile has no such launch, the policy allows debugging, or a structure has not its length.
    pub fn check(&self, profile: LaunchProfile) -> Result<(), LaunchError> {
        if profile != LaunchProfile::Snp {
            return Err(LaunchError::Profile);
        }
        if self.policy & SNP_DEBUG != 0 {
            return Err(LaunchError::Debug);
        }
        if self.policy & SNP_RESERVED_ONE == 0 {
            return Err(LaunchError::Reserved);
        }
        match (&self.id_block, &self.id_auth) {
            (None, None) => Ok(()),
            (Some(block), Some(auth)) => {
                let right = block.as_slice().len() == ID_BLOCK_BYTES && auth.as_slice().len() == ID_AUTH_BYTES;
                if right { Ok(()) } else { Err(LaunchError::Length) }
            }
            _ => Err(LaunchError::Half),
        }
    }
}

/// HOST_DATA of an SNP guest: `lambda-instance` and a zero byte, then the 16 bytes of the instance's id. The report
/// repeats it, so evidence of one instance's launch is no evidence of another's.
#[must_use]
pub fn host_data(instance: InstanceId) -> [u8; 32] {
    let mut data = [0; 32];
    let bytes = b"lambda-instance\0".iter().copied().chain(instance.to_bytes());
    for (slot, byte) in data.iter_mut().zip(bytes) {
        *slot = byte;
    }
    data
}

/// What a host has of a profile's scarce resource: ASIDs of SNP guests, TDX key ids, MiB of SGX enclave memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeeCapacity {
    /// Whose.
    pub profile: LaunchProfile,
    /// How many may be given out.
    pub slots: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launch_that_the_host_could_read_is_refused() {
        let launch = SnpLaunch::default();
        assert_eq!(launch.check(LaunchProfile::Snp), Ok(()));
        assert_eq!(launch.check(LaunchProfile::Tpm), Err(LaunchError::Profile));
        let debug = SnpLaunch { policy: SNP_POLICY | SNP_DEBUG, ..SnpLaunch::default() };
        assert_eq!(debug.check(LaunchProfile::Snp), Err(LaunchError::Debug));
        let reserved = SnpLaunch { policy: 0x1_0000, ..SnpLaunch::default() };
        assert_eq!(reserved.check(LaunchProfile::Snp), Err(LaunchError::Reserved));
        let half = SnpLaunch { id_block: Some(vec![0; ID_BLOCK_BYTES].into()), ..SnpLaunch::default() };
        assert_eq!(half.check(LaunchProfile::Snp), Err(LaunchError::Half));
        let short = SnpLaunch { id_auth: Some(vec![0; 95].into()), ..half };
        assert_eq!(short.check(LaunchProfile::Snp), Err(LaunchError::Length));
    }

    #[test]
    fn host_data_names_the_instance() {
        let data = host_data(InstanceId::from_bits(0x0102));
        assert_eq!(&data[..16], b"lambda-instance\0");
        assert_eq!(data[16..], InstanceId::from_bits(0x0102).to_bytes());
    }
}
