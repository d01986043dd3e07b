//! API keys: form, cache, and the question to the control plane.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, header};
use lambda_transport::client::CallError;
use lambda_transport::{ApiError, PeerClient};
use lambda_types::api_key::{self, Principal};
use lambda_types::{Code, RequestId};
use sha2::{Digest as _, Sha256};

/// How long an answer is kept, good or bad: the longest that a revoked key still works.
const KEEP: Duration = Duration::from_secs(5);

/// Most answers kept; strangers cannot make the cache grow past it.
const MOST: usize = 10_000;

/// Bound on the question.
const ASK: Duration = Duration::from_secs(5);

type Hash = [u8; 32];

/// What the control plane said of keys lately. Holds hashes, never keys.
#[derive(Default)]
pub(crate) struct Keys {
    answers: Mutex<HashMap<Hash, (Instant, Option<Principal>)>>,
}

/// Body of the question.
#[derive(serde::Serialize)]
struct Question {
    sha256: String,
}

impl Keys {
    /// The principal that the request's `Authorization: Bearer` key stands for.
    ///
    /// # Errors
    /// `unauthenticated` without a valid key; `unavailable` when the control plane cannot be asked.
    pub(crate) async fn authenticate(
        &self,
        headers: &HeaderMap,
        control: &PeerClient,
        request: RequestId,
    ) -> Result<Principal, ApiError> {
        let hash = presented(headers)?;
        if let Some(answer) = self.cached(&hash) {
            return answer.ok_or_else(unknown);
        }
        let question = Question { sha256: hash.iter().map(|byte| format!("{byte:02x}")).collect() };
        let mut with = HeaderMap::new();
        with.extend(crate::api::request_id_header(request));
        let answer = match control.post("/internal/v1/authenticate", &question, with, ASK).await {
            Ok(principal) => Some(principal),
            Err(CallError::Problem(problem)) if problem.code == Code::Unauthenticated => None,
            Err(error) => return Err(crate::api::control_failed(&error)),
        };
        self.keep(hash, answer.clone());
        answer.ok_or_else(unknown)
    }

    fn cached(&self, hash: &Hash) -> Option<Option<Principal>> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(hash).filter(|(at, _)| at.elapsed() < KEEP).map(|(_, answer)| answer.clone())
    }

    fn keep(&self, hash: Hash, answer: Option<Principal>) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MOST {
            answers.retain(|_, (at, _)| at.elapsed() < KEEP);
        }
        if answers.len() < MOST {
            answers.insert(hash, (Instant::now(), answer));
        }
    }

    /// Drops answers that are too old to be used.
    pub(crate) fn forget_expired(&self) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, (at, _)| at.elapsed() < KEEP);
    }
}

/// The hash of the key that a request presents, if it has a key's form.
fn presented(headers: &HeaderMap) -> Result<Hash, ApiError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(missing());
    };
    let key = value.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).ok_or_else(missing)?;
    if api_key::is_well_formed(key) { Ok(Sha256::digest(key).into()) } else { Err(unknown()) }
}

fn missing() -> ApiError {
    ApiError::new(Code::Unauthenticated, "send an API key: `Authorization: Bearer lam_…`")
        .with_header(header::WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer"))
}

fn unknown() -> ApiError {
    ApiError::new(Code::Unauthenticated, "this API key is not valid; check for a typing error, or make a new key")
        .with_header(header::WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer error=\"invalid_token\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: &str) -> HeaderMap {
        [(header::AUTHORIZATION, value.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn only_one_well_formed_bearer_key_is_looked_at() {
        let key = api_key::generate().unwrap();
        assert_eq!(presented(&with(&format!("Bearer {key}"))).unwrap(), <Hash>::from(Sha256::digest(&key)));
        for bad in
            [key.clone(), format!("bearer {key}"), format!("Basic {key}"), format!("Bearer {key} "), "Bearer ".into()]
        {
            assert_eq!(presented(&with(&bad)).unwrap_err().code(), Code::Unauthenticated, "{bad}");
        }
        let mut twice = with(&format!("Bearer {key}"));
        twice.append(header::AUTHORIZATION, format!("Bearer {key}").parse().unwrap());
        assert!(presented(&twice).is_err());
        assert!(presented(&HeaderMap::new()).is_err());
    }

    #[test]
    fn the_cache_stays_bounded() {
        let keys = Keys::default();
        for number in 0..=MOST as u64 {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_be_bytes());
            keys.keep(hash, None);
        }
        assert_eq!(keys.answers.lock().unwrap().len(), MOST);
    }
}
