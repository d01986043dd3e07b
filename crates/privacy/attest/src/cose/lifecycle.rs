use serde::{Deserialize, Serialize};

/// State of a platform's life (RFC 9783 §4.3.1; Arm RMM, CCA platform life cycle). The low byte is the maker's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifecycle {
    /// 0x00xx.
    Unknown,
    /// 0x10xx.
    AssemblyAndTest,
    /// 0x20xx: the root of trust is being provisioned.
    Provisioning,
    /// 0x30xx.
    Secured,
    /// 0x40xx: what is outside the root of trust can be debugged.
    NonRotDebug,
    /// 0x50xx: the root of trust itself can be debugged.
    RecoverableRotDebug,
    /// 0x60xx.
    Decommissioned,
    /// A number that the standard does not define.
    Invalid,
}

impl Lifecycle {
    /// From the claim.
    #[must_use]
    pub fn of(claim: u16) -> Self {
        match claim >> 8 {
            0x00 => Self::Unknown,
            0x10 => Self::AssemblyAndTest,
            0x20 => Self::Provisioning,
            0x30 => Self::Secured,
            0x40 => Self::NonRotDebug,
            0x50 => Self::RecoverableRotDebug,
            0x60 => Self::Decommissioned,
            _ => Self::Invalid,
        }
    }

    /// Whether somebody may be looking in.
    #[must_use]
    pub const fn is_debug(self) -> bool {
        matches!(self, Self::NonRotDebug | Self::RecoverableRotDebug)
    }

    /// What an inspection goes by: every state in which the platform may vouch for anything and is not debugged.
    pub(crate) const INSPECTED: [Self; 4] = [Self::Unknown, Self::AssemblyAndTest, Self::Provisioning, Self::Secured];
}

impl std::fmt::Display for Lifecycle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::AssemblyAndTest => "assembly-and-test",
            Self::Provisioning => "provisioning",
            Self::Secured => "secured",
            Self::NonRotDebug => "non-rot-debug",
            Self::RecoverableRotDebug => "recoverable-rot-debug",
            Self::Decommissioned => "decommissioned",
            Self::Invalid => "invalid",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_low_byte_is_the_makers_own() {
        assert_eq!(Lifecycle::of(0x3000), Lifecycle::Secured);
        assert_eq!(Lifecycle::of(0x30ff), Lifecycle::Secured);
        assert_eq!(Lifecycle::of(0x3100), Lifecycle::Invalid);
        assert_eq!(Lifecycle::of(0x4000), Lifecycle::NonRotDebug);
        assert!(Lifecycle::of(0x5001).is_debug() && Lifecycle::of(0x4000).is_debug());
        assert!(!Lifecycle::of(0x6000).is_debug());
    }
}
