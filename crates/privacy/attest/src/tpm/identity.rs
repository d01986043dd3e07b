//! EK, its chain, and the AK's public area.

use lambda_tpm::public::{PublicKeyArea, Scheme};
use lambda_tpm::{Attributes, Public, alg};
use lambda_types::session::TpmIdentity;
use serde_json::json;

use crate::checks::{self, CheckInfo, Recorder};
use crate::pki::{MAX_CHAIN, ParsedCertificate};
use crate::policy::{Policy, TpmPolicy};
use crate::time::UnixTime;
use crate::verdict::Claims;

/// Keys as far as they could be read.
#[derive(Default)]
pub(crate) struct Keys {
    pub(crate) ek: Option<Public>,
    pub(crate) ak: Option<Public>,
    issuer: Option<String>,
    platform_ca: Option<String>,
}

impl Keys {
    pub(super) fn claim(&self, claims: &mut Claims) {
        let named = [("ek_name", &self.ek), ("ak_name", &self.ak)];
        for (claim, key) in named {
            if let Some(name) = key.as_ref().and_then(|key| key.name().ok()) {
                claims.insert(claim.into(), json!(hex::encode(name)));
            }
        }
        if let Some(issuer) = &self.issuer {
            claims.insert("ek_issuer".into(), json!(issuer));
        }
        if let Some(fingerprint) = &self.platform_ca {
            claims.insert("platform_ca".into(), json!(fingerprint));
        }
    }
}

/// Checks keys and chain against the policy's platform CAs.
pub(crate) fn check_identity(identity: &TpmIdentity, policy: &Policy, now: UnixTime, recorder: &mut Recorder) -> Keys {
    let mut keys = check_keys(identity, recorder);
    recorder.require(
        &checks::POLICY_TEE,
        policy.tpm.is_some(),
        "the policy allows evidence of a TPM",
        "the policy says nothing about TPM evidence, so it is refused: add `tpm`",
    );
    let Some(chain) = parse_chain(identity, recorder) else { return keys };
    keys.issuer = chain.get(1).map(ParsedCertificate::fingerprint);
    check_certified(keys.ek.as_ref(), &chain, recorder);
    let (Some(tpm), Some(last)) = (&policy.tpm, chain.last()) else { return keys };
    let Some(anchor) = find_anchor(tpm, last, recorder) else { return keys };
    keys.platform_ca = Some(anchor.fingerprint());
    check_path(&chain, &anchor, now, recorder);
    keys
}

/// Checks the two public areas.
pub(crate) fn check_keys(identity: &TpmIdentity, recorder: &mut Recorder) -> Keys {
    let ek = Public::parse(identity.ek_public.as_slice());
    recorder.record(
        &checks::EK_PUBLIC,
        match &ek {
            Ok(ek) if !ek.matches_template(&Public::ek_template()) => {
                Err("the endorsement key is not an ECC P-256 storage key of template L-2".into())
            }
            Ok(ek) if ek.p256_sec1().is_none() => Err("the endorsement key's point is not on P-256".into()),
            Ok(_) => Ok("the endorsement key is an ECC P-256 storage key that cannot leave its TPM".into()),
            Err(error) => Err(format!("the endorsement key cannot be read: {error}")),
        },
    );
    let ak = Public::parse(identity.ak_public.as_slice());
    match &ak {
        Ok(ak) => check_attestation_key(ak, recorder),
        Err(error) => {
            recorder.record(&checks::AK_ATTRIBUTES, Err(format!("the attestation key cannot be read: {error}")));
        }
    }
    Keys { ek: ek.ok(), ak: ak.ok(), ..Keys::default() }
}

fn check_attestation_key(ak: &Public, recorder: &mut Recorder) {
    let needed = Attributes::FIXED_TPM
        .and(Attributes::FIXED_PARENT)
        .and(Attributes::SENSITIVE_DATA_ORIGIN)
        .and(Attributes::RESTRICTED)
        .and(Attributes::SIGN);
    recorder.record(
        &checks::AK_ATTRIBUTES,
        if !ak.attributes.contains(needed) {
            Err("the attestation key lacks one of fixedTPM, fixedParent, sensitiveDataOrigin, restricted, sign: it \
                 could be used outside its TPM, or to sign what no TPM made"
                .into())
        } else if ak.attributes.contains(Attributes::DECRYPT) {
            Err("the attestation key may also decrypt".into())
        } else {
            Ok("the attestation key was made in its TPM, cannot leave it and signs only what the TPM made".into())
        },
    );
    let scheme = Scheme::Signing { scheme: alg::ECDSA, hash: alg::SHA256 };
    let right = matches!(&ak.key, PublicKeyArea::EccP256 { scheme: named, .. } if *named == scheme)
        && ak.name_alg == alg::SHA256
        && ak.p256_sec1().is_some();
    recorder.require(
        &checks::AK_ALGORITHM,
        right,
        "the attestation key is ECDSA P-256 with SHA-256",
        "the attestation key is not ECDSA P-256 with SHA-256 throughout, or its point is not on the curve",
    );
}

