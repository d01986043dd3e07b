//! The configuration folder: `~/.config/lambda`, or `LAMBDA_CONFIG_DIR`.
//!
//! ```text
//!   config.json      endpoint, gateway CA, pinned platform CA      api.key         the API key
//!   master.key       the master key                                keyring.json    project keys wrapped under it
//!   images/<id>/     reference values that the customer trusts     policies/<id>.json   a policy for an instance or an image
//!   state/<id>.json  what was attested about an instance           policy-keys.pem      keys that must sign policies, if any
//!   collateral/      what vendors published about their hardware
//! ```
//!
//! Every file is 0600 in folders of 0700. Losing `master.key` or `keyring.json` loses every volume: back them up.

use std::path::{Path, PathBuf};

use lambda_attest::pki;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{Error, files};

const FORMAT: u32 = 1;

/// The configuration folder.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// From the environment: `LAMBDA_CONFIG_DIR`, else `XDG_CONFIG_HOME/lambda`, else `HOME/.config/lambda`.
    ///
    /// # Errors
    /// When none of them is set.
    pub fn from_environment() -> Result<Self, Error> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        variable("LAMBDA_CONFIG_DIR")
            .or_else(|| variable("XDG_CONFIG_HOME").map(|base| base.join("lambda")))
            .or_else(|| variable("HOME").map(|home| home.join(".config/lambda")))
            .map(Self)
            .ok_or_else(|| Error::Usage("neither LAMBDA_CONFIG_DIR nor HOME is set: set one".into()))
    }

    /// This folder.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A member's path.
    #[must_use]
    pub fn join(&self, member: &str) -> PathBuf {
        self.0.join(member)
    }

    /// A member folder, made when it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn subfolder(&self, member: &str) -> Result<PathBuf, Error> {
        let path = self.join(member);
        files::make_folder(&path)?;
        Ok(path)
    }
}

/// How to reach the cloud, and what is pinned of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    format: u32,
    /// `https://host:port`.
    pub endpoint: String,
    /// Certificates that the gateway's chain must end in, PEM. No other root is trusted.
    pub ca: String,
    /// Pinned at first connect.
    pub platform: Platform,
}

/// The region's platform CA, under which every node's vTPM identity is certified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    /// Region name.
    pub region: String,
    /// PEM.
    pub platform_ca: String,
    /// SHA-256 of its public key, hex.
    pub fingerprint: String,
}

impl Platform {
    /// From what the API presents.
    ///
    /// # Errors
    /// When the PEM is not one certificate.
    pub fn new(region: String, platform_ca: String) -> Result<Self, Error> {
        let fingerprint = pki::fingerprint(platform_ca.as_bytes())
            .map_err(|error| Error::Protocol(format!("the platform CA is not a certificate: {error}")))?;
        Ok(Self { region, platform_ca, fingerprint })
    }
}

impl Config {
    /// A configuration, not stored yet.
    #[must_use]
    pub fn new(endpoint: String, ca: String, platform: Platform) -> Self {
        Self { format: FORMAT, endpoint, ca, platform }
    }

    /// The stored one.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn load(folder: &Folder) -> Result<Self, Error> {
        let path = folder.join("config.json");
        let config: Self = files::read_json(&path)?.ok_or_else(|| Error::NotConnected(folder.path().into()))?;
        if config.format != FORMAT {
            let detail = format!("format {} is not known to this program: update it", config.format);
            return Err(Error::Damaged { path, detail });
        }
        Ok(config)
    }

    /// Stores it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, folder: &Folder) -> Result<(), Error> {
        files::make_folder(folder.path())?;
        files::write_json(&folder.join("config.json"), self)
    }

    /// Refuses a platform CA other than the pinned one.
    ///
    /// # Errors
    /// When it differs.
    pub fn check_platform(&self, presented: &Platform) -> Result<(), Error> {
        if self.platform.fingerprint == presented.fingerprint {
            return Ok(());
        }
        Err(Error::PlatformCaChanged {
            pinned: self.platform.fingerprint.clone(),
            presented: presented.fingerprint.clone(),
        })
    }
}

/// An API key's text. Zeroized on drop; never printed.
pub struct ApiKey(Zeroizing<String>);

impl ApiKey {
    /// From a text, for example a file's content.
    ///
    /// # Errors
    /// When it does not look like an API key.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let shaped = text.len() == lambda_types::api_key::LEN
            && text.starts_with(lambda_types::api_key::PREFIX)
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if shaped {
            Ok(Self(Zeroizing::new(text.to_owned())))
        } else {
            Err(Error::Usage("that is not an API key: it starts with `lam_` and has 40 characters".into()))
        }
    }

    /// From a file.
    ///
    /// # Errors
    /// When the file cannot be read or holds no key.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|source| Error::File { action: "read", path: path.into(), source })?;
        let bytes = Zeroizing::new(bytes);
        Self::parse(std::str::from_utf8(&bytes).unwrap_or_default())
    }

    /// The stored one.
    ///
    /// # Errors
    /// When there is none.
    pub fn load(folder: &Folder) -> Result<Self, Error> {
        let path = folder.join("api.key");
        if !path.exists() {
            return Err(Error::NotConnected(folder.path().into()));
        }
        Self::read(&path)
    }

    /// Stores it, 0600.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, folder: &Folder) -> Result<(), Error> {
        files::make_folder(folder.path())?;
        files::write(&folder.join("api.key"), self.0.as_bytes())
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(fingerprint: &str) -> Platform {
        Platform { region: "local".into(), platform_ca: String::new(), fingerprint: fingerprint.into() }
    }

    #[test]
    fn another_platform_ca_than_the_pinned_one_is_refused_with_both_fingerprints() {
        let config = Config::new("https://localhost".into(), String::new(), platform("aa"));
        config.check_platform(&platform("aa")).unwrap();
        let error = config.check_platform(&platform("bb")).unwrap_err().to_string();
        assert!(error.contains("aa") && error.contains("bb"), "{error}");
    }

    #[test]
    fn without_a_configuration_the_error_says_how_to_connect() {
        let dir = tempfile::tempdir().unwrap();
        let error = Config::load(&Folder::at(dir.path())).unwrap_err().to_string();
        assert!(error.contains("lambda connect"), "{error}");
    }

    #[test]
    fn a_text_that_is_no_api_key_is_refused_without_quoting_it() {
        let Err(error) = ApiKey::parse("hunter2") else { panic!("accepted") };
        assert!(!error.to_string().contains("hunter2"));
        assert!(ApiKey::parse(&format!("lam_{}\n", "a".repeat(36))).is_ok());
    }
}
