//! The release: one HPKE message (RFC 9180: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305) that carries an
//! instance's secrets to the key that its evidence covers.
//!
//! The `info` binds policy, instance, boot and nonce, so a release opens in the one exchange it was made for. The guest's
//! key is consumed by the attempt to open: there is no second message, and no second try for a relay that guesses.

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem as _, OpModeR, OpModeS, Serializable as _};
use lambda_types::{BootId, InstanceId};
use zeroize::Zeroizing;

use crate::report::{BrokerReportKeys, Exported, GuestReportKeys};
use crate::{Error, InstanceSecrets, aead};

type Kem = X25519HkdfSha256;

const LABEL: &[u8] = b"lambda-release-v1";
const EXPORT_LABEL: &[u8] = b"lambda-report-v1";

/// What a release is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleaseContext {
    /// SHA-256 of the policy that the verdict was given under.
    pub policy_hash: [u8; 32],
    /// Whose secrets.
    pub instance: InstanceId,
    /// For which boot.
    pub boot: BootId,
    /// The nonce that the evidence answered.
    pub nonce: [u8; 32],
}

impl ReleaseContext {
    fn info(&self) -> Vec<u8> {
        let Self { policy_hash, instance, boot, nonce } = self;
        aead::fields(&[LABEL, policy_hash, &instance.to_bytes(), &boot.to_bytes(), nonce])
    }
}

/// A guest's ephemeral private key. Opens one release.
pub struct ReleaseKey {
    private: <Kem as hpke::Kem>::PrivateKey,
    public: [u8; 32],
}

impl ReleaseKey {
    /// A fresh key pair.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn generate() -> Result<Self, Error> {
        let mut seed = Zeroizing::new([0u8; 32]);
        getrandom::fill(seed.as_mut_slice())?;
        let (private, public) = Kem::derive_keypair(seed.as_slice());
        Ok(Self { private, public: public.to_bytes().into() })
    }

    /// What the evidence covers.
    #[must_use]
    pub const fn public(&self) -> [u8; 32] {
        self.public
    }
}

/// A sealed release, ready to send.
pub struct Released {
    /// HPKE `enc`.
    pub encapsulated_key: Vec<u8>,
    /// HPKE ciphertext.
    pub ciphertext: Vec<u8>,
    /// Keys for the guest's report and its acknowledgement.
    pub reports: BrokerReportKeys,
}

/// Encrypts `secrets` to the key in accepted evidence.
///
/// # Errors
/// When the public key is not usable or the secrets are out of bounds.
pub fn seal(recipient: &[u8], context: &ReleaseContext, secrets: &InstanceSecrets) -> Result<Released, Error> {
    let recipient = <Kem as hpke::Kem>::PublicKey::from_bytes(recipient).map_err(|_| Error::PublicKey)?;
    let plaintext = secrets.encode()?;
    // The HPKE crate panics without randomness; asking first turns that into an error.
    getrandom::fill(&mut [0u8; 1])?;
    let (encapsulated_key, mut sender) =
        hpke::setup_sender::<ChaCha20Poly1305, HkdfSha256, Kem>(&OpModeS::Base, &recipient, &context.info())
            .map_err(|_| Error::PublicKey)?;
    let ciphertext = sender.seal(&plaintext, &[]).map_err(|_| Error::Invalid("the secrets are too large"))?;
    let mut exported = Exported::default();
    sender.export(EXPORT_LABEL, exported.as_mut_slice()).map_err(|_| Error::Release)?;
    Ok(Released {
        encapsulated_key: encapsulated_key.to_bytes().to_vec(),
        ciphertext,
        reports: BrokerReportKeys::new(context.instance, context.boot, &exported)?,
    })
}

