//! What a customer expects of AMD SEV-SNP guests.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::anchors::AmdLine;
use crate::hexbytes::Hex;
use crate::policy::{HostDataRule, Reference, Rule};

use super::tcb::{TcbFloors, TcbParts};

/// Expectations of AMD SEV-SNP evidence. Each may be left out, and what is left out fails its check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SnpPolicy {
    /// Product lines that are good enough. A line whose keys are known to leak is refused by not naming it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<Vec<AmdLine>>,
    /// Kinds of key that may sign the report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signing_keys: Option<Vec<SigningKey>>,
    /// Whether a revocation list has to be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocation: Option<Revocation>,
    /// Chips that may run the guest. A masked chip id is none of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chip_ids: Option<Rule<Hex<64>>>,
    /// Whether the host may hide which chip it is. Only a report under a VLEK can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masked_chip_id: Option<bool>,
    /// Cloud providers whose VLEK may sign the report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub providers: Option<Rule<String>>,
    /// The least reported TCB, part by part, for each product line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_tcb: Option<TcbFloors>,
    /// The least TCB that the guest was launched under, for each product line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_launch_tcb: Option<TcbFloors>,
    /// The least version of the SNP firmware, both running and committed: `major.minor.build`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_firmware: Option<FirmwareFloor>,
    /// Whether the host may run firmware that it has not committed to and can still take back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provisional_firmware: Option<bool>,
    /// Mitigations that must have been applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mitigations: Option<MitigationRule>,
    /// What the guest's own policy has to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_policy: Option<GuestPolicyRule>,
    /// Whether a migration agent may move the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration: Option<Migration>,
    /// How the platform has to be set up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformRule>,
    /// Privilege levels (VMPL, 0 to 3) that may ask for the report. There is no way to say `any`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmpl: Option<Vec<u32>>,
    /// Launch measurement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measurement: Option<Reference<Hex<48>>>,
    /// What the host bound to the guest at launch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_data: Option<HostDataRule<Hex<32>>>,
    /// FAMILY_ID of the ID block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family_id: Option<Rule<Hex<16>>>,
    /// IMAGE_ID of the ID block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_id: Option<Rule<Hex<16>>>,
    /// The least GUEST_SVN of the ID block.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_guest_svn: Option<u32>,
    /// SHA-384 of the key that signed the ID block; zero when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_key: Option<Rule<Hex<48>>>,
    /// SHA-384 of the key that signed the ID key; zero when there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author_key: Option<Rule<Hex<48>>>,
    /// This very guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report_id: Option<Rule<Hex<32>>>,
}

/// A policy that says nothing and so refuses everything.
pub(crate) static SILENT: SnpPolicy = SnpPolicy {
    lines: None,
    signing_keys: None,
    revocation: None,
    chip_ids: None,
    masked_chip_id: None,
    providers: None,
    minimum_tcb: None,
    minimum_launch_tcb: None,
    minimum_firmware: None,
    provisional_firmware: None,
    mitigations: None,
    guest_policy: None,
    migration: None,
    platform: None,
    vmpl: None,
    measurement: None,
    host_data: None,
    family_id: None,
    image_id: None,
    minimum_guest_svn: None,
    id_key: None,
    author_key: None,
    report_id: None,
};

/// The key that signs reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SigningKey {
    /// Derived from a chip's own secret and its TCB.
    Vcek,
    /// Derived from a seed that AMD gave a cloud provider, and the TCB: says nothing of the chip.
    Vlek,
}

impl SigningKey {
    /// Its name in AMD's documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vcek => "VCEK",
            Self::Vlek => "VLEK",
        }
    }
}

/// What to do about revocation lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Revocation {
    /// There has to be one, current.
    Required,
    /// It is judged when there is one.
    IfGiven,
}

/// What a flag has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlagRule {
    /// Either: said, not left out.
    Any,
    /// One.
    Set,
    /// Zero.
    Clear,
}

/// Whether a migration agent may move the guest to another machine, and which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Migration {
    /// Whichever: said, not left out.
    Any,
    /// None may.
    Forbidden,
    /// One with one of these REPORT_IDs may.
    Agents(Vec<Hex<32>>),
}

/// Rules for the flags of the guest's policy. DEBUG has none: it is always refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GuestPolicyRule {
    /// The least ABI version that the guest insists on: major, minor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum_abi: Option<(u8, u8)>,
    /// SMT is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smt: Option<FlagRule>,
    /// Only one socket may be active.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub single_socket: Option<FlagRule>,
    /// CXL devices may be populated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cxl: Option<FlagRule>,
    /// Memory has to be encrypted with AES-256-XTS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_aes_256_xts: Option<FlagRule>,
    /// Power measurement (RAPL) has to be off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rapl_disabled: Option<FlagRule>,
    /// The host must not read the ciphertext of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ciphertext_hiding: Option<FlagRule>,
    /// The host must not swap pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page_swap_disabled: Option<FlagRule>,
}

/// Rules for the flags of PLATFORM_INFO.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlatformRule {
    /// SMT is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smt: Option<FlagRule>,
    /// Transparent memory encryption is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tsme: Option<FlagRule>,
    /// Memory corrects errors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ecc: Option<FlagRule>,
    /// Power measurement (RAPL) is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rapl_disabled: Option<FlagRule>,
    /// The host cannot read the ciphertext of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ciphertext_hiding: Option<FlagRule>,
    /// The firmware looked for memory aliases, as BadRAM makes them, and found none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias_check_complete: Option<FlagRule>,
    /// Trusted I/O is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tio: Option<FlagRule>,
    /// Some flag is set that this program does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown: Option<FlagRule>,
}

