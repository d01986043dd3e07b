//! Sealed messages after a release, keyed by its exporter secret: the guest's report and the broker's acknowledgement.
//!
//! ```text
//!   sealed = counter(8, big endian) ‖ ChaCha20-Poly1305(key of the direction, nonce = 0(4) ‖ counter, aad = instance, boot)
//! ```
//!
//! Each direction has a key of its own, and a counter that is used once. A receiver accepts only counters above the last
//! one it accepted: replayed and re-ordered messages are refused. Gaps are allowed, because a broker that restarts skips
//! the counters it may have used ([`BrokerReportKeys::reserve`]).

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use hkdf::Hkdf;
use lambda_types::{BootId, InstanceId, Sealed};
use sha2::Sha256;
use zeroize::{Zeroize as _, Zeroizing};

use crate::codec::{Reader, Writer};
use crate::seal::{Plaintext, Sealable};
use crate::{Error, aead};

/// The HPKE exporter secret.
pub(crate) type Exported = Zeroizing<[u8; 32]>;

const FROM_GUEST: &[u8] = b"lambda-report-v1 guest";
const FROM_BROKER: &[u8] = b"lambda-report-v1 broker";
const VERSION: u8 = 1;
const MAX_PLAINTEXT: usize = 256;

/// What a guest reports after a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The volume was initialised; its header area has this SHA-256.
    Initialised {
        /// To be stored in the instance's sealed secrets.
        header_pin: [u8; 32],
    },
}

/// The broker stored what was reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledge {
    /// The pin that was stored.
    pub header_pin: [u8; 32],
}

impl Report {
    fn encode(self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let Self::Initialised { header_pin } = self;
        let mut out = Writer::new(VERSION, MAX_PLAINTEXT)?;
        out.fixed(&[1])?;
        out.fixed(&header_pin)?;
        Ok(out.finish())
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes, VERSION)?;
        let report = match reader.array::<1>()? {
            [1] => Self::Initialised { header_pin: reader.array()? },
            _ => return Err(Error::Malformed("unknown report")),
        };
        reader.finish()?;
        Ok(report)
    }
}

impl Acknowledge {
    fn encode(self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let Self { header_pin } = self;
        let mut out = Writer::new(VERSION, MAX_PLAINTEXT)?;
        out.fixed(&header_pin)?;
        Ok(out.finish())
    }

    fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes, VERSION)?;
        let header_pin = reader.array()?;
        reader.finish()?;
        Ok(Self { header_pin })
    }
}

/// Both directions' keys and counters.
struct Channel {
    instance: InstanceId,
    boot: BootId,
    send_key: Zeroizing<[u8; 32]>,
    receive_key: Zeroizing<[u8; 32]>,
    next_send: u64,
    next_receive: u64,
}

fn derive(exported: &Exported, label: &[u8]) -> Result<Zeroizing<[u8; 32]>, Error> {
    let mut key = Zeroizing::new([0u8; 32]);
    Hkdf::<Sha256>::from_prk(exported.as_slice())
        .map_err(|_| Error::Malformed("exporter secret"))?
        .expand(label, key.as_mut_slice())
        .map_err(|_| Error::Malformed("exporter secret"))?;
    Ok(key)
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = Nonce::default();
    if let Some(tail) = nonce.last_chunk_mut::<8>() {
        *tail = counter.to_be_bytes();
    }
    nonce
}

impl Channel {
    fn new(
        instance: InstanceId,
        boot: BootId,
        exported: &Exported,
        send: &[u8],
        receive: &[u8],
    ) -> Result<Self, Error> {
        Ok(Self {
            instance,
            boot,
            send_key: derive(exported, send)?,
            receive_key: derive(exported, receive)?,
            next_send: 0,
            next_receive: 0,
        })
    }

    fn aad(&self) -> Vec<u8> {
        aead::fields(&[&self.instance.to_bytes(), &self.boot.to_bytes()])
    }

    fn seal(&mut self, plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        let counter = self.next_send;
        // Counted before use: a failure below must not make the counter available again.
        self.next_send = counter.checked_add(1).ok_or(Error::CounterExhausted)?;
        let mut out = counter.to_be_bytes().to_vec();
        let ciphertext =
            ChaCha20Poly1305::new(self.send_key.as_slice().try_into().map_err(|_| Error::Malformed("key"))?)
                .encrypt(&nonce(counter), Payload { msg: plaintext, aad: &self.aad() })
                .map_err(|_| Error::Invalid("the message is too long"))?;
        out.extend_from_slice(&ciphertext);
        Ok(out)
    }

    fn open(&mut self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let (counter, ciphertext) = sealed.split_first_chunk::<8>().ok_or(Error::Malformed("report is too short"))?;
        let counter = u64::from_be_bytes(*counter);
        if counter < self.next_receive {
            return Err(Error::Replay);
        }
        let after = counter.checked_add(1).ok_or(Error::CounterExhausted)?;
        let plaintext =
            ChaCha20Poly1305::new(self.receive_key.as_slice().try_into().map_err(|_| Error::Malformed("key"))?)
                .decrypt(&nonce(counter), Payload { msg: ciphertext, aad: &self.aad() })
                .map(Zeroizing::new)
                .map_err(|_| Error::NotAuthentic)?;
        // Only an authentic message moves the counter: a forger must not be able to skip it.
        self.next_receive = after;
        Ok(plaintext)
    }
}

