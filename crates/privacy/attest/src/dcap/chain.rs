//! The two kinds of certificate chain: PCK, PCK CA, root; and TCB signer, root.

use der::Decode as _;
use der::oid::AssociatedOid as _;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};

use super::checks;
use super::ledger::Ledger;
use crate::checks::CheckInfo;
use crate::facts::Facts;
use crate::pki::ParsedCertificate;
use crate::time::UnixTime;

/// How a chain is judged, and under which checks.
pub(super) struct Kind {
    structure: &'static CheckInfo,
    algorithms: &'static CheckInfo,
    anchor: &'static CheckInfo,
    names: &'static CheckInfo,
    signatures: &'static CheckInfo,
    dates: &'static CheckInfo,
    authorities: &'static CheckInfo,
    key_usage: &'static CheckInfo,
    critical: &'static CheckInfo,
    /// Common names from the leaf up, the root not counted; one of each.
    common_names: &'static [&'static [&'static str]],
}

pub(super) const PLATFORM_CA: &str = "Intel SGX PCK Platform CA";
pub(super) const PROCESSOR_CA: &str = "Intel SGX PCK Processor CA";

pub(super) static PCK: Kind = Kind {
    structure: &checks::PCK_STRUCTURE,
    algorithms: &checks::PCK_ALGORITHMS,
    anchor: &checks::PCK_ANCHOR,
    names: &checks::PCK_NAMES,
    signatures: &checks::PCK_SIGNATURES,
    dates: &checks::PCK_DATES,
    authorities: &checks::PCK_AUTHORITIES,
    key_usage: &checks::PCK_KEY_USAGE,
    critical: &checks::PCK_CRITICAL,
    common_names: &[&["Intel SGX PCK Certificate"], &[PLATFORM_CA, PROCESSOR_CA]],
};

pub(super) static SIGNER: Kind = Kind {
    structure: &checks::SIGNER_STRUCTURE,
    algorithms: &checks::SIGNER_ALGORITHMS,
    anchor: &checks::SIGNER_ANCHOR,
    names: &checks::SIGNER_NAMES,
    signatures: &checks::SIGNER_SIGNATURES,
    dates: &checks::SIGNER_DATES,
    authorities: &checks::SIGNER_AUTHORITIES,
    key_usage: &checks::SIGNER_KEY_USAGE,
    critical: &checks::SIGNER_CRITICAL,
    common_names: &[&["Intel SGX TCB Signing"]],
};

/// A chain from the leaf to the root, as it was presented.
pub(super) struct Chain {
    certificates: Vec<ParsedCertificate>,
    pub(super) anchored: bool,
    /// Whether the root is the pinned certificate itself. Another one for the same name and key is believed when that key
    /// signed it.
    is_pinned: bool,
}

impl Chain {
    /// Parses and judges a chain. The root that it brings along serves to be recognised: an anchored chain's root has the
    /// pinned one's name and key.
    pub(super) fn check<'a>(
        pem: &str,
        kind: &'static Kind,
        roots: impl Iterator<Item = &'a ParsedCertificate>,
        now: UnixTime,
        facts: &Facts,
        ledger: &mut Ledger<'_>,
    ) -> Option<Self> {
        let expected = kind.common_names.len().saturating_add(1);
        let certificates = match ParsedCertificate::chain_from_pem(pem, expected) {
            Ok(certificates) if certificates.len() == expected => certificates,
            Ok(certificates) => {
                let count = certificates.len();
                ledger.record(kind.structure, Err(format!("{count} certificates where {expected} are expected")));
                return None;
            }
            Err(error) => {
                ledger.record(kind.structure, Err(error.to_string()));
                return None;
            }
        };
        ledger.record(kind.structure, Ok(format!("{expected} certificates")));
        let mut chain = Self { certificates, anchored: false, is_pinned: false };
        chain.check_anchor(kind, roots, ledger);
        chain.check_path(kind, facts, ledger);
        chain.check_contents(kind, now, ledger);
        Some(chain)
    }

    pub(super) fn leaf(&self) -> Option<&ParsedCertificate> {
        self.certificates.first()
    }

    /// The certificate that issued the leaf.
    pub(super) fn issuer(&self) -> Option<&ParsedCertificate> {
        self.certificates.get(1)
    }

    pub(super) fn root(&self) -> Option<&ParsedCertificate> {
        self.certificates.last()
    }