/// Bits that have to be set in the mitigation vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MitigationRule {
    /// In the vector at launch.
    pub launch: Mask,
    /// In the vector when the report was made.
    pub current: Mask,
}

/// Bits, written as `0x` and lower-case hex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mask(pub u64);

impl Serialize for Mask {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:#x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Mask {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.strip_prefix("0x").filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        digits
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("expected bits as `0x` and up to 16 hex digits"))
    }
}

/// A version of the SNP firmware, written as `major.minor.build`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirmwareFloor {
    /// API major version.
    pub major: u8,
    /// API minor version.
    pub minor: u8,
    /// Build.
    pub build: u8,
}

impl Serialize for FirmwareFloor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}.{}.{}", self.major, self.minor, self.build))
    }
}

impl<'de> Deserialize<'de> for FirmwareFloor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut parts = text.split('.').map(|part| part.parse::<u8>().ok());
        match (parts.next().flatten(), parts.next().flatten(), parts.next().flatten(), parts.next()) {
            (Some(major), Some(minor), Some(build), None) => Ok(Self { major, minor, build }),
            _ => Err(serde::de::Error::custom("expected a firmware version such as 1.55.40")),
        }
    }
}

impl SnpPolicy {
    /// What to expect when nothing else is known than what runs: any line, a VCEK, a current revocation list, committed
    /// firmware, no migration, VMPL 0, hidden aliases ruled out, host data that names the instance, no ID block demanded. Floors are those of AMD-SB-3019
    /// (loading of forged microcode): the customer raises them to what later bulletins ask for.
    #[must_use]
    pub fn for_measurement(measurement: Reference<Hex<48>>) -> Self {
        let floors = floors([(AmdLine::Milan, 0x18), (AmdLine::Genoa, 0x17), (AmdLine::Turin, 0)]);
        Self {
            minimum_tcb: Some(floors.clone()),
            minimum_launch_tcb: Some(floors),
            signing_keys: Some(vec![SigningKey::Vcek]),
            revocation: Some(Revocation::Required),
            masked_chip_id: Some(false),
            provisional_firmware: Some(false),
            platform: Some(PlatformRule { alias_check_complete: Some(FlagRule::Set), ..PlatformRule::any() }),
            vmpl: Some(vec![0]),
            migration: Some(Migration::Forbidden),
            measurement: Some(measurement),
            host_data: Some(HostDataRule::Instance),
            ..Self::default_appraisal()
        }
    }

    /// What an inspection goes by: everything that AMD vouches for must hold; nothing is expected of what runs.
    pub(crate) fn default_appraisal() -> Self {
        let lines = [AmdLine::Milan, AmdLine::Genoa, AmdLine::Turin];
        let floors = floors(lines.map(|line| (line, 0)));
        Self {
            lines: Some(lines.to_vec()),
            signing_keys: Some(vec![SigningKey::Vcek, SigningKey::Vlek]),
            revocation: Some(Revocation::IfGiven),
            chip_ids: Some(Rule::Any),
            masked_chip_id: Some(true),
            providers: Some(Rule::Any),
            minimum_tcb: Some(floors.clone()),
            minimum_launch_tcb: Some(floors),
            minimum_firmware: Some(FirmwareFloor { major: 0, minor: 0, build: 0 }),
            provisional_firmware: Some(true),
            mitigations: Some(MitigationRule { launch: Mask(0), current: Mask(0) }),
            guest_policy: Some(GuestPolicyRule::any()),
            migration: Some(Migration::Any),
            platform: Some(PlatformRule::any()),
            vmpl: Some(vec![0, 1, 2, 3]),
            measurement: Some(Reference::Any),
            host_data: Some(HostDataRule::Any),
            family_id: Some(Rule::Any),
            image_id: Some(Rule::Any),
            minimum_guest_svn: Some(0),
            id_key: Some(Rule::Any),
            author_key: Some(Rule::Any),
            report_id: Some(Rule::Any),
        }
    }
}

/// Floors of the SNP firmware alone.
fn floors(snp: [(AmdLine, u8); 3]) -> TcbFloors {
    snp.into_iter().map(|(line, snp)| (line, TcbParts { snp, ..TcbParts::zero(line) })).collect()
}

impl GuestPolicyRule {
    /// Every flag either way.
    #[must_use]
    pub fn any() -> Self {
        let any = Some(FlagRule::Any);
        Self {
            minimum_abi: Some((0, 0)),
            smt: any,
            single_socket: any,
            cxl: any,
            mem_aes_256_xts: any,
            rapl_disabled: any,
            ciphertext_hiding: any,
            page_swap_disabled: any,
        }
    }
}

impl PlatformRule {
    /// Every flag either way.
    #[must_use]
    pub fn any() -> Self {
        let any = Some(FlagRule::Any);
        Self {
            smt: any,
            tsme: any,
            ecc: any,
            rapl_disabled: any,
            ciphertext_hiding: any,
            alias_check_complete: any,
            tio: any,
            unknown: any,
        }
    }
}
