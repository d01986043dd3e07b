//! Collateral in one file, for a machine that cannot fetch: signed by who fetched it.
//!
//! The documents go along as they are cached, each with where it came from and when. Nothing in them is trusted for the
//! signature: an import looks at form and dates as a fetch does, and the vendors' signatures are judged with the evidence.

use std::collections::BTreeSet;
use std::path::Path;

use ed25519_dalek::VerifyingKey;
use lambda_attest::envelope::{COLLATERAL_TYPE, Envelope};
use lambda_attest::{Collateral, MAX_COLLATERAL_BYTES, UnixTime};
use serde::{Deserialize, Serialize};

use super::{Cache, Entry, FORMAT, assemble};
use crate::policies::keys::PolicyKey;
use crate::{Error, policies};

/// Version of a bundle's document.
const BUNDLE_VERSION: u32 = 1;

/// What is signed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bundle {
    version: u32,
    documents: Vec<Entry>,
}

/// A file of collateral.
#[derive(Debug, Clone)]
pub struct Opened {
    /// What it holds, as verdicts take it.
    pub collateral: Collateral,
    /// What it holds, document by document; empty for a file that is not a bundle.
    pub entries: Vec<Entry>,
    /// Ids of the keys that it says signed it; empty for a plain document.
    pub signers: Vec<String>,
    /// Id of the key whose signature holds; `None` when no key was given to check it with.
    pub verified: Option<String>,
}

/// A document of a bundle, and what became of it.
#[derive(Debug, Clone)]
pub struct Imported {
    /// What this machine has from here on.
    pub entry: Entry,
    /// Whether it is the bundle's: a document that was fetched later stays.
    pub stored: bool,
}

/// The signed file.
///
/// # Errors
/// When there is nothing to be signed, or it cannot be encoded.
pub fn seal(entries: &[Entry], key: &PolicyKey) -> Result<Vec<u8>, Error> {
    if entries.is_empty() {
        let message = "there is no current document here to be exported: `lambda attest collateral fetch` gets some";
        return Err(Error::Usage(message.into()));
    }
    let bundle = Bundle { version: BUNDLE_VERSION, documents: entries.to_vec() };
    let bytes = serde_json::to_vec(&bundle).map_err(|error| Error::Usage(error.to_string()))?;
    Ok(key.sign(COLLATERAL_TYPE, bytes))
}

/// Reads a plain document, or a signed bundle. With keys, one of them must have signed it.
///
/// # Errors
/// When it cannot be read, is not collateral, or none of the keys signed it.
pub fn load_file(path: &Path, keys: &[VerifyingKey]) -> Result<Opened, Error> {
    let shown = path.display();
    let bytes = policies::read_document(path, 2 * MAX_COLLATERAL_BYTES)?;
    if !policies::is_envelope(&bytes) {
        let collateral = Collateral::parse(&bytes)
            .map_err(|error| Error::Usage(format!("{shown} is neither collateral nor a signed bundle: {error}")))?;
        if !keys.is_empty() {
            return Err(Error::NotTrusted(format!("{shown} is not signed, and a key has to have signed it")));
        }
        return Ok(Opened { collateral, entries: Vec::new(), signers: Vec::new(), verified: None });
    }
    let envelope =
        Envelope::parse(&bytes).map_err(|error| Error::Usage(format!("{shown} is not a signed bundle: {error}")))?;
    if envelope.payload_type != COLLATERAL_TYPE {
        return Err(Error::Usage(format!("{shown} is a signed `{}`, not collateral", envelope.payload_type)));
    }
    let signers = envelope.signatures.iter().map(|signature| signature.keyid.clone()).collect();
    let (payload, verified) = if keys.is_empty() {
        (envelope.payload.as_slice(), None)
    } else {
        let (payload, key) =
            envelope.open(COLLATERAL_TYPE, keys).map_err(|error| Error::NotTrusted(format!("{shown}: {error}")))?;
        (payload, Some(policies::keys::id(key)))
    };
    let Bundle { version, documents } = serde_json::from_slice(payload)
        .map_err(|error| Error::Usage(format!("{shown} is not a bundle of collateral: {error}")))?;
    if version != BUNDLE_VERSION {
        return Err(Error::Usage(format!(
            "{shown} is of version {version}, which this program does not know: update it"
        )));
    }
    Ok(Opened { collateral: assemble(&documents), entries: documents, signers, verified })
}

/// Puts every document of a bundle that one of these keys signed into this machine's cache. All or nothing: one document
/// that is stale or no such document refuses the bundle. What this machine fetched later than the bundle did stays.
///
/// # Errors
/// When there are no keys, the bundle is not signed by one, or a document is refused; says which and why.
pub fn import(cache: &Cache, path: &Path, keys: &[VerifyingKey], now: UnixTime) -> Result<Vec<Imported>, Error> {
    if keys.is_empty() {
        return Err(Error::Usage(
            "nothing says who must have signed the bundle: give --key, or pin a key with `lambda attest policy key pin`"
                .into(),
        ));
    }
    let refused = |why: String| Error::NotTrusted(format!("{}: {why}; nothing was imported", path.display()));
    let opened = load_file(path, keys)?;
    if opened.entries.is_empty() {
        return Err(refused("it holds no document".into()));
    }
    let mut names = BTreeSet::new();
    let mut entries = Vec::new();
    for entry in opened.entries {
        let entry = checked(entry, now).map_err(refused)?;
        if !names.insert(entry.document.name()) {
            return Err(refused(format!("it holds {} twice", entry.document.name())));
        }
        entries.push(entry);
    }
    entries
        .into_iter()
        .map(|entry| match cache.load(&entry.document)? {
            Some(here) if here.is_current(now) && here.fetched >= entry.fetched => {
                Ok(Imported { entry: here, stored: false })
            }
            _ => {
                cache.store(&entry)?;
                Ok(Imported { entry, stored: true })
            }
        })
        .collect()
}

/// A document as a fetch would have stored it; its dates are read again.
fn checked(entry: Entry, now: UnixTime) -> Result<Entry, String> {
    let Entry { format, document, source, fetched, until: _, body, issuer_chain } = entry;
    if format != FORMAT {
        return Err(format!("a document of format {format} is not known to this program: update it"));
    }
    if !document.is_well_formed() {
        return Err("a document is named by an id that is no hex of its length".into());
    }
    let name = document.name();
    let checked = if body.as_slice().len() > document.limit() {
        Err(format!("it is longer than {} bytes", document.limit()))
    } else {
        document.check(body.as_slice(), issuer_chain.as_deref(), now)
    };
    let checked = checked.map_err(|why| format!("{name}: {why}"))?;
    Ok(Entry { format, document, source, fetched, until: checked.until, body, issuer_chain: checked.issuer_chain })
}
