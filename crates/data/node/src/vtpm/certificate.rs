//! Endorsement certificates (TCG EK Credential Profile for TPM Family 2.0, what a verifier checks of it).

use lambda_transport::pki::Authority;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PublicKeyData,
    SignatureAlgorithm,
};
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime};

/// tcg-kp-EKCertificate.
const EK_CERTIFICATE: [u64; 5] = [2, 23, 133, 8, 1];

/// As long as a node CA's certificate: a chain is checked against the dates of every link.
const DAYS: i64 = 1825;

/// Room for clocks that differ.
const BACKDATE: Duration = Duration::hours(1);

/// An endorsement key: a P-256 point that only the TPM has the private part of.
struct EndorsementKey {
    point: [u8; 65],
}

impl PublicKeyData for EndorsementKey {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// The certificate, DER.
pub(super) fn issue(authority: &Authority, point: [u8; 65]) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    let digest = hex::encode(Sha256::digest(point));
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, format!("vTPM {}", digest.get(..32).unwrap_or_default()));
    params.distinguished_name = name;
    params.not_before = OffsetDateTime::now_utc() - BACKDATE;
    params.not_after = params.not_before + Duration::days(DAYS);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(EK_CERTIFICATE.to_vec())];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&EndorsementKey { point }, authority.issuer())?;
    Ok(certificate.der().to_vec())
}
