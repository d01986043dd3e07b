//! What an instance gets once it has proved itself.

use std::collections::BTreeMap;

use zeroize::{Zeroize as _, Zeroizing};

use crate::codec::{Reader, Writer};
use crate::{Error, VolumeKey};

/// Everything that is released to an attested guest. Zeroized on drop; never printed.
pub struct InstanceSecrets {
    /// Opens the volume.
    pub volume_key: VolumeKey,
    /// SHA-256 of the volume's header area, once it was initialised.
    pub header_pin: Option<[u8; 32]>,
    /// Whether the guest may initialise the volume. Without it a volume without a header is refused.
    pub initialise: bool,
    /// Host name (RFC 1123).
    pub hostname: Zeroizing<String>,
    /// Lines for `authorized_keys`.
    pub authorized_keys: Vec<Zeroizing<String>>,
    /// A script, run once as root at the first boot. It starts with `#!`.
    pub user_data: Option<Zeroizing<Vec<u8>>>,
    /// Environment of the system.
    pub environment: BTreeMap<String, Zeroizing<String>>,
}

const VERSION: u8 = 1;

/// Most bytes of encoded secrets: with its overhead a sealed value stays within what the API accepts.
pub const MAX_BYTES: usize = lambda_types::sealed::MAX_SEALED_BYTES - 1024;

