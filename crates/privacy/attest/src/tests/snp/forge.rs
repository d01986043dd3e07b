//! AMD's certificates, revocation lists and reports, made here under keys that nobody trusts.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{LazyLock, Mutex};

use p384::ecdsa::signature::Signer as _;
use rsa::pkcs8::{DecodePrivateKey as _, EncodePublicKey as _};
use rsa::rand_core::{TryCryptoRng, TryRng};
use rsa::signature::{RandomizedSigner as _, SignatureEncoding as _};
use sha2::Sha384;

use super::der::*;

/// Keys of authorities: a file each, since making them takes seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Authority {
    Root,
    Intermediate,
    /// RSA-2048.
    Small,
}

impl Authority {
    fn key(self) -> &'static rsa::PrivateKey {
        static KEYS: [LazyLock<rsa::PrivateKey>; 3] = [
            LazyLock::new(|| key(include_bytes!("keys/test-root.pk8"))),
            LazyLock::new(|| key(include_bytes!("keys/test-intermediate.pk8"))),
            LazyLock::new(|| key(include_bytes!("keys/test-small.pk8"))),
        ];
        &KEYS[self as usize]
    }

    pub(super) fn spki(self) -> Vec<u8> {
        self.key().to_public_key().to_public_key_der().unwrap().into_vec()
    }

    /// RSASSA-PSS with SHA-384. The same message is signed once: most negatives leave most certificates alone.
    fn sign(self, message: &[u8], salt_bytes: usize) -> Vec<u8> {
        type Made = HashMap<(Authority, usize, Vec<u8>), Vec<u8>>;
        static MADE: LazyLock<Mutex<Made>> = LazyLock::new(Mutex::default);
        let mut made = MADE.lock().unwrap();
        made.entry((self, salt_bytes, message.to_vec()))
            .or_insert_with(|| {
                let key = rsa::pss::SigningKey::<Sha384>::new_with_salt_len(self.key().clone(), salt_bytes);
                key.sign_with_rng(&mut Counter(0), message).to_vec()
            })
            .clone()
    }
}

fn key(pkcs8: &[u8]) -> rsa::PrivateKey {
    rsa::PrivateKey::from_pkcs8_der(pkcs8).unwrap()
}

/// Counts: salts need not be secret, and the same scene has the same bytes each time.
struct Counter(u64);

impl TryRng for Counter {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|value| value as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 += 1;
        Ok(self.0.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for byte in bytes {
            *byte = self.try_next_u64()?.to_be_bytes()[0];
        }
        Ok(())
    }
}

impl TryCryptoRng for Counter {}

/// The key that signs reports.
pub(super) fn report_key(seed: u8) -> p384::ecdsa::SigningKey {
    p384::ecdsa::SigningKey::from_slice(&[seed; 48]).unwrap()
}

/// SubjectPublicKeyInfo of a P-384 key.
pub(super) fn p384_spki(key: &p384::ecdsa::SigningKey) -> Vec<u8> {
    ec_spki("1.3.132.0.34", key.verifying_key().to_sec1_point(false).as_bytes())
}

pub(super) fn ec_spki(curve: &str, point: &[u8]) -> Vec<u8> {
    sequence(&[sequence(&[oid("1.2.840.10045.2.1"), oid(curve)]), bit_string(point)])
}

/// An extension.
#[derive(Clone)]
pub(super) struct Extension {
    pub(super) oid: String,
    pub(super) critical: bool,
    pub(super) value: Vec<u8>,
}

pub(super) fn extension(oid: &str, critical: bool, value: Vec<u8>) -> Extension {
    Extension { oid: oid.into(), critical, value }
}

fn extensions(list: &[Extension]) -> Vec<u8> {
    let each: Vec<Vec<u8>> = list
        .iter()
        .map(|it| {
            let critical = if it.critical { tlv(1, &[0xFF]) } else { Vec::new() };
            sequence(&[oid(&it.oid), critical, octet_string(&it.value)])
        })
        .collect();
    sequence(&each)
}

/// basicConstraints of a CA.
pub(super) fn ca(path_length: Option<u64>) -> Extension {
    let path_length = path_length.map(integer).unwrap_or_default();
    extension("2.5.29.19", true, sequence(&[tlv(1, &[0xFF]), path_length]))
}

