//! The attestation report: 1184 bytes, of which the first 672 are signed (SEV-SNP ABI, ATTESTATION_REPORT).
//!
//! Fields are read in the order of the table, little-endian, and nothing is interpreted that the version does not have.
//! What the table reserves is not skipped but remembered when it is not zero: a report that says more than this program
//! understands is not accepted as if it had said less.

use crate::anchors::AmdLine;
use crate::error::ParseError;
use crate::hexbytes::Hex;

use super::tcb::TcbVersion;

/// Bytes in a report.
pub(super) const REPORT_BYTES: usize = 0x4A0;

/// Bytes that the signature covers.
const SIGNED_BYTES: usize = 0x2A0;

/// Bytes of R and of S in their fields, little-endian.
const SCALAR_BYTES: usize = 72;

/// Versions that are understood.
pub(super) const VERSIONS: std::ops::RangeInclusive<u32> = 2..=5;

/// ECDSA P-384 with SHA-384 in SIGNATURE_ALGO.
pub(super) const ECDSA_P384_SHA384: u32 = 1;

/// A report, taken apart.
pub(super) struct SnpReport<'a> {
    raw: &'a [u8],
    pub(super) version: u32,
    pub(super) guest_svn: u32,
    pub(super) policy: GuestPolicy,
    pub(super) family_id: Hex<16>,
    pub(super) image_id: Hex<16>,
    pub(super) vmpl: u32,
    pub(super) signature_algorithm: u32,
    pub(super) current_tcb: TcbVersion,
    pub(super) platform: PlatformInfo,
    pub(super) key_info: KeyInfo,
    pub(super) report_data: [u8; 64],
    pub(super) measurement: Hex<48>,
    pub(super) host_data: Hex<32>,
    pub(super) id_key_digest: Hex<48>,
    pub(super) author_key_digest: Hex<48>,
    pub(super) report_id: Hex<32>,
    pub(super) report_id_ma: Hex<32>,
    pub(super) reported_tcb: TcbVersion,
    /// Since version 3.
    pub(super) cpuid: Option<Cpuid>,
    pub(super) chip_id: Hex<64>,
    pub(super) committed_tcb: TcbVersion,
    pub(super) current_version: FirmwareVersion,
    pub(super) committed_version: FirmwareVersion,
    pub(super) launch_tcb: TcbVersion,
    /// Since version 5.
    pub(super) mitigations: Option<Mitigations>,
    pub(super) signature: SignatureField,
    /// Offset of the first reserved byte that is not zero.
    pub(super) reserved_used: Option<usize>,
}

/// CPUID family, model and stepping of the processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cpuid {
    pub(super) family: u8,
    pub(super) model: u8,
    pub(super) stepping: u8,
}

impl Cpuid {
    /// The product line, as far as it is known here.
    pub(super) fn line(self) -> Option<AmdLine> {
        match (self.family, self.model) {
            (0x19, 0x00..=0x0F) => Some(AmdLine::Milan),
            (0x19, 0x10..=0x1F | 0xA0..=0xAF) => Some(AmdLine::Genoa),
            (0x1A, 0x00..=0x1F) => Some(AmdLine::Turin),
            _ => None,
        }
    }
}

/// Which mitigations the firmware had applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mitigations {
    pub(super) launch: u64,
    pub(super) current: u64,
}

/// Version of the SNP firmware. Ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FirmwareVersion {
    pub(super) major: u8,
    pub(super) minor: u8,
    pub(super) build: u8,
}

impl std::fmt::Display for FirmwareVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.build)
    }
}

/// What the guest's owner allows the host to do with the guest (SEV-SNP ABI, Guest Policy).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GuestPolicy(pub(super) u64);