fn parse_chain(identity: &TpmIdentity, recorder: &mut Recorder) -> Option<Vec<ParsedCertificate>> {
    let count = identity.ek_chain.len();
    let parsed = if (1..=MAX_CHAIN).contains(&count) {
        identity
            .ek_chain
            .iter()
            .map(|der| ParsedCertificate::from_der(der.as_slice()).map_err(|error| error.to_string()))
            .collect::<Result<Vec<_>, _>>()
    } else {
        Err(format!("the endorsement key comes with {count} certificates, not with one to {MAX_CHAIN}"))
    };
    let (result, chain) = match parsed {
        Ok(chain) => (Ok(format!("{count} well-formed certificates")), Some(chain)),
        Err(why) => (Err(why), None),
    };
    recorder.record(&checks::EK_CHAIN_STRUCTURE, result);
    chain
}

fn check_certified(ek: Option<&Public>, chain: &[ParsedCertificate], recorder: &mut Recorder) {
    let certified = chain.first().and_then(ParsedCertificate::p256_sec1);
    let presented = ek.and_then(Public::p256_sec1);
    recorder.require(
        &checks::EK_CERTIFIED,
        certified.is_some() && certified == presented,
        "the certificate is for this endorsement key",
        "the certificate is for another endorsement key",
    );
}

/// The pinned CA that issued the last certificate. When none did, the first, so that the checks of the path say how the
/// chain differs.
fn find_anchor(tpm: &TpmPolicy, last: &ParsedCertificate, recorder: &mut Recorder) -> Option<ParsedCertificate> {
    let pinned: Vec<_> =
        tpm.platform_cas.iter().filter_map(|pem| ParsedCertificate::from_pem(pem).ok()).take(64).collect();
    let issuer = pinned.iter().position(|anchor| last.issued_by_name_of(anchor) && last.signed_by(anchor));
    let result = match issuer.and_then(|position| pinned.get(position)) {
        Some(anchor) => Ok(format!("the chain ends at the pinned platform CA with key {}", anchor.fingerprint())),
        None if tpm.platform_cas.is_empty() => {
            Err("the policy pins no platform CA, so no TPM can be trusted: add one to `tpm.platform_cas`".to_owned())
        }
        None if pinned.is_empty() => Err("no platform CA in the policy is a certificate".to_owned()),
        None => Err("no pinned platform CA issued the chain: this TPM is vouched for by somebody else".to_owned()),
    };
    recorder.record(&checks::EK_CHAIN_ANCHOR, result);
    pinned.into_iter().nth(issuer.unwrap_or(0))
}

/// RFC 5280 §6.1 over leaf, intermediates and the pinned root.
fn check_path(chain: &[ParsedCertificate], anchor: &ParsedCertificate, now: UnixTime, recorder: &mut Recorder) {
    let path: Vec<&ParsedCertificate> = chain.iter().chain([anchor]).collect();
    let links = || path.iter().zip(path.iter().skip(1));
    let authorities = || path.iter().skip(1).enumerate();
    let all = |info: &'static CheckInfo, recorder: &mut Recorder, result: Result<(), String>, pass: &str| {
        recorder.record(info, result.map(|()| pass.into()));
    };

    let names = links().try_for_each(|(certificate, issuer)| {
        certificate
            .issued_by_name_of(issuer)
            .then_some(())
            .ok_or_else(|| format!("`{}` was not issued by `{}`", certificate.subject(), issuer.subject()))
    });
    all(&checks::EK_CHAIN_NAMES, recorder, names, "each certificate names the next as its issuer");

    let signatures = links().try_for_each(|(certificate, issuer)| {
        certificate
            .signed_by(issuer)
            .then_some(())
            .ok_or_else(|| format!("`{}` is not signed by the key of `{}`", certificate.subject(), issuer.subject()))
    });
    all(&checks::EK_CHAIN_SIGNATURES, recorder, signatures, "each certificate is signed by the next one's key");

    let algorithms = path.iter().try_for_each(|certificate| certificate.is_p256_throughout());
    all(&checks::EK_CHAIN_ALGORITHMS, recorder, algorithms, "ECDSA P-256 with SHA-256 throughout");

    let dates = path.iter().try_for_each(|certificate| certificate.valid_at(now));
    all(&checks::EK_CHAIN_DATES, recorder, dates, "every certificate is valid at this time");

    let leaf = path.first();
    let flags = authorities()
        .try_for_each(|(below, authority)| authority.is_authority(below))
        .and_then(|()| leaf.map_or(Ok(()), |leaf| leaf.is_leaf()));
    all(&checks::EK_CHAIN_AUTHORITIES, recorder, flags, "every issuer is a CA for a path of this length");

    let usage = authorities()
        .try_for_each(|(_, authority)| authority.may_sign_certificates())
        .and_then(|()| leaf.map_or(Ok(()), |leaf| leaf.is_for_key_agreement()));
    all(&checks::EK_CHAIN_KEY_USAGE, recorder, usage, "issuers sign certificates, the endorsement key agrees on keys");

    let purpose = leaf.map_or(Ok(()), |leaf| leaf.is_for_endorsement());
    all(&checks::EK_CHAIN_PURPOSE, recorder, purpose, "the certificate is for endorsement");

    let critical = path.iter().try_for_each(|certificate| certificate.understands_critical_extensions());
    all(&checks::EK_CHAIN_CRITICAL, recorder, critical, "no critical extension is unknown");
}
