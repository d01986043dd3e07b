//! What the authorities sign, checked by OpenSSL.
#![allow(missing_docs)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use lambda_transport::pki::{Authority, CERTIFICATE_FILE, KEY_FILE, write_file};
use lambda_transport::{Identity, PeerIdentity, Role};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

fn openssl(arguments: &[&str]) -> (bool, String) {
    let output = Command::new("openssl").args(arguments).output().expect("openssl is installed");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

fn text(path: &Path) -> String {
    openssl(&["x509", "-noout", "-text", "-in", path.to_str().unwrap()]).1
}

#[test]
fn a_peer_certificate_carries_its_identity_and_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::generate("Lambda internal CA").unwrap();
    authority.save(&folder.path().join("ca")).unwrap();
    let peer = PeerIdentity::new(Role::Node, "node_00000000000000000000000001");
    let leaf = folder.path().join("leaf");
    let issued = authority.issue_peer(&peer, &[]).unwrap();
    issued.save(&leaf).unwrap();
    let der = CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap();
    assert_eq!(PeerIdentity::from_certificate(&der).unwrap(), peer);
    Identity::load(&leaf).unwrap();
    let (ca, cert) = (folder.path().join("ca").join(CERTIFICATE_FILE), leaf.join(CERTIFICATE_FILE));
    let (valid, said) = openssl(&["verify", "-x509_strict", "-CAfile", ca.to_str().unwrap(), cert.to_str().unwrap()]);
    assert!(valid, "{said}");
    let shown = text(&cert);
    for part in ["URI:lambda://node/node_00000000000000000000000001", "DNS:node", "prime256v1", "ecdsa-with-SHA256"] {
        assert!(shown.contains(part), "{part} is missing from {shown}");
    }
    assert!(!shown.contains("CA:TRUE"));
}

#[test]
fn a_node_authority_signs_leaves_and_no_further_authority() {
    let folder = tempfile::tempdir().unwrap();
    let platform = Authority::generate("Lambda platform CA").unwrap();
    let node = platform.issue_authority("Lambda node CA").unwrap();
    let deeper = node.issue_authority("too deep").unwrap();
    let leaf = node.issue_server(&["ek"], &[]).unwrap();
    let bad_leaf = deeper.issue_server(&["ek"], &[]).unwrap();
    let file = |name: &str, pem: &str| {
        let path = folder.path().join(name);
        write_file(&path, pem.as_bytes(), 0o644).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let root = file("root", platform.certificate_pem());
    let (one, two) = (
        file("one", node.certificate_pem()),
        file("two", &format!("{}{}", node.certificate_pem(), deeper.certificate_pem())),
    );
    assert!(text(Path::new(&one)).contains("CA:TRUE, pathlen:0"));
    let (valid, said) =
        openssl(&["verify", "-x509_strict", "-CAfile", &root, "-untrusted", &one, &file("leaf", &leaf.chain_pem)]);
    assert!(valid, "{said}");
    let (valid, said) = openssl(&["verify", "-CAfile", &root, "-untrusted", &two, &file("bad", &bad_leaf.chain_pem)]);
    assert!(!valid && said.contains("path length"), "{said}");
}

#[test]
fn a_stored_authority_is_loaded_and_goes_on_signing_under_the_same_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca");
    let first = Authority::load_or_generate(&path, "Lambda internal CA").unwrap();
    let again = Authority::load_or_generate(&path, "ignored").unwrap();
    assert_eq!(first.certificate_pem(), again.certificate_pem());
    let leaf = folder.path().join("leaf");
    again.issue_peer(&PeerIdentity::new(Role::Control, "main"), &[]).unwrap().save(&leaf).unwrap();
    let (ca, cert) = (path.join(CERTIFICATE_FILE), leaf.join(CERTIFICATE_FILE));
    let (valid, said) = openssl(&["verify", "-x509_strict", "-CAfile", ca.to_str().unwrap(), cert.to_str().unwrap()]);
    assert!(valid, "{said}");
}

#[test]
fn keys_are_readable_by_their_owner_alone_even_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca");
    std::fs::create_dir(&path).unwrap();
    let leftover = path.join("key.tmp");
    std::fs::write(&leftover, "half").unwrap();
    std::fs::set_permissions(&leftover, std::fs::Permissions::from_mode(0o666)).unwrap();
    Authority::generate("x").unwrap().save(&path).unwrap();
    let mode = std::fs::metadata(path.join(KEY_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!leftover.exists());
}

#[test]
fn a_damaged_authority_is_reported_not_replaced() {
    let folder = tempfile::tempdir().unwrap();
    Authority::generate("x").unwrap().save(folder.path()).unwrap();
    std::fs::write(folder.path().join(KEY_FILE), "nonsense").unwrap();
    let error = Authority::load_or_generate(folder.path(), "x").err().unwrap().to_string();
    assert!(error.contains("damaged"), "{error}");
}

#[test]
fn a_certificate_without_exactly_one_uri_names_nobody() {
    let authority = Authority::generate("x").unwrap();
    let issued = authority.issue_server(&["control"], &[]).unwrap();
    let der = CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap();
    assert!(PeerIdentity::from_certificate(&der).is_err());
}

#[test]
fn a_file_named_without_a_folder_is_written_in_the_current_one() {
    let folder = tempfile::tempdir().unwrap();
    std::env::set_current_dir(folder.path()).unwrap();
    write_file(Path::new("bare.key"), b"x", 0o600).unwrap();
    assert_eq!(std::fs::read(folder.path().join("bare.key")).unwrap(), b"x");
}
