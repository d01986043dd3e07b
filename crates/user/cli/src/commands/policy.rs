//! `lambda policy new|show`: what a customer expects of the machines that may hold its keys.

use std::path::Path;

use lambda_attest::Policy;
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
    policy: Policy,
}

impl Show for View {
    fn text(&self) -> String {
        let tier = self.policy.minimum_tier.map_or_else(|| "none: nothing is accepted".into(), |tier| tier.to_string());
        let mut text = format!("policy SHA-256  {}\nleast tier      {tier}\n", self.sha256);
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
    let policy = policies::load_file(path)?;
    let sha256 = policy.hash().iter().map(|byte| format!("{byte:02x}")).collect();
    output::print(format, &View { sha256, policy })
}