/// keyUsage with keyCertSign, cRLSign, or both.
pub(super) fn usage(certificates: bool, crls: bool) -> Extension {
    let bits = u8::from(certificates) << 2 | u8::from(crls) << 1;
    extension("2.5.29.15", true, tlv(3, &[u8::try_from(bits.trailing_zeros()).unwrap(), bits]))
}

/// A certificate as it will be signed.
#[derive(Clone)]
pub(super) struct Certificate {
    pub(super) version: u64,
    pub(super) serial: u64,
    pub(super) issuer: String,
    pub(super) subject: String,
    pub(super) from: String,
    pub(super) until: String,
    pub(super) spki: Vec<u8>,
    pub(super) extensions: Vec<Extension>,
    pub(super) signer: Authority,
    /// What is signed with, and what both algorithm fields say.
    pub(super) salt_bytes: u8,
    /// What the field within what is signed says, when it is another.
    pub(super) inner_salt_bytes: Option<u8>,
}

impl Certificate {
    pub(super) fn der(&self) -> Vec<u8> {
        let algorithm = pss(self.salt_bytes.into());
        let inner = pss(self.inner_salt_bytes.unwrap_or(self.salt_bytes).into());
        let version = if self.version == 1 { Vec::new() } else { tlv(0xA0, &integer(self.version - 1)) };
        let extensions = if self.extensions.is_empty() { Vec::new() } else { tlv(0xA3, &extensions(&self.extensions)) };
        let signed = sequence(&[
            version,
            integer(self.serial),
            inner,
            name(&self.issuer),
            sequence(&[time(&self.from), time(&self.until)]),
            name(&self.subject),
            self.spki.clone(),
            extensions,
        ]);
        let signature = bit_string(&self.signer.sign(&signed, self.salt_bytes.into()));
        sequence(&[signed, algorithm, signature])
    }

    /// The extension with this OID.
    pub(super) fn extension(&mut self, oid: &str) -> &mut Extension {
        self.extensions.iter_mut().find(|extension| extension.oid == oid).unwrap()
    }

    pub(super) fn remove(&mut self, oid: &str) {
        let before = self.extensions.len();
        self.extensions.retain(|extension| extension.oid != oid);
        assert!(self.extensions.len() < before, "no extension {oid}");
    }
}

/// A revocation list as it will be signed.
#[derive(Clone)]
pub(super) struct Crl {
    pub(super) issuer: String,
    pub(super) from: String,
    pub(super) until: Option<String>,
    pub(super) revoked: Vec<u64>,
    pub(super) extensions: Vec<Extension>,
    pub(super) signer: Authority,
}

impl Crl {
    pub(super) fn der(&self) -> Vec<u8> {
        let revoked: Vec<Vec<u8>> =
            self.revoked.iter().map(|serial| sequence(&[integer(*serial), time(&self.from)])).collect();
        let signed = sequence(&[
            integer(1),
            pss(48),
            name(&self.issuer),
            time(&self.from),
            self.until.as_deref().map(time).unwrap_or_default(),
            if revoked.is_empty() { Vec::new() } else { sequence(&revoked) },
            if self.extensions.is_empty() { Vec::new() } else { tlv(0xA0, &extensions(&self.extensions)) },
        ]);
        let signature = bit_string(&self.signer.sign(&signed, 48));
        sequence(&[signed, pss(48), signature])
    }
}

/// A report, field by field where it matters and byte by byte elsewhere.
#[derive(Clone)]
pub(super) struct RawReport(pub(super) Vec<u8>);

impl RawReport {
    pub(super) fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn put_u32(&mut self, offset: usize, value: u32) {
        self.put(offset, &value.to_le_bytes());
    }

    pub(super) fn put_u64(&mut self, offset: usize, value: u64) {
        self.put(offset, &value.to_le_bytes());
    }

    /// Flips bits of a little-endian number.
    pub(super) fn flip_u64(&mut self, offset: usize, bits: u64) {
        let before = u64::from_le_bytes(self.0[offset..offset + 8].try_into().unwrap());
        self.put_u64(offset, before ^ bits);
    }

    /// Signs the first 672 bytes.
    pub(super) fn sign(&mut self, key: &p384::ecdsa::SigningKey) {
        let signature: p384::ecdsa::Signature = key.sign(&self.0[..0x2A0]);
        let (r, s) = signature.split_bytes();
        let little = |scalar: &[u8]| scalar.iter().rev().copied().collect::<Vec<u8>>();
        self.put(0x2A0, &little(&r));
        self.put(0x2A0 + 72, &little(&s));
    }
}
