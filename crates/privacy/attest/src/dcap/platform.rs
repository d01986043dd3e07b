//! What SGX and TDX share: from the quote's signature to the platform's TCB.

use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha256};

use super::body::{flag, is_zero};
use super::chain::{self, Chain};
use super::document::{self, SignedText};
use super::identity::QeIdentity;
use super::ledger::Ledger;
use super::pck::{Platform, SGX_EXTENSION};
use super::quote::{Authentication, CERTIFICATION_PCK_CHAIN, INTEL_QE_VENDOR, KEY_ECDSA_P256, Signed};
use super::status::TcbStatus;
use super::tcb_info::{IsvLevel, PlatformTcb, TcbInfo, isv_level};
use super::{checks, crl};
use crate::appraise::Context;
use crate::checks::CheckInfo;
use crate::collateral::IntelCollateral;
use crate::pki::{ParsedCertificate, PublicKey};
use crate::verdict::Assurance;

/// What the two technologies are called in Intel's documents.
pub(super) struct Technology {
    /// In the policy.
    pub(super) name: &'static str,
    tcb_info: &'static str,
    tcb_info_versions: std::ops::RangeInclusive<u32>,
    identity: &'static str,
}

pub(super) static TDX: Technology =
    Technology { name: "tdx", tcb_info: "TDX", tcb_info_versions: 3..=3, identity: "TD_QE" };
pub(super) static SGX: Technology =
    Technology { name: "sgx", tcb_info: "SGX", tcb_info_versions: 2..=3, identity: "QE" };

/// Versions of the QE identity that are read.
const IDENTITY_VERSIONS: std::ops::RangeInclusive<u32> = 2..=2;

/// What was established on the way.
#[derive(Default)]
pub(super) struct Established<'a> {
    pub(super) pck_ca: Option<&'static str>,
    pub(super) platform: Option<Platform>,
    pub(super) tcb_info: Option<TcbInfo<'a>>,
    pub(super) identity: Option<QeIdentity<'a>>,
    pub(super) qe_status: Option<TcbStatus>,
    pub(super) advisories: Vec<&'a str>,
    /// Who vouches: the vendor's root, one given for an inspection, or nobody.
    pub(super) tier: Option<Assurance>,
}

/// Judges everything up to the documents; levels and policy follow.
pub(super) fn check<'a>(
    quote: &Signed<'_>,
    authentication: &Authentication<'_>,
    technology: &'static Technology,
    context: &Context<'a>,
    ledger: &mut Ledger<'_>,
) -> Established<'a> {
    check_quote(quote, authentication, ledger);
    let mut established = Established::default();
    let collateral = &context.endorsements.collateral.intel;
    let given: Vec<ParsedCertificate> = given_roots(context);
    let carried = carried_chain(authentication, collateral);
    let pck = check_pck(carried, &given, context, &mut established, ledger);
    check_qe(authentication, pck.as_ref(), context, ledger);
    let fmspc = established.platform.as_ref().map(|platform| platform.fmspc);
    let Some(entry) = select(collateral, technology, fmspc) else {
        let why = "there is no Intel collateral for this platform: fetch it";
        ledger.record(&checks::TCB_INFO_STRUCTURE, Err(why.into()));
        ledger.record(&checks::IDENTITY_STRUCTURE, Err(why.into()));
        return established;
    };
    check_collateral(entry, technology, pck.as_ref(), context, &mut established, ledger);
    check_identity(authentication, &mut established, ledger);
    established
}

/// Roots that lie beside evidence under inspection; none when a release is at stake.
fn given_roots(context: &Context<'_>) -> Vec<ParsedCertificate> {
    let roots = context.given.map(|given| given.roots.as_slice()).unwrap_or_default();
    roots.iter().filter_map(|der| ParsedCertificate::from_der(der).ok()).collect()
}

