//! `lambda policy new|show`: what a customer expects of the machines that may hold its keys.

use std::path::Path;

use lambda_attest::pki::ParsedCertificate;
use lambda_attest::{FirmwareRule, Policy};
use lambda_sdk::{files, policies};
use serde::Serialize;

use crate::args::Format;
use crate::commands::{customer, image};
use crate::exit::Failure;
use crate::output::{self, Show};

/// A policy as a person reads it.
#[derive(Serialize)]
struct View {
    sha256: String,
    platform_cas: Vec<Authority>,
    policy: Policy,
}

/// A platform CA, by what people compare.
#[derive(Serialize)]
struct Authority {
    subject: String,
    sha256: String,
}

impl View {
    fn new(policy: Policy) -> Result<Self, Failure> {
        let cas = policy.tpm.iter().flat_map(|tpm| &tpm.platform_cas);
        let platform_cas = cas
            .map(|pem| {
                let ca = ParsedCertificate::from_pem(pem).map_err(|error| Failure::usage(error.to_string()))?;
                Ok(Authority { subject: ca.subject(), sha256: ca.fingerprint() })
            })
            .collect::<Result<_, Failure>>()?;
        Ok(Self { sha256: sha256(&policy), platform_cas, policy })
    }

    fn firmware(&self) -> String {
        match self.policy.tpm.as_ref().and_then(|tpm| tpm.firmware_version.as_ref()) {
            None => "none: nothing is accepted".into(),
            Some(FirmwareRule::Any) => "any version".into(),
            Some(FirmwareRule::OneOf(versions)) if versions.is_empty() => "an empty list: nothing is accepted".into(),
            Some(FirmwareRule::OneOf(versions)) => format!("one of {}", versions.join(", ")),
        }
    }
}

/// A policy's hash, as releases are bound to it.
pub(crate) fn sha256(policy: &Policy) -> String {
    policy.hash().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Show for View {
    fn text(&self) -> String {
        let tier = self.policy.minimum_tier.map_or_else(|| "none: nothing is accepted".into(), |tier| tier.to_string());
        let mut text = format!("policy SHA-256  {}\nleast tier      {tier}\n", self.sha256);
        text.push_str(&format!("TPM firmware    {}\n", self.firmware()));
        if self.platform_cas.is_empty() {
            text.push_str("platform CA     none: nothing is accepted\n");
        }
        for Authority { subject, sha256 } in &self.platform_cas {
            text.push_str(&format!("platform CA     {subject}, SHA-256 of its public key {sha256}\n"));
        }
        for image in self.policy.images() {
            let shapes: Vec<&str> = image.shapes.keys().map(|shape| shape.name()).collect();
            text.push_str(&format!(
                "image           {} {} ({}), shapes {}\n",
                image.name,
                image.version,
                image.image,
                shapes.join(", ")
            ));
        }
        text.push_str("Whatever it does not name is denied.");
        text
    }
}

/// `lambda policy new`.
pub(crate) fn new(from: &Path, out: Option<&Path>) -> Result<(), Failure> {
    let customer = customer()?;
    let manifest = image::measured_manifest(from)?;
    let policy = policies::from_manifest(&manifest, &customer.config.platform)?;
    match out {
        Some(path) => Ok(files::write(path, &policy.to_json())?),
        None => output::line(&String::from_utf8_lossy(&policy.to_json())),
    }
}

/// `lambda policy show`.
pub(crate) fn show(format: Format, path: &Path) -> Result<(), Failure> {
    output::print(format, &View::new(policies::load_file(path)?)?)
}
