//! Certificates, revocation lists and signatures as a vendor would make them, and as none would.

use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};

use der::Encode as _;
use der::asn1::ObjectIdentifier;

pub(super) const ECDSA_SHA256: &str = "1.2.840.10045.4.3.2";
const SGX: &str = "1.2.840.113741.1.13.1";

pub(super) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head = match content.len() {
        0..=127 => vec![tag, length[1]],
        128..=255 => vec![tag, 0x81, length[1]],
        _ => vec![tag, 0x82, length[0], length[1]],
    };
    [&head, content].concat()
}

pub(super) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

pub(super) fn integer(value: u64) -> Vec<u8> {
    let bytes = [&[0][..], &value.to_be_bytes()].concat();
    let start = bytes.windows(2).position(|pair| pair[0] != 0 || pair[1] >= 0x80).unwrap_or(8);
    tlv(2, &bytes[start..])
}

pub(super) fn boolean(value: bool) -> Vec<u8> {
    tlv(1, &[if value { 0xff } else { 0 }])
}

pub(super) fn oid(dotted: &str) -> Vec<u8> {
    ObjectIdentifier::new(dotted).unwrap().to_der().unwrap()
}

fn bit_string(content: &[u8]) -> Vec<u8> {
    tlv(3, &[&[0][..], content].concat())
}

fn name(common_name: &str) -> Vec<u8> {
    let attribute = sequence(&[oid("2.5.4.3"), tlv(0x0c, common_name.as_bytes())]);
    sequence(&[tlv(0x31, &attribute)])
}

fn time(text: &str) -> Vec<u8> {
    tlv(0x17, text.as_bytes())
}

pub(super) fn key(id: u8) -> SigningKey {
    SigningKey::from_slice(&[id; 32]).unwrap()
}

pub(super) fn point(id: u8) -> [u8; 64] {
    key(id).verifying_key().to_sec1_point(false).as_bytes()[1..].try_into().unwrap()
}

pub(super) fn raw_signature(id: u8, message: &[u8]) -> [u8; 64] {
    let signature: Signature = key(id).sign(message);
    signature.to_bytes().into()
}

fn der_signature(id: u8, message: &[u8]) -> Vec<u8> {
    let signature: Signature = key(id).sign(message);
    signature.to_der().as_bytes().to_vec()
}

/// An extension.
pub(super) fn extension(dotted: &str, critical: bool, value: &[u8]) -> Vec<u8> {
    let mut parts = vec![oid(dotted)];
    if critical {
        parts.push(boolean(true));
    }
    parts.push(tlv(4, value));
    sequence(&parts)
}

/// What a certificate says.
#[derive(Clone)]
pub(super) struct CertificateSpec {
    pub(super) version: u64,
    pub(super) serial: u64,
    pub(super) subject: &'static str,
    pub(super) issuer: &'static str,
    pub(super) from: &'static str,
    pub(super) until: &'static str,
    pub(super) key: u8,
    pub(super) signed_by: u8,
    pub(super) algorithm: &'static str,
    pub(super) ca: bool,
    pub(super) path_length: Option<u64>,
    /// The first byte of the key usage bit string; 0x80 signs data, 0x04 certificates, 0x02 revocation lists.
    pub(super) key_usage: u8,
    pub(super) extensions: Vec<Vec<u8>>,
}

impl CertificateSpec {
    pub(super) fn authority(subject: &'static str, issuer: &'static str, key: u8, signed_by: u8) -> Self {
        Self {
            version: 2,
            serial: u64::from(key),
            subject,
            issuer,
            from: "200101000000Z",
            until: "400101000000Z",
            key,
            signed_by,
            algorithm: ECDSA_SHA256,
            ca: true,
            path_length: None,
            key_usage: 0x06,
            extensions: Vec::new(),
        }
    }

    pub(super) fn leaf(subject: &'static str, issuer: &'static str, key: u8, signed_by: u8) -> Self {
        Self { ca: false, key_usage: 0xc0, ..Self::authority(subject, issuer, key, signed_by) }
    }

