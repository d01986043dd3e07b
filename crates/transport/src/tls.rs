//! TLS configurations: rustls with aws-lc-rs, TLS 1.3 only, ChaCha20-Poly1305 first and the server's order wins.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// What is spoken inside a connection; fixed by ALPN so that one kind cannot be passed off as the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 and HTTP/1.1.
    Http,
    /// HTTP/1.1 alone: what a client needs that upgrades a connection.
    Http1,
    /// A tunnel: one line each way, then bytes.
    Tunnel,
}

impl Protocol {
    fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Tunnel => vec![b"lambda-tunnel/1".to_vec()],
        }
    }
}

/// Why a TLS configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be read.
    #[error("cannot read {path}: {source}; start the daemon once to create its certificates")]
    Read {
        /// Which file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// PEM without the expected object.
    #[error("{what} is not valid PEM: {source}")]
    Pem {
        /// What was being parsed.
        what: &'static str,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// No certificate found.
    #[error("{0} holds no certificate")]
    Empty(&'static str),
    /// rustls refuses the combination.
    #[error("the certificate or key is not usable for TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The client certificate verifier cannot be built.
    #[error("the roots are not usable to verify clients: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// A certificate chain, leaf first, and its key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// From PEM texts.
    ///
    /// # Errors
    /// When either holds no such object.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, TlsError> {
        let chain = certificates(chain.as_bytes(), "the certificate chain")?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|source| TlsError::Pem { what: "the private key", source })?;
        Ok(Self { chain, key })
    }

    /// From `cert.pem` and `key.pem` in a folder.
    ///
    /// # Errors
    /// When a file is missing, unreadable or malformed.
    pub fn load(folder: &Path) -> Result<Self, TlsError> {
        let chain = read(&folder.join(crate::pki::CERTIFICATE_FILE))?;
        let key = zeroize::Zeroizing::new(read(&folder.join(crate::pki::KEY_FILE))?);
        Self::from_pem(&chain, &key)
    }
}

/// The certificates that a side trusts.
#[derive(Debug, Clone)]
pub struct Roots(Arc<RootCertStore>);

impl Roots {
    /// From a PEM text with one or more certificates.
    ///
    /// # Errors
    /// When it holds none, or one that cannot be a root.
    pub fn from_pem(pem: &str) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        for certificate in certificates(pem.as_bytes(), "the trusted certificates")? {
            store.add(certificate)?;
        }
        Ok(Self(Arc::new(store)))
    }

    /// From a PEM file.
    ///
    /// # Errors
    /// As [`Self::from_pem`], and when the file cannot be read.
    pub fn load(path: &Path) -> Result<Self, TlsError> {
        Self::from_pem(&read(path)?)
    }
}

fn read(path: &Path) -> Result<String, TlsError> {
    std::fs::read_to_string(path).map_err(|source| TlsError::Read { path: path.into(), source })
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Pem { what, source })?;
    if found.is_empty() { Err(TlsError::Empty(what)) } else { Ok(found) }
}

/// The provider of every configuration here: TLS 1.3 suites alone, ChaCha20-Poly1305 first; post-quantum hybrid key
/// exchange first.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::{cipher_suite as suite, kx_group as group};
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_CHACHA20_POLY1305_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_AES_128_GCM_SHA256,
        ],
        kx_groups: vec![group::X25519MLKEM768, group::X25519, group::SECP256R1, group::SECP384R1],
        ..aws_lc_rs::default_provider()
    })
}

/// A server whose clients show no certificate: the public listener.
///
/// # Errors
/// When the identity is not usable.
pub fn server_config(identity: Identity) -> Result<Arc<ServerConfig>, TlsError> {
    let config = server_builder()?.with_no_client_auth().with_single_cert(identity.chain, identity.key)?;
    Ok(finish_server(config, Protocol::Http))
}

/// A server that demands a client certificate under `clients`.
///
/// # Errors
/// When the identity or the roots are not usable.
pub fn mutual_server_config(
    identity: Identity,
    clients: &Roots,
    protocol: Protocol,
) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(clients.0.clone(), provider()).build()?;
    let config =
        server_builder()?.with_client_cert_verifier(verifier).with_single_cert(identity.chain, identity.key)?;
    Ok(finish_server(config, protocol))
}

/// A client without a certificate that trusts `servers` alone.
///
/// # Errors
/// When rustls refuses the versions, which it does not.
pub fn client_config(servers: &Roots, protocol: Protocol) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = client_builder()?.with_root_certificates(servers.0.clone()).with_no_client_auth();
    config.alpn_protocols = protocol.alpn();
    Ok(Arc::new(config))
}

/// A client with a certificate.
///
/// # Errors
/// When the identity is not usable.
pub fn mutual_client_config(
    identity: Identity,
    servers: &Roots,
    protocol: Protocol,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = client_builder()?
        .with_root_certificates(servers.0.clone())
        .with_client_auth_cert(identity.chain, identity.key)?;
    config.alpn_protocols = protocol.alpn();
    Ok(Arc::new(config))
}

fn server_builder() -> Result<rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier>, TlsError> {
    Ok(ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?)
}

fn client_builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, TlsError> {
    Ok(ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13])?)
}

fn finish_server(mut config: ServerConfig, protocol: Protocol) -> Arc<ServerConfig> {
    config.ignore_client_order = true;
    config.alpn_protocols = protocol.alpn();
    Arc::new(config)
}
