//! Certificates, DER and PEM.
#![no_main]

use lambda_attest::pki::ParsedCertificate;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(certificate) = ParsedCertificate::parse(data) {
        let _ = (certificate.subject(), certificate.fingerprint(), certificate.p256_sec1());
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = ParsedCertificate::chain_from_pem(text, 4);
    }
});
