use super::*;
use crate::files;

/// A folder with these files, each holding its own name, and a manifest that names them.
fn folder_of(tee: &str, names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut listed = serde_json::Map::new();
    for name in names {
        files::write(&dir.path().join(name), name.as_bytes()).unwrap();
        let _ = listed.insert((*name).into(), serde_json::json!({"what": 1}));
    }
    manifest(&dir, &serde_json::json!({"tee": tee, "files": listed, "expected": "whatever"}));
    dir
}

fn manifest(dir: &tempfile::TempDir, value: &serde_json::Value) {
    files::write(&dir.path().join(names::MANIFEST), value.to_string().as_bytes()).unwrap();
}

fn refused(dir: &tempfile::TempDir) -> String {
    folder(dir.path(), None).unwrap_err().to_string()
}

#[test]
fn a_folder_of_an_intel_quote_becomes_quote_and_collateral_and_its_root_is_not_read() {
    let names = [
        "quote.bin",
        "tcb_info.json",
        "tcb_info_issuer_chain.pem",
        "qe_identity.json",
        "qe_identity_issuer_chain.pem",
        "pck_crl.der",
        "pck_crl_issuer_chain.pem",
        "root_ca_crl.der",
        "root_ca.pem",
        "pck_chain.pem",
        "ccel_data.bin",
        "ccel_table.bin",
        "nonce.bin",
    ];
    let dir = folder_of("tdx", &names);
    let Presented { report, given, collateral } = folder(dir.path(), None).unwrap();
    let Report::Tdx(TdxEvidence { quote, event_log }) = report else { panic!("not a quote") };
    assert_eq!((quote.as_slice(), event_log.unwrap().as_slice()), (&b"quote.bin"[..], &b"ccel_data.bin"[..]));
    assert!(given.roots.is_empty());
    assert_eq!(given.nonce.as_deref(), Some(&b"nonce.bin"[..]));
    let [intel] = collateral.intel.as_slice() else { panic!("{collateral:?}") };
    assert_eq!(intel.tcb_info, "tcb_info.json");
    assert_eq!(intel.qe_identity_issuer_chain, "qe_identity_issuer_chain.pem");
    assert_eq!(intel.pck_crl.as_slice(), b"pck_crl.der");
    assert_eq!(intel.root_ca_crl.as_slice(), b"root_ca_crl.der");
    assert_eq!(intel.pck_certificate_chain.as_deref(), Some("pck_chain.pem"));
}

#[test]
fn only_what_the_manifest_names_is_read() {
    let dir = folder_of("tdx", &["quote.bin"]);
    files::write(&dir.path().join("tcb_info.json"), b"not named").unwrap();
    assert_eq!(folder(dir.path(), None).unwrap().collateral, Collateral::none());
}

#[test]
fn an_arm_token_tells_its_own_kind() {
    for (bytes, psa) in
        [(&b"\xd2\x84"[..], true), (b"\x84", true), (b"\xd9\x01\x8f\xa2", false), (b"\xa2", false), (b"", false)]
    {
        let dir = folder_of("cca", &["token.cbor"]);
        files::write(&dir.path().join("token.cbor"), bytes).unwrap();
        let report = folder(dir.path(), None).unwrap().report;
        assert_eq!(matches!(report, Report::Psa(_)), psa, "{bytes:02x?}");
    }
}

#[test]
fn a_nonce_of_the_manifest_goes_before_a_file_and_must_be_bytes() {
    let dir = folder_of("sgx", &["quote.bin", "nonce.bin"]);
    let files = serde_json::json!({"quote.bin": {}, "nonce.bin": {}});
    for (field, text, bytes) in [("nonce", "0x00ff", [0, 255]), ("challenge", "AP8=", [0, 255])] {
        manifest(&dir, &serde_json::json!({"tee": "sgx", "files": files, field: text}));
        assert_eq!(folder(dir.path(), None).unwrap().given.nonce.as_deref(), Some(&bytes[..]), "{field}");
    }
    manifest(&dir, &serde_json::json!({"tee": "sgx", "files": files, "nonce": "?"}));
    assert!(refused(&dir).contains("nonce"), "{}", refused(&dir));
}

#[test]
fn a_folder_that_cannot_be_read_says_which_file_or_field() {
    let dir = tempfile::tempdir().unwrap();
    assert!(refused(&dir).contains("--tee"));
    let cases = [
        (serde_json::json!({"tee": "vax", "files": {}}), "vax"),
        (serde_json::json!({"files": {}}), "tee"),
        (serde_json::json!({"tee": "snp", "files": {}}), "no report"),
        (serde_json::json!({"tee": "tdx", "files": {"quote.bin": {}}}), "quote.bin"),
        (serde_json::json!({"tee": "tdx", "files": {"../quote.bin": {}}}), "../quote.bin"),
    ];
    for (value, reason) in cases {
        manifest(&dir, &value);
        assert!(refused(&dir).contains(reason), "{reason}: {}", refused(&dir));
    }
}

