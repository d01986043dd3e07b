//! Foreign bytes: refused with a reason, never with a panic.

use lambda_tpm::public::{PublicKeyArea, Scheme, Symmetric};
use lambda_tpm::{Error, PcrSelection, Public, Quote, Signature, Tpm, Transport, alg, make_credential};

fn ek() -> Public {
    let mut ek = Public::ek_template();
    let key = p256::SecretKey::from_slice(&[3; 32]).unwrap().public_key().to_sec1_bytes();
    if let PublicKeyArea::EccP256 { x, y, .. } = &mut ek.key {
        *x = key[1..33].try_into().unwrap();
        *y = key[33..].try_into().unwrap();
    }
    ek
}

fn quote() -> Vec<u8> {
    let sized = |bytes: &[u8]| [&[0, u8::try_from(bytes.len()).unwrap()], bytes].concat();
    [
        &[0xff, 0x54, 0x43, 0x47, 0x80, 0x18][..],
        &sized(&[1; 34]),
        &sized(&[2; 64]),
        &[0; 8],
        &[0, 0, 0, 5, 0, 0, 0, 0, 1],
        &[6; 8],
        &[0, 0, 0, 1, 0, 0x0b, 3, 0xff, 0x02, 0],
        &sized(&[7; 32]),
    ]
    .concat()
}

/// Every truncation and every extension is an error.
fn only_whole(bytes: &[u8], parse: impl Fn(&[u8]) -> Option<Error>) {
    assert_eq!(parse(bytes), None);
    for cut in 0..bytes.len() {
        assert!(matches!(parse(&bytes[..cut]), Some(Error::Truncated { .. })), "cut to {cut} bytes");
    }
    assert!(matches!(parse(&[bytes, &[0]].concat()), Some(Error::Trailing { count: 1, .. })));
    assert!(matches!(parse(&vec![0; 70_000]), Some(Error::TooLong { .. })));
}

#[test]
fn structures_are_read_whole_or_not_at_all() {
    only_whole(&quote(), |bytes| Quote::parse(bytes).err());
    for public in [ek(), Public::ak_template()] {
        only_whole(&public.encode().unwrap(), |bytes| Public::parse(bytes).err());
    }
    let signature = Signature::EcdsaP256 { hash: alg::SHA256, r: [1; 32], s: [2; 32] };
    only_whole(&signature.encode().unwrap(), |bytes| Signature::parse(bytes).err());
}

#[test]
fn structures_survive_their_bytes() {
    let rsa = Public {
        key: PublicKeyArea::Rsa {
            symmetric: Symmetric::None,
            scheme: Scheme::Signing { scheme: alg::RSASSA, hash: alg::SHA256 },
            bits: 2048,
            exponent: 0,
            modulus: vec![9; 256],
        },
        ..Public::ak_template()
    };
    for public in [ek(), Public::ak_template(), rsa] {
        assert_eq!(Public::parse(&public.encode().unwrap()).unwrap(), public);
    }
    for signature in [
        Signature::EcdsaP256 { hash: alg::SHA256, r: [1; 32], s: [2; 32] },
        Signature::Rsa { scheme: alg::RSAPSS, hash: alg::SHA256, signature: vec![3; 256] },
    ] {
        assert_eq!(Signature::parse(&signature.encode().unwrap()).unwrap(), signature);
    }
    assert!(Quote::parse(&quote()).unwrap().selection.is_lambda());
}

#[test]
fn a_signature_component_without_its_leading_zeros_is_the_same_number() {
    let short = [&[0, 0x18, 0, 0x0b, 0, 1, 5, 0, 32][..], &[2; 32]].concat();
    let Signature::EcdsaP256 { r, .. } = Signature::parse(&short).unwrap() else { panic!() };
    assert_eq!(r[..31], [0; 31]);
    assert_eq!(r[31], 5);
}

#[test]
fn a_name_is_over_the_exact_public_area() {
    let template = Public::ak_template();
    let mut other = template.clone();
    other.attributes.0 ^= 1 << 16;
    assert_ne!(template.name().unwrap(), other.name().unwrap());
    assert_eq!(template.name().unwrap()[..2], [0, 0x0b]);
    let other_hash = Public { name_alg: alg::SHA384, ..template };
    assert!(matches!(other_hash.name(), Err(Error::Unsupported { algorithm: alg::SHA384, .. })));
}

