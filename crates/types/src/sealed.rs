//! Sealed data: what the operator stores and relays but cannot open.

use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

use crate::Binary;

/// An opaque, authenticated ciphertext of a `T`. This crate offers no way to open it.
///
/// Made and opened by `privacy/crypto` under a project key; the bytes start with a version, the key id and
/// the key version, which the operator can read and which are authenticated.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed<T> {
    bytes: Binary,
    #[serde(skip)]
    what: PhantomData<fn() -> T>,
}

/// Marks sealed bytes as an instance's secrets: volume key, hostname, authorized keys, user data, environment.
#[derive(Debug)]
pub enum InstanceSecretsKind {}

/// Marks sealed bytes as a resource's customer-side metadata: name, tags, description.
#[derive(Debug)]
pub enum MetadataKind {}

/// Most bytes that the API accepts in one sealed value.
pub const MAX_SEALED_BYTES: usize = 64 * 1024;

impl<T> Sealed<T> {
    /// Wraps ciphertext.
    #[must_use]
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self { bytes: Binary(bytes), what: PhantomData }
    }

    /// The ciphertext.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_slice()
    }
}

impl<T> Clone for Sealed<T> {
    fn clone(&self) -> Self {
        Self { bytes: self.bytes.clone(), what: PhantomData }
    }
}

impl<T> PartialEq for Sealed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl<T> Eq for Sealed<T> {}

impl<T> std::fmt::Debug for Sealed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({} bytes)", self.bytes.0.len())
    }
}
