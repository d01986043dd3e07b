//! From the signing key to AMD's pinned root.
//!
//! ```text
//!   ARK of the product line (pinned) ──▶ ASK or ASVK (given) ──▶ VCEK or VLEK (given) ──▶ report
//!     └──▶ revocation list (given)
//! ```
//!
//! Certificates come in any order, from the host or from the collateral, and none is believed for where it stands or
//! what it is called: the report's SIGNING_KEY says which kind of key to look for, the kind is read from what the
//! certificate names (a chip or a provider), and the intermediate is whichever issued it. A root among them is not
//! looked at.

use lambda_types::Binary;
use rsa::traits::PublicKeyParts as _;

use super::checks;
use super::leaf::{self, LeafFacts, Owner};
use super::policy::{Revocation, SigningKey, SnpPolicy};
use super::report::SnpReport;
use crate::anchors::{AmdAnchor, AmdLine};
use crate::appraise::Context;
use crate::checks::Recorder;
use crate::facts::Facts;
use crate::pki::{ParsedCertificate, ParsedCrl, PublicKey, SignatureAlgorithm};

/// Most certificates from a host, and from collateral.
const MAX_GIVEN: usize = 16;
pub(super) const MAX_COLLATERAL: usize = 256;

/// Most revocation lists.
const MAX_CRLS: usize = 16;

/// Most certificates of one name that are tried as issuers.
const MAX_ISSUERS: usize = 4;

/// Bytes of an RSA-4096 modulus.
const RSA_4096_BYTES: usize = 512;

/// The certificate of the signing key, and what it says.
pub(super) struct Leaf {
    pub(super) certificate: ParsedCertificate,
    pub(super) facts: Result<LeafFacts, String>,
    /// Whether AMD's pinned root vouches for it, over the intermediate.
    pub(super) is_anchored: bool,
}

/// Finds the certificates and makes every check of the chain.
pub(super) fn check(
    report: &SnpReport<'_>,
    signer: Option<SigningKey>,
    given: &[Binary],
    policy: &SnpPolicy,
    context: &Context<'_>,
    recorder: &mut Recorder,
) -> Option<Leaf> {
    let Found { leaf, intermediate, leaf_signed, result } = find(report, signer, given, context);
    recorder.record(&checks::CHAIN_STRUCTURE, result);
    let mut leaf = leaf?;
    let Some(intermediate) = intermediate else { return Some(leaf) };
    let is_certified = recorder.require(
        &checks::CHAIN_SIGNATURE,
        leaf_signed,
        "the intermediate signed the certificate of the signing key",
        "the certificate of the signing key is not signed by the intermediate: it is forged, or another's",
    );
    let line = report.line().or_else(|| leaf.facts.as_ref().ok().map(|facts| facts.line));
    let anchors = context.endorsements.anchors.amd();
    let anchor = match line {
        Some(line) => anchors.iter().find(|anchor| anchor.line == line),
        None => anchors.iter().find(|anchor| intermediate.issued_by_name_of(&anchor.ark)),
    };
    let Some(anchor) = anchor else {
        recorder.record(&checks::CHAIN_ARK, Err("no root is pinned for this product line".into()));
        return Some(leaf);
    };
    let is_authentic = recorder.record(
        &checks::CHAIN_ARK,
        if is_signed(&intermediate, &anchor.ark, context.endorsements.anchors.facts()) {
            Ok(format!("AMD's pinned root of {} signed `{}`", anchor.line.name(), intermediate.subject()))
        } else {
            Err(format!("AMD's root of {} did not sign `{}`", anchor.line.name(), intermediate.subject()))
        },
    );
    leaf.is_anchored = is_certified && is_authentic;
    check_path(&leaf.certificate, &intermediate, anchor, signer, context, recorder);
    check_revocation(&intermediate, anchor, policy, context, recorder);
    Some(leaf)
}

/// What was found among the certificates.
struct Found {
    leaf: Option<Leaf>,
    intermediate: Option<ParsedCertificate>,
    leaf_signed: bool,
    result: Result<String, String>,
}

impl Found {
    fn nothing(why: String) -> Self {
        Self { leaf: None, intermediate: None, leaf_signed: false, result: Err(why) }
    }
}