#[test]
fn a_point_beside_the_curve_is_no_key() {
    assert!(Public::ak_template().p256_sec1().is_none());
    assert!(ek().p256_sec1().is_some());
}

#[test]
fn credentials_are_made_only_for_the_endorsement_key_of_the_profile() {
    let make = |ek: &Public, secret: &[u8]| make_credential(ek, &[0; 34], secret, &[1; 32]);
    assert!(make(&ek(), &[1; 32]).is_ok());
    assert!(make(&ek(), &[1; 33]).is_err());
    assert!(make(&ek(), &[]).is_err());
    assert!(make(&Public::ek_template(), &[1; 32]).is_err(), "a point that is not on the curve");
    assert!(make(&Public::ak_template(), &[1; 32]).is_err(), "a signing key");
    assert!(make(&Public { name_alg: alg::SHA384, ..ek() }, &[1; 32]).is_err());
}

#[test]
fn registers_beyond_the_tpms_cannot_be_selected() {
    assert!(PcrSelection::sha256(&[24]).is_err());
    assert_eq!(PcrSelection::sha256(&[9, 7, 6, 5, 4, 3, 2, 1, 0, 0]).unwrap(), PcrSelection::lambda());
}

/// Answers every command with the same bytes, and counts.
struct Canned(Vec<u8>, usize);

impl Transport for Canned {
    fn transmit(&mut self, _command: &[u8]) -> Result<Vec<u8>, Error> {
        self.1 += 1;
        Ok(self.0.clone())
    }
}

fn answer(body: &[u8], code: u32) -> Vec<u8> {
    let size = u32::try_from(body.len() + 10).unwrap();
    [&[0x80, 1][..], &size.to_be_bytes(), &code.to_be_bytes(), body].concat()
}

#[test]
fn a_busy_tpm_is_asked_again_but_not_for_ever() {
    let mut canned = Canned(answer(&[], 0x922), 0);
    let refused = Tpm::new(&mut canned).startup_clear();
    assert_eq!(refused, Err(Error::Refused { command: "TPM2_Startup", code: 0x922 }));
    assert_eq!(canned.1, 16);
}

#[test]
fn answers_that_lie_about_their_length_or_carry_more_are_refused() {
    let mut lying = answer(&[], 0);
    lying[5] = 11;
    for bytes in [lying, answer(&[1], 0), vec![0; 10], Vec::new(), vec![0x80], vec![0; 5000]] {
        assert!(Tpm::new(Canned(bytes.clone(), 0)).startup_clear().is_err(), "{bytes:?}");
    }
}

#[test]
fn a_tpm_that_makes_another_key_than_asked_is_refused() {
    let template = Public::ak_template().encode().unwrap();
    let public = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let body = |bytes: &[u8]| [&[0x80, 0, 0, 0][..], &public(bytes)].concat();
    assert!(Tpm::new(Canned(answer(&body(&template), 0), 0)).create_ak().is_ok());
    let mut unrestricted = Public::ak_template();
    unrestricted.attributes.0 &= !(1 << 16);
    let body = body(&unrestricted.encode().unwrap());
    assert!(matches!(Tpm::new(Canned(answer(&body, 0), 0)).create_ak(), Err(Error::Malformed { .. })));
}

#[test]
fn a_register_map_longer_than_any_tpm_has_is_refused() {
    let good = quote();
    // One SHA-256 bank with a map of 3 octets stands just before the digest.
    let at = good.windows(6).position(|bytes| bytes == [0, 0, 0, 1, 0, 0x0b]).unwrap() + 6;
    assert_eq!(good[at], 3);
    for size in [5, 255] {
        let map = vec![0xff; usize::from(size)];
        let bent = [&good[..at], &[size], &map, &good[at + 4..]].concat();
        assert!(matches!(Quote::parse(&bent), Err(Error::Malformed { .. })), "{size} octets");
    }
}
