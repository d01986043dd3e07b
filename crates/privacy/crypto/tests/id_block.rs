//! The SNP ID block: held against openssl, against known answers, and altered.

use std::path::Path;
use std::process::Command;

use lambda_crypto::id_block::{IdBlock, IdKey, sign, verify};
use sha2::{Digest as _, Sha384};

/// Test keys of the crate `sev` (virtee/sev, Apache-2.0) and what it says their digests are.
const ID_KEY: &str = "-----BEGIN PRIVATE KEY-----
MIG2AgEAMBAGByqGSM49AgEGBSuBBAAiBIGeMIGbAgEBBDDPZQkU2FP1ii90R+e7
/ShQ/rzUzsS8X7kVJ0nJAxcrS1oMD8nKjfsKKfBWJ8nbCyqhZANiAAT2dj5NJgnP
GyzyLyzIuMpM9V1HDDwjVSyTsWiHQ5Ddlcs/3uhH3fef8p77uIA8bR/M16jQR7nN
wcdQsRkKvm0drTeo3ssUMnt2Zhn3EmB8/Q04hTxQ2pvNCAs1OJyTvj4=
-----END PRIVATE KEY-----
";
const ID_KEY_DIGEST: &str =
    "59fb2c686dfa4fef49f38339aa775c90051c28d57383ddc3baf3b5eb4b1496df3b0dbbdcbae5fe27677a644820773fe2";

/// The block that it makes of a measurement and nothing else.
const MEASUREMENT: &str =
    "a14d638341e5674628fe1e02fbedebe5e5ab4faf1dd72d8966068e615bb99efd13d214b35c231715b38e263dc6059745";

fn bytes(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

fn block() -> IdBlock {
    let measurement = bytes(MEASUREMENT).try_into().unwrap();
    IdBlock { measurement, family_id: [0; 16], image_id: [0; 16], guest_svn: 0, policy: 0x3_0000 }
}

fn keys() -> [IdKey; 2] {
    [IdKey::from_pem(ID_KEY).unwrap(), IdKey::generate().unwrap()]
}

fn refused(block: &[u8], auth: &[u8]) -> String {
    verify(block, auth).unwrap_err().to_string()
}

fn openssl(arguments: &[&str], paths: &[&Path]) -> (bool, String) {
    let output = Command::new("openssl").args(arguments).args(paths).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The DER of a little-endian field's number.
fn integer(field: &[u8]) -> Vec<u8> {
    let mut digits: Vec<u8> = field.iter().rev().copied().skip_while(|digit| *digit == 0).collect();
    if digits[0] >= 0x80 {
        digits.insert(0, 0);
    }
    [vec![2, digits.len() as u8], digits].concat()
}

fn der(signature: &[u8]) -> Vec<u8> {
    let numbers = [integer(&signature[..72]), integer(&signature[72..144])].concat();
    [vec![0x30, numbers.len() as u8], numbers].concat()
}

#[test]
fn block_and_key_digest_are_the_known_ones() {
    let expected = [bytes(MEASUREMENT), vec![0; 32], bytes("01000000000000000000030000000000")].concat();
    assert_eq!(block().to_bytes().to_vec(), expected);
    assert_eq!(IdKey::from_pem(ID_KEY).unwrap().digest().to_vec(), bytes(ID_KEY_DIGEST));
}

#[test]
fn openssl_accepts_both_signatures_where_the_structure_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let [id, author] = keys();
    let auth = sign(&block(), &id, &author);
    for (key, message, at) in [(&id, &block().to_bytes()[..], 0x40), (&author, &auth[0x240..0x644], 0x680)] {
        let private = file("private.pem", key.to_pem().unwrap().as_bytes());
        let (_, public) = openssl(&["pkey", "-pubout", "-in"], &[&private]);
        let (public, message) = (file("public.pem", public.as_bytes()), file("message", message));
        let signature = file("signature", &der(&auth[at..at + 0x200]));
        let check = ["dgst", "-sha384", "-verify", public.to_str().unwrap(), "-signature"];
        let (good, said) = openssl(&check, &[&signature, &message]);
        assert!(good, "{said}");
        let other = file("other", b"something else");
        assert!(!openssl(&check, &[&signature, &other]).0, "openssl really checks");
    }
}

#[test]
fn a_key_that_openssl_made_signs_and_is_named_by_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    let made = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384", "-out"];
    assert!(openssl(&made, &[&path]).0);
    let key = IdKey::from_pem(&std::fs::read_to_string(&path).unwrap()).unwrap();
    let signed = verify(&block().to_bytes(), &sign(&block(), &key, &key)).unwrap();
    assert_eq!((signed.id_key, signed.author_key), (key.digest(), key.digest()));

    let point = key.public_point();
    let reversed = |bytes: &[u8]| bytes.iter().rev().copied().chain([0; 24]).collect::<Vec<u8>>();
    let structure = [vec![2, 0, 0, 0], reversed(&point[1..49]), reversed(&point[49..]), vec![0; 0x404 - 148]].concat();
    assert_eq!(key.digest(), <[u8; 48]>::from(Sha384::digest(structure)));
}

