//! What can be fetched, where it is, and what it has to look like.

use lambda_attest::pki::{ParsedCertificate, crl_updates};
use lambda_attest::{AmdLine, UnixTime};
use serde::{Deserialize, Serialize};

use super::Publishers;
use crate::presented::der_certificates;

/// Which of AMD's two kinds of key signs a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AmdKey {
    /// A chip's own.
    Vcek,
    /// A cloud provider's; the host hands its certificate to the guest, AMD does not publish it.
    Vlek,
}

/// Security versions of a chip's firmware, as its certificate is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmdTcb {
    /// Boot loader.
    pub bl: u8,
    /// Trusted execution environment.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub ucode: u8,
    /// FMC, on Turin alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fmc: Option<u8>,
}

/// Intel's two technologies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Technology {
    /// Enclaves.
    Sgx,
    /// Trust domains.
    Tdx,
}

/// The CA that certified a platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PckCa {
    /// Single-package platforms.
    Processor,
    /// Multi-package platforms.
    Platform,
}

/// A published document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Document {
    /// A chip's VCEK certificate at one TCB.
    AmdKey {
        /// Product line.
        line: AmdLine,
        /// Hardware id, lower-case hex: 64 bytes, or 8 on Turin.
        hwid: String,
        /// At which TCB.
        tcb: AmdTcb,
    },
    /// ASK or ASVK, and the root.
    AmdChain {
        /// Product line.
        line: AmdLine,
        /// Of which kind of key.
        key: AmdKey,
    },
    /// A product line's revocation list.
    AmdCrl {
        /// Product line.
        line: AmdLine,
        /// Of which kind of key.
        key: AmdKey,
    },
    /// TCB info of a platform family.
    IntelTcb {
        /// Of which technology.
        technology: Technology,
        /// The family, 6 bytes of lower-case hex.
        fmspc: String,
        /// Who certified the platform for which it was asked.
        ca: PckCa,
    },
    /// Identity of the quoting enclave.
    IntelQe {
        /// Of which technology.
        technology: Technology,
    },
    /// Revoked platforms.
    IntelPckCrl {
        /// By which CA.
        ca: PckCa,
    },
    /// Revoked CAs.
    IntelRootCrl,
}

/// What an answer turned out to be.
pub(super) struct Checked {
    /// Until when it may be used.
    pub(super) until: UnixTime,
    /// The signer's chain, PEM.
    pub(super) issuer_chain: Option<String>,
}

impl Technology {
    /// Its part of Intel's addresses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sgx => "sgx",
            Self::Tdx => "tdx",
        }
    }
}

impl PckCa {
    /// Its name in Intel's addresses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Processor => "processor",
            Self::Platform => "platform",
        }
    }
}

impl AmdKey {
    const fn name(self) -> &'static str {
        match self {
            Self::Vcek => "vcek",
            Self::Vlek => "vlek",
        }
    }
}

impl AmdTcb {
    fn query(self) -> String {
        let Self { bl, tee, snp, ucode, fmc } = self;
        let fmc = fmc.map(|fmc| format!("fmcSPL={fmc:02}&")).unwrap_or_default();
        format!("{fmc}blSPL={bl:02}&teeSPL={tee:02}&snpSPL={snp:02}&ucodeSPL={ucode:02}")
    }

    fn name(self) -> String {
        let Self { bl, tee, snp, ucode, fmc } = self;
        let fmc = fmc.map(|fmc| format!("{fmc}-")).unwrap_or_default();
        format!("{fmc}{bl}-{tee}-{snp}-{ucode}")
    }
}