/// The guest's end.
pub struct GuestReportKeys(Channel);

impl GuestReportKeys {
    pub(crate) fn new(instance: InstanceId, boot: BootId, exported: &Exported) -> Result<Self, Error> {
        Channel::new(instance, boot, exported, FROM_GUEST, FROM_BROKER).map(Self)
    }

    /// Seals a report.
    ///
    /// # Errors
    /// When counters are used up.
    pub fn seal_report(&mut self, report: Report) -> Result<Vec<u8>, Error> {
        self.0.seal(&report.encode()?)
    }

    /// Opens an acknowledgement.
    ///
    /// # Errors
    /// When it is replayed, re-ordered, altered, or from another release.
    pub fn open_acknowledge(&mut self, sealed: &[u8]) -> Result<Acknowledge, Error> {
        Acknowledge::decode(&self.0.open(sealed)?)
    }
}

/// The broker's end. It can be sealed under the project key, so that a broker which restarts between a release and
/// its report can still read the report.
pub struct BrokerReportKeys(Channel);

/// Marks a sealed [`BrokerReportKeys`].
#[derive(Debug)]
pub enum ReportKeysKind {}

impl BrokerReportKeys {
    pub(crate) fn new(instance: InstanceId, boot: BootId, exported: &Exported) -> Result<Self, Error> {
        Channel::new(instance, boot, exported, FROM_BROKER, FROM_GUEST).map(Self)
    }

    /// The boot that these keys belong to.
    #[must_use]
    pub const fn boot(&self) -> BootId {
        self.0.boot
    }

    /// Opens a report.
    ///
    /// # Errors
    /// When it is replayed, re-ordered, altered, or from another release.
    pub fn open_report(&mut self, sealed: &[u8]) -> Result<Report, Error> {
        Report::decode(&self.0.open(sealed)?)
    }

    /// Takes the next counter for one acknowledgement. Store these keys between this and
    /// [`Self::seal_acknowledge`]: then a crash after it skips a counter instead of using it twice.
    ///
    /// # Errors
    /// When counters are used up.
    pub fn reserve(&mut self) -> Result<Reserved, Error> {
        let counter = self.0.next_send;
        self.0.next_send = counter.checked_add(1).ok_or(Error::CounterExhausted)?;
        Ok(Reserved { counter })
    }

    /// Seals an acknowledgement under a reserved counter.
    ///
    /// # Errors
    /// When the message cannot be encrypted.
    pub fn seal_acknowledge(&self, reserved: Reserved, acknowledge: Acknowledge) -> Result<Vec<u8>, Error> {
        let mut channel = Channel {
            instance: self.0.instance,
            boot: self.0.boot,
            send_key: self.0.send_key.clone(),
            receive_key: Zeroizing::new([0; 32]),
            next_send: reserved.counter,
            next_receive: 0,
        };
        channel.seal(&acknowledge.encode()?)
    }
}

/// A counter for one message; not `Clone`, so that it is used once.
pub struct Reserved {
    counter: u64,
}

impl Plaintext for BrokerReportKeys {
    const LABEL: &'static str = "report-keys";

    fn to_plaintext(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let Channel { instance, boot, send_key, receive_key, next_send, next_receive } = &self.0;
        let mut out = Writer::new(VERSION, MAX_PLAINTEXT)?;
        out.fixed(&instance.to_bytes())?;
        out.fixed(&boot.to_bytes())?;
        out.fixed(send_key.as_slice())?;
        out.fixed(receive_key.as_slice())?;
        out.fixed(&next_send.to_be_bytes())?;
        out.fixed(&next_receive.to_be_bytes())?;
        Ok(out.finish())
    }

    fn from_plaintext(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes, VERSION)?;
        let instance = InstanceId::from_bits(u128::from_be_bytes(reader.array()?));
        let boot = BootId::from_bits(u128::from_be_bytes(reader.array()?));
        let (mut send, mut receive) = (reader.array()?, reader.array()?);
        let (send_key, receive_key) = (Zeroizing::new(send), Zeroizing::new(receive));
        send.zeroize();
        receive.zeroize();
        let next_send = u64::from_be_bytes(reader.array()?);
        let next_receive = u64::from_be_bytes(reader.array()?);
        reader.finish()?;
        Ok(Self(Channel { instance, boot, send_key, receive_key, next_send, next_receive }))
    }
}

impl Sealable for BrokerReportKeys {
    type Kind = ReportKeysKind;
}

