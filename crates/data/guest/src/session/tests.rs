//! The session against a relay that repeats, re-orders, swaps and invents, with real HPKE.

use lambda_crypto::{Acknowledge, BrokerReportKeys, release};
use serde_json::json;

use super::*;

const NONCE: [u8; 32] = [1; 32];
const POLICY: [u8; 32] = [2; 32];

/// Answers every challenge with its nonce.
struct Echo;

impl Attester for Echo {
    fn attest(&mut self, _: &Hello, challenge: &Challenge) -> Result<Vec<u8>, Failure> {
        Ok(challenge.nonce.0.clone())
    }
}

struct Broken;

impl Attester for Broken {
    fn attest(&mut self, _: &Hello, _: &Challenge) -> Result<Vec<u8>, Failure> {
        Err(Failure::new(FailureReason::Tpm, "no answer"))
    }
}

fn session(instance: u128, boot: u128) -> Session {
    let key = ReleaseKey::generate().unwrap();
    Session::new(InstanceId::from_bits(instance), BootId::from_bits(boot), key, b"ssh".to_vec(), None)
}

fn challenge(nonce: &[u8]) -> ToGuest {
    ToGuest::Challenge(Challenge { nonce: nonce.to_vec().into(), credential: None })
}

/// A release for what `hello` claims, with its context as given.
fn release_for(hello: &Hello, context: &ReleaseContext) -> (ToGuest, BrokerReportKeys) {
    let secrets = InstanceSecrets::new("web").unwrap();
    let released = release::seal(hello.hpke_public.as_slice(), context, &secrets).unwrap();
    let message = ToGuest::Release {
        encapsulated_key: released.encapsulated_key.into(),
        ciphertext: released.ciphertext.into(),
        policy_hash: context.policy_hash.to_vec().into(),
        nonce: context.nonce.to_vec().into(),
    };
    (message, released.reports)
}

fn context(hello: &Hello, nonce: [u8; 32]) -> ReleaseContext {
    ReleaseContext { policy_hash: POLICY, instance: hello.instance, boot: hello.boot, nonce }
}

fn give(session: &mut Session, seq: u64, message: &ToGuest) -> Result<Outcome, Failure> {
    session.handle(seq, &serde_json::to_vec(message).unwrap(), &mut Echo)
}

fn reason(result: Result<Outcome, Failure>) -> FailureReason {
    match result {
        Err(failure) => failure.reason,
        Ok(_) => panic!("expected a failure"),
    }
}

fn ignored(result: Result<Outcome, Failure>) -> bool {
    matches!(result, Ok(Outcome::Ignored))
}

/// A session that was challenged with [`NONCE`] by message 1.
fn challenged() -> Session {
    let mut session = session(10, 20);
    assert!(matches!(give(&mut session, 1, &challenge(&NONCE)), Ok(Outcome::Reply(FromGuest::Evidence { .. }))));
    session
}

/// A session with its secrets, after message 2.
fn released() -> (Session, BrokerReportKeys) {
    let mut session = challenged();
    let (message, reports) = release_for(session.hello(), &context(session.hello(), NONCE));
    assert!(matches!(give(&mut session, 2, &message), Ok(Outcome::Released(_))));
    (session, reports)
}

#[test]
fn a_release_that_answers_the_challenge_opens() {
    let mut session = challenged();
    let (message, _) = release_for(session.hello(), &context(session.hello(), NONCE));
    let Ok(Outcome::Released(secrets)) = give(&mut session, 2, &message) else { panic!("expected the secrets") };
    assert_eq!(secrets.hostname.as_str(), "web");
}

#[test]
fn a_release_before_any_challenge_is_refused() {
    let mut session = session(10, 20);
    let (message, _) = release_for(session.hello(), &context(session.hello(), NONCE));
    assert_eq!(reason(give(&mut session, 1, &message)), FailureReason::ReleaseInvalid);
}

#[test]
fn a_release_for_an_earlier_challenge_is_refused_after_a_new_one() {
    let mut session = challenged();
    let (old, _) = release_for(session.hello(), &context(session.hello(), NONCE));
    give(&mut session, 2, &challenge(&[9; 32])).unwrap();
    assert_eq!(reason(give(&mut session, 3, &old)), FailureReason::ReleaseInvalid);
}

