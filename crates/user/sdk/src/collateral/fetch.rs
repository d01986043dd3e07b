//! Asking AMD's and Intel's services, politely: once for all who want the same, and not again before they say so.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode, header};
use lambda_attest::UnixTime;
use rustix::fs::{FlockOperation, flock};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use super::{Cache, Document, Entry, FORMAT};
use crate::api::chain;
use crate::{Error, files};

/// Bound of one attempt.
const ATTEMPT: Duration = Duration::from_secs(20);

/// First and longest pause between attempts that say nothing about when to come back.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// How often a held lock is looked at.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// Where documents are published.
#[derive(Debug, Clone)]
pub struct Publishers {
    /// AMD's Key Distribution Service.
    pub kds: String,
    /// Intel's Provisioning Certification Service, or a PCCS that answers in its place.
    pub pcs: String,
    /// The revocation list of Intel's root, DER.
    pub root_crl: String,
}

impl Default for Publishers {
    fn default() -> Self {
        Self {
            kds: "https://kdsintf.amd.com".into(),
            pcs: "https://api.trustedservices.intel.com".into(),
            root_crl: "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der".into(),
        }
    }
}

/// Whether a document had to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It was here.
    Cache,
    /// It was fetched.
    Publisher,
}

/// A document, and where it was found.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The document.
    pub entry: Entry,
    /// Whether it had to be asked for.
    pub origin: Origin,
}

/// Fetches documents into a cache.
pub struct Fetcher {
    http: reqwest::Client,
    publishers: Publishers,
    patience: Duration,
}

/// What one attempt led to.
enum Attempt {
    Answer(Vec<u8>, HeaderMap),
    /// Worth another one, not before this.
    Later(String, Duration),
    /// No other attempt would say anything else.
    Final(Error),
}

impl Fetcher {
    /// Trusts the web's CAs as this system does, or only those in `tls_ca` (PEM). `patience` bounds the wait for one document,
    /// pauses that the publisher asks for included.
    ///
    /// # Errors
    /// When a publisher's address is not `https://…`, or there is no CA to trust.
    pub fn new(publishers: Publishers, tls_ca: Option<&str>, patience: Duration) -> Result<Self, Error> {
        let Publishers { kds, pcs, root_crl } = publishers;
        let address = |text: String| -> Result<String, Error> {
            let url = text.trim_end_matches('/').to_owned();
            let authority = url.strip_prefix("https://").unwrap_or_default();
            if authority.is_empty() || authority.contains(['?', '#', '@']) {
                return Err(Error::Usage(format!("`{text}` is not an address: expected https://HOST[:PORT][/PATH]")));
            }
            Ok(url)
        };
        let publishers = Publishers { kds: address(kds)?, pcs: address(pcs)?, root_crl: address(root_crl)? };
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(tls_ca)?)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .timeout(ATTEMPT)
            .user_agent(concat!("lambda/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::Tls(error.to_string()))?;
        Ok(Self { http, publishers, patience })
    }

    /// A document that is current at `now`: from the cache while it is fresh, else from its publisher. Of several that ask for
    /// the same at once, in this process or in others, one asks the publisher.
    ///
    /// # Errors
    /// When the publisher does not answer within the patience, or with something else than the document. What the cache holds
    /// stays as it is.
    pub async fn fetch(&self, cache: &Cache, document: &Document, now: UnixTime) -> Result<Fetched, Error> {
        let started = Instant::now();
        files::make_folder(&cache.folder)?;
        let path = cache.folder.join(format!("{}.lock", document.name()));
        let _lock = self.lock(&path, started).await?;
        if let Some(entry) = cache.load(document)?.filter(|entry| entry.is_fresh(now)) {
            return Ok(Fetched { entry, origin: Origin::Cache });
        }
        let source = document.url(&self.publishers);
        let (body, headers) = self.ask(&source, document.limit(), started).await?;
        let header = document.chain_header().and_then(|name| headers.get(name)).and_then(|value| value.to_str().ok());
        let checked = document
            .check(&body, header, now)
            .map_err(|detail| Error::Publisher { source_url: source.clone(), detail })?;
        let entry = Entry {
            format: FORMAT,
            document: document.clone(),
            source,
            fetched: now,
            until: checked.until,
            body: body.into(),
            issuer_chain: checked.issuer_chain,
        };
        cache.store(&entry)?;
        Ok(Fetched { entry, origin: Origin::Publisher })
    }

    /// Waits for whoever fetches the same document, no longer than the patience.
    async fn lock(&self, path: &Path, started: Instant) -> Result<std::fs::File, Error> {
        let fail = |source| Error::File { action: "lock", path: path.into(), source };
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)
            .map_err(fail)?;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK) if started.elapsed() < self.patience => {
                    tokio::time::sleep(LOCK_POLL).await;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(Error::Timeout {
                        what: format!("the lock {}", path.display()),
                        waited: started.elapsed(),
                        last: "another process is fetching the same document".into(),
                    });
                }
                Err(error) => return Err(fail(error.into())),
            }
        }
    }

    async fn ask(&self, url: &str, limit: usize, started: Instant) -> Result<(Vec<u8>, HeaderMap), Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            let (last, wanted) = match self.attempt(url, limit).await {
                Attempt::Answer(body, headers) => return Ok((body, headers)),
                Attempt::Final(error) => return Err(error),
                Attempt::Later(last, wanted) => (last, wanted),
            };
            let next = pause.max(wanted);
            if started.elapsed().saturating_add(next) > self.patience {
                let tried = started.elapsed();
                return Err(Error::Unreachable { endpoint: url.into(), tried, last });
            }
            tokio::time::sleep(next).await;
            pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt(&self, url: &str, limit: usize) -> Attempt {
        let refused = |detail: String| Attempt::Final(Error::Publisher { source_url: url.into(), detail });
        let mut response = match self.http.get(url).send().await {
            Ok(response) => response,
            Err(error) => return Attempt::Later(chain(&error), Duration::ZERO),
        };
        let status = response.status();
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            let wanted = retry_after(response.headers());
            let asked = wanted.map(|wanted| format!(", come back in {} s", wanted.as_secs())).unwrap_or_default();
            return Attempt::Later(format!("HTTP {}{asked}", status.as_u16()), wanted.unwrap_or_default());
        }
        if status == StatusCode::NOT_FOUND {
            return refused("HTTP 404: it does not know this chip, platform family or TCB".into());
        }
        if status != StatusCode::OK {
            return refused(format!("HTTP {}", status.as_u16()));
        }
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= limit => body.extend_from_slice(&chunk),
                Ok(Some(_)) => return refused(format!("the answer is longer than {limit} bytes")),
                Ok(None) => return Attempt::Answer(body, response.headers().clone()),
                Err(error) => return Attempt::Later(chain(&error), Duration::ZERO),
            }
        }
    }
}

/// Seconds of a Retry-After (RFC 9110 §10.2.3); a date is left to the usual pauses.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// TLS 1.3 towards a publisher.
fn tls(ca: Option<&str>) -> Result<ClientConfig, Error> {
    const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];
    let Some(pem) = ca else {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(Error::Tls(
                "this system has no CA certificates: install them, or give some with --tls-ca".into(),
            ));
        }
        return crate::tls::trusting(roots, ALPN);
    };
    if CertificateDer::pem_slice_iter(pem.as_bytes()).next().is_none() {
        return Err(Error::Tls("the CA file holds no certificate".into()));
    }
    crate::tls::client_config(pem, ALPN)
}