    fn check_anchor<'a>(
        &mut self,
        kind: &'static Kind,
        mut roots: impl Iterator<Item = &'a ParsedCertificate>,
        ledger: &mut Ledger<'_>,
    ) {
        let presented = self.certificates.last();
        let pinned = presented.and_then(|presented| roots.find(|root| is_same_authority(presented, root)));
        self.is_pinned = pinned.is_some_and(|pinned| presented.is_some_and(|it| it.der() == pinned.der()));
        self.anchored = ledger.require(
            kind.anchor,
            pinned.is_some(),
            "the chain ends at the pinned root",
            "the chain ends at a root that is not pinned, whatever it calls itself",
        );
    }

    /// Names and signatures from each certificate to the next.
    fn check_path(&self, kind: &'static Kind, facts: &Facts, ledger: &mut Ledger<'_>) {
        let pairs = || self.certificates.iter().zip(self.certificates.iter().skip(1));
        let stranger = pairs().find(|(subject, issuer)| !subject.issued_by_name_of(issuer));
        let misnamed = self.certificates.iter().zip(kind.common_names).find_map(|(certificate, names)| {
            let name = certificate.common_name();
            let known = name.as_deref().is_some_and(|name| names.contains(&name));
            (!known).then(|| certificate.subject())
        });
        ledger.record(
            kind.names,
            match (stranger, misnamed) {
                (None, None) => Ok("every certificate names the next as its issuer".into()),
                (Some((subject, issuer)), _) => {
                    Err(format!("`{}` does not name `{}` as its issuer", subject.subject(), issuer.subject()))
                }
                (None, Some(subject)) => Err(format!("`{subject}` is not a name that belongs in such a chain")),
            },
        );
        let forged =
            pairs().find(|(subject, issuer)| !subject.known_signed_by(issuer, facts)).map(|(subject, _)| subject);
        let changed = self.root().filter(|root| !self.is_pinned && !root.known_signed_by(root, facts));
        ledger.record(
            kind.signatures,
            match forged.or(changed) {
                None => Ok("every certificate is signed by the next one's key".into()),
                Some(subject) => Err(format!("the signature of `{}` does not hold", subject.subject())),
            },
        );
    }

    fn check_contents(&self, kind: &'static Kind, now: UnixTime, ledger: &mut Ledger<'_>) {
        let all = || self.certificates.iter();
        let each = |check: &dyn Fn(&ParsedCertificate) -> Result<(), String>, pass: &str| {
            all().try_for_each(check).map(|()| pass.to_owned())
        };
        ledger.record(kind.algorithms, each(&ParsedCertificate::is_p256_throughout, "P-256 and SHA-256 throughout"));
        ledger.record(kind.dates, each(&|it| it.valid_at(now), "every certificate is valid at this time"));
        ledger.record(
            kind.critical,
            each(&ParsedCertificate::understands_critical_extensions, "every critical extension is understood"),
        );
        let authorities = || all().skip(1).enumerate();
        let are = authorities().try_for_each(|(below, authority)| authority.is_authority(below));
        let leaf = self.leaf().map_or(Ok(()), is_no_authority);
        ledger.record(kind.authorities, are.and(leaf).map(|()| "issuers are authorities, the leaf is none".into()));
        let sign_certificates = all().skip(1).try_for_each(ParsedCertificate::may_sign_certificates);
        let sign = self.leaf().map_or(Ok(()), may_sign);
        ledger.record(kind.key_usage, sign_certificates.and(sign).map(|()| "key usages fit".into()));
    }
}

/// By name and key: a self-made root can have one, but not both.
fn is_same_authority(presented: &ParsedCertificate, pinned: &ParsedCertificate) -> bool {
    presented.subject_name() == pinned.subject_name() && presented.spki() == pinned.spki()
}

fn is_no_authority(leaf: &ParsedCertificate) -> Result<(), String> {
    let unreadable = || format!("`{}` has basic constraints that cannot be read", leaf.subject());
    match leaf.extension_value(&BasicConstraints::OID)? {
        None => Ok(()),
        Some((_, value)) => match BasicConstraints::from_der(value).map_err(|_| unreadable())? {
            BasicConstraints { ca: true, .. } => Err(format!("`{}` is marked as an authority", leaf.subject())),
            BasicConstraints { .. } => Ok(()),
        },
    }
}

fn may_sign(leaf: &ParsedCertificate) -> Result<(), String> {
    let usage = leaf.extension_value(&KeyUsage::OID)?.and_then(|(_, value)| KeyUsage::from_der(value).ok());
    match usage {
        Some(usage) if usage.digital_signature() => Ok(()),
        _ => Err(format!("the key usage of `{}` does not allow it to sign", leaf.subject())),
    }
}
