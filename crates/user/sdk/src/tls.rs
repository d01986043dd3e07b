//! TLS 1.3 towards the gateway: the configured CA is the only root, ChaCha20-Poly1305 is preferred.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::Error;

fn provider() -> CryptoProvider {
    use aws_lc_rs::cipher_suite as suite;
    CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_CHACHA20_POLY1305_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_AES_128_GCM_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// A client configuration that trusts the certificates in `ca_pem` and offers these ALPN protocols.
///
/// # Errors
/// When the PEM holds no usable certificate.
pub fn client_config(ca_pem: &str, alpn: &[&[u8]]) -> Result<ClientConfig, Error> {
    // For libraries that ask for the process's default; an earlier caller's choice is the same provider.
    let _ = aws_lc_rs::default_provider().install_default();
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|error| Error::Tls(format!("the CA file is not valid PEM: {error}")))?;
        roots.add(certificate).map_err(|error| Error::Tls(format!("the CA certificate is not usable: {error}")))?;
    }
    if roots.is_empty() {
        return Err(Error::Tls("the CA file holds no certificate".into()));
    }
    trusting(roots, alpn)
}

/// A client configuration that trusts these certificates and offers these ALPN protocols.
///
/// # Errors
/// When the provider does not know TLS 1.3.
pub(crate) fn trusting(roots: RootCertStore, alpn: &[&[u8]]) -> Result<ClientConfig, Error> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Error::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_without_a_certificate_is_refused() {
        for bad in ["", "hello", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(matches!(client_config(bad, &[]), Err(Error::Tls(_))), "{bad}");
        }
    }
}
