//! Bounded reading and writing of big-endian TPM structures.

use crate::Error;

/// Reads fields from the front of a byte string; every failure names the structure and the offset.
pub(crate) struct Reader<'a> {
    what: &'static str,
    all: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(what: &'static str, bytes: &'a [u8], limit: usize) -> Result<Self, Error> {
        if bytes.len() > limit {
            return Err(Error::TooLong { what, limit });
        }
        Ok(Self { what, all: bytes.len(), rest: bytes })
    }

    pub(crate) fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let at = self.all.saturating_sub(self.rest.len());
        let (head, rest) = self.rest.split_at_checked(len).ok_or(Error::Truncated { what: self.what, at })?;
        self.rest = rest;
        Ok(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let what = self.what;
        self.take(N)?.try_into().map_err(|_| Error::Malformed { what, why: "field length" })
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Error> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_be_bytes)
    }

    /// A TPM2B: a 16-bit length, at most `limit`, and that many bytes.
    pub(crate) fn sized(&mut self, limit: usize) -> Result<&'a [u8], Error> {
        let len = usize::from(self.u16()?);
        if len > limit {
            return Err(Error::TooLong { what: self.what, limit });
        }
        self.take(len)
    }

    /// Whatever is left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn finish(self) -> Result<(), Error> {
        if self.rest.is_empty() { Ok(()) } else { Err(Error::Trailing { what: self.what, count: self.rest.len() }) }
    }
}

/// Appends big-endian fields.
#[derive(Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn u8(mut self, value: u8) -> Self {
        self.bytes.push(value);
        self
    }

    pub(crate) fn u16(self, value: u16) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn u32(self, value: u32) -> Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn raw(mut self, value: &[u8]) -> Self {
        self.bytes.extend_from_slice(value);
        self
    }

    /// A TPM2B. `what` names it when it does not fit its 16-bit length.
    pub(crate) fn sized(self, what: &'static str, value: &[u8]) -> Result<Self, Error> {
        let len = u16::try_from(value.len()).map_err(|_| Error::TooLong { what, limit: usize::from(u16::MAX) })?;
        Ok(self.u16(len).raw(value))
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.bytes
    }
}
