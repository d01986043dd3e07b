//! The encoding of plaintexts: a version byte, then fields in a fixed order, byte strings and lists length-prefixed.
//!
//! Decoding is bounded by the input, and refuses bytes after the end.

use zeroize::Zeroizing;

use crate::Error;

/// Appends fields to a buffer of fixed capacity that is zeroized on drop. The capacity never grows: a reallocation
/// would leave an unwiped copy behind.
pub(crate) struct Writer {
    buffer: Zeroizing<Vec<u8>>,
    limit: usize,
}

impl Writer {
    /// For at most `limit` bytes.
    pub(crate) fn new(version: u8, limit: usize) -> Result<Self, Error> {
        let mut writer = Self { buffer: Zeroizing::new(Vec::with_capacity(limit)), limit };
        writer.fixed(&[version])?;
        Ok(writer)
    }

    /// Bytes whose number the format fixes.
    pub(crate) fn fixed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.len() > self.limit.saturating_sub(self.buffer.len()) {
            return Err(Error::Invalid("too large to seal: shorten the user data, the environment or the key list"));
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    /// A number of items that follow.
    pub(crate) fn count(&mut self, count: usize) -> Result<(), Error> {
        let count = u32::try_from(count).map_err(|_| Error::Invalid("too many items"))?;
        self.fixed(&count.to_be_bytes())
    }

    /// Bytes with their length.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.count(bytes.len())?;
        self.fixed(bytes)
    }

    /// What was written.
    pub(crate) fn finish(self) -> Zeroizing<Vec<u8>> {
        self.buffer
    }
}

/// Takes fields off a byte string.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Over bytes that start with this format version.
    pub(crate) fn new(bytes: &'a [u8], version: u8) -> Result<Self, Error> {
        let mut reader = Self { rest: bytes };
        match reader.array::<1>()? {
            [found] if found == version => Ok(reader),
            [found] => Err(Error::Format(found)),
        }
    }

    /// A fixed number of bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Error::Malformed("ends early"))?;
        self.rest = rest;
        Ok(*head)
    }

    /// A number of items, each of which takes at least one byte.
    pub(crate) fn count(&mut self) -> Result<usize, Error> {
        let count =
            usize::try_from(u32::from_be_bytes(self.array()?)).map_err(|_| Error::Malformed("length out of range"))?;
        if count > self.rest.len() {
            return Err(Error::Malformed("ends early"));
        }
        Ok(count)
    }

    /// Bytes with their length.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let count = self.count()?;
        let (head, rest) = self.rest.split_at_checked(count).ok_or(Error::Malformed("ends early"))?;
        self.rest = rest;
        Ok(head)
    }

    /// UTF-8 text with its length.
    pub(crate) fn text(&mut self) -> Result<&'a str, Error> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Error::Malformed("text is not UTF-8"))
    }

    /// A byte that is 0 or 1.
    pub(crate) fn flag(&mut self) -> Result<bool, Error> {
        match self.array::<1>()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Error::Malformed("flag is neither 0 nor 1")),
        }
    }

    /// The end.
    pub(crate) fn finish(self) -> Result<(), Error> {
        if self.rest.is_empty() { Ok(()) } else { Err(Error::Malformed("bytes after the end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_past_the_end_is_refused_before_anything_is_allocated() {
        let mut reader = Reader::new(&[1, 0xff, 0xff, 0xff, 0xff, 0], 1).unwrap();
        assert!(matches!(reader.bytes(), Err(Error::Malformed(_))));
    }

    #[test]
    fn another_version_and_trailing_bytes_are_refused() {
        assert!(matches!(Reader::new(&[2], 1), Err(Error::Format(2))));
        assert!(matches!(Reader::new(&[], 1), Err(Error::Malformed(_))));
        assert!(Reader::new(&[1, 0], 1).unwrap().finish().is_err());
    }

    #[test]
    fn the_writer_never_grows_past_its_limit() {
        let mut writer = Writer::new(1, 8).unwrap();
        writer.bytes(b"abc").unwrap();
        assert!(writer.fixed(b"x").is_err());
        let out = writer.finish();
        assert_eq!((out.len(), out.capacity()), (8, 8));
    }
}