    pub(super) fn der(&self) -> Vec<u8> {
        let algorithm = sequence(&[oid(self.algorithm)]);
        let curve = sequence(&[oid("1.2.840.10045.2.1"), oid("1.2.840.10045.3.1.7")]);
        let spki = sequence(&[curve, bit_string(&[&[4][..], &point(self.key)].concat())]);
        let mut constraints = Vec::new();
        if self.ca {
            constraints.push(boolean(true));
            constraints.extend(self.path_length.map(integer));
        }
        let mut extensions = vec![
            extension("2.5.29.15", true, &tlv(3, &[0, self.key_usage])),
            extension("2.5.29.19", true, &sequence(&constraints)),
        ];
        extensions.extend(self.extensions.iter().cloned());
        let mut parts = Vec::new();
        if self.version > 0 {
            parts.push(tlv(0xa0, &integer(self.version)));
        }
        parts.extend([
            integer(self.serial),
            algorithm.clone(),
            name(self.issuer),
            sequence(&[time(self.from), time(self.until)]),
            name(self.subject),
            spki,
        ]);
        if self.version == 2 {
            parts.push(tlv(0xa3, &sequence(&extensions)));
        }
        let tbs = sequence(&parts);
        let signature = der_signature(self.signed_by, &tbs);
        sequence(&[tbs, algorithm, bit_string(&signature)])
    }

    pub(super) fn pem(&self) -> String {
        der::pem::encode_string("CERTIFICATE", der::pem::LineEnding::LF, &self.der()).unwrap()
    }
}

/// What a revocation list says.
#[derive(Clone)]
pub(super) struct CrlSpec {
    pub(super) issuer: &'static str,
    pub(super) signed_by: u8,
    pub(super) from: &'static str,
    pub(super) next: Option<&'static str>,
    pub(super) revoked: Vec<u64>,
    pub(super) extensions: Vec<Vec<u8>>,
    pub(super) cut: usize,
}

impl CrlSpec {
    pub(super) fn of(issuer: &'static str, signed_by: u8) -> Self {
        Self {
            issuer,
            signed_by,
            from: "260515000000Z",
            next: Some("260615000000Z"),
            revoked: vec![0xdead],
            extensions: vec![extension("2.5.29.20", false, &integer(1))],
            cut: 0,
        }
    }

    pub(super) fn der(&self) -> Vec<u8> {
        let algorithm = sequence(&[oid(ECDSA_SHA256)]);
        let mut parts = vec![integer(1), algorithm.clone(), name(self.issuer), time(self.from)];
        parts.extend(self.next.map(time));
        let entry = |serial: &u64| sequence(&[integer(*serial), time("260101000000Z")]);
        parts.push(sequence(&self.revoked.iter().map(entry).collect::<Vec<_>>()));
        parts.push(tlv(0xa0, &sequence(&self.extensions)));
        let tbs = sequence(&parts);
        let signature = der_signature(self.signed_by, &tbs);
        let list = sequence(&[tbs, algorithm, bit_string(&signature)]);
        list[..list.len() - self.cut].to_vec()
    }
}

/// What the PCK certificate says of its platform.
#[derive(Clone)]
pub(super) struct PlatformSpec {
    pub(super) ppid: [u8; 16],
    pub(super) components: [u8; 16],
    pub(super) cpusvn: [u8; 16],
    pub(super) pcesvn: u64,
    pub(super) pce_id: [u8; 2],
    pub(super) fmspc: [u8; 6],
    pub(super) smt: Option<bool>,
    pub(super) dynamic: Option<bool>,
    pub(super) cached_keys: Option<bool>,
    pub(super) left_out: Option<u32>,
    pub(super) twice: Option<u32>,
}

impl PlatformSpec {
    pub(super) fn der(&self) -> Vec<u8> {
        let entry = |arcs: &str, value: Vec<u8>| sequence(&[oid(&format!("{SGX}.{arcs}")), value]);
        let mut tcb: Vec<_> = (1..)
            .zip(self.components)
            .map(|(number, svn)| entry(&format!("2.{number}"), integer(svn.into())))
            .collect();
        tcb.push(entry("2.17", integer(self.pcesvn)));
        tcb.push(entry("2.18", tlv(4, &self.cpusvn)));
        let flags = [(1, self.dynamic), (2, self.cached_keys), (3, self.smt)];
        let flags: Vec<_> =
            flags.iter().filter_map(|(arc, flag)| Some(entry(&format!("7.{arc}"), boolean((*flag)?)))).collect();
        let entries = [
            (1, tlv(4, &self.ppid)),
            (2, sequence(&tcb)),
            (3, tlv(4, &self.pce_id)),
            (4, tlv(4, &self.fmspc)),
            (5, tlv(0x0a, &[1])),
            (6, tlv(4, &[6; 16])),
            (7, sequence(&flags)),
        ];
        let kept = entries.iter().filter(|(arc, _)| self.left_out != Some(*arc));
        let again = entries.iter().filter(|(arc, _)| self.twice == Some(*arc));
        let all: Vec<_> = kept.chain(again).map(|(arc, value)| entry(&arc.to_string(), value.clone())).collect();
        sequence(&all)
    }

    pub(super) fn extension(&self) -> Vec<u8> {
        extension(SGX, false, &self.der())
    }
}