#[test]
fn a_release_to_another_instance_or_boot_is_refused_even_for_the_same_key() {
    for (instance, boot) in [(11, 20), (10, 21), (20, 10)] {
        let mut session = challenged();
        let other = ReleaseContext {
            instance: InstanceId::from_bits(instance),
            boot: BootId::from_bits(boot),
            ..context(session.hello(), NONCE)
        };
        let (message, _) = release_for(session.hello(), &other);
        assert_eq!(reason(give(&mut session, 2, &message)), FailureReason::ReleaseInvalid, "{instance} {boot}");
    }
}

#[test]
fn a_release_made_for_another_guest_with_the_same_nonce_is_refused() {
    let neighbour = challenged();
    let mut session = challenged();
    let (message, _) = release_for(neighbour.hello(), &context(session.hello(), NONCE));
    assert_eq!(reason(give(&mut session, 2, &message)), FailureReason::ReleaseInvalid);
}

#[test]
fn a_release_recorded_in_an_earlier_boot_is_refused_in_the_next() {
    let mut first = challenged();
    let (recorded, _) = release_for(first.hello(), &context(first.hello(), NONCE));
    assert!(matches!(give(&mut first, 2, &recorded), Ok(Outcome::Released(_))));
    let mut second = session(10, 21);
    give(&mut second, 1, &challenge(&NONCE)).unwrap();
    assert_eq!(reason(give(&mut second, 2, &recorded)), FailureReason::ReleaseInvalid);
}

#[test]
fn a_release_whose_outer_fields_were_changed_is_refused() {
    let change: [fn(&mut ToGuest); 5] = [
        |m| {
            if let ToGuest::Release { policy_hash, .. } = m {
                policy_hash.0[0] ^= 1
            }
        },
        |m| {
            if let ToGuest::Release { policy_hash, .. } = m {
                policy_hash.0.push(0)
            }
        },
        |m| {
            if let ToGuest::Release { nonce, .. } = m {
                nonce.0[31] ^= 1
            }
        },
        |m| {
            if let ToGuest::Release { encapsulated_key, .. } = m {
                encapsulated_key.0[0] ^= 1
            }
        },
        |m| {
            if let ToGuest::Release { ciphertext, .. } = m {
                ciphertext.0[0] ^= 1
            }
        },
    ];
    for (index, change) in change.into_iter().enumerate() {
        let mut session = challenged();
        let (mut message, _) = release_for(session.hello(), &context(session.hello(), NONCE));
        change(&mut message);
        assert_eq!(reason(give(&mut session, 2, &message)), FailureReason::ReleaseInvalid, "change {index}");
    }
}

#[test]
fn after_a_release_that_did_not_open_a_good_one_does_not_open_either() {
    let mut session = challenged();
    let (good, _) = release_for(session.hello(), &context(session.hello(), NONCE));
    let (bad, _) = release_for(session.hello(), &context(session.hello(), [3; 32]));
    assert_eq!(reason(give(&mut session, 2, &bad)), FailureReason::ReleaseInvalid);
    assert!(ignored(give(&mut session, 3, &good)));
}

#[test]
fn messages_whose_number_was_seen_are_ignored_whatever_they_say() {
    let mut session = challenged();
    let refused = ToGuest::Refused { failed_checks: vec!["tpm.quote".into()] };
    for seq in [0, 1] {
        assert!(ignored(give(&mut session, seq, &refused)));
    }
    let (message, _) = release_for(session.hello(), &context(session.hello(), NONCE));
    assert!(matches!(give(&mut session, 7, &message), Ok(Outcome::Released(_))));
    assert!(ignored(give(&mut session, 7, &message)));
    assert!(ignored(give(&mut session, 6, &challenge(&[4; 32]))));
}

#[test]
fn a_second_release_is_never_opened() {
    let (mut session, _) = released();
    let (again, _) = release_for(session.hello(), &context(session.hello(), NONCE));
    assert!(ignored(give(&mut session, 3, &again)));
}

