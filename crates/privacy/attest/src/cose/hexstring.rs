use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Most bytes in one.
const MAX_BYTES: usize = 1024;

/// Bytes of any length, written as lower-case hex.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HexString(pub Vec<u8>);

impl std::fmt::Display for HexString {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl std::fmt::Debug for HexString {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl PartialEq<[u8]> for HexString {
    fn eq(&self, other: &[u8]) -> bool {
        self.0 == other
    }
}

impl Serialize for HexString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HexString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = hex::decode(&text).ok().filter(|bytes| bytes.len() <= MAX_BYTES && hex::encode(bytes) == text);
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("expected bytes in lower-case hex"))
    }
}
