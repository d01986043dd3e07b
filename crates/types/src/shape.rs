//! Shapes: the fixed sizes an instance may have.
//!
//! Memory and processor count enter the launch measurement (the firmware's platform information and the kernel's
//! setup header), so a shape is part of what a customer verifies, and the list is closed.

use serde::{Deserialize, Serialize};

/// Bytes in a mebibyte.
pub const MIB: u64 = 1024 * 1024;

/// Bytes in a gibibyte.
pub const GIB: u64 = 1024 * MIB;

/// A named size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// 1 vCPU, 512 MiB.
    Nano,
    /// 1 vCPU, 1 GiB.
    Micro,
    /// 2 vCPUs, 2 GiB.
    Small,
    /// 2 vCPUs, 4 GiB.
    Medium,
    /// 4 vCPUs, 8 GiB.
    Large,
}

impl Shape {
    /// Every shape, smallest first.
    pub const ALL: [Self; 5] = [Self::Nano, Self::Micro, Self::Small, Self::Medium, Self::Large];

    /// Number of virtual processors.
    #[must_use]
    pub const fn vcpus(self) -> u32 {
        match self {
            Self::Nano | Self::Micro => 1,
            Self::Small | Self::Medium => 2,
            Self::Large => 4,
        }
    }

    /// Guest memory in MiB.
    #[must_use]
    pub const fn memory_mib(self) -> u64 {
        match self {
            Self::Nano => 512,
            Self::Micro => 1024,
            Self::Small => 2048,
            Self::Medium => 4096,
            Self::Large => 8192,
        }
    }

    /// The name that the API and the CLI use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nano => "nano",
            Self::Micro => "micro",
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|shape| shape.name() == text)
            .ok_or_else(|| format!("unknown shape `{text}`; one of nano, micro, small, medium, large"))
    }
}

/// How an instance is launched, which decides the root of trust of its evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum LaunchProfile {
    /// OVMF firmware, measured boot into a vTPM that the operator's node provides: tier `platform`.
    #[default]
    Tpm,
    /// AMD SEV-SNP: tier `hardware`.
    Snp,
    /// Intel TDX: tier `hardware`.
    Tdx,
    /// As `tpm`, with enclave memory for the guest's own SGX enclaves. The guest itself is of tier `platform`.
    Sgx,
    /// Arm CCA: tier `hardware`.
    Cca,
}

impl LaunchProfile {
    /// Every profile.
    pub const ALL: [Self; 5] = [Self::Tpm, Self::Snp, Self::Tdx, Self::Sgx, Self::Cca];

    /// The name that the API and the CLI use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tpm => "tpm",
            Self::Snp => "snp",
            Self::Tdx => "tdx",
            Self::Sgx => "sgx",
            Self::Cca => "cca",
        }
    }

    /// How strong the root of trust of the guest's evidence is.
    #[must_use]
    pub const fn tier(self) -> Tier {
        match self {
            Self::Tpm | Self::Sgx => Tier::Platform,
            Self::Snp | Self::Tdx | Self::Cca => Tier::Hardware,
        }
    }

    /// Whether the node gives the guest a vTPM.
    #[must_use]
    pub const fn has_vtpm(self) -> bool {
        matches!(self.tier(), Tier::Platform)
    }
}

impl std::fmt::Display for LaunchProfile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for LaunchProfile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.name() == text)
            .ok_or_else(|| format!("unknown launch profile `{text}`; one of tpm, snp, tdx, sgx, cca"))
    }
}

/// How strong the root of trust is. Ordered: a policy names the least it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Measured boot with a vTPM that the operator's node provides; guest memory is not hidden from the host.
    Platform,
    /// AMD SEV-SNP, Intel TDX, Intel SGX, Arm CCA: guest memory is hidden from the host.
    Hardware,
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Platform => "platform",
            Self::Hardware => "hardware",
        })
    }
}
