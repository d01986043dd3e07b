//! Arm CCA tokens: Lambda's verifier and the crate ccatoken.

use anyhow::{Context as _, Result, ensure};
use ccatoken::store::Cpak;
use ccatoken::token::Evidence;
use lambda_attest::{Anchors, CcaEvidence, Collateral, Endorsements, Given, Report, UnixTime, inspect};
use serde_json::value::RawValue;

use crate::fixtures::Fixture;
use crate::outcome::Outcome;

/// AR4SI's claim value.
const CRYPTO_VALIDATION_FAILED: i8 = 99;

/// A token with the platform's public key.
#[derive(Clone)]
pub struct Token {
    /// The token.
    pub token: Vec<u8>,
    /// SubjectPublicKeyInfo, DER.
    spki: Vec<u8>,
    /// The same as JWK.
    jwk: String,
    now: UnixTime,
}

impl Token {
    /// Reads one.
    ///
    /// # Errors
    /// When a file is missing, or the key is none.
    pub fn of(fixture: &Fixture) -> Result<Self> {
        let pem = fixture.text("cpak_pub.pem")?;
        let (_, spki) = der::Document::from_pem(&pem).ok().context("the platform's key is not PEM")?;
        let jwk = fixture.text("cpak_pub.jwk")?;
        Ok(Self { token: fixture.read("token.cbor")?, spki: spki.as_bytes().to_vec(), jwk, now: fixture.now })
    }

    /// Other bytes under the same key.
    #[must_use]
    pub fn with(&self, token: Vec<u8>) -> Self {
        Self { token, ..self.clone() }
    }

    /// What Lambda's verifier says.
    #[must_use]
    pub fn ours(&self, anchors: &Anchors) -> Outcome {
        let report = Report::Cca(CcaEvidence { token: self.token.clone().into(), event_log: None });
        let given = Given { keys: vec![self.spki.clone()], ..Given::default() };
        let collateral = Collateral::none();
        Outcome::of_ours(inspect(&report, &given, &Endorsements { anchors, collateral: &collateral }, self.now))
    }

    /// What ccatoken says.
    #[must_use]
    pub fn theirs(&self) -> Outcome {
        Outcome::of_theirs(|| {
            let mut evidence = Evidence::decode(&self.token)?;
            let mut key = Cpak { raw_pkey: RawValue::from_string(self.jwk.clone())?, ..Cpak::new() };
            key.parse_pkey()?;
            evidence.verify_with_cpak(key)?;
            // A realm token that is not bound to the platform's is no error: it is a claim among others.
            let (_, realm) = evidence.get_trust_vectors();
            ensure!(realm.executables.value() != CRYPTO_VALIDATION_FAILED, "crypto validation failed");
            Ok(())
        })
    }
}
