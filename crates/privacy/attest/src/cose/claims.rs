//! Claims of a token: what has to be there, of which type and size.

use super::cbor::Value;

/// Claim labels that the two tokens share (IANA CWT Claims).
pub(crate) mod label {
    pub(crate) const NONCE: i128 = 10;
    pub(crate) const UEID: i128 = 256;
    pub(crate) const PROFILE: i128 = 265;
    pub(crate) const CLIENT_ID: i128 = 2394;
    pub(crate) const LIFECYCLE: i128 = 2395;
    pub(crate) const IMPLEMENTATION_ID: i128 = 2396;
    pub(crate) const BOOT_SEED: i128 = 2397;
    pub(crate) const CERTIFICATION: i128 = 2398;
    pub(crate) const SOFTWARE: i128 = 2399;
    pub(crate) const VERIFICATION_SERVICE: i128 = 2400;
}

/// A claims set that is being read. What is wrong with it is collected, so that everything else can still be shown.
pub(crate) struct Fields<'v, 'a> {
    claims: &'v Value<'a>,
    pub(crate) faults: Vec<String>,
}

impl<'v, 'a> Fields<'v, 'a> {
    pub(crate) fn new(claims: &'v Value<'a>) -> Self {
        Self { claims, faults: Vec::new() }
    }

    pub(crate) fn has(&self, label: i128) -> bool {
        self.claims.get(label).is_some()
    }

    /// A claim that may be left out, when it is of the right type.
    pub(crate) fn optional<T>(
        &mut self,
        label: i128,
        name: &str,
        read: impl Fn(&'v Value<'a>) -> Option<T>,
    ) -> Option<T> {
        let value = self.claims.get(label)?;
        let found = read(value);
        if found.is_none() {
            self.faults.push(format!("{name} ({label}) is not of the type or size that it has to be"));
        }
        found
    }

    /// A claim that has to be there.
    pub(crate) fn required<T>(
        &mut self,
        label: i128,
        name: &str,
        read: impl Fn(&'v Value<'a>) -> Option<T>,
    ) -> Option<T> {
        if !self.has(label) {
            self.faults.push(format!("{name} ({label}) is missing"));
        }
        self.optional(label, name, read)
    }

    /// Bytes of one of these sizes.
    pub(crate) fn bytes(&mut self, label: i128, name: &str, sizes: &[usize]) -> Option<&'a [u8]> {
        self.required(label, name, |value| value.as_bytes().filter(|bytes| sizes.contains(&bytes.len())))
    }

    /// A text that has to be there.
    pub(crate) fn text(&mut self, label: i128, name: &str) -> Option<&'a str> {
        self.required(label, name, Value::as_text)
    }

    /// Everything that was found wrong.
    pub(crate) fn result(self) -> Result<(), String> {
        if self.faults.is_empty() { Ok(()) } else { Err(self.faults.join("; ")) }
    }
}