#[test]
fn a_file_that_is_too_long_is_not_read() {
    let dir = folder_of("tdx", &["quote.bin"]);
    let long = std::fs::File::create(dir.path().join("quote.bin")).unwrap();
    long.set_len(MAX_FILE_BYTES + 1).unwrap();
    assert!(refused(&dir).contains("longer than"), "{}", refused(&dir));
}

#[test]
fn a_tpm_quote_takes_its_own_certificates_and_roots_and_keys() {
    let dir = folder_of("tpm", &["quote.msg", "quote.sig", "ak_pub.pem", "pcrs.json", "event_log.bin", "vcek.der"]);
    let key = rcgen::KeyPair::generate().unwrap();
    files::write(&dir.path().join("ak_pub.pem"), key.public_key_pem().as_bytes()).unwrap();
    files::write(&dir.path().join("pcrs.json"), br#"{"sha256":{"0":"00"}}"#).unwrap();
    let Presented { report, given, .. } = folder(dir.path(), None).unwrap();
    let Report::TpmQuote(quote) = report else { panic!("not a quote") };
    assert_eq!(quote.signature.as_slice(), b"quote.sig");
    assert_eq!(quote.pcrs["sha256"][&0], "00");
    assert_eq!(given.keys.len(), 1);
    assert_eq!(quote.ak.unwrap().as_slice(), given.keys[0]);
    assert!(quote.certificates.is_empty());
}

#[test]
fn a_jwk_and_a_pem_are_the_same_key() {
    let pem = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEMKBCTNIcKUSDii11ySs3526iDZ8A\niTo7Tu6KPAqv7D7gS2XpJFbZiItSs3m9+9Ue6GnvHw/GW2ZZaVtszggXIw==\n-----END PUBLIC KEY-----\n";
    let jwk = br#"{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}"#;
    assert_eq!(der_public_key("jwk", jwk).unwrap(), der_public_key("pem", pem.as_bytes()).unwrap());
    for bad in
        [&br#"{"kty":"RSA","crv":"","x":"","y":""}"#[..], br#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#, b"{"]
    {
        assert!(der_public_key("jwk", bad).is_err());
    }
}

#[test]
fn a_report_in_cbor_is_taken_out_of_it() {
    let report = vec![7u8; 16];
    let map = ciborium::Value::Map(vec![
        (ciborium::Value::Text("auxblob".into()), ciborium::Value::Bytes(vec![0; 24])),
        (ciborium::Value::Text("outblob".into()), ciborium::Value::Bytes(report.clone())),
    ]);
    let mut bytes = Vec::new();
    ciborium::into_writer(&map, &mut bytes).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tsm.cbor");
    files::write(&path, &bytes).unwrap();
    let present = || super::files(Tee::Snp, &Files { evidence: Some(path.clone()), ..Files::default() });
    let Report::Snp(snp) = present().unwrap().report else { panic!("not a report") };
    assert_eq!((snp.report.as_slice(), snp.certificates.len()), (report.as_slice(), 0));
    files::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(present().unwrap_err().to_string().contains("tsm.cbor"));
}

#[test]
fn evidence_may_be_hex_or_base64_and_only_text_is_decoded() {
    use base64::Engine as _;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    let bytes: Vec<u8> = (0..=255).chain([0xfb, 0xff]).collect();
    let hexed = hex::encode(&bytes);
    let lines: String =
        hexed.as_bytes().chunks(64).map(|line| format!("{}\n", String::from_utf8_lossy(line))).collect();
    let texts = [hexed.clone(), format!("0x{hexed}\n"), lines, STANDARD.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)];
    for text in texts {
        assert_eq!(read::decoded(text.clone().into_bytes()), bytes, "{text}");
    }
    for other in [&bytes[..], b"", b"\n", b"{\"a\": 1}", b"ab\x00"] {
        assert_eq!(read::decoded(other.to_vec()), other);
    }
}

#[test]
fn a_report_is_found_in_the_drivers_answer_a_paravisors_report_and_a_larger_buffer() {
    let report: Vec<u8> = (0..1184u32).map(|at| (at % 251) as u8 + 1).collect();
    let header = [&[0; 4][..], &1184u32.to_le_bytes(), &[0; 24]].concat();
    let answer = [&header[..], &report, &vec![0; 4000 - 1184]].concat();
    let paravisor = [&b"HCLA\x02"[..], &[0; 27], &report, b"runtime data"].concat();
    let padded = [&report[..], &[0; 100]].concat();
    for bytes in [answer.clone(), paravisor, padded, report.clone()] {
        assert_eq!(read::snp_report(bytes), report);
    }
    let refused =
        [[&header[..], &[1], &answer[33..], &[1]].concat(), [&report[..], &[1]].concat(), report[..1183].to_vec()];
    for other in [refused[0].clone(), refused[1].clone(), refused[2].clone(), Vec::new()] {
        assert_eq!(read::snp_report(other.clone()), other);
    }
}