fn check_quote(quote: &Signed<'_>, authentication: &Authentication<'_>, ledger: &mut Ledger<'_>) {
    let header = &quote.header;
    ledger.require(
        &checks::QUOTE_KEY_TYPE,
        header.key_type == KEY_ECDSA_P256,
        "ECDSA on P-256",
        "the header names an attestation key of another type than ECDSA on P-256",
    );
    ledger.require(
        &checks::QUOTE_VENDOR,
        header.qe_vendor == INTEL_QE_VENDOR,
        "the quoting enclave's vendor is Intel",
        "the quoting enclave's vendor is not Intel",
    );
    let key = raw_key(&authentication.attestation_key);
    ledger.require(
        &checks::QUOTE_SIGNATURE,
        key.is_some_and(|key| verify(&key, quote.bytes, &authentication.signature)),
        "the attestation key signed header and report",
        "the signature over header and report is not the attestation key's",
    );
}

/// X and Y of a point on P-256.
fn raw_key(point: &[u8; 64]) -> Option<VerifyingKey> {
    let mut sec1 = [4; 65];
    for (to, from) in sec1.iter_mut().skip(1).zip(point) {
        *to = *from;
    }
    VerifyingKey::from_sec1_bytes(&sec1).ok()
}

fn verify(key: &VerifyingKey, message: &[u8], signature: &[u8; 64]) -> bool {
    Signature::from_slice(signature).is_ok_and(|signature| key.verify(message, &signature).is_ok())
}

/// The PCK chain: the quote's, or what the collateral brings for a quote without one.
fn carried_chain<'a>(
    authentication: &Authentication<'a>,
    collateral: &'a [IntelCollateral],
) -> Result<&'a str, String> {
    if authentication.certification_type == CERTIFICATION_PCK_CHAIN {
        return std::str::from_utf8(authentication.certification)
            .map_err(|_| "the certification data of the quote is not PEM".into());
    }
    let brought = collateral.iter().find_map(|entry| entry.pck_certificate_chain.as_deref());
    brought.ok_or_else(|| {
        let kind = authentication.certification_type;
        format!("the quote carries certification data of type {kind}, no PCK chain, and the collateral has none either")
    })
}

fn check_pck<'a>(
    carried: Result<&str, String>,
    given: &[ParsedCertificate],
    context: &Context<'a>,
    established: &mut Established<'a>,
    ledger: &mut Ledger<'_>,
) -> Option<Chain> {
    let pem = match carried {
        Ok(pem) => pem,
        Err(why) => {
            ledger.record(&checks::PCK_STRUCTURE, Err(why));
            return None;
        }
    };
    let vendor = context.endorsements.anchors.intel();
    let chain = Chain::check(
        pem,
        &chain::PCK,
        vendor.iter().chain(given),
        context.now,
        context.endorsements.anchors.facts(),
        ledger,
    )?;
    if chain.anchored {
        let root = chain.root().map(ParsedCertificate::spki);
        let by_vendor = vendor.iter().any(|anchor| Some(anchor.spki()) == root);
        established.tier = Some(if by_vendor { Assurance::Hardware } else { Assurance::Platform });
    }
    established.pck_ca = chain.issuer().and_then(ParsedCertificate::common_name).and_then(|name| match name.as_str() {
        chain::PLATFORM_CA => Some("platform"),
        chain::PROCESSOR_CA => Some("processor"),
        _ => None,
    });
    let platform = chain.leaf().map_or(Err(String::new()), |leaf| match leaf.extension_value(&SGX_EXTENSION)? {
        Some((_, value)) => Platform::parse(value).map_err(|why| format!("the extension {SGX_EXTENSION}: {why}")),
        None => Err(format!("the PCK certificate lacks the extension {SGX_EXTENSION}")),
    });
    established.platform = match platform {
        Ok((platform, sound)) => {
            let described = sound.map(|()| format!("FMSPC {}", hex::encode(platform.fmspc)));
            ledger.record(&checks::PCK_EXTENSION, described.map_err(|why| format!("the extension: {why}")));
            Some(platform)
        }
        Err(why) => {
            ledger.record(&checks::PCK_EXTENSION, Err(why));
            None
        }
    };
    Some(chain)
}

