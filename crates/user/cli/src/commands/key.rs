//! `lambda key …`: the customer's own keys, by name, and their rotation.

use lambda_sdk::config::Folder;
use lambda_sdk::launch::LaunchKeys;
use lambda_sdk::{Keyring, rotation};
use serde::Serialize;

use crate::args::Format;
use crate::commands::customer;
use crate::exit::Failure;
use crate::output::{self, Show};

/// A rotation of the master key.
#[derive(Serialize)]
struct Master {
    config: String,
}

impl Show for Master {
    fn text(&self) -> String {
        format!(
            "The master key was replaced; the project keys are wrapped under the new one.\n\
             Back up master.key and keyring.json in {} together, copy both to the machines that run a broker, and destroy \
             the copies of the old master.key.",
            self.config
        )
    }
}

/// A rotation of the project key.
#[derive(Serialize)]
struct Project {
    key: String,
    version: u32,
    resumed: bool,
    resealed: Vec<String>,
    foreign: Vec<String>,
}

impl Show for Project {
    fn text(&self) -> String {
        let what = if self.resumed { "An interrupted rotation is finished" } else { "The project key was rotated" };
        let mut text = format!("{what}: version {} of {}.\n", self.version, self.key);
        text.push_str(&format!("Instances sealed anew: {}\n", self.resealed.len()));
        for id in &self.foreign {
            text.push_str(&format!("{id} is sealed under a key that this machine has not; it was left as it is.\n"));
        }
        text.push_str("Back up keyring.json, and copy it to the machines that run a broker.");
        text
    }
}

/// The keys of ID blocks, by SHA-384.
#[derive(Serialize)]
struct Launch {
    snp_id_key: Option<String>,
    snp_author_key: Option<String>,
}

impl Show for Launch {
    fn text(&self) -> String {
        match (&self.snp_id_key, &self.snp_author_key) {
            (Some(id), Some(author)) => format!("SNP ID key      {id}\nSNP author key  {author}"),
            _ => "There are no keys for SNP ID blocks; the first instance of profile snp makes them.".into(),
        }
    }
}

/// `lambda key show`.
pub(crate) fn show(format: Format) -> Result<(), Failure> {
    let digests = LaunchKeys::load(&Folder::from_environment()?)?.map(|keys| keys.digests());
    output::print(
        format,
        &Launch {
            snp_id_key: digests.map(|digests| digests.id.to_string()),
            snp_author_key: digests.map(|digests| digests.author.to_string()),
        },
    )
}

/// `lambda key rotate-master`.
pub(crate) fn rotate_master(format: Format) -> Result<(), Failure> {
    let folder = Folder::from_environment()?;
    Keyring::rotate_master(&folder)?;
    output::print(format, &Master { config: folder.path().display().to_string() })
}

/// `lambda key rotate-project`.
pub(crate) async fn rotate_project(format: Format) -> Result<(), Failure> {
    let customer = customer()?;
    customer.check_platform().await?;
    let rotated = rotation::rotate_project(&customer.folder, &customer.client).await.map_err(|error| {
        let mut failure = Failure::from(error);
        failure.message.push_str("\nRun `lambda key rotate-project` again to continue.");
        failure
    })?;
    let text = |ids: &[lambda_types::InstanceId]| ids.iter().map(ToString::to_string).collect();
    output::print(
        format,
        &Project {
            key: rotated.key.to_string(),
            version: rotated.version,
            resumed: rotated.resumed,
            resealed: text(&rotated.resealed),
            foreign: text(&rotated.foreign),
        },
    )
}