fn find(report: &SnpReport<'_>, signer: Option<SigningKey>, given: &[Binary], context: &Context<'_>) -> Found {
    let mut pool = match parse(given, MAX_GIVEN, context, "with the report") {
        Ok(pool) => pool,
        Err(why) => return Found::nothing(why),
    };
    let mut best = best_leaf(&pool, report, signer);
    if !best.as_ref().is_some_and(|best| best.is_all_that_is_needed(&pool)) {
        let collateral = context.endorsements.collateral.amd.as_ref();
        let more = collateral.map(|amd| amd.certificates.as_slice()).unwrap_or_default();
        match parse(more, MAX_COLLATERAL, context, "in the collateral") {
            Ok(more) => pool.extend(more),
            Err(why) => return Found::nothing(why),
        }
        best = best_leaf(&pool, report, signer);
    }
    let Some(Candidate { position, facts, .. }) = best else {
        return Found::nothing(format!(
            "there is no certificate of the {} that signed the report: fetch it from AMD's key distribution service",
            signer.map_or("key", SigningKey::name)
        ));
    };
    let certificate = pool.swap_remove(position);
    let known = context.endorsements.anchors.facts();
    let (intermediate, leaf_signed) = find_issuer(&mut pool, &certificate, known);
    let result = match &intermediate {
        Some(_) => Ok("there are certificates of the signing key and of its issuer".into()),
        None => Err(format!("there is no certificate of the issuer of `{}` (ASK or ASVK)", certificate.subject())),
    };
    Found { leaf: Some(Leaf { certificate, facts, is_anchored: false }), intermediate, leaf_signed, result }
}

/// Parses what may be part of a chain; the pinned roots, which often come along, are not parsed again.
pub(super) fn parse(
    given: &[Binary],
    most: usize,
    context: &Context<'_>,
    whence: &str,
) -> Result<Vec<ParsedCertificate>, String> {
    if given.len() > most {
        return Err(format!("there are {} certificates {whence}, more than {most}", given.len()));
    }
    let pinned = context.endorsements.anchors.amd();
    let others = given.iter().enumerate();
    others
        .filter(|(_, der)| pinned.iter().all(|anchor| anchor.ark.der() != der.as_slice()))
        .map(|(index, der)| {
            ParsedCertificate::from_der(der.as_slice())
                .map_err(|error| format!("certificate {index} {whence} cannot be read: {error}"))
        })
        .collect()
}

/// A certificate of an endorsement key, and how well it fits the report: of the kind that signed it (2), and for its
/// chip and TCB (1).
struct Candidate {
    position: usize,
    fitness: u8,
    facts: Result<LeafFacts, String>,
}

impl Candidate {
    fn new(
        position: usize,
        certificate: &ParsedCertificate,
        report: &SnpReport<'_>,
        signer: Option<SigningKey>,
    ) -> Self {
        let of_kind = u8::from(signer.is_some() && leaf::kind(certificate) == signer);
        let facts = LeafFacts::read(certificate);
        let exact = facts.as_ref().is_ok_and(|facts| {
            let same_chip = match &facts.owner {
                Owner::Chip(id) => *id == report.chip_id,
                Owner::Provider(_) => true,
            };
            same_chip && facts.tcb == report.reported_tcb.parts(Some(facts.line))
        });
        Self { position, fitness: of_kind.saturating_mul(2).saturating_add(u8::from(exact)), facts }
    }

    /// Whether the collateral need not be looked at: nothing can fit better, and its issuer is there.
    fn is_all_that_is_needed(&self, pool: &[ParsedCertificate]) -> bool {
        let leaf = pool.get(self.position).filter(|_| self.fitness == 3);
        leaf.is_some_and(|leaf| pool.iter().any(|certificate| leaf.issued_by_name_of(certificate)))
    }
}

/// The fittest, the first among equals.
fn best_leaf(pool: &[ParsedCertificate], report: &SnpReport<'_>, signer: Option<SigningKey>) -> Option<Candidate> {
    let leaves = pool.iter().enumerate().filter(|(_, certificate)| leaf::is_endorsement_key(certificate));
    leaves
        .map(|(position, certificate)| Candidate::new(position, certificate, report, signer))
        .reduce(|best, next| if next.fitness > best.fitness { next } else { best })
}

/// Whether the issuer signed it: as remembered, where the signed part names the algorithm that the signature is of.
fn is_signed(certificate: &ParsedCertificate, issuer: &ParsedCertificate, known: &Facts) -> bool {
    if certificate.names_one_algorithm() {
        return certificate.known_signed_by(issuer, known);
    }
    certificate.signed_by(issuer)
}

