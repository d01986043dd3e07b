//! What vendors publish about their hardware, kept on this machine: fetched once, used until it runs out.
//!
//! ```text
//!   collateral/<document>.json    one document with where it came from, when, and until when it is good
//!   collateral/<document>.lock    held by whoever fetches it; everybody else waits and then finds it
//! ```
//!
//! Nothing here is trusted. Every document is signed by its vendor, and that is judged with the evidence, at the instant
//! of the verdict. What is looked at when it is fetched is its form and its dates, so that garbage and stale answers are
//! never stored; what ran out is never handed out again.

mod bundle;
mod document;
mod fetch;
mod plan;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use lambda_attest::pki::ParsedCertificate;
use lambda_attest::{AmdCollateral, Collateral, IntelCollateral, UnixTime};
use lambda_types::Binary;
use serde::{Deserialize, Serialize};

use crate::config::Folder;
use crate::presented::der_certificates;
use crate::{Error, files};

pub use bundle::{Imported, Opened, import, load_file, seal};
pub use document::{AmdKey, AmdTcb, Document, PckCa, Technology};
pub use fetch::{Fetched, Fetcher, Origin, Publishers};
pub use plan::{Named, documents_for, documents_named};

/// Version of a stored document's file.
const FORMAT: u32 = 1;

/// For how long what changes is taken from the cache without asking again, seconds.
const FRESH_SECONDS: i64 = 24 * 60 * 60;

/// A published document on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    format: u32,
    /// Which document.
    pub document: Document,
    /// Where it was fetched.
    pub source: String,
    /// When, by this machine's clock.
    pub fetched: UnixTime,
    /// Until when it may be used: its nextUpdate, or the end of its certificates.
    pub until: UnixTime,
    /// The answer.
    pub body: Binary,
    /// The chain of its signer, PEM, where that comes apart from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_chain: Option<String>,
}

impl Entry {
    /// Whether it may be used.
    #[must_use]
    pub fn is_current(&self, now: UnixTime) -> bool {
        now <= self.until
    }

    /// Whether it need not be asked for again.
    fn is_fresh(&self, now: UnixTime) -> bool {
        let age = now.0.saturating_sub(self.fetched.0);
        self.is_current(now) && (self.document.never_changes() || (0..FRESH_SECONDS).contains(&age))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(self.body.as_slice()).into_owned()
    }
}

/// The documents of one configuration folder.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// That of this folder; nothing is made.
    #[must_use]
    pub fn of(folder: &Folder) -> Self {
        Self { folder: folder.join("collateral") }
    }

    fn path(&self, document: &Document) -> PathBuf {
        self.folder.join(format!("{}.json", document.name()))
    }

    /// A document, whether or not it ran out.
    ///
    /// # Errors
    /// When its file cannot be read or is damaged.
    pub fn load(&self, document: &Document) -> Result<Option<Entry>, Error> {
        let path = self.path(document);
        let Some(entry) = files::read_json::<Entry>(&path)? else { return Ok(None) };
        if entry.format != FORMAT || entry.document != *document {
            let detail = "it holds another document than its name says: remove it".into();
            return Err(Error::Damaged { path, detail });
        }
        Ok(Some(entry))
    }

    fn store(&self, entry: &Entry) -> Result<(), Error> {
        files::make_folder(&self.folder)?;
        files::write_json(&self.path(&entry.document), entry)
    }

    /// Every document, by name, whether or not it ran out.
    ///
    /// # Errors
    /// When one cannot be read or is damaged: remove it.
    pub fn entries(&self) -> Result<Vec<Entry>, Error> {
        let fail = |source| Error::File { action: "read", path: self.folder.clone(), source };
        let listing = match std::fs::read_dir(&self.folder) {
            Ok(listing) => listing,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(fail(error)),
        };
        let mut found = Vec::new();
        for entry in listing {
            let path = entry.map_err(fail)?.path();
            if path.extension().is_some_and(|extension| extension == "json")
                && let Some(entry) = files::read_json::<Entry>(&path)?
            {
                found.push(entry);
            }
        }
        found.sort_by_key(|entry| entry.document.name());
        Ok(found)
    }

    /// Every document that may be used at this time.
    ///
    /// # Errors
    /// As [`Self::entries`].
    pub fn current(&self, now: UnixTime) -> Result<Vec<Entry>, Error> {
        let mut entries = self.entries()?;
        entries.retain(|entry| entry.is_current(now));
        Ok(entries)
    }

    /// What may be used at this time, as verdicts take it.
    ///
    /// # Errors
    /// As [`Self::entries`].
    pub fn collateral(&self, now: UnixTime) -> Result<Collateral, Error> {
        Ok(assemble(&self.current(now)?))
    }
}

/// Documents as one, as of the oldest.
#[must_use]
pub fn assemble(entries: &[Entry]) -> Collateral {
    let mut amd = AmdCollateral::default();
    let mut intel = Vec::new();
    for entry in entries {
        match &entry.document {
            Document::AmdKey { .. } => amd.certificates.push(entry.body.clone()),
            Document::AmdChain { .. } => {
                // Roots are pinned, not fetched.
                let chain = der_certificates("chain", entry.body.as_slice()).unwrap_or_default();
                let is_root = |der: &[u8]| ParsedCertificate::from_der(der).is_ok_and(|ca| ca.is_self_issued());
                amd.certificates.extend(chain.into_iter().filter(|der| !is_root(der)).map(Binary::from));
            }
            Document::AmdCrl { .. } => amd.crls.push(entry.body.clone()),
            Document::IntelTcb { technology, ca, .. } => intel.extend(platform(entries, entry, *technology, *ca)),
            Document::IntelQe { .. } | Document::IntelPckCrl { .. } | Document::IntelRootCrl => {}
        }
    }
    let amd = (amd != AmdCollateral::default()).then_some(amd);
    let as_of = entries.iter().map(|entry| entry.fetched).min();
    Collateral { as_of, amd, intel, ..Collateral::none() }
}

/// Everything about one platform family, when all of it is there.
fn platform(entries: &[Entry], tcb: &Entry, technology: Technology, ca: PckCa) -> Option<IntelCollateral> {
    let find = |document: Document| entries.iter().find(|entry| entry.document == document);
    let qe = find(Document::IntelQe { technology })?;
    let pck_crl = find(Document::IntelPckCrl { ca })?;
    let root_crl = find(Document::IntelRootCrl)?;
    let chain = |entry: &Entry| entry.issuer_chain.clone().unwrap_or_default();
    Some(IntelCollateral {
        tcb_info: tcb.text(),
        tcb_info_issuer_chain: chain(tcb),
        qe_identity: qe.text(),
        qe_identity_issuer_chain: chain(qe),
        pck_crl: pck_crl.body.clone(),
        pck_crl_issuer_chain: chain(pck_crl),
        root_ca_crl: root_crl.body.clone(),
        pck_certificate_chain: None,
    })
}
