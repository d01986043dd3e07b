//! CBOR (RFC 8949) as tokens use it, read strictly: definite lengths, the shortest form of every number, no key twice,
//! no floating point, nothing after the item, bounded depth and count. A token that could be read in two ways is refused.

use crate::error::ParseError;

/// Most bytes in a token.
pub(crate) const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// Most items within items.
const MAX_DEPTH: usize = 8;

/// Most items in one token.
const MAX_ITEMS: usize = 2048;

/// One item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// Unsigned or negative.
    Int(i128),
    /// Byte string.
    Bytes(&'a [u8]),
    /// Text string.
    Text(&'a str),
    /// Array.
    Array(Vec<Value<'a>>),
    /// Map, in the order in which it came.
    Map(Vec<(Value<'a>, Value<'a>)>),
    /// Tagged item.
    Tag(u64, Box<Value<'a>>),
    /// false, true, null, undefined.
    Simple(u8),
}

impl<'a> Value<'a> {
    pub(crate) fn as_bytes(&self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    pub(crate) fn as_text(&self) -> Option<&'a str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub(crate) fn as_int(&self) -> Option<i128> {
        if let Self::Int(number) = self { Some(*number) } else { None }
    }

    pub(crate) fn as_map(&self) -> Option<&[(Value<'a>, Value<'a>)]> {
        if let Self::Map(entries) = self { Some(entries) } else { None }
    }

    pub(crate) fn as_array(&self) -> Option<&[Value<'a>]> {
        if let Self::Array(items) = self { Some(items) } else { None }
    }

    /// The value under an integer key.
    pub(crate) fn get(&self, key: i128) -> Option<&Value<'a>> {
        self.as_map()?.iter().find(|(known, _)| known.as_int() == Some(key)).map(|(_, value)| value)
    }
}

/// Reads exactly one item. `what` names it in errors, `base` is where it stands in the file.
pub(crate) fn parse<'a>(what: &'static str, bytes: &'a [u8], base: usize) -> Result<Value<'a>, ParseError> {
    if bytes.len() > MAX_TOKEN_BYTES {
        return Err(ParseError::whole(what, format!("it is longer than {MAX_TOKEN_BYTES} bytes")));
    }
    let mut reader = Reader { what, bytes, at: 0, base, items: 0 };
    let value = reader.item(0)?;
    if reader.at != bytes.len() {
        return Err(reader.error("there is something after the item"));
    }
    Ok(value)
}

struct Reader<'a> {
    what: &'static str,
    bytes: &'a [u8],
    at: usize,
    base: usize,
    items: usize,
}

impl<'a> Reader<'a> {
    fn error(&self, reason: &str) -> ParseError {
        ParseError::at(self.what, self.base.saturating_add(self.at), reason)
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], ParseError> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len));
        let taken = end.and_then(|end| self.bytes.get(self.at..end)).ok_or_else(|| self.error("it is cut short"))?;
        self.at = self.at.saturating_add(taken.len());
        Ok(taken)
    }

    /// Major type and argument.
    fn head(&mut self) -> Result<(u8, u64), ParseError> {
        let start = self.at;
        let first = self.take(1)?.first().copied().unwrap_or_default();
        let (major, info) = (first >> 5, first & 0x1f);
        let len: u64 = match info {
            0..=23 => return Ok((major, u64::from(info))),
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            _ => {
                self.at = start;
                return Err(self.error("an indefinite or reserved length"));
            }
        };
        let argument = self.take(len)?.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        let least = match len {
            1 => 24,
            2 => 1 << 8,
            4 => 1 << 16,
            _ => 1 << 32,
        };
        if argument < least {
            self.at = start;
            return Err(self.error("a number is not in its shortest form"));
        }
        Ok((major, argument))
    }

    fn item(&mut self, depth: usize) -> Result<Value<'a>, ParseError> {
        self.items = self.items.saturating_add(1);
        if depth > MAX_DEPTH || self.items > MAX_ITEMS {
            return Err(self.error("too many items, or too deep within each other"));
        }
        let below = depth.saturating_add(1);
        let start = self.at;
        let (major, argument) = self.head()?;
        Ok(match major {
            0 => Value::Int(i128::from(argument)),
            1 => Value::Int((-1i128).saturating_sub(i128::from(argument))),
            2 => Value::Bytes(self.take(argument)?),
            3 => {
                let bytes = self.take(argument)?;
                Value::Text(std::str::from_utf8(bytes).map_err(|_| self.error("a text is not UTF-8"))?)
            }
            4 => {
                let mut items = Vec::new();
                for _ in 0..argument {
                    items.push(self.item(below)?);
                }
                Value::Array(items)
            }
            5 => {
                let mut entries: Vec<(Value<'a>, Value<'a>)> = Vec::new();
                for _ in 0..argument {
                    let at = self.at;
                    let key = self.item(below)?;
                    if entries.iter().any(|(known, _)| *known == key) {
                        self.at = at;
                        return Err(self.error("a key stands twice in a map"));
                    }
                    entries.push((key, self.item(below)?));
                }
                Value::Map(entries)
            }
            6 => Value::Tag(argument, Box::new(self.item(below)?)),
            _ => match u8::try_from(argument) {
                // One byte only: the longer forms are floating point.
                Ok(simple @ 20..=23) if self.at == start.saturating_add(1) => Value::Simple(simple),
                _ => {
                    self.at = start;
                    return Err(self.error("a simple value or a floating-point number"));
                }
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(hexed: &str) -> String {
        parse("item", &hex::decode(hexed).unwrap(), 100).unwrap_err().to_string()
    }

    #[test]
    fn reads_what_tokens_hold() {
        let bytes = hex::decode("d901 8fa2 190109 6161 2041ff".replace(' ', "")).unwrap();
        let Value::Tag(399, inner) = parse("item", &bytes, 0).unwrap() else { panic!() };
        assert_eq!(inner.get(265).unwrap().as_text(), Some("a"));
        assert_eq!(inner.get(-1).unwrap().as_bytes(), Some(&[0xff][..]));
    }

    #[test]
    fn refuses_what_could_be_read_in_two_ways() {
        for (hexed, why) in [
            ("9f01ff", "byte 100: an indefinite"),
            ("5f4101ff", "byte 100: an indefinite"),
            ("bf0101ff", "byte 100: an indefinite"),
            ("1817", "byte 100: a number is not in its shortest form"),
            ("190017", "byte 100: a number is not in its shortest form"),
            ("590001aa", "byte 100: a number is not in its shortest form"),
            ("a201010102", "byte 103: a key stands twice"),
            ("0000", "byte 101: there is something after"),
            ("43aabb", "byte 101: it is cut short"),
            ("61ff", "byte 102: a text is not UTF-8"),
            ("fb3ff0000000000000", "byte 100: a simple value or a floating"),
            ("f97e00", "byte 100: a simple value or a floating"),
            ("1c", "byte 100: an indefinite or reserved"),
            ("9bffffffffffffffff", "too many items"),
            ("", "byte 100: it is cut short"),
        ] {
            // An array of 2^64 items ends at the first that is missing.
            let expected = if hexed.starts_with("9bff") { "cut short" } else { why };
            assert!(reason(hexed).contains(expected), "{hexed}: {}", reason(hexed));
        }
    }

    #[test]
    fn depth_and_count_are_bounded() {
        let deep = "81".repeat(MAX_DEPTH + 1) + "00";
        assert!(reason(&deep).contains("too deep"));
        let wide = format!("99{:04x}", MAX_ITEMS) + &"00".repeat(MAX_ITEMS);
        assert!(reason(&wide).contains("too many items"));
        let long = vec![0u8; MAX_TOKEN_BYTES + 1];
        assert!(parse("item", &long, 0).unwrap_err().to_string().contains("longer"));
    }
}