#[test]
fn a_refusal_ends_a_waiting_guest_and_leaves_a_running_one_alone() {
    let refused = ToGuest::Refused { failed_checks: vec!["image.kernel".into()] };
    let failure = match give(&mut challenged(), 2, &refused) {
        Err(failure) => failure,
        Ok(_) => panic!("expected a failure"),
    };
    assert_eq!(failure.reason, FailureReason::ReleaseRefused);
    assert!(failure.what.contains("image.kernel"));
    assert!(ignored(give(&mut released().0, 3, &refused)));
}

#[test]
fn a_running_guest_answers_new_challenges_with_new_evidence_and_the_same_claims() {
    let (mut session, _) = released();
    let hello = session.hello().clone();
    let mut resumed = Session::resumed(hello.clone(), session.last_read());
    for session in [&mut session, &mut resumed] {
        let Ok(Outcome::Reply(FromGuest::Evidence { hello: claims, evidence })) =
            give(session, 3, &challenge(&[5; 32]))
        else {
            panic!("expected evidence")
        };
        assert_eq!((claims, evidence.0), (hello.clone(), vec![5; 32]));
    }
    let (message, _) = release_for(&hello, &context(&hello, [5; 32]));
    assert!(ignored(give(&mut resumed, 4, &message)));
}

#[test]
fn challenges_without_a_full_nonce_and_unknown_messages_are_ignored() {
    let mut session = session(10, 20);
    assert!(ignored(give(&mut session, 1, &challenge(&[0; 31]))));
    assert!(ignored(give(&mut session, 2, &challenge(&[]))));
    for (seq, body) in [(3, json!({"type": "no-such"}).to_string()), (4, "{".into()), (5, String::new())] {
        assert!(ignored(session.handle(seq, body.as_bytes(), &mut Echo)));
    }
    assert!(matches!(give(&mut session, 6, &challenge(&NONCE)), Ok(Outcome::Reply(_))));
}

#[test]
fn a_vtpm_that_fails_ends_the_boot_with_its_code() {
    let body = serde_json::to_vec(&challenge(&NONCE)).unwrap();
    assert_eq!(reason(session(1, 2).handle(1, &body, &mut Broken)), FailureReason::Tpm);
}

#[test]
fn a_report_opens_at_the_broker_and_only_its_own_acknowledgement_counts() {
    let (mut session, mut reports) = released();
    let FromGuest::Report { sealed } = session.report([6; 32]).unwrap() else { panic!("expected a report") };
    assert_eq!(reports.open_report(sealed.as_slice()).unwrap(), Report::Initialised { header_pin: [6; 32] });
    let reserved = reports.reserve().unwrap();
    let good = reports.seal_acknowledge(reserved, Acknowledge { header_pin: [6; 32] }).unwrap();
    let mut altered = good.clone();
    altered[9] ^= 1;
    let (_, mut others) = released();
    let reserved = others.reserve().unwrap();
    let foreign = others.seal_acknowledge(reserved, Acknowledge { header_pin: [6; 32] }).unwrap();
    for (seq, sealed) in [(3, altered), (4, foreign), (5, Vec::new())] {
        assert!(ignored(give(&mut session, seq, &ToGuest::Acknowledge { sealed: sealed.into() })));
    }
    let acknowledge = ToGuest::Acknowledge { sealed: good.into() };
    assert!(matches!(give(&mut session, 6, &acknowledge), Ok(Outcome::Acknowledged(pin)) if pin == [6; 32]));
    assert!(ignored(give(&mut session, 7, &acknowledge)), "a replay under a new number");
}

#[test]
fn nothing_can_be_reported_before_a_release() {
    assert!(challenged().report([0; 32]).is_err());
}

#[test]
fn the_ssh_host_key_is_fresh_and_its_public_half_is_in_wire_format() {
    let key = SshHostKey::generate().unwrap();
    let parsed = ssh_key::PrivateKey::from_openssh(key.private.as_str()).unwrap();
    assert_eq!(parsed.public_key().to_bytes().unwrap(), key.public);
    assert_eq!(&key.public[..15], b"\0\0\0\x0bssh-ed25519");
    assert_ne!(SshHostKey::generate().unwrap().public, key.public);
}
