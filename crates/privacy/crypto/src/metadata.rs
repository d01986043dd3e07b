//! A resource's customer-side metadata: what people call it.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::Error;
use crate::codec::{Reader, Writer};

/// Name, tags and description: known to the customer's programs only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// What commands call it.
    pub name: String,
    /// Free key and value pairs.
    pub tags: BTreeMap<String, String>,
    /// Free text.
    pub description: String,
}

const VERSION: u8 = 1;
const MAX_BYTES: usize = 16 * 1024;

/// Whether a text is usable as a name: 1 to 63 characters of `a-z A-Z 0-9 . _ -`, starting with a letter or digit,
/// so that it is never mistaken for an option, and not looking like an id.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && !text.starts_with("inst_")
}

impl Metadata {
    /// Whether every part is within its bounds.
    ///
    /// # Errors
    /// Says which part is not.
    pub fn check(&self) -> Result<(), Error> {
        let Self { name, tags, description } = self;
        if !is_name(name) {
            return Err(Error::Invalid(
                "a name has 1 to 63 letters, digits, `.`, `_` or `-`, starts with a letter or digit, and not with `inst_`",
            ));
        }
        let printable = |text: &str| !text.chars().any(char::is_control);
        if tags.len() > 64 || tags.iter().any(|(key, value)| key.is_empty() || !printable(key) || !printable(value)) {
            return Err(Error::Invalid("at most 64 tags, each with a key and without control characters"));
        }
        if description.chars().any(|c| c.is_control() && c != '\n') {
            return Err(Error::Invalid("the description holds control characters"));
        }
        Ok(())
    }

    pub(crate) fn encode(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.check()?;
        let Self { name, tags, description } = self;
        let mut out = Writer::new(VERSION, MAX_BYTES)?;
        out.bytes(name.as_bytes())?;
        out.count(tags.len())?;
        for (key, value) in tags {
            out.bytes(key.as_bytes())?;
            out.bytes(value.as_bytes())?;
        }
        out.bytes(description.as_bytes())?;
        Ok(out.finish())
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes, VERSION)?;
        let name = reader.text()?.to_owned();
        let mut tags = BTreeMap::new();
        for _ in 0..reader.count()? {
            let key = reader.text()?.to_owned();
            tags.insert(key, reader.text()?.to_owned());
        }
        let description = reader.text()?.to_owned();
        reader.finish()?;
        let metadata = Self { name, tags, description };
        metadata.check()?;
        Ok(metadata)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let metadata = Metadata {
            name: "web-1".into(),
            tags: BTreeMap::from([("env".into(), "prod".into()), ("größe".into(), String::new())]),
            description: "two\nlines".into(),
        };
        assert_eq!(Metadata::decode(&metadata.encode().unwrap()).unwrap(), metadata);
    }

    #[test]
    fn names_that_look_like_options_or_ids_are_refused() {
        for bad in ["", "-x", "inst_1", "a b", "a/b", "ä", &"a".repeat(64)] {
            assert!(!is_name(bad), "{bad}");
        }
        assert!(is_name("web.1_a-B"));
    }
}