/// The certificate that signed the leaf, among those that bear its issuer's name: AMD reissued an ASK under one name.
/// When none did, the first of that name, or else any authority, so that the checks of the path say how it differs.
fn find_issuer(
    pool: &mut Vec<ParsedCertificate>,
    leaf: &ParsedCertificate,
    known: &Facts,
) -> (Option<ParsedCertificate>, bool) {
    let named = |certificate: &ParsedCertificate| leaf.issued_by_name_of(certificate);
    let candidates = || pool.iter().enumerate().filter(|(_, certificate)| named(certificate)).take(MAX_ISSUERS);
    if let Some(position) =
        candidates().find(|(_, issuer)| is_signed(leaf, issuer, known)).map(|(position, _)| position)
    {
        return (Some(pool.swap_remove(position)), true);
    }
    let any = || pool.iter().position(|certificate| !leaf::is_endorsement_key(certificate));
    let first = candidates().next().map(|(position, _)| position).or_else(any);
    let Some(position) = first else { return (None, false) };
    let issuer = pool.swap_remove(position);
    let signed = !named(&issuer) && is_signed(leaf, &issuer, known);
    (Some(issuer), signed)
}

/// RFC 5280 §6.1 over leaf, intermediate and pinned root.
fn check_path(
    leaf: &ParsedCertificate,
    intermediate: &ParsedCertificate,
    anchor: &AmdAnchor,
    signer: Option<SigningKey>,
    context: &Context<'_>,
    recorder: &mut Recorder,
) {
    let ark = &anchor.ark;
    let path = [leaf, intermediate, ark];
    let mut all = |info, result: Result<(), String>, pass: &str| recorder.record(info, result.map(|()| pass.into()));

    all(
        &checks::CHAIN_NAMES,
        names(leaf, intermediate, anchor, signer),
        "each certificate names the next as its issuer, and is called what AMD calls it",
    );
    all(
        &checks::CHAIN_ALGORITHMS,
        algorithms(leaf, intermediate, ark),
        "RSASSA-PSS with SHA-384 and RSA-4096 throughout, above a P-384 key",
    );
    let dates = path.iter().try_for_each(|certificate| certificate.valid_at(context.now));
    all(&checks::CHAIN_DATES, dates, "every certificate is valid at this time");

    let flags = ark.is_authority(1).and_then(|()| intermediate.is_authority(0)).and_then(|()| leaf.is_leaf());
    all(&checks::CHAIN_AUTHORITIES, flags, "root and intermediate are CAs for a path of this length");

    let usage = ark.may_sign_certificates().and_then(|()| intermediate.may_sign_certificates());
    all(&checks::CHAIN_KEY_USAGE, usage, "root and intermediate may sign certificates");

    let critical = path.iter().try_for_each(|certificate| certificate.understands_critical_extensions());
    all(&checks::CHAIN_CRITICAL, critical, "no critical extension is unknown");
}

fn names(
    leaf: &ParsedCertificate,
    intermediate: &ParsedCertificate,
    anchor: &AmdAnchor,
    signer: Option<SigningKey>,
) -> Result<(), String> {
    for (certificate, issuer) in [(leaf, intermediate), (intermediate, &anchor.ark), (&anchor.ark, &anchor.ark)] {
        if !certificate.issued_by_name_of(issuer) {
            return Err(format!("`{}` was not issued by `{}`", certificate.subject(), issuer.subject()));
        }
    }
    let called = match signer {
        Some(SigningKey::Vcek) => ["SEV-VCEK".to_owned(), format!("SEV-{}", anchor.line.name())],
        Some(SigningKey::Vlek) => ["SEV-VLEK".to_owned(), format!("SEV-VLEK-{}", anchor.line.name())],
        None => return Err("the report does not say what kind of key signed it".into()),
    };
    let root = format!("ARK-{}", anchor.line.name());
    let expected = called.iter().chain([&root]);
    for (certificate, expected) in [leaf, intermediate, &anchor.ark].into_iter().zip(expected) {
        if certificate.common_name().as_deref() != Some(expected.as_str()) {
            return Err(format!("`{}` is not called `{expected}`", certificate.subject()));
        }
    }
    Ok(())
}

fn algorithms(
    leaf: &ParsedCertificate,
    intermediate: &ParsedCertificate,
    ark: &ParsedCertificate,
) -> Result<(), String> {
    is_signed_with_pss(leaf)?;
    is_rsa_4096_throughout(intermediate)?;
    is_rsa_4096_throughout(ark)?;
    match leaf.public_key() {
        Some(PublicKey::P384(_)) => Ok(()),
        _ => Err(format!("`{}` does not hold a P-384 key", leaf.subject())),
    }
}

