//! What can go wrong on the customer's side. Every message says what to do; none quotes a secret.

use std::path::PathBuf;
use std::time::Duration;

use lambda_attest::Verdict;
use lambda_types::{Code, InstanceId, Problem};

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The customer has not connected to a cloud.
    #[error("not connected: run `lambda connect URL --ca FILE --api-key-file FILE` first (looked in {0})")]
    NotConnected(PathBuf),
    /// The caller asked for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// A file of the configuration cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A file of the configuration does not hold what it should.
    #[error("{path} is damaged: {detail}")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong in it.
        detail: String,
    },
    /// A key or a sealed value was refused.
    #[error("{what}: {source}")]
    Crypto {
        /// What was being done.
        what: &'static str,
        /// Why it was refused.
        source: lambda_crypto::Error,
    },
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// The API answered with a problem.
    #[error("{}{}", .0.detail, request(.0))]
    Api(Box<Problem>),
    /// The API could not be reached within the bound.
    #[error("cannot reach {endpoint} (tried for {tried:.0?}): {last}")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// For how long.
        tried: Duration,
        /// What the last attempt said.
        last: String,
    },
    /// The API answered with something else than it should.
    #[error("unexpected answer from the API: {0}")]
    Protocol(String),
    /// A publisher of collateral answered with something that cannot be used.
    #[error("{source_url} gave no usable document: {detail}")]
    Publisher {
        /// Where.
        source_url: String,
        /// What is wrong with the answer.
        detail: String,
    },
    /// No instance has this name or id.
    #[error("no instance `{0}`; `lambda instance list` shows what there is")]
    NoInstance(String),
    /// Several instances match.
    #[error("`{query}` matches several instances; use more of the id:\n{}", .matches.join("\n"))]
    Ambiguous {
        /// What was asked for.
        query: String,
        /// Ids and names.
        matches: Vec<String>,
    },
    /// The platform CA is not the pinned one.
    #[error(
        "the cloud presents another platform CA than the one pinned at first connect\n  pinned:    {pinned}\n  presented: {presented}\n\
         Nothing was sent. If the operator announced a new CA, compare the fingerprint with the announcement and run \
         `lambda connect` with --new-platform-ca."
    )]
    PlatformCaChanged {
        /// Fingerprint on record.
        pinned: String,
        /// Fingerprint presented.
        presented: String,
    },
    /// No trusted reference values for the image.
    #[error("{0}")]
    NotTrusted(String),
    /// The evidence was refused.
    #[error("the evidence was refused: {}", failed(.0))]
    Refused(Box<Verdict>),
    /// The evidence could not even be challenged.
    #[error("the guest was refused: {}", .0.detail)]
    IdentityRefused(Box<Refusal>),
    /// Something in an instance's records contradicts what this machine knows about it.
    #[error("refused for {instance}: {detail}")]
    Inconsistent {
        /// Which instance.
        instance: InstanceId,
        /// What does not fit.
        detail: String,
    },
    /// An instance failed.
    #[error("the instance failed: {0}")]
    Failed(String),
    /// A bounded wait ended.
    #[error("gave up after {waited:.0?} waiting for {what}; last seen: {last}")]
    Timeout {
        /// What was awaited.
        what: String,
        /// How long.
        waited: Duration,
        /// What was last seen.
        last: String,
    },
}

/// A refusal that no whole verdict belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Ids of the failed checks.
    pub checks: Vec<String>,
    /// What is wrong, in words; names the checks.
    pub detail: String,
}

fn request(problem: &Problem) -> String {
    problem.request_id.map_or_else(String::new, |id| format!(" (request {id})"))
}

fn failed(verdict: &Verdict) -> String {
    let failed: Vec<&str> = verdict.failed().map(|check| check.id.as_str()).collect();
    failed.join(", ")
}

impl Error {
    /// The API's stable code, if this is an answer of the API.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Api(problem) => Some(problem.code),
            _ => None,
        }
    }

    /// A refusal; its text names every check, also those that the detail leaves out.
    pub(crate) fn refusal(checks: Vec<String>, mut detail: String) -> Self {
        for check in &checks {
            if !detail.contains(check.as_str()) {
                detail.push_str(&format!(" ({check})"));
            }
        }
        Self::IdentityRefused(Box::new(Refusal { checks, detail }))
    }

    /// Attaches what was being done to a refusal of the encryption manager.
    pub fn crypto(what: &'static str) -> impl FnOnce(lambda_crypto::Error) -> Self {
        move |source| Self::Crypto { what, source }
    }
}
