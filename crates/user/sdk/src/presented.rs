//! Evidence as people have it: a folder that somebody exported, or the files that a guest's tools wrote.
//!
//! ```text
//!   folder + manifest.json ─┐
//!   folder + kind ──────────┼─▶ Material ─▶ Presented { report, what lies beside it, collateral }
//!   files + kind ───────────┘
//! ```
//!
//! Of a manifest only the kind, the nonce and the names of the files are read: what it says about the evidence is not the
//! evidence's own word. Nothing is judged here, and a certificate or root that lies in the folder is trusted for nothing
//! but an inspection of evidence that no vendor vouches for.

mod names;
mod read;

use std::path::{Path, PathBuf};

use lambda_attest::{
    AmdCollateral, CcaEvidence, Collateral, EventlogEvidence, Given, IntelCollateral, ParavisorEvidence, PsaEvidence,
    Registers, Report, SgxEvidence, SnpEvidence, TdxEvidence, Tee, TpmQuoteEvidence,
};
use lambda_types::Binary;

use crate::Error;
use names::Role;

pub use read::{MAX_FILE_BYTES, bounded, der_certificates, der_public_key};

/// Evidence that was presented as files.
#[derive(Debug, Clone)]
pub struct Presented {
    /// What is judged.
    pub report: Report,
    /// What lies beside it, for an inspection.
    pub given: Given,
    /// What the vendor published, as far as it lies beside it.
    pub collateral: Collateral,
}

/// Files by what they are, as a command line names them. All but the first are optional.
#[derive(Debug, Clone, Default)]
pub struct Files {
    /// Report, quote, token or log; `None` when there are only certificates.
    pub evidence: Option<PathBuf>,
    /// Certificates, PEM or DER, leaf first. A certificate that issued itself is a root.
    pub chain: Vec<PathBuf>,
    /// Public keys, PEM, DER or JWK.
    pub keys: Vec<PathBuf>,
    /// The nonce or challenge that the evidence answers.
    pub nonce: Option<Vec<u8>>,
    /// The firmware's event log.
    pub event_log: Option<PathBuf>,
    /// TPMT_SIGNATURE of a TPM quote.
    pub signature: Option<PathBuf>,
    /// Register values by bank, JSON.
    pub registers: Option<PathBuf>,
}

/// What was read, by what it is.
#[derive(Default)]
struct Material {
    /// Name and bytes.
    evidence: Option<(String, Vec<u8>)>,
    signature: Option<Vec<u8>>,
    registers: Option<Registers>,
    event_log: Option<Vec<u8>>,
    certificates: Vec<Vec<u8>>,
    roots: Vec<Vec<u8>>,
    keys: Vec<Vec<u8>>,
    nonce: Option<Vec<u8>>,
    crls: Vec<Vec<u8>>,
    intel: Option<IntelCollateral>,
    paravisor: Option<Vec<u8>>,
    hardware_certificates: Vec<Vec<u8>>,
    hardware_quote: Option<Vec<u8>>,
}

/// The kind that a word of a manifest or command line names.
#[must_use]
pub fn kind(word: &str) -> Option<Tee> {
    Some(match word.to_ascii_lowercase().as_str() {
        "snp" | "sev-snp" => Tee::Snp,
        "tdx" => Tee::Tdx,
        "sgx" => Tee::Sgx,
        "cca" => Tee::Cca,
        "psa" => Tee::Psa,
        "tpm" => Tee::Tpm,
        "eventlog" | "event-log" => Tee::Eventlog,
        _ => return None,
    })
}

/// Whether a folder says by itself what it holds.
#[must_use]
pub fn has_manifest(folder: &Path) -> bool {
    folder.join(names::MANIFEST).is_file()
}

/// Reads a folder. Without `tee` its manifest has to say which kind of evidence it is; with it, every file in the folder is
/// looked at by its name, unless there is a manifest.
///
/// # Errors
/// When it cannot be read, or holds no evidence; names the file or field.
pub fn folder(path: &Path, tee: Option<Tee>) -> Result<Presented, Error> {
    let listing = if has_manifest(path) {
        names::Listing::of_manifest(path)?
    } else {
        let tee = tee.ok_or_else(|| {
            Error::Usage(format!("{} has no {}: say what it holds with --tee", path.display(), names::MANIFEST))
        })?;
        names::Listing::of_folder(path, tee)?
    };
    let tee = tee.unwrap_or(listing.tee);
    let mut material = Material::default();
    for (name, role) in names::roles(tee, &listing.names) {
        material.add(role, &name, read::bounded(&path.join(&name))?)?;
    }
    if let Some(nonce) = listing.nonce {
        material.nonce = Some(nonce);
    }
    material.present(tee, path)
}