/// The quoting enclave's report: who signed it, and what it vouches for.
fn check_qe(authentication: &Authentication<'_>, pck: Option<&Chain>, context: &Context<'_>, ledger: &mut Ledger<'_>) {
    let report = &authentication.qe_report;
    match pck.and_then(Chain::leaf) {
        Some(leaf) => {
            let (message, signature) = (authentication.qe_report_bytes, &authentication.qe_report_signature);
            let facts = context.endorsements.anchors.facts();
            let holds = matches!(leaf.public_key(), Some(PublicKey::P256(key))
                if facts.holds(leaf.spki(), signature, message, || verify(key, message, signature)));
            ledger.require(
                &checks::QE_SIGNATURE,
                holds,
                "the PCK signed the quoting enclave's report",
                "the signature over the quoting enclave's report is not the PCK's",
            );
        }
        None => ledger.unreached(),
    }
    let hash = Sha256::new()
        .chain_update(authentication.attestation_key)
        .chain_update(authentication.qe_authentication)
        .finalize();
    let (bound, rest) = report.report_data.split_at(32);
    ledger.require(
        &checks::QE_BINDING,
        bound == hash.as_slice() && is_zero(rest),
        "the quoting enclave vouches for the attestation key",
        "the quoting enclave's report does not cover this attestation key and authentication data",
    );
    ledger.require(
        &checks::QE_DEBUG,
        report.flags() & flag::DEBUG == 0 && report.flags() & flag::INIT != 0,
        "the quoting enclave is initialised and no debug enclave",
        "the quoting enclave is a debug enclave, or not initialised",
    );
}

/// The entry for this technology and platform family; the first where none fits, so that its checks say what is wrong.
fn select<'a>(
    entries: &'a [IntelCollateral],
    technology: &Technology,
    fmspc: Option<[u8; 6]>,
) -> Option<&'a IntelCollateral> {
    let fits = |entry: &&IntelCollateral| {
        let Ok(signed) = SignedText::of_tcb_info(&entry.tcb_info) else { return false };
        TcbInfo::parse(signed.text)
            .is_ok_and(|info| technology.has(info.id, info.version) && Some(info.fmspc.0) == fmspc)
    };
    match entries {
        [only] => Some(only),
        several => several.iter().find(fits).or(several.first()),
    }
}

impl Technology {
    /// Whether TCB info of this id and version is of this technology. Version 2 has no id and is of SGX.
    fn has(&self, id: Option<&str>, version: u32) -> bool {
        let id = id.unwrap_or(if version == 2 { "SGX" } else { "" });
        id == self.tcb_info && self.tcb_info_versions.contains(&version)
    }
}

fn check_collateral<'a>(
    entry: &'a IntelCollateral,
    technology: &'static Technology,
    pck: Option<&Chain>,
    context: &Context<'a>,
    established: &mut Established<'a>,
    ledger: &mut Ledger<'_>,
) {
    let anchors = || pck.and_then(Chain::root).filter(|_| pck.is_some_and(|chain| chain.anchored));
    let vendor = context.endorsements.anchors.intel();
    let roots = || anchors().into_iter().chain(if anchors().is_some() { [].iter() } else { vendor.iter() });
    let signer = Chain::check(
        &entry.tcb_info_issuer_chain,
        &chain::SIGNER,
        roots(),
        context.now,
        context.endorsements.anchors.facts(),
        ledger,
    );
    let other = (entry.qe_identity_issuer_chain != entry.tcb_info_issuer_chain).then(|| {
        Chain::check(
            &entry.qe_identity_issuer_chain,
            &chain::SIGNER,
            roots(),
            context.now,
            context.endorsements.anchors.facts(),
            ledger,
        )
    });
    let signers = [signer.as_ref(), other.as_ref().map_or(signer.as_ref(), Option::as_ref)];
    check_revocation(entry, pck, &signers, context, ledger);
    let [for_tcb_info, for_identity] = signers;
    read_tcb_info(entry, technology, for_tcb_info, context, established, ledger);
    read_identity(entry, technology, for_identity, context, established, ledger);
}

