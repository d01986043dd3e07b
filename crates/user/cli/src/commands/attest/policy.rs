//! `lambda attest policy …`: what a customer expects of the machines that may hold its keys.

use std::path::{Path, PathBuf};

use lambda_attest::pki::ParsedCertificate;
use lambda_attest::{FirmwareRule, Policy};
use lambda_sdk::config::{Config, Folder};
use lambda_sdk::launch::LaunchKeys;
use lambda_sdk::policies::keys::{self, PolicyKey};
use lambda_sdk::policies::{self, Authorship, Loaded, Pins};
use lambda_sdk::{Error, files, presented};
use serde::Serialize;

use crate::args::{Format, NewPolicy, SignPolicy};
use crate::commands::image;
use crate::exit::{Failure, REFUSED};
use crate::output::{self, Show};

/// A policy as a person reads it.
#[derive(Serialize)]
struct View {
    sha256: String,
    authorship: String,
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
    fn new(Loaded { policy, authorship }: Loaded) -> Result<Self, Failure> {
        let cas = policy.tpm.iter().flat_map(|tpm| &tpm.platform_cas);
        let platform_cas = cas
            .map(|pem| {
                let ca = ParsedCertificate::from_pem(pem).map_err(|error| Failure::usage(error.to_string()))?;
                Ok(Authority { subject: ca.subject(), sha256: ca.fingerprint() })
            })
            .collect::<Result<_, Failure>>()?;
        Ok(Self { sha256: sha256(&policy), authorship: signature(&authorship), platform_cas, policy })
    }

    fn tpm(&self, text: &mut String) {
        let Some(tpm) = &self.policy.tpm else { return };
        let firmware = match &tpm.firmware_version {
            None => "none: nothing is accepted".into(),
            Some(FirmwareRule::Any) => "any version".into(),
            Some(FirmwareRule::OneOf(versions)) if versions.is_empty() => "an empty list: nothing is accepted".into(),
            Some(FirmwareRule::OneOf(versions)) => format!("one of {}", versions.join(", ")),
        };
        text.push_str(&format!("TPM firmware    {firmware}\n"));
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
    }

    /// The kinds of evidence that have a section, and those of its expectations that a line can tell.
    fn hardware(&self, text: &mut String) {
        let written = serde_json::to_value(&self.policy).unwrap_or_default();
        for (kind, section) in written.as_object().into_iter().flatten() {
            if !section.is_object() || kind == "tpm" {
                continue;
            }
            text.push_str(&format!("{kind}\n"));
            for (field, value) in section.as_object().into_iter().flatten() {
                text.push_str(&format!("  {field:<24} {value}\n"));
            }
        }
    }
}

