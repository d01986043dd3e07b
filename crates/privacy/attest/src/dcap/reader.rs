use crate::error::ParseError;

/// Reads little-endian fields and knows where it is.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    /// Offset of `bytes` in the file.
    base: usize,
    at: usize,
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, base: 0, at: 0, what }
    }

    /// Names the structure that is read from here on.
    pub(super) fn now(&mut self, what: &'static str) {
        self.what = what;
    }

    /// Offset in the file.
    pub(super) fn at(&self) -> usize {
        self.base.saturating_add(self.at)
    }

    /// What was read.
    pub(super) fn taken(&self) -> &'a [u8] {
        self.bytes.get(..self.at).unwrap_or_default()
    }

    /// What is left.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], ParseError> {
        let rest = self.rest();
        let taken = rest.get(..length).ok_or_else(|| {
            ParseError::at(self.what, self.at(), format!("{length} bytes are expected, {} are left", rest.len()))
        })?;
        self.at = self.at.saturating_add(length);
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        let at = self.at();
        self.take(N)?.try_into().map_err(|_| ParseError::at(self.what, at, "field length"))
    }

    pub(super) fn u16(&mut self) -> Result<u16, ParseError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, ParseError> {
        self.array().map(u32::from_le_bytes)
    }

    /// A field that begins with its length, as a reader of its own.
    pub(super) fn sized(&mut self) -> Result<Self, ParseError> {
        let length = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        let base = self.at();
        Ok(Self { bytes: self.take(length)?, base, at: 0, what: self.what })
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), ParseError> {
        if self.rest().is_empty() {
            return Ok(());
        }
        Err(ParseError::at(self.what, self.at(), format!("{} bytes more than its fields have", self.rest().len())))
    }
}