fn is_hostname(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn is_variable(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Longest environment variable, name and value: what pam_env reads as one line leaves room for 8 KiB, and a longer
/// one costs the guest its whole environment.
const MAX_VARIABLE_BYTES: usize = 8000;

/// One line, so that a value cannot add lines to the files that the guest writes.
fn is_line(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

impl InstanceSecrets {
    /// Secrets of a new instance: a fresh volume key and leave to initialise the volume.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn new(hostname: &str) -> Result<Self, Error> {
        Ok(Self {
            volume_key: VolumeKey::generate()?,
            header_pin: None,
            initialise: true,
            hostname: Zeroizing::new(hostname.to_owned()),
            authorized_keys: Vec::new(),
            user_data: None,
            environment: BTreeMap::new(),
        })
    }

    /// The volume was initialised and has this header: from here on, no other is accepted.
    pub fn pin(&mut self, header_pin: [u8; 32]) {
        self.header_pin = Some(header_pin);
        self.initialise = false;
    }

    /// Whether every part is within its bounds. Sealing, opening and releasing check this too.
    ///
    /// # Errors
    /// Says which part is not; quotes none.
    pub fn check(&self) -> Result<(), Error> {
        let Self { volume_key: _, header_pin, initialise, hostname, authorized_keys, user_data, environment } = self;
        if *initialise && header_pin.is_some() {
            return Err(Error::Invalid("a volume with a pinned header must not be initialised"));
        }
        if !initialise && header_pin.is_none() {
            return Err(Error::Invalid("a volume that is not to be initialised needs a header pin"));
        }
        if !is_hostname(hostname) {
            return Err(Error::Invalid(
                "the host name is not valid: labels of letters, digits and `-`, at most 253 in all",
            ));
        }
        if authorized_keys.iter().any(|key| key.trim().is_empty() || !is_line(key)) {
            return Err(Error::Invalid("an authorized key is empty or holds control characters"));
        }
        if user_data.as_ref().is_some_and(|script| !script.starts_with(b"#!")) {
            return Err(Error::Invalid("user data must be a script that starts with `#!`"));
        }
        if environment.iter().any(|(key, value)| !is_variable(key) || !is_line(value)) {
            return Err(Error::Invalid(
                "an environment variable's name is not valid or its value holds control characters",
            ));
        }
        // pam_env, which sets them in the guest, takes quotes, `\\` and `$` as they are, and cuts at `#` even in quotes.
        if environment.values().any(|value| value.contains('#')) {
            return Err(Error::Invalid(
                "an environment variable's value holds `#`, where the guest would cut it off; encode it, or write it to a \
                 file with user data",
            ));
        }
        if environment.iter().any(|(key, value)| key.len().saturating_add(value.len()) > MAX_VARIABLE_BYTES) {
            return Err(Error::Invalid("an environment variable is longer than 8000 bytes, name and value together"));
        }
        Ok(())
    }

    pub(crate) fn encode(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.check()?;
        let Self { volume_key, header_pin, initialise, hostname, authorized_keys, user_data, environment } = self;
        let mut out = Writer::new(VERSION, MAX_BYTES)?;
        out.fixed(volume_key.expose())?;
        out.fixed(&[u8::from(header_pin.is_some())])?;
        if let Some(pin) = header_pin {
            out.fixed(pin)?;
        }
        out.fixed(&[u8::from(*initialise)])?;
        out.bytes(hostname.as_bytes())?;
        out.count(authorized_keys.len())?;
        for key in authorized_keys {
            out.bytes(key.as_bytes())?;
        }
        out.fixed(&[u8::from(user_data.is_some())])?;
        if let Some(script) = user_data {
            out.bytes(script)?;
        }
        out.count(environment.len())?;
        for (key, value) in environment {
            out.bytes(key.as_bytes())?;
            out.bytes(value.as_bytes())?;
        }
        Ok(out.finish())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes, VERSION)?;
        let mut key = reader.array::<32>()?;
        let volume_key = VolumeKey::from_array(key);
        key.zeroize();
        let header_pin = if reader.flag()? { Some(reader.array()?) } else { None };
        let initialise = reader.flag()?;
        let hostname = Zeroizing::new(reader.text()?.to_owned());
        let mut authorized_keys = Vec::new();
        for _ in 0..reader.count()? {
            authorized_keys.push(Zeroizing::new(reader.text()?.to_owned()));
        }
        let user_data = if reader.flag()? { Some(Zeroizing::new(reader.bytes()?.to_vec())) } else { None };
        let mut environment = BTreeMap::new();
        for _ in 0..reader.count()? {
            let key = reader.text()?.to_owned();
            environment.insert(key, Zeroizing::new(reader.text()?.to_owned()));
        }
        reader.finish()?;
        let secrets = Self { volume_key, header_pin, initialise, hostname, authorized_keys, user_data, environment };
        secrets.check()?;
        Ok(secrets)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> InstanceSecrets {
        let mut secrets = InstanceSecrets::new("web-1.example").unwrap();
        secrets.authorized_keys.push(Zeroizing::new("ssh-ed25519 AAAA me@here".into()));
        secrets.user_data = Some(Zeroizing::new(b"#!/bin/sh\ntrue\n".to_vec()));
        secrets.environment.insert("A_B".into(), Zeroizing::new("c d=\"e\"".into()));
        secrets
    }

    pub(crate) fn assert_same(a: &InstanceSecrets, b: &InstanceSecrets) {
        assert!(*a.encode().unwrap() == *b.encode().unwrap());
    }

    #[test]
    fn round_trips_before_and_after_pinning() {
        let mut secrets = sample();
        assert_same(&InstanceSecrets::decode(&secrets.encode().unwrap()).unwrap(), &secrets);
        secrets.pin([7; 32]);
        let back = InstanceSecrets::decode(&secrets.encode().unwrap()).unwrap();
        assert_eq!((back.header_pin, back.initialise), (Some([7; 32]), false));
    }

    #[test]
    fn environment_values_with_quotes_backslashes_and_dollars_are_accepted() {
        let mut secrets = sample();
        for value in ["\"", "a\"b\"", "it's", "\\", "a\\", "$HOME ${X} @{Y}", "", "x=y", &"x".repeat(7999)] {
            secrets.environment.insert("A".into(), Zeroizing::new(value.to_owned()));
            secrets.check().unwrap();
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = sample().encode().unwrap();
        for end in 0..bytes.len() {
            assert!(InstanceSecrets::decode(&bytes[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn values_that_could_add_lines_to_the_guests_files_are_refused() {
        type Break = fn(&mut InstanceSecrets);
        let breaks: [(&str, Break); 10] = [
            ("hostname", |s| s.hostname = Zeroizing::new("a\nb".into())),
            ("hostname label", |s| s.hostname = Zeroizing::new("-a".into())),
            ("authorized key", |s| s.authorized_keys.push(Zeroizing::new("a\nb".into()))),
            ("environment name", |s| drop(s.environment.insert("A=B".into(), Zeroizing::new(String::new())))),
            ("environment value", |s| drop(s.environment.insert("A".into(), Zeroizing::new("x\ny".into())))),
            ("environment value cut off", |s| drop(s.environment.insert("A".into(), Zeroizing::new("a#b".into())))),
            ("environment too long", |s| drop(s.environment.insert("A".into(), Zeroizing::new("x".repeat(8000))))),
            ("user data", |s| s.user_data = Some(Zeroizing::new(b"#cloud-config".to_vec()))),
            ("initialise a pinned volume", |s| s.header_pin = Some([0; 32])),
            ("neither pin nor initialise", |s| s.initialise = false),
        ];
        for (what, breaks) in breaks {
            let mut secrets = sample();
            breaks(&mut secrets);
            assert!(matches!(secrets.check(), Err(Error::Invalid(_))), "{what}");
            assert!(secrets.encode().is_err(), "{what}");
        }
    }

    #[test]
    fn secrets_too_large_for_the_api_are_refused() {
        let mut secrets = sample();
        let mut script = b"#!/bin/sh\n".to_vec();
        script.resize(MAX_BYTES, b'#');
        secrets.user_data = Some(Zeroizing::new(script));
        assert!(matches!(secrets.encode(), Err(Error::Invalid(_))));
    }
}
