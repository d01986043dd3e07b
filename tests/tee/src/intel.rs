//! A made-up Intel: one platform under a root of its own, up to date.

#[path = "../../../crates/privacy/attest/src/tests/dcap/forge.rs"]
#[allow(dead_code, reason = "the verifier's own tests make more than a good platform")]
mod forge;
#[path = "../../../crates/privacy/attest/src/tests/dcap/good.rs"]
#[allow(dead_code, reason = "the verifier's own tests make more than a good platform")]
mod good;
#[path = "../../../crates/privacy/attest/src/tests/dcap/quotes.rs"]
#[allow(dead_code, reason = "the verifier's own tests make more than a good platform")]
mod quotes;

use lambda_attest::{IntelCollateral, UnixTime};

use self::forge::{CertificateSpec, CrlSpec, raw_signature};
use self::good::{
    ATTESTATION_KEY, CA_KEY, PCK, PCK_CA, PCK_KEY, ROOT, ROOT_KEY, SIGNER, SIGNER_KEY, identity, platform, quote,
    tcb_info,
};
use self::quotes::Td;
use crate::launch::TdxGuest;
use crate::vendor::{Vendor, utc};

/// Quote version, and the kind of TEE: TDX.
const VERSION: u16 = 4;
const TDX: u32 = 0x81;

/// TEE_TCB_SVN: module 1.4, the rest as the platform's components.
const SVN: [u8; 16] = [4, 1, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5];

fn authority(vendor: Vendor, subject: &'static str, key: u8) -> CertificateSpec {
    CertificateSpec::authority(subject, ROOT, vendor.seed(key), vendor.seed(ROOT_KEY))
}

fn root_certificate(vendor: Vendor) -> CertificateSpec {
    authority(vendor, ROOT, ROOT_KEY)
}

/// The root, DER.
pub(crate) fn root(vendor: Vendor) -> Vec<u8> {
    root_certificate(vendor).der()
}

fn chain(vendor: Vendor) -> String {
    let mut pck = CertificateSpec::leaf(PCK, PCK_CA, vendor.seed(PCK_KEY), vendor.seed(CA_KEY));
    pck.extensions.push(platform().extension());
    let ca = CertificateSpec { path_length: Some(0), ..authority(vendor, PCK_CA, CA_KEY) };
    [pck.pem(), ca.pem(), root_certificate(vendor).pem()].concat()
}

/// What this Intel publishes about the platform.
pub(crate) fn collateral(vendor: Vendor, [from, until]: [UnixTime; 2]) -> IntelCollateral {
    let signer = CertificateSpec::leaf(SIGNER, ROOT, vendor.seed(SIGNER_KEY), vendor.seed(ROOT_KEY));
    let signers = [signer.pem(), root_certificate(vendor).pem()].concat();
    let (issued, next) = (from.to_string(), until.to_string());
    let signed = |name: &str, body: String| {
        let signature = hex::encode(raw_signature(vendor.seed(SIGNER_KEY), body.as_bytes()));
        format!(r#"{{"{name}":{body},"signature":"{signature}"}}"#)
    };
    let dates: [&'static str; 2] = [from, until].map(|time| &*utc(time).leak());
    let list = |issuer, key| {
        let [from, next] = dates;
        CrlSpec { from, next: Some(next), ..CrlSpec::of(issuer, vendor.seed(key)) }.der()
    };
    let ca = CertificateSpec { path_length: Some(0), ..authority(vendor, PCK_CA, CA_KEY) };
    IntelCollateral {
        tcb_info: signed("tcbInfo", tcb_info(true, &issued, &next)),
        tcb_info_issuer_chain: signers.clone(),
        qe_identity: signed("enclaveIdentity", identity(true, &issued, &next)),
        qe_identity_issuer_chain: signers,
        pck_crl: list(PCK_CA, CA_KEY).into(),
        pck_crl_issuer_chain: [ca.pem(), root_certificate(vendor).pem()].concat(),
        root_ca_crl: list(ROOT, ROOT_KEY).into(),
        pck_certificate_chain: None,
    }
}

/// A quote of this trust domain: TD 1.0, closed to debuggers unless the operator opened it.
pub(crate) fn quote_of(vendor: Vendor, guest: &TdxGuest, data: &[u8; 64]) -> Vec<u8> {
    let exact = |bytes: &[u8]| <[u8; 48]>::try_from(bytes).expect("48 bytes");
    let td = Td {
        svn: SVN,
        mrseam: [0x33; 48],
        mrsignerseam: [0; 48],
        seam_attributes: 0,
        attributes: guest.attributes,
        xfam: 0xe7,
        mrtd: exact(&guest.mrtd),
        mrconfigid: exact(&guest.mrconfigid),
        mrowner: [0; 48],
        mrownerconfig: [0; 48],
        rtmrs: [0, 1, 2, 3].map(|index| exact(&guest.rtmrs[index])),
        report_data: *data,
        later: None,
    };
    let mut spec = quote(VERSION, TDX);
    (spec.attestation_key, spec.signed_by) = (vendor.seed(ATTESTATION_KEY), vendor.seed(ATTESTATION_KEY));
    spec.qe_signed_by = vendor.seed(PCK_KEY);
    spec.bytes(&td.bytes(), &chain(vendor))
}