#[test]
fn a_signed_block_says_what_was_signed_and_by_whom() {
    let [id, author] = keys();
    let block = IdBlock { family_id: [3; 16], image_id: [4; 16], guest_svn: 5, policy: 0x3_0000, ..block() };
    let signed = verify(&block.to_bytes(), &sign(&block, &id, &author)).unwrap();
    assert_eq!(signed.block, block);
    assert_eq!((signed.id_key, signed.author_key), (id.digest(), author.digest()));
}

#[test]
fn no_altered_byte_and_no_other_length_is_accepted() {
    let [id, author] = keys();
    let (block, auth) = (block().to_bytes(), sign(&block(), &id, &author));
    for at in 0..block.len() {
        let mut altered = block;
        altered[at] ^= 0x10;
        assert!(verify(&altered, &auth).is_err(), "block byte {at}");
    }
    let used = [0..0x50, 0x80..0x90, 0xc0..0xd8, 0x23f..0x250, 0x640..0x690, 0xc80..0xc90, 0xffe..0x1000];
    for at in used.into_iter().flatten() {
        let mut altered = auth;
        altered[at] ^= 0x10;
        assert!(verify(&block, &altered).is_err(), "authentication byte {at:#x}");
    }
    for length in (0..block.len()).chain([97]) {
        let cut = [&block[..], &[0]].concat();
        assert!(verify(&cut[..length], &auth).is_err(), "block of {length} bytes");
    }
    for length in [0, 1, 0x40, 0x240, 0x644, 0xc84, 4095, 4097] {
        let cut = [&auth[..], &[0]].concat();
        assert!(verify(&block, &cut[..length]).is_err(), "authentication of {length} bytes");
    }
}

#[test]
fn each_way_to_be_wrong_is_named() {
    let [id, author] = keys();
    let (bytes, auth) = (block().to_bytes(), sign(&block(), &id, &author));
    let with = |at: usize, value: u8| {
        let mut altered = auth;
        altered[at] = value;
        altered
    };
    assert!(refused(&bytes, &with(0, 2)).contains("algorithm"));
    assert!(refused(&bytes, &with(4, 0)).contains("algorithm"));
    assert!(refused(&bytes, &with(0x240, 1)).contains("curve"));
    assert!(refused(&bytes, &with(0x244, auth[0x244] ^ 1)).contains("not a point"));
    assert!(refused(&bytes, &with(0x3f, 1)).contains("reserved"));
    assert!(refused(&bytes, &with(0xfff, 1)).contains("reserved"));
    let mut zero = auth;
    zero[0x40..0x40 + 144].fill(0);
    assert!(refused(&bytes, &zero).contains("out of range"));
    let mut version = bytes;
    version[80] = 2;
    assert!(refused(&version, &auth).contains("version 1"));
    let other = IdBlock { guest_svn: 1, ..block() };
    assert!(refused(&other.to_bytes(), &auth).contains("over the block"));
    let mut exchanged = auth;
    exchanged[0x880..0xc84].copy_from_slice(&sign(&block(), &author, &id)[0x880..0xc84]);
    assert!(refused(&bytes, &exchanged).contains("over the ID key"));
}

#[test]
fn a_key_of_another_kind_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pem");
    let other = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"];
    assert!(openssl(&other, &[&path]).0);
    for pem in [std::fs::read_to_string(&path).unwrap(), String::new(), ID_KEY.replace("MIG2", "MIG3")] {
        assert!(IdKey::from_pem(&pem).is_err_and(|error| error.to_string().contains("P-384")));
    }
}