/// Opens a release with the guest's key, which is gone afterwards whatever happens.
///
/// # Errors
/// When the release was made for another key, policy, instance, boot or nonce, or was altered.
pub fn open(
    key: ReleaseKey,
    encapsulated_key: &[u8],
    ciphertext: &[u8],
    context: &ReleaseContext,
) -> Result<(InstanceSecrets, GuestReportKeys), Error> {
    let encapsulated_key = <Kem as hpke::Kem>::EncappedKey::from_bytes(encapsulated_key).map_err(|_| Error::Release)?;
    let mut receiver = hpke::setup_receiver::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &OpModeR::Base,
        &key.private,
        &encapsulated_key,
        &context.info(),
    )
    .map_err(|_| Error::Release)?;
    let plaintext = receiver.open(ciphertext, &[]).map(Zeroizing::new).map_err(|_| Error::Release)?;
    let mut exported = Exported::default();
    receiver.export(EXPORT_LABEL, exported.as_mut_slice()).map_err(|_| Error::Release)?;
    let reports = GuestReportKeys::new(context.instance, context.boot, &exported)?;
    Ok((InstanceSecrets::decode(&plaintext)?, reports))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::tests::{assert_same, sample};

    fn context() -> ReleaseContext {
        ReleaseContext {
            policy_hash: [1; 32],
            instance: InstanceId::from_bits(2),
            boot: BootId::from_bits(3),
            nonce: [4; 32],
        }
    }

    fn refused(result: Result<(InstanceSecrets, GuestReportKeys), Error>) -> bool {
        matches!(result, Err(Error::Release))
    }

    /// A key pair made the same way twice, so that one release can be tried in many ways.
    fn key_from(seed: u8) -> ReleaseKey {
        let (private, public) = Kem::derive_keypair(&[seed; 32]);
        ReleaseKey { private, public: public.to_bytes().into() }
    }

    #[test]
    fn the_guest_reads_what_the_broker_released() {
        let key = ReleaseKey::generate().unwrap();
        let secrets = sample();
        let released = seal(&key.public(), &context(), &secrets).unwrap();
        let (opened, _) = open(key, &released.encapsulated_key, &released.ciphertext, &context()).unwrap();
        assert_same(&opened, &secrets);
    }

    #[test]
    fn a_release_for_another_policy_instance_boot_or_nonce_is_refused() {
        let released = seal(&key_from(9).public(), &context(), &sample()).unwrap();
        let good = context();
        for (what, wrong) in [
            ("policy", ReleaseContext { policy_hash: [0; 32], ..good }),
            ("instance", ReleaseContext { instance: InstanceId::from_bits(9), ..good }),
            ("boot", ReleaseContext { boot: BootId::from_bits(9), ..good }),
            ("nonce", ReleaseContext { nonce: [0; 32], ..good }),
            (
                "instance and boot swapped",
                ReleaseContext { instance: InstanceId::from_bits(3), boot: BootId::from_bits(2), ..good },
            ),
        ] {
            let result = open(key_from(9), &released.encapsulated_key, &released.ciphertext, &wrong);
            assert!(refused(result), "{what}");
        }
    }

    #[test]
    fn another_guests_key_does_not_open_it() {
        let released = seal(&key_from(9).public(), &context(), &sample()).unwrap();
        assert!(refused(open(key_from(8), &released.encapsulated_key, &released.ciphertext, &context())));
    }

    #[test]
    fn flipped_bits_and_truncations_are_refused() {
        let released = seal(&key_from(9).public(), &context(), &sample()).unwrap();
        for bit in (0..256).step_by(5) {
            let mut enc = released.encapsulated_key.clone();
            enc[bit / 8] ^= 1 << (bit % 8);
            // X25519 ignores the top bit of a coordinate, but the KEM hashes `enc` as sent.
            assert!(refused(open(key_from(9), &enc, &released.ciphertext, &context())), "enc bit {bit}");
        }
        for byte in (0..released.ciphertext.len()).step_by(7) {
            let mut ciphertext = released.ciphertext.clone();
            ciphertext[byte] ^= 0x80;
            assert!(refused(open(key_from(9), &released.encapsulated_key, &ciphertext, &context())), "byte {byte}");
        }
        for end in [0, 1, 15, 16, released.ciphertext.len() - 1] {
            let ciphertext = &released.ciphertext[..end];
            assert!(refused(open(key_from(9), &released.encapsulated_key, ciphertext, &context())), "{end} bytes");
        }
        assert!(refused(open(key_from(9), &released.encapsulated_key[..31], &released.ciphertext, &context())));
    }

    #[test]
    fn a_public_key_of_low_order_or_wrong_length_is_refused() {
        for bad in [[0u8; 32].as_slice(), &[0u8; 31], &[]] {
            assert!(matches!(seal(bad, &context(), &sample()), Err(Error::PublicKey)));
        }
    }
}