/// Reads files of this kind.
///
/// # Errors
/// When one cannot be read, or one that the kind needs is not there.
pub fn files(tee: Tee, given: &Files) -> Result<Presented, Error> {
    let shown = given.evidence.clone().unwrap_or_else(|| PathBuf::from("the given files"));
    let mut material = Material { nonce: given.nonce.clone(), ..Material::default() };
    let mut add = |role: Role, path: Option<&PathBuf>| match path {
        Some(path) => material.add(role, &path.display().to_string(), read::bounded(path)?),
        None => Ok(()),
    };
    add(Role::Evidence, given.evidence.as_ref())?;
    add(Role::Signature, given.signature.as_ref())?;
    add(Role::Registers, given.registers.as_ref())?;
    add(Role::EventLog, given.event_log.as_ref())?;
    for path in &given.chain {
        add(Role::Chain, Some(path))?;
    }
    for path in &given.keys {
        add(Role::Key, Some(path))?;
    }
    material.present(tee, &shown)
}

/// Reads a folder of certificates, revocation lists and PCS answers, by their names.
///
/// # Errors
/// When a file cannot be read, or none is of a known name.
pub fn collateral_folder(path: &Path) -> Result<Collateral, Error> {
    let listing = names::Listing::of_folder(path, Tee::Snp)?;
    let mut material = Material::default();
    for (name, role) in names::collateral_roles(&listing.names) {
        material.add(role, &name, read::bounded(&path.join(&name))?)?;
    }
    let mut collateral = material.collateral();
    if !material.certificates.is_empty() {
        let certificates = material.certificates.into_iter().map(Binary::from).collect();
        collateral.amd.get_or_insert_default().certificates = certificates;
    }
    if collateral == Collateral::none() {
        return Err(Error::Usage(format!("{} holds no collateral of a known name", path.display())));
    }
    Ok(collateral)
}

impl Material {
    fn add(&mut self, role: Role, name: &str, bytes: Vec<u8>) -> Result<(), Error> {
        match role {
            Role::Evidence => self.evidence = Some((name.to_owned(), read::decoded(bytes))),
            Role::Signature => self.signature = Some(bytes),
            Role::Registers => self.registers = Some(read::registers(name, &bytes)?),
            Role::EventLog => self.event_log = Some(bytes),
            Role::Chain => {
                for der in read::der_certificates(name, &bytes)? {
                    let to = if read::issued_itself(&der) { &mut self.roots } else { &mut self.certificates };
                    push_new(to, der);
                }
            }
            Role::Root => {
                for der in read::der_certificates(name, &bytes)? {
                    push_new(&mut self.roots, der);
                }
            }
            Role::Paravisor => self.paravisor = Some(bytes),
            Role::HardwareChain => {
                for der in read::der_certificates(name, &bytes)? {
                    push_new(&mut self.hardware_certificates, der);
                }
            }
            Role::HardwareQuote => self.hardware_quote = Some(bytes),
            Role::Key => push_new(&mut self.keys, read::der_public_key(name, &bytes)?),
            Role::Nonce => self.nonce = Some(bytes),
            Role::Crl => push_new(&mut self.crls, read::der_crl(name, bytes)?),
            Role::TcbInfo => self.intel().tcb_info = read::text(name, bytes)?,
            Role::TcbInfoChain => self.intel().tcb_info_issuer_chain = read::text(name, bytes)?,
            Role::QeIdentity => self.intel().qe_identity = read::text(name, bytes)?,
            Role::QeIdentityChain => self.intel().qe_identity_issuer_chain = read::text(name, bytes)?,
            Role::PckCrl => self.intel().pck_crl = read::der_crl(name, bytes)?.into(),
            Role::PckCrlChain => self.intel().pck_crl_issuer_chain = read::text(name, bytes)?,
            Role::RootCrl => self.intel().root_ca_crl = read::der_crl(name, bytes)?.into(),
            Role::PckChain => self.intel().pck_certificate_chain = Some(read::text(name, bytes)?),
        }
        Ok(())
    }

    fn intel(&mut self) -> &mut IntelCollateral {
        self.intel.get_or_insert_default()
    }

    fn collateral(&mut self) -> Collateral {
        let crls: Vec<Binary> = std::mem::take(&mut self.crls).into_iter().map(Binary::from).collect();
        let amd = (!crls.is_empty()).then(|| AmdCollateral { certificates: Vec::new(), crls });
        Collateral { amd, intel: self.intel.take().into_iter().collect(), ..Collateral::none() }
    }

