//! Sealing and opening under a project key.
//!
//! ```text
//!   sealed = header ‖ nonce(12) ‖ AES-256-GCM ciphertext ‖ tag(16)
//!   header = format(1) ‖ key id(16) ‖ key version(4, big endian)
//!   associated data = header, kind label, object prefix, object id: each length-prefixed
//! ```

use lambda_types::sealed::{InstanceSecretsKind, MetadataKind, Sealed};
use lambda_types::{InstanceId, VolumeId};
use zeroize::Zeroizing;

use crate::codec::Reader;
use crate::{Error, InstanceSecrets, KeyId, Metadata, ProjectKey, aead};

const FORMAT: u8 = 1;
const HEADER: usize = 21;

/// What a sealed value belongs to; part of its associated data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Object {
    prefix: &'static str,
    id: [u8; 16],
}

impl From<InstanceId> for Object {
    fn from(id: InstanceId) -> Self {
        Self { prefix: InstanceId::PREFIX, id: id.to_bytes() }
    }
}

impl From<VolumeId> for Object {
    fn from(id: VolumeId) -> Self {
        Self { prefix: VolumeId::PREFIX, id: id.to_bytes() }
    }
}

mod private {
    pub trait Plaintext: Sized {
        const LABEL: &'static str;
        fn to_plaintext(&self) -> Result<zeroize::Zeroizing<Vec<u8>>, crate::Error>;
        fn from_plaintext(bytes: &[u8]) -> Result<Self, crate::Error>;
    }
}
pub(crate) use private::Plaintext;

/// Something that can be sealed; implemented by this crate only.
pub trait Sealable: private::Plaintext {
    /// Marks the sealed bytes in [`Sealed`].
    type Kind;
}

impl private::Plaintext for InstanceSecrets {
    const LABEL: &'static str = "instance-secrets";

    fn to_plaintext(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.encode()
    }

    fn from_plaintext(bytes: &[u8]) -> Result<Self, Error> {
        Self::decode(bytes)
    }
}

impl Sealable for InstanceSecrets {
    type Kind = InstanceSecretsKind;
}

impl private::Plaintext for Metadata {
    const LABEL: &'static str = "metadata";

    fn to_plaintext(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.encode()
    }

    fn from_plaintext(bytes: &[u8]) -> Result<Self, Error> {
        Self::decode(bytes)
    }
}

impl Sealable for Metadata {
    type Kind = MetadataKind;
}

/// Which key a sealed value needs, as its header says. Authenticated only by opening it.
///
/// # Errors
/// When it is too short or of an unknown format.
pub fn sealed_under<K>(sealed: &Sealed<K>) -> Result<(KeyId, u32), Error> {
    let mut reader = Reader::new(sealed.as_bytes(), FORMAT)?;
    Ok((KeyId::from_bytes(reader.array()?), u32::from_be_bytes(reader.array()?)))
}

fn associated_data(header: &[u8], label: &str, object: Object) -> Vec<u8> {
    aead::fields(&[header, label.as_bytes(), object.prefix.as_bytes(), &object.id])
}

impl ProjectKey {
    /// Seals a value that belongs to `object`.
    ///
    /// # Errors
    /// When the value is out of bounds or the operating system gives no randomness.
    pub fn seal<T: Sealable>(&self, object: impl Into<Object>, value: &T) -> Result<Sealed<T::Kind>, Error> {
        let mut out = Vec::with_capacity(HEADER);
        out.push(FORMAT);
        out.extend_from_slice(&self.id().to_bytes());
        out.extend_from_slice(&self.version().to_be_bytes());
        let aad = associated_data(&out, T::LABEL, object.into());
        out.extend_from_slice(&aead::seal(self.key(), &value.to_plaintext()?, &aad)?);
        Ok(Sealed::from_bytes(out))
    }

    /// Opens a value that belongs to `object`.
    ///
    /// # Errors
    /// When it was sealed under another key, for another object or kind, or was altered.
    pub fn open<T: Sealable>(&self, object: impl Into<Object>, sealed: &Sealed<T::Kind>) -> Result<T, Error> {
        let (id, version) = sealed_under(sealed)?;
        if (id, version) != (self.id(), self.version()) {
            return Err(Error::OtherKey { id, version });
        }
        let (header, body) =
            sealed.as_bytes().split_at_checked(HEADER).ok_or(Error::Malformed("sealed value is too short"))?;
        let plain = aead::open(self.key(), body, &associated_data(header, T::LABEL, object.into()))?;
        T::from_plaintext(&plain)
    }