fn is_signed_with_pss(certificate: &ParsedCertificate) -> Result<(), String> {
    certificate.is_version_3()?;
    if certificate.signature_algorithm() == Some(SignatureAlgorithm::RsaPssSha384) {
        return Ok(());
    }
    Err(format!("`{}` is not signed with RSASSA-PSS, SHA-384 and 48 bytes of salt", certificate.subject()))
}

/// An authority's certificate: signed so, and for a key that signs so.
pub(super) fn is_rsa_4096_throughout(authority: &ParsedCertificate) -> Result<(), String> {
    is_signed_with_pss(authority)?;
    match authority.public_key() {
        Some(PublicKey::Rsa(key)) if key.size() == RSA_4096_BYTES => Ok(()),
        _ => Err(format!("`{}` does not hold an RSA-4096 key", authority.subject())),
    }
}

/// Judges every list that the pinned root is said to have issued.
fn check_revocation(
    intermediate: &ParsedCertificate,
    anchor: &AmdAnchor,
    policy: &SnpPolicy,
    context: &Context<'_>,
    recorder: &mut Recorder,
) {
    let judged = [&checks::CRL_SIGNATURE, &checks::CRL_DATES, &checks::CRL_REVOKED];
    let lists = match (policy.revocation, lists_of(anchor, context)) {
        (None, _) => Err("the policy does not say whether a revocation list is needed: add `snp.revocation`".into()),
        (_, Err(why)) => Err(why),
        (Some(Revocation::Required), Ok(lists)) if lists.is_empty() => Err(missing(anchor.line)),
        (Some(_), Ok(lists)) => Ok(lists),
    };
    let lists = match lists {
        Ok(lists) => lists,
        Err(why) => {
            recorder.record(&checks::CRL_GIVEN, Err(why));
            return;
        }
    };
    if lists.is_empty() {
        let why = "there is no revocation list, and the policy needs none";
        recorder.not_applicable(&checks::CRL_GIVEN, why);
        judged.into_iter().for_each(|info| recorder.not_applicable(info, why));
        return;
    }
    recorder.record(&checks::CRL_GIVEN, Ok(format!("{} of the root of {}", lists.len(), anchor.line.name())));
    let (ark, known) = (&anchor.ark, context.endorsements.anchors.facts());
    let signed = ark.may_sign_crls().and_then(|()| lists.iter().try_for_each(|list| authentic(list, ark, known)));
    recorder.record(&checks::CRL_SIGNATURE, signed.map(|()| "the pinned root signed the revocation list".into()));
    let current = lists.iter().try_for_each(|list| list.current_at(context.now));
    recorder.record(&checks::CRL_DATES, current.map(|()| "the revocation list is current".into()));
    let revoked = [intermediate, ark]
        .into_iter()
        .find(|certificate| lists.iter().any(|list| list.revokes(certificate.serial())))
        .map_or(Ok(()), |certificate| {
            Err(format!("AMD revoked `{}`, serial {}", certificate.subject(), hex::encode(certificate.serial())))
        });
    recorder.record(&checks::CRL_REVOKED, revoked.map(|()| "neither root nor intermediate is revoked".into()));
}

fn missing(line: AmdLine) -> String {
    format!(
        "the policy needs a revocation list of the root of {}, and there is none: fetch the collateral",
        line.name()
    )
}

pub(super) fn authentic(list: &ParsedCrl, ark: &ParsedCertificate, known: &Facts) -> Result<(), String> {
    list.understands_critical_extensions()?;
    if list.known_signed_by(ark, known) {
        Ok(())
    } else {
        Err(format!("the root did not sign the revocation list of `{}`", list.issuer()))
    }
}

/// The lists that bear this root's name.
fn lists_of(anchor: &AmdAnchor, context: &Context<'_>) -> Result<Vec<ParsedCrl>, String> {
    let mut lists = lists(context)?;
    lists.retain(|list| list.issued_by_name_of(&anchor.ark));
    Ok(lists)
}

/// Every list that was given.
pub(super) fn lists(context: &Context<'_>) -> Result<Vec<ParsedCrl>, String> {
    let collateral = context.endorsements.collateral.amd.as_ref();
    let given = collateral.map(|amd| amd.crls.as_slice()).unwrap_or_default();
    if given.len() > MAX_CRLS {
        return Err(format!("there are {} revocation lists, more than {MAX_CRLS}", given.len()));
    }
    given.iter().map(|der| ParsedCrl::from_der(der.as_slice()).map_err(|error| error.to_string())).collect()
}
