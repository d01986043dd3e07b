//! The command layer against a real TPM 2.0 implementation.

mod common;

use common::Swtpm;
use lambda_tpm::{Attributes, Error, LAMBDA_PCRS, PcrSelection, Public, Quote, Signature, alg, make_credential};
use p256::ecdsa::signature::Verifier as _;

fn entropy() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_credential_made_here_is_activated_by_the_tpm_it_was_made_for() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.tpm();
    tpm.startup_clear().unwrap();
    let ek = tpm.create_ek().unwrap();
    let ak = tpm.create_ak().unwrap();
    for secret in [&[7u8; 32][..], &[1], &entropy()[..31]] {
        let made = make_credential(&ek.public, &ak.public.name().unwrap(), secret, &entropy()).unwrap();
        let activated = tpm.activate_credential(&ak, &ek, &made.blob, &made.secret).unwrap();
        assert_eq!(activated.as_slice(), secret);
    }
}

#[test]
fn a_credential_for_another_key_is_refused_and_leaks_no_session() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.tpm();
    tpm.startup_clear().unwrap();
    let ek = tpm.create_ek().unwrap();
    let ak = tpm.create_ak().unwrap();
    let mut other = ak.public.clone();
    other.attributes = other.attributes.and(Attributes::DECRYPT);
    let made = make_credential(&ek.public, &other.name().unwrap(), &[7; 32], &entropy()).unwrap();
    // More attempts than a TPM has sessions.
    for _ in 0..80 {
        let refused = tpm.activate_credential(&ak, &ek, &made.blob, &made.secret);
        assert!(matches!(refused, Err(Error::Refused { command: "TPM2_ActivateCredential", .. })), "{refused:?}");
    }
}

#[test]
fn another_tpm_cannot_activate_the_credential() {
    let (first, second) = (Swtpm::start(), Swtpm::start());
    let (mut first, mut second) = (first.tpm(), second.tpm());
    first.startup_clear().unwrap();
    second.startup_clear().unwrap();
    let (ek, ak) = (first.create_ek().unwrap(), first.create_ak().unwrap());
    let made = make_credential(&ek.public, &ak.public.name().unwrap(), &[7; 32], &entropy()).unwrap();
    let (other_ek, other_ak) = (second.create_ek().unwrap(), second.create_ak().unwrap());
    assert!(second.activate_credential(&other_ak, &other_ek, &made.blob, &made.secret).is_err());
}

#[test]
fn a_quote_carries_what_was_asked_and_verifies_under_the_attestation_key() {
    let mut swtpm = Swtpm::start();
    let mut tpm = swtpm.tpm();
    tpm.startup_clear().unwrap();
    tpm.allocate_sha256_only().unwrap();
    tpm.shutdown_clear().unwrap();
    drop(tpm);
    swtpm.power_on();
    let mut tpm = swtpm.tpm();
    tpm.startup_clear().unwrap();
    assert_eq!(tpm.active_banks().unwrap(), [alg::SHA256]);

    let ak = tpm.create_ak().unwrap();
    let quoted = tpm.quote(&ak, &[9; 64], &PcrSelection::lambda()).unwrap();
    let quote = Quote::parse(&quoted.attest).unwrap();
    assert_eq!(quote.magic, lambda_tpm::quote::MAGIC);
    assert_eq!(quote.extra_data, [9; 64]);
    assert!(quote.selection.is_lambda());
    assert_eq!(quote.qualified_signer, ak.public.qualified_name_under(lambda_tpm::command::ENDORSEMENT).unwrap());
    assert_eq!(quote.clock.restart_count, 0);

    let Signature::EcdsaP256 { hash: alg::SHA256, r, s } = Signature::parse(&quoted.signature).unwrap() else {
        panic!("not ECDSA with SHA-256")
    };
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&ak.public.p256_sec1().unwrap()).unwrap();
    let signature = p256::ecdsa::Signature::from_scalars(r, s).unwrap();
    key.verify(&quoted.attest, &signature).unwrap();
    assert!(key.verify(&[quoted.attest, vec![0]].concat(), &signature).is_err());
}

#[test]
fn all_lambda_pcrs_are_read_although_a_reply_holds_only_eight() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.tpm();
    tpm.startup_clear().unwrap();
    let values = tpm.read_pcrs(&PcrSelection::lambda()).unwrap();
    assert_eq!(values.keys().copied().collect::<Vec<_>>(), LAMBDA_PCRS);
    assert!(values.values().all(|value| *value == [0; 32]));
}

#[test]
fn keys_are_the_same_after_a_reset_and_the_reset_is_counted() {
    let mut swtpm = Swtpm::start();
    let mut tpm = swtpm.tpm();
    tpm.startup_clear().unwrap();
    let (ek, ak) = (tpm.create_ek().unwrap(), tpm.create_ak().unwrap());
    assert_eq!(tpm.read_public(ek.handle).unwrap(), ek.public);
    let before = Quote::parse(&tpm.quote(&ak, &[], &PcrSelection::lambda()).unwrap().attest).unwrap();
    tpm.shutdown_clear().unwrap();
    drop(tpm);
    swtpm.power_on();
    let mut tpm = swtpm.tpm();
    tpm.startup_clear().unwrap();
    assert_eq!(tpm.create_ek().unwrap().public, ek.public);
    let again = tpm.create_ak().unwrap();
    assert_eq!(again.public, ak.public);
    let after = Quote::parse(&tpm.quote(&again, &[], &PcrSelection::lambda()).unwrap().attest).unwrap();
    assert_eq!(after.clock.reset_count, before.clock.reset_count + 1);
    assert!(after.clock.safe);
}

#[test]
fn transient_handles_can_be_flushed_and_used_again() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.tpm();
    tpm.startup_clear().unwrap();
    for _ in 0..8 {
        let ak = tpm.create_ak().unwrap();
        tpm.flush(ak.handle).unwrap();
        assert!(tpm.read_public(ak.handle).is_err());
    }
}

#[test]
fn starting_twice_is_not_an_error() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.tpm();
    tpm.startup_clear().unwrap();
    tpm.startup_clear().unwrap();
    assert!(matches!(tpm.flush(0x8000_0000), Err(Error::Refused { command: "TPM2_FlushContext", .. })));
}

#[test]
fn public_areas_survive_the_round_trip_through_their_bytes() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.tpm();
    tpm.startup_clear().unwrap();
    let ek = tpm.create_ek().unwrap();
    assert_eq!(Public::parse(&ek.public.encode().unwrap()).unwrap(), ek.public);
}
