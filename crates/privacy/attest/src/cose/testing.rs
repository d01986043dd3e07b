//! Tokens made here: CBOR by hand, signed with keys that everybody can know.

use p256::ecdsa::signature::Signer as _;

/// One item to be encoded.
#[derive(Clone)]
pub(crate) enum Item {
    Int(i64),
    Bytes(Vec<u8>),
    Text(String),
    Array(Vec<Item>),
    Map(Vec<(Item, Item)>),
    Tag(u64, Box<Item>),
}

pub(crate) fn bytes(value: impl AsRef<[u8]>) -> Item {
    Item::Bytes(value.as_ref().to_vec())
}

pub(crate) fn text(value: &str) -> Item {
    Item::Text(value.into())
}

pub(crate) fn map(entries: impl IntoIterator<Item = (i64, Item)>) -> Item {
    Item::Map(entries.into_iter().map(|(key, value)| (Item::Int(key), value)).collect())
}

fn head(out: &mut Vec<u8>, major: u8, argument: u64) {
    let major = major << 5;
    match argument {
        0..=23 => out.push(major | argument as u8),
        24..=0xff => out.extend([major | 24, argument as u8]),
        0x100..=0xffff => {
            out.push(major | 25);
            out.extend((argument as u16).to_be_bytes());
        }
        _ => {
            out.push(major | 26);
            out.extend((argument as u32).to_be_bytes());
        }
    }
}

pub(crate) fn encode(item: &Item) -> Vec<u8> {
    let mut out = Vec::new();
    write(item, &mut out);
    out
}

fn write(item: &Item, out: &mut Vec<u8>) {
    match item {
        Item::Int(number @ 0..) => head(out, 0, *number as u64),
        Item::Int(number) => head(out, 1, (-1 - number) as u64),
        Item::Bytes(bytes) => {
            head(out, 2, bytes.len() as u64);
            out.extend(bytes);
        }
        Item::Text(text) => {
            head(out, 3, text.len() as u64);
            out.extend(text.as_bytes());
        }
        Item::Array(items) => {
            head(out, 4, items.len() as u64);
            items.iter().for_each(|item| write(item, out));
        }
        Item::Map(entries) => {
            head(out, 5, entries.len() as u64);
            for (key, value) in entries {
                write(key, out);
                write(value, out);
            }
        }
        Item::Tag(number, item) => {
            head(out, 6, *number);
            write(item, out);
        }
    }
}

/// Sets, or removes, a claim.
pub(crate) fn set(claims: &mut Vec<(i64, Item)>, key: i64, value: Option<Item>) {
    claims.retain(|(known, _)| *known != key);
    claims.extend(value.map(|value| (key, value)));
}

/// A key pair on either curve.
pub(crate) enum Key {
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
}

impl Key {
    pub(crate) fn p256(seed: u8) -> Self {
        Self::P256(p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap())
    }

    pub(crate) fn p384(seed: u8) -> Self {
        Self::P384(p384::ecdsa::SigningKey::from_slice(&[seed; 48]).unwrap())
    }

    /// ES256 or ES384.
    pub(crate) fn algorithm(&self) -> i64 {
        match self {
            Self::P256(_) => -7,
            Self::P384(_) => -35,
        }
    }

    /// Uncompressed.
    pub(crate) fn point(&self) -> Vec<u8> {
        match self {
            Self::P256(key) => key.verifying_key().to_sec1_point(false).as_bytes().to_vec(),
            Self::P384(key) => key.verifying_key().to_sec1_point(false).as_bytes().to_vec(),
        }
    }

    pub(crate) fn cose_key(&self) -> Vec<u8> {
        let point = self.point();
        let (x, y) = point[1..].split_at(point.len() / 2);
        let curve = if matches!(self, Self::P256(_)) { 1 } else { 2 };
        encode(&map([(1, Item::Int(2)), (-1, Item::Int(curve)), (-2, bytes(x)), (-3, bytes(y))]))
    }

    pub(crate) fn spki(&self) -> Vec<u8> {
        let prefix = match self {
            Self::P256(_) => "3059301306072a8648ce3d020106082a8648ce3d030107034200",
            Self::P384(_) => "3076301006072a8648ce3d020106052b81040022036200",
        };
        [hex::decode(prefix).unwrap(), self.point()].concat()
    }

    pub(crate) fn pem(&self) -> String {
        let der = der::Document::try_from(self.spki()).unwrap();
        der.to_pem("PUBLIC KEY", der::pem::LineEnding::LF).unwrap()
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(message);
                signature.to_bytes().to_vec()
            }
            Self::P384(key) => {
                let signature: p384::ecdsa::Signature = key.sign(message);
                signature.to_bytes().to_vec()
            }
        }
    }
}

/// A tagged COSE_Sign1 over these claims.
pub(crate) fn sign(
    protected: &[(i64, Item)],
    unprotected: &[(i64, Item)],
    claims: &[(i64, Item)],
    key: &Key,
) -> Vec<u8> {
    let protected = bytes(encode(&map(protected.iter().cloned())));
    let payload = bytes(encode(&map(claims.iter().cloned())));
    let signed = Item::Array(vec![text("Signature1"), protected.clone(), bytes([]), payload.clone()]);
    let signature = bytes(key.sign(&encode(&signed)));
    let message = Item::Array(vec![protected, map(unprotected.iter().cloned()), payload, signature]);
    encode(&Item::Tag(18, Box::new(message)))
}

/// A software component.
pub(crate) fn component(kind: &str, measurement: &[u8], signer: &[u8], version: &str) -> Item {
    map([(1, text(kind)), (2, bytes(measurement)), (4, text(version)), (5, bytes(signer))])
}