fn check_revocation(
    entry: &IntelCollateral,
    pck: Option<&Chain>,
    signers: &[Option<&Chain>; 2],
    context: &Context<'_>,
    ledger: &mut Ledger<'_>,
) {
    let root = pck.and_then(Chain::root).or_else(|| signers.iter().find_map(|chain| (*chain)?.root()));
    let listed = root.and_then(|root| {
        crl::check(
            entry.root_ca_crl.as_slice(),
            root,
            &crl::ROOT,
            context.now,
            context.endorsements.anchors.facts(),
            ledger,
        )
    });
    if let Some(listed) = &listed {
        let leaves = signers.iter().filter_map(|chain| (*chain)?.leaf());
        crl::check_absent(&checks::SIGNER_REVOKED, listed, leaves, ledger);
    }
    match pck {
        Some(chain) => {
            if let Some(listed) = &listed {
                let above = chain.issuer().into_iter().chain(chain.root());
                crl::check_absent(&checks::PCK_CA_REVOKED, listed, above, ledger);
            }
            let issuer = chain.issuer();
            let listed = issuer.and_then(|ca| {
                crl::check(
                    entry.pck_crl.as_slice(),
                    ca,
                    &crl::PCK,
                    context.now,
                    context.endorsements.anchors.facts(),
                    ledger,
                )
            });
            match listed {
                Some(listed) => {
                    crl::check_absent(&checks::PCK_REVOKED, &listed, chain.leaf().into_iter(), ledger);
                }
                None => ledger.unreached(),
            }
        }
        None => ledger.unreached(),
    }
    if listed.is_none() {
        ledger.unreached();
    }
}

/// A document's signature is the signer's.
fn check_signature(
    info: &'static CheckInfo,
    signed: &SignedText<'_>,
    signer: Option<&Chain>,
    context: &Context<'_>,
    ledger: &mut Ledger<'_>,
) {
    let facts = context.endorsements.anchors.facts();
    ledger.require(
        info,
        signer.and_then(Chain::leaf).is_some_and(|signer| signed.signed_by(signer, facts)),
        "the TCB signer signed it, byte for byte",
        "the signature over it is not the TCB signer's",
    );
}

fn read_tcb_info<'a>(
    entry: &'a IntelCollateral,
    technology: &'static Technology,
    signer: Option<&Chain>,
    context: &Context<'a>,
    established: &mut Established<'a>,
    ledger: &mut Ledger<'_>,
) {
    let read = SignedText::of_tcb_info(&entry.tcb_info).and_then(|signed| {
        check_signature(&checks::TCB_INFO_SIGNATURE, &signed, signer, context, ledger);
        TcbInfo::parse(signed.text)
    });
    let info = match read {
        Ok(info) => info,
        Err(why) => {
            ledger.record(&checks::TCB_INFO_STRUCTURE, Err(format!("TCB info cannot be read: {why}")));
            return;
        }
    };
    ledger.record(&checks::TCB_INFO_STRUCTURE, Ok(format!("{} levels", info.tcb_levels.len())));
    ledger.record(
        &checks::TCB_INFO_KIND,
        if technology.has(info.id, info.version) {
            Ok(format!("TCB info of {}, version {}", technology.tcb_info, info.version))
        } else {
            let id = info.id.unwrap_or("no technology");
            Err(format!("TCB info of {id}, version {}, for a quote of {}", info.version, technology.tcb_info))
        },
    );
    ledger.record(&checks::TCB_INFO_DATES, document::current(info.issue_date, info.next_update, context.now));
    if let Some(platform) = &established.platform {
        ledger.record(&checks::TCB_INFO_FMSPC, same("FMSPC", &info.fmspc.0, &platform.fmspc));
        ledger.record(&checks::TCB_INFO_PCE_ID, same("PCE id", &info.pce_id.0, &platform.pce_id));
    }
    established.tcb_info = Some(info);
}