    fn present(mut self, tee: Tee, shown: &Path) -> Result<Presented, Error> {
        let collateral = self.collateral();
        let missing = |what: &str| Error::Usage(format!("{} holds no {what}", shown.display()));
        let (name, bytes) = self.evidence.take().unzip();
        let certificates = self.certificates;
        let event_log = self.event_log.map(Binary::from);
        let certificates_only = bytes.is_none() && matches!(tee, Tee::Snp | Tee::Tpm);
        let mut given = Given { nonce: self.nonce, keys: self.keys, roots: Vec::new(), certificates_only };
        let report = match tee {
            Tee::Snp => {
                // AMD's own root may come along; what is trusted is the pinned one.
                let all = certificates.into_iter().chain(self.roots).map(Binary::from).collect::<Vec<_>>();
                if bytes.is_none() && all.is_empty() {
                    return Err(missing("report"));
                }
                snp(name.as_deref().unwrap_or_default(), bytes.unwrap_or_default(), all)?
            }
            Tee::Tdx => {
                let bytes = bytes.ok_or_else(|| missing("quote"))?;
                let tsm = read::tsm(name.as_deref().unwrap_or_default(), &bytes)?;
                Report::Tdx(TdxEvidence { quote: tsm.map_or(bytes, |tsm| tsm.report).into(), event_log })
            }
            Tee::Sgx => Report::Sgx(SgxEvidence { quote: bytes.ok_or_else(|| missing("quote"))?.into() }),
            Tee::Cca | Tee::Psa => arm(tee, bytes.ok_or_else(|| missing("token"))?, event_log),
            Tee::Tpm => {
                if bytes.is_none() && certificates.is_empty() {
                    return Err(missing("quote"));
                }
                given.roots = self.roots;
                Report::TpmQuote(TpmQuoteEvidence {
                    attest: bytes.unwrap_or_default().into(),
                    signature: self.signature.unwrap_or_default().into(),
                    pcrs: self.registers.unwrap_or_default(),
                    event_log,
                    ak: given.keys.first().cloned().map(Binary::from),
                    certificates: certificates.into_iter().map(Binary::from).collect(),
                    paravisor: self.paravisor.map(|report| ParavisorEvidence {
                        report: report.into(),
                        certificates: self.hardware_certificates.into_iter().map(Binary::from).collect(),
                        quote: self.hardware_quote.map(Binary::from),
                    }),
                })
            }
            Tee::Eventlog => {
                let event_log = bytes.map(Binary::from).or(event_log).ok_or_else(|| missing("event log"))?;
                Report::Eventlog(EventlogEvidence { event_log, registers: self.registers })
            }
        };
        Ok(Presented { report, given, collateral })
    }
}

/// A report as the firmware returned it, or as configfs-tsm did, in CBOR with the host's certificate table.
fn snp(name: &str, bytes: Vec<u8>, mut certificates: Vec<Binary>) -> Result<Report, Error> {
    let report = match read::tsm(name, &bytes)? {
        Some(tsm) => {
            for certificate in tsm.certificates {
                if !certificates.contains(&certificate) {
                    certificates.push(certificate);
                }
            }
            tsm.report
        }
        None => read::snp_report(bytes),
    };
    Ok(Report::Snp(SnpEvidence { report: report.into(), certificates }))
}

/// The two kinds of Arm tokens tell themselves apart by how they begin: a PSA token with a COSE_Sign1 (RFC 9052 §4.2), a CCA
/// token with a collection. One without its CBOR tag is told apart too, and refused by the parser.
fn arm(tee: Tee, token: Vec<u8>, event_log: Option<Binary>) -> Report {
    const TAG_SIGN1: u8 = 0xd2;
    const ARRAY_OF_FOUR: u8 = 0x84;
    let bare = matches!(token.first(), Some(&TAG_SIGN1 | &ARRAY_OF_FOUR));
    if bare || tee == Tee::Psa {
        Report::Psa(PsaEvidence { token: token.into() })
    } else {
        Report::Cca(CcaEvidence { token: token.into(), event_log })
    }
}

fn push_new(to: &mut Vec<Vec<u8>>, item: Vec<u8>) {
    if !to.contains(&item) {
        to.push(item);
    }
}

/// Both: what either has.
#[must_use]
pub fn merge(mut one: Collateral, other: Collateral) -> Collateral {
    if let Some(amd) = other.amd {
        let into = one.amd.get_or_insert_default();
        into.certificates.extend(amd.certificates);
        into.crls.extend(amd.crls);
    }
    one.intel.extend(other.intel);
    one.as_of = match (one.as_of, other.as_of) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    one
}

#[cfg(test)]
mod tests;