impl GuestPolicy {
    pub(super) const SMT: u64 = 1 << 16;
    const ALWAYS_ONE: u64 = 1 << 17;
    pub(super) const MIGRATE_MA: u64 = 1 << 18;
    pub(super) const DEBUG: u64 = 1 << 19;
    pub(super) const SINGLE_SOCKET: u64 = 1 << 20;
    pub(super) const CXL: u64 = 1 << 21;
    pub(super) const MEM_AES_256_XTS: u64 = 1 << 22;
    pub(super) const RAPL_DIS: u64 = 1 << 23;
    pub(super) const CIPHERTEXT_HIDING: u64 = 1 << 24;
    pub(super) const PAGE_SWAP_DISABLE: u64 = 1 << 25;
    const KNOWN: u64 = (1 << 26) - 1;

    pub(super) fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    /// Least version of the firmware's ABI, major then minor.
    pub(super) fn abi(self) -> (u8, u8) {
        let [minor, major, ..] = self.0.to_le_bytes();
        (major, minor)
    }

    /// Bits 63 to 26 are zero, bit 17 is one.
    pub(super) fn is_well_formed(self) -> bool {
        self.0 & !Self::KNOWN == 0 && self.has(Self::ALWAYS_ONE)
    }
}

/// How the platform is set up (SEV-SNP ABI, PLATFORM_INFO).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PlatformInfo(pub(super) u64);

impl PlatformInfo {
    pub(super) const SMT: u64 = 1;
    pub(super) const TSME: u64 = 1 << 1;
    pub(super) const ECC: u64 = 1 << 2;
    pub(super) const RAPL_DIS: u64 = 1 << 3;
    pub(super) const CIPHERTEXT_HIDING: u64 = 1 << 4;
    pub(super) const ALIAS_CHECK_COMPLETE: u64 = 1 << 5;
    pub(super) const TIO: u64 = 1 << 7;
    /// What the table reserves. Shipped firmware sets bit 6, so these are no error of form.
    pub(super) const UNKNOWN: u64 = !0b1011_1111;

    pub(super) fn has(self, bits: u64) -> bool {
        self.0 & bits != 0
    }
}

/// Which key signed, and whose keys were given at launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyInfo(u32);

impl KeyInfo {
    const RESERVED: u32 = !0b1_1111;

    pub(super) fn author_key(self) -> bool {
        self.0 & 1 != 0
    }

    pub(super) fn mask_chip_key(self) -> bool {
        self.0 & 2 != 0
    }

    /// SIGNING_KEY, bits 4 to 2.
    pub(super) fn signing_key(self) -> u32 {
        (self.0 >> 2) & 0b111
    }
}

/// R and S, and whether the rest of the field is empty.
pub(super) struct SignatureField {
    /// Big-endian, as everybody else writes them.
    pub(super) r: [u8; 48],
    pub(super) s: [u8; 48],
    /// The unused bytes of R, of S and after them are zero.
    pub(super) is_padded_with_zero: bool,
}

