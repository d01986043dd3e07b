//! A header in the form that cryptsetup writes, and one way to break it for each rule.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::*;

/// A well-formed header area around this metadata.
pub(crate) fn area_with(metadata: &str) -> Vec<u8> {
    let mut area = vec![0u8; HEADER_BYTES];
    for (offset, magic) in [(0, b"LUKS\xba\xbe"), (METADATA_BYTES, b"SKUL\xba\xbe")] {
        let copy = &mut area[offset..offset + METADATA_BYTES];
        copy[..6].copy_from_slice(magic);
        copy[6..8].copy_from_slice(&2u16.to_be_bytes());
        copy[8..16].copy_from_slice(&(METADATA_BYTES as u64).to_be_bytes());
        copy[16..24].copy_from_slice(&3u64.to_be_bytes());
        copy[72..78].copy_from_slice(b"sha256");
        copy[104..168].fill(offset as u8 | 1);
        copy[168..204].copy_from_slice(b"01234567-89ab-cdef-0123-456789abcdef");
        copy[256..264].copy_from_slice(&(offset as u64).to_be_bytes());
        copy[4096..4096 + metadata.len()].copy_from_slice(metadata.as_bytes());
    }
    area[2 * METADATA_BYTES..].fill(0x5a);
    seal(&mut area);
    area
}

/// Makes both checksums right again.
fn seal(area: &mut [u8]) {
    for offset in [0, METADATA_BYTES] {
        let copy = &mut area[offset..offset + METADATA_BYTES];
        copy[448..512].fill(0);
        let sum = Sha256::digest(&*copy);
        copy[448..480].copy_from_slice(&sum);
    }
}

pub(crate) fn metadata() -> Value {
    let salt = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    json!({
        "keyslots": {"0": {
            "type": "luks2", "key_size": 32,
            "af": {"type": "luks1", "stripes": 4000, "hash": "sha256"},
            "area": {"type": "raw", "offset": "32768", "size": "131072", "encryption": "aes-xts-plain64", "key_size": 64},
            "kdf": {"type": "pbkdf2", "hash": "sha256", "iterations": 1000, "salt": salt}
        }},
        "tokens": {},
        "segments": {"0": {
            "type": "crypt", "offset": "1048576", "size": "dynamic", "iv_tweak": "0", "encryption": "aes-gcm-random",
            "sector_size": 4096,
            "integrity": {"type": "aead", "journal_encryption": "none", "journal_integrity": "none"}
        }},
        "digests": {"0": {
            "type": "pbkdf2", "keyslots": ["0"], "segments": ["0"], "hash": "sha256", "iterations": 1000,
            "salt": salt, "digest": salt
        }},
        "config": {"json_size": "12288", "keyslots_size": "1015808"}
    })
}

fn parse(change: impl FnOnce(&mut Value)) -> Result<Header, HeaderError> {
    let mut metadata = metadata();
    change(&mut metadata);
    Header::parse(&area_with(&metadata.to_string()))
}

fn refuses(what: &str, change: impl FnOnce(&mut Value)) {
    let result = parse(change);
    assert!(matches!(result, Err(HeaderError::Json(_) | HeaderError::Metadata(_))), "{what}: {result:?}");
}

#[test]
fn the_strict_form_is_accepted_and_its_pin_covers_every_byte() {
    let header = parse(|_| {}).unwrap();
    let mut area = area_with(&metadata().to_string());
    assert_eq!(header.pin(), pin(&area));
    area[HEADER_BYTES - 1] ^= 1;
    assert_ne!(Header::parse(&area).unwrap().pin(), header.pin());
}

#[test]
fn a_null_cipher_is_refused_in_the_segment_and_in_the_key_slot() {
    for cipher in ["cipher_null-ecb", "null", "cipher_null-ecb-null", ""] {
        refuses("segment", |m| m["segments"]["0"]["encryption"] = json!(cipher));
        refuses("key slot", |m| m["keyslots"]["0"]["area"]["encryption"] = json!(cipher));
    }
}

