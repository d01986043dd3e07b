//! `lambda connect`: where the cloud is, what is pinned of it, and the customer's own keys.

use std::path::Path;

use lambda_sdk::config::{ApiKey, Folder};
use lambda_sdk::connect::{self, ConnectRequest};
use serde::Serialize;

use crate::args::{Connect, Format};
use crate::exit::Failure;
use crate::output::{self, Show};

/// What is known after connecting.
#[derive(Serialize)]
struct Connected {
    endpoint: String,
    region: String,
    platform_ca_sha256: String,
    newly_pinned: bool,
    config: String,
}

impl Show for Connected {
    fn text(&self) -> String {
        let pinned = if self.newly_pinned { "pinned now" } else { "as pinned before" };
        format!(
            "Connected to {} (region {}).\nPlatform CA {pinned}, SHA-256 of its public key:\n  {}\n\
             Compare it with what the operator publishes. Your keys are in {}: back them up, nobody else has them.",
            self.endpoint, self.region, self.platform_ca_sha256, self.config
        )
    }
}

/// Runs the command.
pub(crate) async fn run(format: Format, args: &Connect) -> Result<(), Failure> {
    let folder = Folder::from_environment()?;
    let request = ConnectRequest {
        endpoint: args.url.clone(),
        ca: args.ca.as_deref().map(read).transpose()?,
        api_key: args.api_key_file.as_deref().map(ApiKey::read).transpose()?,
        accept_new_platform_ca: args.new_platform_ca,
    };
    let connected = connect::connect(&folder, request).await?;
    output::print(
        format,
        &Connected {
            endpoint: connected.config.endpoint,
            region: connected.config.platform.region,
            platform_ca_sha256: connected.config.platform.fingerprint,
            newly_pinned: connected.pinned,
            config: folder.path().display().to_string(),
        },
    )
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))
}