impl<'a> SnpReport<'a> {
    /// Takes a report apart. Only its length can be wrong here; what the fields say is for the checks.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        if bytes.len() != REPORT_BYTES {
            let reason = format!("it has {} bytes, not {REPORT_BYTES}", bytes.len());
            return Err(ParseError::at("the attestation report", bytes.len().min(REPORT_BYTES), reason));
        }
        let mut at = Fields { rest: bytes, offset: 0, reserved_used: None };
        let version = at.u32()?;
        let (guest_svn, policy) = (at.u32()?, GuestPolicy(at.u64()?));
        let (family_id, image_id) = (Hex(at.take()?), Hex(at.take()?));
        let (vmpl, signature_algorithm) = (at.u32()?, at.u32()?);
        let (current_tcb, platform) = (TcbVersion(at.take()?), PlatformInfo(at.u64()?));
        let key_info = KeyInfo(at.u32()?);
        if key_info.0 & KeyInfo::RESERVED != 0 {
            at.reserved_used.get_or_insert(0x48);
        }
        at.reserved::<4>()?;
        let (report_data, measurement, host_data) = (at.take()?, Hex(at.take()?), Hex(at.take()?));
        let (id_key_digest, author_key_digest) = (Hex(at.take()?), Hex(at.take()?));
        let (report_id, report_id_ma) = (Hex(at.take()?), Hex(at.take()?));
        let reported_tcb = TcbVersion(at.take()?);
        let cpuid = at.cpuid(version)?;
        at.reserved::<21>()?;
        let (chip_id, committed_tcb) = (Hex(at.take()?), TcbVersion(at.take()?));
        let (current_version, committed_version) = (at.firmware_version()?, at.firmware_version()?);
        let launch_tcb = TcbVersion(at.take()?);
        let mitigations = at.mitigations(version)?;
        at.reserved::<152>()?;
        let reserved_used = at.reserved_used;
        let signature = at.signature()?;
        Ok(Self {
            raw: bytes,
            version,
            guest_svn,
            policy,
            family_id,
            image_id,
            vmpl,
            signature_algorithm,
            current_tcb,
            platform,
            key_info,
            report_data,
            measurement,
            host_data,
            id_key_digest,
            author_key_digest,
            report_id,
            report_id_ma,
            reported_tcb,
            cpuid,
            chip_id,
            committed_tcb,
            current_version,
            committed_version,
            launch_tcb,
            mitigations,
            signature,
            reserved_used,
        })
    }

    /// What the signature covers, as it came: verifying a re-encoding would verify something else.
    pub(super) fn signed_part(&self) -> &'a [u8] {
        self.raw.get(..SIGNED_BYTES).unwrap_or_default()
    }

    /// The product line, when the report names a processor that is known.
    pub(super) fn line(&self) -> Option<AmdLine> {
        self.cpuid.and_then(Cpuid::line)
    }
}

/// What is left to read.
struct Fields<'a> {
    rest: &'a [u8],
    offset: usize,
    reserved_used: Option<usize>,
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        let (field, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or_else(|| ParseError::at("the attestation report", self.offset, "it ends within a field"))?;
        self.rest = rest;
        self.offset = self.offset.saturating_add(N);
        Ok(*field)
    }

    fn u32(&mut self) -> Result<u32, ParseError> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, ParseError> {
        self.take().map(u64::from_le_bytes)
    }

    fn reserved<const N: usize>(&mut self) -> Result<(), ParseError> {
        let start = self.offset;
        let field = self.take::<N>()?;
        if let Some(position) = field.iter().position(|byte| *byte != 0) {
            self.reserved_used.get_or_insert(start.saturating_add(position));
        }
        Ok(())
    }

    fn cpuid(&mut self, version: u32) -> Result<Option<Cpuid>, ParseError> {
        if version < 3 {
            return self.reserved::<3>().map(|()| None);
        }
        let [family, model, stepping] = self.take()?;
        Ok(Some(Cpuid { family, model, stepping }))
    }

    fn firmware_version(&mut self) -> Result<FirmwareVersion, ParseError> {
        let [build, minor, major] = self.take()?;
        self.reserved::<1>()?;
        Ok(FirmwareVersion { major, minor, build })
    }

    fn mitigations(&mut self, version: u32) -> Result<Option<Mitigations>, ParseError> {
        if version < 5 {
            return self.reserved::<16>().map(|()| None);
        }
        Ok(Some(Mitigations { launch: self.u64()?, current: self.u64()? }))
    }

    fn signature(&mut self) -> Result<SignatureField, ParseError> {
        let (r, above_r) = self.scalar()?;
        let (s, above_s) = self.scalar()?;
        let after: [u8; 368] = self.take()?;
        let is_padded_with_zero = above_r.iter().chain(&above_s).chain(&after).all(|byte| *byte == 0);
        Ok(SignatureField { r, s, is_padded_with_zero })
    }

    /// A number in [`SCALAR_BYTES`] bytes: the low 48, big-endian, and the others.
    fn scalar(&mut self) -> Result<([u8; 48], [u8; SCALAR_BYTES - 48]), ParseError> {
        let mut low: [u8; 48] = self.take()?;
        low.reverse();
        Ok((low, self.take()?))
    }
}