#[test]
fn every_value_outside_the_strict_set_is_refused() {
    let cases: &[(&str, Value)] = &[
        ("/keyslots/0/type", json!("reencrypt")),
        ("/keyslots/0/key_size", json!(0)),
        ("/keyslots/0/af/type", json!("none")),
        ("/keyslots/0/af/stripes", json!(1)),
        ("/keyslots/0/af/hash", json!("sha1")),
        ("/keyslots/0/area/type", json!("none")),
        ("/keyslots/0/area/offset", json!("0")),
        ("/keyslots/0/area/offset", json!("32769")),
        ("/keyslots/0/area/offset", json!("1048576")),
        ("/keyslots/0/area/offset", json!("18446744073709547520")),
        ("/keyslots/0/area/size", json!("4096")),
        ("/keyslots/0/area/size", json!("18446744073709551615")),
        ("/keyslots/0/area/key_size", json!(32)),
        ("/keyslots/0/kdf/type", json!("argon2id")),
        ("/keyslots/0/kdf/hash", json!("sha1")),
        ("/keyslots/0/kdf/iterations", json!(999)),
        ("/keyslots/0/kdf/iterations", json!(4_000_000_000u32)),
        ("/keyslots/0/kdf/salt", json!("AAAA")),
        ("/segments/0/type", json!("linear")),
        ("/segments/0/offset", json!("0")),
        ("/segments/0/offset", json!("16777216")),
        ("/segments/0/offset", json!(1_048_576)),
        ("/segments/0/offset", json!("01048576")),
        ("/segments/0/size", json!("4096")),
        ("/segments/0/iv_tweak", json!("8")),
        ("/segments/0/encryption", json!("aes-xts-plain64")),
        ("/segments/0/encryption", json!("capi:gcm(aes)-random")),
        ("/segments/0/sector_size", json!(512)),
        ("/segments/0/integrity/type", json!("none")),
        ("/segments/0/integrity/type", json!("hmac(sha256)")),
        ("/segments/0/integrity/journal_encryption", json!("cbc(aes)")),
        ("/segments/0/integrity/journal_integrity", json!("hmac(sha256)")),
        ("/digests/0/type", json!("none")),
        ("/digests/0/keyslots", json!([])),
        ("/digests/0/segments", json!(["1"])),
        ("/digests/0/hash", json!("sha1")),
        ("/digests/0/iterations", json!(1)),
        ("/digests/0/digest", json!("AAAA")),
        ("/config/json_size", json!("4096")),
        ("/config/keyslots_size", json!("16744448")),
        ("/config/keyslots_size", json!("18446744073709551615")),
    ];
    for (pointer, value) in cases {
        refuses(&format!("{pointer} = {value}"), |m| *m.pointer_mut(pointer).unwrap() = value.clone());
    }
}

#[test]
fn members_that_this_guest_never_writes_are_refused_and_none_may_be_missing() {
    let additions: &[(&str, &str, Value)] = &[
        ("/config", "requirements", json!({"mandatory": ["online-reencrypt"]})),
        ("/config", "flags", json!(["allow-discards"])),
        ("/tokens", "0", json!({"type": "luks2-keyring", "keyslots": ["0"], "key_description": "x"})),
        ("/keyslots", "1", metadata()["keyslots"]["0"].clone()),
        ("/keyslots/0", "priority", json!(2)),
        ("/segments", "1", metadata()["segments"]["0"].clone()),
        ("/segments/0", "flags", json!(["backup-final"])),
        ("/digests", "1", metadata()["digests"]["0"].clone()),
        ("", "extra", json!(1)),
    ];
    for (pointer, name, value) in additions {
        refuses(name, |m| m.pointer_mut(pointer).unwrap()[*name] = value.clone());
    }
    for (pointer, name) in [
        ("/segments/0", "integrity"),
        ("/segments", "0"),
        ("/keyslots", "0"),
        ("/digests", "0"),
        ("", "tokens"),
        ("", "config"),
    ] {
        refuses(name, |m| drop(m.pointer_mut(pointer).unwrap().as_object_mut().unwrap().remove(name)));
    }
    refuses("another slot number", |m| {
        let slot = m["keyslots"].as_object_mut().unwrap().remove("0").unwrap();
        m["keyslots"]["1"] = slot;
    });
}

