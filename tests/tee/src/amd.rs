//! A made-up AMD: one Genoa chip under a root of its own.

#[path = "../../../crates/privacy/attest/src/tests/snp/der.rs"]
mod der;
#[path = "../../../crates/privacy/attest/src/tests/snp/forge.rs"]
#[allow(dead_code, reason = "the verifier's own tests make more than a good chip")]
mod forge;
#[path = "../../../crates/privacy/attest/src/tests/snp/good.rs"]
#[allow(dead_code, reason = "the verifier's own tests make more than a good chip")]
mod good;

use lambda_attest::UnixTime;

use self::forge::{Authority, Certificate, Crl, p384_spki, report_key};
use self::good::{TCB, at, chain, raw_report};
use crate::launch::SnpGuest;
use crate::vendor::{Vendor, utc};

/// GUIDs of VCEK and ASK in the certificate table that a host hands to its guests.
const VCEK: [u8; 16] = *b"\x63\xda\x75\x8d\xe6\x64\x45\x64\xad\xc5\xf4\xb9\x3b\xe8\xac\xcd";
const ASK: [u8; 16] = *b"\x4a\xb7\xb3\x79\xbb\xac\x4f\xe4\xa0\x2f\x05\xae\xf3\x27\xc7\x82";

/// AUTHOR_KEY_EN of KEY_INFO.
const AUTHOR_KEY: u32 = 1;

/// The chip's certificates: root, intermediate, VCEK. The two vendors sign with the same two keys, in other roles.
fn certificates(vendor: Vendor) -> [Certificate; 3] {
    let mut all = chain(p384_spki(&report_key(vendor.seed(7))));
    if vendor == Vendor::Second {
        let [root, intermediate, leaf] = &mut all;
        (root.spki, root.signer) = (Authority::Intermediate.spki(), Authority::Intermediate);
        (intermediate.spki, intermediate.signer) = (Authority::Root.spki(), Authority::Intermediate);
        leaf.signer = Authority::Root;
    }
    all
}

/// The root (ARK), DER.
pub(crate) fn root(vendor: Vendor) -> Vec<u8> {
    let [root, ..] = certificates(vendor);
    root.der()
}

/// The revocation list, DER.
pub(crate) fn revocations(vendor: Vendor, [from, until]: [UnixTime; 2]) -> Vec<u8> {
    let [root, ..] = certificates(vendor);
    let (from, until) = (utc(from), Some(utc(until)));
    let crl =
        Crl { issuer: root.subject, from, until, revoked: vec![0x7777], extensions: Vec::new(), signer: root.signer };
    crl.der()
}

/// The certificate table that comes with a report.
pub(crate) fn certificate_table(vendor: Vendor) -> Vec<u8> {
    let [_, intermediate, leaf] = certificates(vendor).map(|certificate| certificate.der());
    let mut offset = 3 * 24;
    let (mut table, mut contents) = (Vec::new(), Vec::new());
    for (name, certificate) in [(VCEK, leaf), (ASK, intermediate)] {
        let length = u32::try_from(certificate.len()).expect("a certificate is short");
        table.extend(name);
        table.extend(u32::to_le_bytes(offset));
        table.extend(length.to_le_bytes());
        offset += length;
        contents.extend(certificate);
    }
    table.extend([0; 24]);
    [table, contents].concat()
}

/// A report of this guest, version 5, at VMPL 0.
pub(crate) fn report(vendor: Vendor, guest: &SnpGuest, data: &[u8; 64]) -> Vec<u8> {
    let mut report = raw_report();
    report.put_u64(at::POLICY, guest.policy);
    report.put(at::MEASUREMENT, &guest.measurement);
    report.put(at::HOST_DATA, &guest.host_data);
    report.put(at::REPORT_DATA, data);
    let id = &guest.identity;
    report.put(at::FAMILY_ID, &id.family_id);
    report.put(at::IMAGE_ID, &id.image_id);
    report.put_u32(at::GUEST_SVN, id.guest_svn);
    report.put(at::ID_KEY_DIGEST, &id.id_key);
    report.put(at::AUTHOR_KEY_DIGEST, &id.author_key.clone().unwrap_or_else(|| vec![0; 48]));
    report.put_u32(at::KEY_INFO, if id.author_key.is_some() { AUTHOR_KEY } else { 0 });
    report.put(at::REPORTED_TCB, &TCB);
    report.sign(&report_key(vendor.seed(7)));
    report.0
}
