//! Certificates of an attestation or endorsement key, up to a root that lies beside the evidence.

use der::Decode as _;
use der::oid::AssociatedOid as _;
use serde_json::json;
use x509_cert::ext::pkix::KeyUsage;

use super::checks::*;
use crate::appraise::Context;
use crate::checks::{CheckInfo, Recorder};
use crate::evidence::TpmQuoteEvidence;
use crate::pki::{ParsedCertificate, PublicKey};
use crate::verdict::Claims;

/// Most certificates below the root: Intel's on-die authorities are four above the key.
const MAX_CHAIN: usize = 8;

/// Most roots that are looked at.
const MAX_ROOTS: usize = 16;

/// What the key's certificate established.
pub(super) struct Certified {
    pub(super) key: Option<PublicKey>,
    /// SubjectPublicKeyInfo, DER.
    pub(super) spki: Vec<u8>,
    /// Whether a given root issued the chain.
    pub(super) anchored: bool,
}

/// Judges the certificates, when there are any.
pub(super) fn check(
    evidence: &TpmQuoteEvidence,
    quotes: bool,
    context: &Context<'_>,
    claims: &mut Claims,
    recorder: &mut Recorder,
) -> Option<Certified> {
    let count = evidence.certificates.len();
    if count == 0 {
        for info in OF_THE_CHAIN {
            recorder.not_applicable(info, "no certificate vouches for the key");
        }
        return None;
    }
    let given = context.given.map(|given| given.roots.as_slice()).unwrap_or_default();
    let read = |ders: &mut dyn Iterator<Item = &[u8]>| -> Result<Vec<ParsedCertificate>, String> {
        ders.map(|der| ParsedCertificate::from_der(der).map_err(|error| error.to_string())).collect()
    };
    let parsed = if count > MAX_CHAIN {
        Err(format!("the key comes with {count} certificates, not with at most {MAX_CHAIN}"))
    } else {
        read(&mut evidence.certificates.iter().map(|der| der.as_slice()))
            .and_then(|chain| Ok((chain, read(&mut given.iter().take(MAX_ROOTS).map(Vec::as_slice))?)))
    };
    let (chain, roots) = match parsed {
        Ok(parsed) => parsed,
        Err(why) => {
            recorder.record(&TPM_QUOTE_CHAIN_STRUCTURE, Err(why));
            return None;
        }
    };
    recorder.record(&TPM_QUOTE_CHAIN_STRUCTURE, Ok(format!("{count} well-formed certificates")));
    let leaf = chain.first()?;
    claim(leaf, claims);
    let path = path(&chain, &roots);
    recorder.record(
        &TPM_QUOTE_CHAIN_ANCHOR,
        match &path {
            Some(path) => Ok(format!(
                "the chain of {} certificates ends at the given root `{}`",
                path.len(),
                path.last().map(|root| root.subject()).unwrap_or_default()
            )),
            None if roots.is_empty() => Err("no root was given that the chain could end at".into()),
            None => Err("the chain does not lead to a root that was given".into()),
        },
    );
    let anchored = path.is_some_and(|path| check_path(&path, quotes, context, recorder));
    Some(Certified { key: leaf.public_key().cloned(), spki: leaf.spki().to_vec(), anchored })
}

/// From the key's certificate, which stands first, by names through the others to a given root.
fn path<'a>(chain: &'a [ParsedCertificate], roots: &'a [ParsedCertificate]) -> Option<Vec<&'a ParsedCertificate>> {
    let mut path = vec![chain.first()?];
    for _ in 0..chain.len() {
        let last = path.last()?;
        let mut issuers = roots.iter().filter(|root| last.issued_by_name_of(root));
        let named = issuers.clone().next();
        if let Some(root) = issuers.find(|root| last.signed_by(root)).or(named) {
            path.push(root);
            return Some(path);
        }
        let next = chain
            .iter()
            .find(|other| last.issued_by_name_of(other) && !path.iter().any(|used| std::ptr::eq(*used, *other)));
        path.push(next?);
    }
    None
}

/// RFC 5280 §6.1 over the path; true when all of it holds.
fn check_path(path: &[&ParsedCertificate], quotes: bool, context: &Context<'_>, recorder: &mut Recorder) -> bool {
    let links = || path.iter().zip(path.iter().skip(1));
    let authorities = || path.iter().skip(1).enumerate();
    let mut holds = true;
    let mut all = |info: &'static CheckInfo, result: Result<(), String>, pass: &str| {
        holds &= recorder.record(info, result.map(|()| pass.into()));
    };
    let algorithms = path.iter().try_for_each(|certificate| {
        certificate.is_version_3()?;
        certificate
            .signature_algorithm()
            .map(drop)
            .ok_or_else(|| format!("`{}` is signed in a way that is not understood", certificate.subject()))
    });
    all(&TPM_QUOTE_CHAIN_ALGORITHMS, algorithms, "every signature algorithm is understood");
    let signatures = links().try_for_each(|(certificate, issuer)| {
        certificate
            .signed_by(issuer)
            .then_some(())
            .ok_or_else(|| format!("`{}` is not signed by the key of `{}`", certificate.subject(), issuer.subject()))
    });
    all(&TPM_QUOTE_CHAIN_SIGNATURES, signatures, "each certificate is signed by the next one's key");
    let dates = path.iter().try_for_each(|certificate| certificate.valid_at(context.now));
    all(&TPM_QUOTE_CHAIN_DATES, dates, "every certificate is valid at this time");
    let leaf = path.first();
    let flags = authorities()
        .try_for_each(|(below, authority)| authority.is_authority(below))
        .and_then(|()| leaf.map_or(Ok(()), |leaf| leaf.is_leaf()));
    all(&TPM_QUOTE_CHAIN_AUTHORITIES, flags, "every issuer is a CA for a path of this length");
    let usage = authorities()
        .try_for_each(|(_, authority)| authority.may_sign_certificates())
        .and_then(|()| leaf.filter(|_| quotes).map_or(Ok(()), |leaf| may_sign(leaf)));
    all(&TPM_QUOTE_CHAIN_KEY_USAGE, usage, "issuers sign certificates, and a key that quotes may sign");
    let critical = path.iter().try_for_each(|certificate| certificate.understands_critical_extensions());
    all(&TPM_QUOTE_CHAIN_CRITICAL, critical, "no critical extension is unknown");
    holds
}

fn key_usage(certificate: &ParsedCertificate) -> Option<KeyUsage> {
    let (_critical, bytes) = certificate.extension_value(&KeyUsage::OID).ok()??;
    KeyUsage::from_der(bytes).ok()
}

/// An attestation key signs; one without a key usage may do anything.
fn may_sign(certificate: &ParsedCertificate) -> Result<(), String> {
    match key_usage(certificate) {
        Some(usage) if !usage.digital_signature() => {
            Err("the key's certificate does not allow it to sign: it is not of an attestation key".into())
        }
        Some(_) | None => Ok(()),
    }
}

/// Whose certificate it is.
fn claim(leaf: &ParsedCertificate, claims: &mut Claims) {
    let kind = match leaf.public_key() {
        Some(PublicKey::Rsa(_)) => "RSA",
        Some(PublicKey::P256(_) | PublicKey::P384(_)) => "ECC",
        None => "unknown",
    };
    let signs = key_usage(leaf).is_some_and(|usage| usage.digital_signature());
    claims.insert("leaf_use".into(), json!(format!("{} ({kind})", if signs { "AK" } else { "EK" })));
    claims.insert("leaf_serial".into(), json!(hex::encode(leaf.serial())));
    claims.insert("critical_extensions".into(), json!(leaf.critical_extensions()));
}