#[test]
fn a_member_given_twice_is_refused_wherever_it_stands() {
    let good = metadata().to_string();
    let slot = metadata()["keyslots"]["0"].to_string();
    for (from, to) in [
        (format!("\"keyslots\":{{\"0\":{slot}"), format!("\"keyslots\":{{\"0\":{slot},\"0\":{slot}")),
        ("\"tokens\":{}".to_owned(), "\"tokens\":{},\"tokens\":{}".to_owned()),
        ("\"iv_tweak\":\"0\"".to_owned(), "\"iv_tweak\":\"0\",\"iv_tweak\":\"0\"".to_owned()),
    ] {
        assert!(good.contains(&from), "{from}");
        let result = Header::parse(&area_with(&good.replacen(&from, &to, 1)));
        assert!(matches!(result, Err(HeaderError::Json(_))), "{result:?}");
    }
}

#[test]
fn binary_fields_outside_the_strict_set_are_refused_in_either_copy() {
    for (copy, offset) in [("primary", 0), ("secondary", METADATA_BYTES)] {
        for (field, position) in [
            ("magic", 0),
            ("version", 7),
            ("header size", 13),
            ("label", 24),
            ("checksum algorithm", 72),
            ("subsystem", 208),
            ("header offset", 263),
            ("padding", 264),
            ("padding", 4095),
        ] {
            let mut area = area_with(&metadata().to_string());
            area[offset + position] ^= 0x01;
            seal(&mut area);
            assert_eq!(Header::parse(&area), Err(HeaderError::Binary { copy, field }), "{field} of the {copy}");
        }
        for position in [16, 104, 168, 448, 479, 480, 4096, 16383] {
            let mut area = area_with(&metadata().to_string());
            area[offset + position] ^= 0x80;
            assert_eq!(Header::parse(&area), Err(HeaderError::Binary { copy, field: "checksum" }), "byte {position}");
        }
    }
}

#[test]
fn copies_that_disagree_are_refused_though_each_is_sound() {
    let good = metadata().to_string();
    for (what, position) in [("sequence id", 23), ("uuid", 168), ("metadata", 4097)] {
        let mut area = area_with(&good);
        area[METADATA_BYTES + position] ^= 1;
        seal(&mut area);
        assert_eq!(Header::parse(&area), Err(HeaderError::CopiesDiffer(what)));
    }
}

#[test]
fn blank_truncated_and_padded_areas_are_refused() {
    assert_eq!(Header::parse(&vec![0; HEADER_BYTES]), Err(HeaderError::Blank));
    let mut only_slots = vec![0; HEADER_BYTES];
    only_slots[2 * METADATA_BYTES..].fill(1);
    assert_eq!(Header::parse(&only_slots), Err(HeaderError::Blank));
    let good = area_with(&metadata().to_string());
    assert_eq!(Header::parse(&good[..HEADER_BYTES - 1]), Err(HeaderError::Truncated(HEADER_BYTES - 1)));
    assert_eq!(Header::parse(&[]), Err(HeaderError::Truncated(0)));
    let mut hidden = good.clone();
    for offset in [0, METADATA_BYTES] {
        hidden[offset + METADATA_BYTES - 1] = b'}';
    }
    seal(&mut hidden);
    assert_eq!(Header::parse(&hidden), Err(HeaderError::Metadata("bytes follow the JSON")));
    let mut endless = good;
    for offset in [0, METADATA_BYTES] {
        endless[offset + 4096..offset + METADATA_BYTES].fill(b' ');
    }
    seal(&mut endless);
    assert_eq!(Header::parse(&endless), Err(HeaderError::Metadata("the JSON area has no end")));
}

#[test]
fn every_flipped_bit_of_the_two_headers_is_refused() {
    let good = area_with(&metadata().to_string());
    // Beyond the metadata lie zeroes; one byte in 97 of them stands for all.
    let text = metadata().to_string().len();
    for offset in [0, METADATA_BYTES] {
        for position in (0..4096 + text).step_by(13).chain((4096 + text..METADATA_BYTES).step_by(97)) {
            let mut area = good.clone();
            area[offset + position] ^= 1 << (position % 8);
            assert!(Header::parse(&area).is_err(), "byte {}", offset + position);
        }
    }
}