fn same(what: &str, documented: &[u8], certified: &[u8]) -> Result<String, String> {
    let (documented, certified) = (hex::encode(documented), hex::encode(certified));
    if documented == certified {
        Ok(format!("both are of {what} {certified}"))
    } else {
        Err(format!("the TCB info is of {what} {documented}, the platform of {certified}"))
    }
}

fn read_identity<'a>(
    entry: &'a IntelCollateral,
    technology: &'static Technology,
    signer: Option<&Chain>,
    context: &Context<'a>,
    established: &mut Established<'a>,
    ledger: &mut Ledger<'_>,
) {
    let read = SignedText::of_identity(&entry.qe_identity).and_then(|signed| {
        check_signature(&checks::IDENTITY_SIGNATURE, &signed, signer, context, ledger);
        QeIdentity::parse(signed.text)
    });
    let identity = match read {
        Ok(identity) => identity,
        Err(why) => {
            ledger.record(&checks::IDENTITY_STRUCTURE, Err(format!("the QE identity cannot be read: {why}")));
            return;
        }
    };
    ledger.record(&checks::IDENTITY_STRUCTURE, Ok(format!("{} levels", identity.tcb_levels.len())));
    ledger.record(
        &checks::IDENTITY_KIND,
        if identity.id == technology.identity && IDENTITY_VERSIONS.contains(&identity.version) {
            Ok(format!("identity {}, version {}", identity.id, identity.version))
        } else {
            Err(format!("identity {}, version {}, in place of {}", identity.id, identity.version, technology.identity))
        },
    );
    let current = document::current(identity.issue_date, identity.next_update, context.now);
    ledger.record(&checks::IDENTITY_DATES, current);
    established.identity = Some(identity);
}

/// The quoting enclave against its identity, and its level.
fn check_identity(authentication: &Authentication<'_>, established: &mut Established<'_>, ledger: &mut Ledger<'_>) {
    let Some(identity) = &established.identity else { return };
    let report = &authentication.qe_report;
    let claims: [(&'static CheckInfo, bool, &str); 4] = [
        (&checks::QE_SIGNER, identity.has_signer_of(report), "signer"),
        (&checks::QE_PRODUCT, identity.has_product_of(report), "product id"),
        (&checks::QE_MISCSELECT, identity.allows_miscselect_of(report), "MISCSELECT"),
        (&checks::QE_ATTRIBUTES, identity.allows_attributes_of(report), "attributes"),
    ];
    for (info, holds, what) in claims {
        ledger.record(
            info,
            if holds {
                Ok(format!("the quoting enclave has the identity's {what}"))
            } else {
                Err(format!("the quoting enclave has another {what} than the identity says"))
            },
        );
    }
    let level = isv_level(&identity.tcb_levels, report.isv_svn);
    let advisories: Vec<_> = level.iter().flat_map(|level| level.advisories.iter().copied()).collect();
    established.qe_status = Some(level.map_or(TcbStatus::NotFound, |level| level.status));
    let result = described("the quoting enclave", level, report.isv_svn);
    established.advisories.extend(advisories);
    ledger.recorder().record(&checks::TCB_QE_LEVEL, result);
}

/// A level of an enclave or module, in words.
pub(super) fn described(what: &str, level: Option<&IsvLevel<'_>>, isvsvn: u16) -> Result<String, String> {
    match level {
        Some(level) => Ok(format!("{what} has security version {isvsvn}: {}", level.status)),
        None => Err(format!("{what} has security version {isvsvn}, below every level that Intel lists")),
    }
}

/// The platform's level for one TEE_TCB_SVN.
pub(super) fn platform_level<'a>(
    established: &Established<'a>,
    tee_tcb_svn: Option<&[u8; 16]>,
) -> Option<(TcbStatus, Vec<&'a str>)> {
    let (info, platform) = (established.tcb_info.as_ref()?, established.platform.as_ref()?);
    let level = info.level(&PlatformTcb { components: &platform.components, pcesvn: platform.pcesvn, tee_tcb_svn });
    Some(level.map_or((TcbStatus::NotFound, Vec::new()), |level| (level.status, level.advisories.clone())))
}