/// A policy's hash, as releases are bound to it.
pub(crate) fn sha256(policy: &Policy) -> String {
    policy.hash().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn signature(authorship: &Authorship) -> String {
    match authorship {
        Authorship::Unsigned => "none".into(),
        Authorship::Unchecked { signers } => {
            format!("claims key {}, not checked: no policy key is pinned here", signers.join(", "))
        }
        Authorship::Signed { key } => format!("by key {key}"),
    }
}

/// A policy file that is about to be used. One whose author is not known is announced on standard error.
pub(crate) fn accepted(path: &Path) -> Result<Policy, Failure> {
    let Loaded { policy, authorship } = policies::load_file(&Folder::from_environment()?, path)?;
    match authorship {
        Authorship::Signed { .. } => {}
        Authorship::Unsigned => eprintln!("notice: {} is not signed", path.display()),
        Authorship::Unchecked { signers } => eprintln!(
            "notice: {} claims to be signed by key {}; it was not checked, since no policy key is pinned here",
            path.display(),
            signers.join(", ")
        ),
    }
    Ok(policy)
}

impl Show for View {
    fn text(&self) -> String {
        let tier = self.policy.minimum_tier.map_or_else(|| "none: nothing is accepted".into(), |tier| tier.to_string());
        let mut text =
            format!("policy SHA-256  {}\nsignature       {}\nleast tier      {tier}\n", self.sha256, self.authorship);
        self.tpm(&mut text);
        self.hardware(&mut text);
        text.push_str("Whatever it does not name is denied.");
        text
    }
}

/// `lambda attest policy new`.
pub(crate) fn new(args: &NewPolicy) -> Result<(), Failure> {
    let manifest =
        if args.from.is_dir() { image::measured_manifest(&args.from)? } else { presented::bounded(&args.from)? };
    // Only a vTPM's identity ends in the platform CA.
    let folder = Folder::from_environment()?;
    let platform = match Config::load(&folder) {
        Ok(config) => Some(config.platform),
        Err(Error::NotConnected(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let launch = match policies::pins_launch_keys(&manifest, &args.profile)? {
        true => Some(LaunchKeys::load_or_create(&folder)?.digests()),
        false => None,
    };
    let policy = policies::make(&manifest, &args.profile, &Pins { platform: platform.as_ref(), launch })?;
    match &args.out {
        Some(path) => Ok(files::write(path, &policy.to_json())?),
        None => output::line(&String::from_utf8_lossy(&policy.to_json())),
    }
}

/// `lambda attest policy show`.
pub(crate) fn show(format: Format, path: &Path) -> Result<(), Failure> {
    // Also of a policy that this machine would not use, its content can be looked at.
    let pinned = policies::pinned(&Folder::from_environment()?)?;
    let loaded = match policies::load_signed_by(path, &pinned) {
        Err(Error::NotTrusted(_)) => policies::load_signed_by(path, &[]),
        loaded => loaded,
    };
    output::print(format, &View::new(loaded?)?)
}

/// `lambda attest policy sign`.
pub(crate) fn sign(args: &SignPolicy) -> Result<(), Failure> {
    let key = PolicyKey::load(&args.key)?;
    let Loaded { policy, .. } = policies::load_signed_by(&args.policy, &[])?;
    files::write(args.out.as_deref().unwrap_or(&args.policy), &policies::sign(&policy, &key))?;
    for gap in policies::gaps(&policy) {
        eprintln!("notice: {} is left out: its check will fail", gap.field);
    }
    Ok(())
}

/// What a look at a policy found.
#[derive(Serialize)]
struct Checked {
    sha256: String,
    signature: String,
    signature_holds: Option<bool>,
    missing: Vec<String>,
    #[serde(skip)]
    refusal: Option<String>,
}

impl Show for Checked {
    fn text(&self) -> String {
        let mut text = format!("policy SHA-256  {}\nsignature       {}\n", self.sha256, self.signature);
        if self.missing.is_empty() {
            text.push_str("complete        every expectation of the kinds of evidence that it accepts is there");
        }
        for field in &self.missing {
            text.push_str(&format!("missing         {field}: its check will fail\n"));
        }
        text
    }
}

/// `lambda attest policy check`.
pub(crate) fn check(format: Format, path: &Path, given: &[PathBuf]) -> Result<(), Failure> {
    let mut trusted: Vec<_> = given.iter().map(|path| keys::load_public(path)).collect::<Result<_, _>>()?;
    if trusted.is_empty() {
        trusted = policies::pinned(&Folder::from_environment()?)?;
    }
    let Loaded { policy, authorship } = policies::load_signed_by(path, &[])?;
    let verdict = policies::load_signed_by(path, &trusted);
    let (signature, holds, refusal) = match verdict {
        Ok(loaded) => {
            let holds = matches!(loaded.authorship, Authorship::Signed { .. }).then_some(true);
            (signature(&loaded.authorship), holds, None)
        }
        Err(Error::NotTrusted(message)) => {
            let claimed = match authorship {
                Authorship::Unsigned => "none".to_owned(),
                _ => "by none of the trusted keys".to_owned(),
            };
            (claimed, Some(false), Some(message))
        }
        Err(error) => return Err(error.into()),
    };
    let missing: Vec<String> = policies::gaps(&policy).into_iter().map(|gap| gap.field).collect();
    let checked = Checked { sha256: sha256(&policy), signature, signature_holds: holds, missing, refusal };
    output::print(format, &checked)?;
    match (&checked.refusal, checked.missing.len()) {
        (Some(refusal), _) => Err(Failure::new(REFUSED, refusal)),
        (None, 0) => Ok(()),
        (None, count) => Err(Failure::new(REFUSED, format!("{count} expectations are left out"))),
    }
}

/// A public key, by what people compare.
#[derive(Serialize)]
struct Key {
    id: String,
    public: String,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Keys(Vec<Key>);

impl Show for Key {
    fn text(&self) -> String {
        format!("key {}\n{}", self.id, self.public)
    }
}

impl Show for Keys {
    fn text(&self) -> String {
        match self.0.as_slice() {
            [] => "no policy key is pinned: any policy file is taken".into(),
            keys => keys.iter().map(|key| format!("pinned key {}\n{}", key.id, key.public)).collect(),
        }
    }
}

/// `lambda attest policy key new`.
pub(crate) fn new_key(format: Format, out: &Path) -> Result<(), Failure> {
    let beside = out.with_extension("pub");
    if beside == out || beside.exists() {
        return Err(Failure::usage(format!("{} is there already, or is the key itself", beside.display())));
    }
    let key = PolicyKey::generate()?;
    key.save(out)?;
    let public = key.public();
    files::write(&beside, keys::public_pem(&public).as_bytes())?;
    output::print(format, &Key { id: keys::id(&public), public: keys::public_pem(&public) })
}

/// `lambda attest policy key show`.
pub(crate) fn show_key(format: Format, path: &Path) -> Result<(), Failure> {
    let public = match keys::load_public(path) {
        Ok(public) => public,
        Err(_) => PolicyKey::load(path)?.public(),
    };
    output::print(format, &Key { id: keys::id(&public), public: keys::public_pem(&public) })
}

/// `lambda attest policy key pin`.
pub(crate) fn pin_keys(format: Format, paths: &[PathBuf]) -> Result<(), Failure> {
    let pinned: Vec<_> = paths.iter().map(|path| keys::load_public(path)).collect::<Result<_, _>>()?;
    policies::pin(&Folder::from_environment()?, &pinned)?;
    shown(format)
}

/// `lambda attest policy key unpin`.
pub(crate) fn unpin_keys(format: Format) -> Result<(), Failure> {
    policies::pin(&Folder::from_environment()?, &[])?;
    shown(format)
}

fn shown(format: Format) -> Result<(), Failure> {
    let pinned = policies::pinned(&Folder::from_environment()?)?;
    let keys = pinned.iter().map(|key| Key { id: keys::id(key), public: keys::public_pem(key) });
    output::print(format, &Keys(keys.collect()))
}