impl Document {
    /// Its name, fit for a file.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::AmdKey { line, hwid, tcb } => {
                format!("amd-{}-vcek-{}-{}", line.name().to_lowercase(), short(hwid), tcb.name())
            }
            Self::AmdChain { line, key } => format!("amd-{}-{}-chain", line.name().to_lowercase(), key.name()),
            Self::AmdCrl { line, key } => format!("amd-{}-{}-crl", line.name().to_lowercase(), key.name()),
            Self::IntelTcb { technology, fmspc, ca } => {
                format!("intel-{}-tcb-{fmspc}-{}", technology.name(), ca.name())
            }
            Self::IntelQe { technology } => format!("intel-{}-qe", technology.name()),
            Self::IntelPckCrl { ca } => format!("intel-pck-crl-{}", ca.name()),
            Self::IntelRootCrl => "intel-root-crl".into(),
        }
    }

    /// Whether the ids in it are lower-case hex of their lengths. Its name is a file's.
    pub(super) fn is_well_formed(&self) -> bool {
        let is_hex = |text: &str, bytes: usize| {
            text.len() == 2 * bytes && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        };
        match self {
            Self::AmdKey { line: AmdLine::Turin, hwid, .. } => is_hex(hwid, 8),
            Self::AmdKey { hwid, .. } => is_hex(hwid, 64),
            Self::IntelTcb { fmspc, .. } => is_hex(fmspc, 6),
            Self::AmdChain { .. } | Self::AmdCrl { .. } => true,
            Self::IntelQe { .. } | Self::IntelPckCrl { .. } | Self::IntelRootCrl => true,
        }
    }

    pub(super) fn url(&self, publishers: &Publishers) -> String {
        let Publishers { kds, pcs, root_crl } = publishers;
        match self {
            Self::AmdKey { line, hwid, tcb } => format!("{kds}/vcek/v1/{}/{hwid}?{}", line.name(), tcb.query()),
            Self::AmdChain { line, key } => format!("{kds}/{}/v1/{}/cert_chain", key.name(), line.name()),
            Self::AmdCrl { line, key } => format!("{kds}/{}/v1/{}/crl", key.name(), line.name()),
            Self::IntelTcb { technology, fmspc, .. } => {
                format!("{pcs}/{}/certification/v4/tcb?fmspc={fmspc}", technology.name())
            }
            Self::IntelQe { technology } => format!("{pcs}/{}/certification/v4/qe/identity", technology.name()),
            Self::IntelPckCrl { ca } => format!("{pcs}/sgx/certification/v4/pckcrl?ca={}&encoding=der", ca.name()),
            Self::IntelRootCrl => root_crl.clone(),
        }
    }

    /// Most bytes of an answer.
    pub(super) const fn limit(&self) -> usize {
        match self {
            Self::AmdKey { .. } => lambda_attest::pki::MAX_CERTIFICATE_BYTES,
            Self::AmdChain { .. } => 32 * 1024,
            Self::AmdCrl { .. } | Self::IntelPckCrl { .. } | Self::IntelRootCrl => lambda_attest::pki::MAX_CRL_BYTES,
            Self::IntelTcb { .. } | Self::IntelQe { .. } => 256 * 1024,
        }
    }

    /// The header that carries the signer's chain.
    pub(super) const fn chain_header(&self) -> Option<&'static str> {
        match self {
            Self::IntelTcb { .. } => Some("tcb-info-issuer-chain"),
            Self::IntelQe { .. } => Some("sgx-enclave-identity-issuer-chain"),
            Self::IntelPckCrl { .. } => Some("sgx-pck-crl-issuer-chain"),
            Self::AmdKey { .. } | Self::AmdChain { .. } | Self::AmdCrl { .. } | Self::IntelRootCrl => None,
        }
    }

    /// Whether the same question always has the same answer.
    pub(super) const fn never_changes(&self) -> bool {
        matches!(self, Self::AmdKey { .. } | Self::AmdChain { .. })
    }

    /// Whether an answer has the form and the dates of this document.
    pub(super) fn check(&self, body: &[u8], chain: Option<&str>, now: UnixTime) -> Result<Checked, String> {
        let issuer_chain = match (self.chain_header(), chain) {
            (None, _) => None,
            (Some(header), None) => return Err(format!("the header {header} is missing")),
            (Some(header), Some(text)) => {
                let pem = percent_decoded(text).ok_or_else(|| format!("the header {header} is not URL-encoded PEM"))?;
                ParsedCertificate::chain_from_pem(&pem, 4).map_err(|error| format!("the header {header}: {error}"))?;
                Some(pem)
            }
        };
        let until = match self {
            Self::AmdKey { .. } => {
                let certificate = ParsedCertificate::from_der(body).map_err(|error| error.to_string())?;
                within(certificate.validity(), now)?
            }
            Self::AmdChain { .. } => chain_until(body, now)?,
            Self::AmdCrl { .. } | Self::IntelPckCrl { .. } | Self::IntelRootCrl => {
                let (from, next) = crl_updates(body).map_err(|error| error.to_string())?;
                let next = next.ok_or("the revocation list does not say when the next one is due")?;
                within((from, next), now)?
            }
            Self::IntelTcb { technology, fmspc, .. } => {
                let id = technology.name().to_uppercase();
                signed_until(body, "tcbInfo", &[("id", &id), ("fmspc", fmspc)], now)?
            }
            Self::IntelQe { technology } => {
                let id = match technology {
                    Technology::Sgx => "QE",
                    Technology::Tdx => "TD_QE",
                };
                signed_until(body, "enclaveIdentity", &[("id", id)], now)?
            }
        };
        Ok(Checked { until, issuer_chain })
    }
}

/// A hardware id is too long for a file's name with everything else in it.
fn short(hwid: &str) -> &str {
    hwid.get(..32).unwrap_or(hwid)
}

fn within((from, until): (UnixTime, UnixTime), now: UnixTime) -> Result<UnixTime, String> {
    if now > until {
        return Err(format!("it is stale: it was good until {until}"));
    }
    if now < from {
        return Err(format!("it is not good before {from}; is this machine's clock right?"));
    }
    Ok(until)
}

fn chain_until(body: &[u8], now: UnixTime) -> Result<UnixTime, String> {
    let chain = der_certificates("the chain", body).map_err(|error| error.to_string())?;
    if chain.len() != 2 {
        return Err(format!("expected an intermediate and a root, found {} certificates", chain.len()));
    }
    let mut until = UnixTime(i64::MAX);
    for der in &chain {
        let certificate = ParsedCertificate::from_der(der).map_err(|error| error.to_string())?;
        until = until.min(within(certificate.validity(), now)?);
    }
    Ok(until)
}

/// The end of a document that Intel signed as JSON, when it is the one that was asked for.
fn signed_until(body: &[u8], part: &str, asked: &[(&str, &str)], now: UnixTime) -> Result<UnixTime, String> {
    let answer: serde_json::Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if !answer["signature"].is_string() {
        return Err("signature: there is none".into());
    }
    let signed = &answer[part];
    for (field, wanted) in asked {
        let found = signed[*field].as_str().unwrap_or_default();
        if !found.eq_ignore_ascii_case(wanted) {
            return Err(format!("{part}.{field}: `{found}` instead of `{wanted}`"));
        }
    }
    let date = |field: &str| {
        let text = signed[field].as_str().unwrap_or_default();
        text.parse::<UnixTime>().map_err(|error| format!("{part}.{field}: {error}"))
    };
    within((date("issueDate")?, date("nextUpdate")?), now)
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}