    /// The same value under a newer key: rotation of the project key.
    ///
    /// # Errors
    /// As [`ProjectKey::open`].
    pub fn reseal<T: Sealable>(
        &self,
        object: impl Into<Object>,
        sealed: &Sealed<T::Kind>,
        newer: &Self,
    ) -> Result<Sealed<T::Kind>, Error> {
        let object = object.into();
        newer.seal(object, &self.open::<T>(object, sealed)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::tests::{assert_same, sample};

    fn instance(bits: u128) -> InstanceId {
        InstanceId::from_bits(bits)
    }

    fn metadata() -> Metadata {
        Metadata { name: "web".into(), ..Metadata::default() }
    }

    #[test]
    fn opens_for_its_own_object_and_for_no_other() {
        let key = ProjectKey::generate().unwrap();
        let sealed = key.seal(instance(1), &sample()).unwrap();
        key.open::<InstanceSecrets>(instance(1), &sealed).unwrap();
        assert!(matches!(key.open::<InstanceSecrets>(instance(2), &sealed), Err(Error::NotAuthentic)));
        let volume = VolumeId::from_bits(1);
        assert!(
            matches!(key.open::<InstanceSecrets>(volume, &sealed), Err(Error::NotAuthentic)),
            "same bits, other kind"
        );
    }

    #[test]
    fn metadata_does_not_open_as_secrets_nor_secrets_as_metadata() {
        let key = ProjectKey::generate().unwrap();
        let metadata = key.seal(instance(1), &metadata()).unwrap();
        let crossed = Sealed::<InstanceSecretsKind>::from_bytes(metadata.as_bytes().to_vec());
        assert!(matches!(key.open::<InstanceSecrets>(instance(1), &crossed), Err(Error::NotAuthentic)));
        let secrets = key.seal(instance(1), &sample()).unwrap();
        let crossed = Sealed::<MetadataKind>::from_bytes(secrets.as_bytes().to_vec());
        assert!(matches!(key.open::<Metadata>(instance(1), &crossed), Err(Error::NotAuthentic)));
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_refused() {
        let key = ProjectKey::generate().unwrap();
        let sealed = key.seal(instance(1), &metadata()).unwrap();
        for bit in 0..sealed.as_bytes().len() * 8 {
            let mut bytes = sealed.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open::<Metadata>(instance(1), &Sealed::from_bytes(bytes)).is_err(), "bit {bit}");
        }
        for end in 0..sealed.as_bytes().len() {
            let short = Sealed::from_bytes(sealed.as_bytes()[..end].to_vec());
            assert!(key.open::<Metadata>(instance(1), &short).is_err(), "{end} bytes");
        }
    }

    #[test]
    fn another_key_or_version_is_named_in_the_refusal() {
        let key = ProjectKey::generate().unwrap();
        let sealed = key.seal(instance(1), &metadata()).unwrap();
        let other = ProjectKey::generate().unwrap();
        match other.open::<Metadata>(instance(1), &sealed) {
            Err(Error::OtherKey { id, version }) => assert_eq!((id, version), (key.id(), 1)),
            _ => panic!("opened or another error"),
        }
        assert!(key.next_version().unwrap().open::<Metadata>(instance(1), &sealed).is_err());
    }

    #[test]
    fn a_header_that_names_another_version_is_not_authentic_under_it() {
        let key = ProjectKey::generate().unwrap();
        let next = key.next_version().unwrap();
        let mut bytes = key.seal(instance(1), &metadata()).unwrap().as_bytes().to_vec();
        bytes[20] = 2;
        assert!(matches!(next.open::<Metadata>(instance(1), &Sealed::from_bytes(bytes)), Err(Error::NotAuthentic)));
    }

    #[test]
    fn two_sealings_of_one_value_differ() {
        let key = ProjectKey::generate().unwrap();
        assert!(key.seal(instance(1), &metadata()).unwrap() != key.seal(instance(1), &metadata()).unwrap());
    }

    #[test]
    fn resealing_moves_a_value_to_the_next_version() {
        let key = ProjectKey::generate().unwrap();
        let next = key.next_version().unwrap();
        let secrets = sample();
        let sealed = key.seal(instance(1), &secrets).unwrap();
        let resealed = key.reseal::<InstanceSecrets>(instance(1), &sealed, &next).unwrap();
        assert_same(&next.open::<InstanceSecrets>(instance(1), &resealed).unwrap(), &secrets);
        assert!(key.open::<InstanceSecrets>(instance(1), &resealed).is_err());
    }
}