/// Sealed [`BrokerReportKeys`].
pub type SealedReportKeys = Sealed<ReportKeysKind>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ProjectKey;

    const PIN: [u8; 32] = [5; 32];

    fn pair() -> (GuestReportKeys, BrokerReportKeys) {
        pair_of(InstanceId::from_bits(1), BootId::from_bits(2), 3)
    }

    fn pair_of(instance: InstanceId, boot: BootId, secret: u8) -> (GuestReportKeys, BrokerReportKeys) {
        let exported = Zeroizing::new([secret; 32]);
        (
            GuestReportKeys::new(instance, boot, &exported).unwrap(),
            BrokerReportKeys::new(instance, boot, &exported).unwrap(),
        )
    }

    fn report() -> Report {
        Report::Initialised { header_pin: PIN }
    }

    fn acknowledge(broker: &mut BrokerReportKeys) -> Vec<u8> {
        let reserved = broker.reserve().unwrap();
        broker.seal_acknowledge(reserved, Acknowledge { header_pin: PIN }).unwrap()
    }

    #[test]
    fn a_report_and_its_acknowledgement_arrive() {
        let (mut guest, mut broker) = pair();
        assert_eq!(broker.open_report(&guest.seal_report(report()).unwrap()).unwrap(), report());
        assert_eq!(guest.open_acknowledge(&acknowledge(&mut broker)).unwrap().header_pin, PIN);
    }

    #[test]
    fn a_replayed_report_is_refused() {
        let (mut guest, mut broker) = pair();
        let sealed = guest.seal_report(report()).unwrap();
        broker.open_report(&sealed).unwrap();
        assert!(matches!(broker.open_report(&sealed), Err(Error::Replay)));
    }

    #[test]
    fn re_ordered_messages_are_refused_in_both_directions() {
        let (mut guest, mut broker) = pair();
        let (first, second) = (guest.seal_report(report()).unwrap(), guest.seal_report(report()).unwrap());
        broker.open_report(&second).unwrap();
        assert!(matches!(broker.open_report(&first), Err(Error::Replay)));
        let (first, second) = (acknowledge(&mut broker), acknowledge(&mut broker));
        guest.open_acknowledge(&second).unwrap();
        assert!(matches!(guest.open_acknowledge(&first), Err(Error::Replay)));
    }

    #[test]
    fn a_message_of_one_direction_does_not_open_in_the_other() {
        let (mut guest, mut broker) = pair();
        let sealed = guest.seal_report(report()).unwrap();
        assert!(matches!(guest.open_acknowledge(&sealed), Err(Error::NotAuthentic)));
        let sealed = acknowledge(&mut broker);
        assert!(matches!(broker.open_report(&sealed), Err(Error::NotAuthentic)));
    }

    #[test]
    fn another_instance_boot_or_release_does_not_open_it() {
        let (mut guest, _) = pair();
        let sealed = guest.seal_report(report()).unwrap();
        for (instance, boot, secret) in [(9, 2, 3), (1, 9, 3), (1, 2, 9)] {
            let (_, mut broker) = pair_of(InstanceId::from_bits(instance), BootId::from_bits(boot), secret);
            assert!(matches!(broker.open_report(&sealed), Err(Error::NotAuthentic)), "{instance} {boot} {secret}");
        }
    }

    #[test]
    fn a_forged_counter_neither_opens_nor_moves_the_window() {
        let (mut guest, mut broker) = pair();
        let sealed = guest.seal_report(report()).unwrap();
        let mut forged = sealed.clone();
        forged[6] = 0xff;
        assert!(matches!(broker.open_report(&forged), Err(Error::NotAuthentic)));
        broker.open_report(&sealed).unwrap();
    }

    #[test]
    fn flipped_bits_and_truncations_are_refused() {
        let (mut guest, mut broker) = pair();
        let sealed = guest.seal_report(report()).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(broker.open_report(&flipped).is_err(), "bit {bit}");
        }
        for end in 0..sealed.len() {
            assert!(broker.open_report(&sealed[..end]).is_err(), "{end} bytes");
        }
        broker.open_report(&sealed).unwrap();
    }

    #[test]
    fn a_restarted_broker_reads_the_report_again_and_never_reuses_a_counter() {
        let key = ProjectKey::generate().unwrap();
        let instance = InstanceId::from_bits(1);
        let (mut guest, mut broker) = pair();
        let sealed_report = guest.seal_report(report()).unwrap();
        broker.open_report(&sealed_report).unwrap();
        let _used_by_a_broker_that_then_died = broker.reserve().unwrap();
        let mut stored = broker.0;
        stored.next_receive = 0;
        let stored = key.seal(instance, &BrokerReportKeys(stored)).unwrap();
        let mut resumed: BrokerReportKeys = key.open(instance, &stored).unwrap();
        assert_eq!(resumed.open_report(&sealed_report).unwrap(), report());
        let sealed = acknowledge(&mut resumed);
        assert_eq!(sealed[..8], 1u64.to_be_bytes());
        guest.open_acknowledge(&sealed).unwrap();
        assert!(key.open::<BrokerReportKeys>(InstanceId::from_bits(9), &stored).is_err());
    }
}
