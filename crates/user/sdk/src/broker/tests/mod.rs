//! The broker's own faults: restarts at each point, lost answers, competing brokers, a cloud that lies.

mod customer;
mod fake;
mod guest;
mod rotation;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use lambda_attest::{Decision, Policy};
use lambda_crypto::InstanceSecrets;
use lambda_types::instance::{Condition, ConditionKind, Instance, InstanceState, Phase, PhaseTime};
use lambda_types::session::ToGuest;
use lambda_types::shape::LaunchProfile;
use lambda_types::{Code, InstanceId, NodeId};
use tempfile::TempDir;

use super::daemon::{Daemon, Notice};
use super::{Engine, Event, GRACE, PolicySource};
use crate::config::Folder;
use crate::state::Records;
use crate::{Error, Keyring};
use fake::{BOOT, Fake, Fault};
use guest::{FakeJudge, Guest, verdict};

const PIN: [u8; 32] = [5; 32];

struct World {
    fake: Fake,
    guest: Guest,
    keyring: Arc<Keyring>,
    records: Records,
    _dir: TempDir,
}

impl World {
    async fn new() -> Self {
        let keyring = Arc::new(Keyring::ephemeral().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(&Folder::at(dir.path())).unwrap();
        let fake = Fake::start(&keyring, &InstanceSecrets::new("web").unwrap()).await;
        Self { fake, guest: Guest::new(InstanceId::from_bits(1)), keyring, records, _dir: dir }
    }

    /// A broker that has just started: no memory but the records.
    fn engine(&self) -> Engine<FakeJudge> {
        let policy = Policy::silent();
        Engine {
            client: self.fake.client.clone(),
            keyring: self.keyring.clone(),
            records: self.records.clone(),
            policies: PolicySource::Fixed(Box::new(policy)),
            judge: FakeJudge,
        }
    }

    fn stored_pin(&self) -> Option<[u8; 32]> {
        let instance = self.fake.state.lock().unwrap().instance.clone();
        self.keyring.open::<InstanceSecrets>(instance.id, &instance.secrets).unwrap().header_pin
    }

    fn posts(&self) -> u64 {
        self.fake.state.lock().unwrap().posts
    }
}

/// Rounds until the broker has answered the guest's message, or a second has passed; returns what went wrong.
async fn rounds(daemon: &mut Daemon<'_, FakeJudge>, world: &World) -> Vec<Error> {
    let started = Instant::now();
    let mut errors = Vec::new();
    while !world.fake.waiting().is_empty() && errors.is_empty() && started.elapsed() < Duration::from_secs(1) {
        let waiting = world.fake.waiting();
        daemon
            .round(&waiting, &mut |notice| match notice {
                Notice::Failed(_, error) => errors.push(error),
                Notice::Event(_, Event::Refused(verdict)) => errors.push(Error::Refused(verdict)),
                Notice::Event(..) | Notice::Away(_) => {}
            })
            .await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    errors
}

/// One message to a broker of this engine, and its answer.
macro_rules! exchange {
    ($daemon:expr, $world:expr, $say:expr) => {{
        let say = $say;
        $world.fake.say(&say);
        let errors = rounds(&mut $daemon, &$world).await;
        assert!(errors.is_empty(), "{errors:?}");
        $world.fake.heard()
    }};
}

/// Up to the release, by one broker.
async fn released(world: &mut World, engine: &Engine<FakeJudge>) -> InstanceSecrets {
    let mut daemon = Daemon::new(engine);
    let challenge = exchange!(daemon, world, world.guest.hello());
    let release = exchange!(daemon, world, world.guest.answer(&challenge));
    world.guest.open(&release)
}

#[tokio::test]
async fn a_first_boot_goes_from_hello_to_a_stored_and_acknowledged_pin() {
    let mut world = World::new().await;
    let engine = world.engine();
    let secrets = released(&mut world, &engine).await;
    assert!(secrets.initialise && secrets.header_pin.is_none());
    let mut daemon = Daemon::new(&engine);
    let report = world.guest.report(PIN);
    let acknowledge = exchange!(daemon, world, report);
    assert_eq!(world.guest.acknowledged(&acknowledge), PIN);
    assert_eq!(world.stored_pin(), Some(PIN));
    let record = world.records.load(world.guest.instance).unwrap();
    assert_eq!(record.attested.unwrap().boot, BOOT);
    assert_eq!(record.header_pin.unwrap().as_slice(), PIN);
}

#[tokio::test]
async fn a_broker_that_restarts_after_its_challenge_challenges_again() {
    let mut world = World::new().await;
    let engine = world.engine();
    let first = exchange!(Daemon::new(&engine), world, world.guest.hello());
    let restarted = world.engine();
    let mut daemon = Daemon::new(&restarted);
    let second = exchange!(daemon, world, world.guest.answer(&first));
    assert_ne!(first, second);
    let release = exchange!(daemon, world, world.guest.answer(&second));
    world.guest.open(&release);
}

#[tokio::test]
async fn a_broker_that_restarts_after_its_release_still_reads_the_report() {
    let mut world = World::new().await;
    let engine = world.engine();
    released(&mut world, &engine).await;
    let report = world.guest.report(PIN);
    let acknowledge = exchange!(Daemon::new(&world.engine()), world, report);
    assert_eq!(world.guest.acknowledged(&acknowledge), PIN);
    assert_eq!(world.stored_pin(), Some(PIN));
}

#[tokio::test]
async fn a_broker_that_dies_between_storing_and_acknowledging_acknowledges_after_its_restart() {
    let mut world = World::new().await;
    let engine = world.engine();
    released(&mut world, &engine).await;
    let report = world.guest.report(PIN);
    world.fake.say(&report);
    world.fake.fail(Method::POST, "/mailbox", Fault::Problem(Code::Internal));
    let errors = rounds(&mut Daemon::new(&world.engine()), &world).await;
    assert!(matches!(errors.as_slice(), [Error::Api(_)]), "{errors:?}");
    assert_eq!(world.stored_pin(), Some(PIN));
    let errors = rounds(&mut Daemon::new(&world.engine()), &world).await;
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(world.guest.acknowledged(&world.fake.heard()), PIN);
    assert_eq!(world.fake.state.lock().unwrap().updates, 1, "the pin was stored once");
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_nothing_is_posted_twice() {
    let world = World::new().await;
    world.fake.fail(Method::POST, "/mailbox", Fault::LoseAnswer);
    let engine = world.engine();
    let heard = exchange!(Daemon::new(&engine), world, world.guest.hello());
    assert!(matches!(heard, ToGuest::Challenge(_)));
    assert_eq!(world.posts(), 1);
}

#[tokio::test]
async fn an_api_that_is_busy_or_away_for_a_moment_is_asked_again() {
    let world = World::new().await;
    for code in [Code::Unavailable, Code::RateLimited, Code::Timeout] {
        world.fake.fail(Method::POST, "/mailbox", Fault::Problem(code));
    }
    let engine = world.engine();
    exchange!(Daemon::new(&engine), world, world.guest.hello());
    assert_eq!(world.posts(), 1);
}

#[tokio::test]
async fn evidence_of_a_guest_that_has_its_secrets_is_not_answered() {
    let mut world = World::new().await;
    let engine = world.engine();
    released(&mut world, &engine).await;
    let posts = world.posts();
    world.fake.state.lock().unwrap().instance.state = InstanceState::Ready;
    world.fake.say(&world.guest.evidence(b"for another broker"));
    let mut daemon = Daemon::new(&engine);
    tokio::time::sleep(GRACE).await;
    for _ in 0..3 {
        let waiting = world.fake.waiting();
        assert!(!daemon.round(&waiting, &mut |notice| panic!("{notice:?}")).await);
    }
    assert_eq!(world.posts(), posts, "neither challenged nor released again");
}

#[tokio::test]
async fn evidence_for_another_brokers_challenge_is_left_to_it_for_a_while() {
    let world = World::new().await;
    let engine = world.engine();
    let challenge = exchange!(Daemon::new(&engine), world, world.guest.hello());
    world.fake.say(&world.guest.answer(&challenge));
    let other = world.engine();
    let mut daemon = Daemon::new(&other);
    let waiting = world.fake.waiting();
    assert!(!daemon.round(&waiting, &mut |notice| panic!("{notice:?}")).await);
    assert_eq!(world.posts(), 1, "not challenged at once");
    tokio::time::sleep(GRACE).await;
    assert!(daemon.round(&waiting, &mut |_| ()).await);
    assert_eq!(world.posts(), 2, "taken over after the grace period");
}

#[tokio::test]
async fn evidence_that_never_answers_the_challenge_is_refused_after_a_few() {
    let world = World::new().await;
    let engine = world.engine();
    let mut daemon = Daemon::new(&engine);
    exchange!(daemon, world, world.guest.hello());
    for _ in 0..8 {
        world.fake.say(&world.guest.evidence(b"replayed"));
        let errors = rounds(&mut daemon, &world).await;
        if matches!(errors.as_slice(), [Error::Refused(_)]) {
            assert!(matches!(world.fake.heard(), ToGuest::Refused { .. }));
            return;
        }
        assert!(errors.is_empty(), "{errors:?}");
    }
    panic!("challenged without end");
}

#[tokio::test]
async fn refused_evidence_gets_a_refusal_and_a_record_and_no_release() {
    let world = World::new().await;
    let engine = world.engine();
    let mut daemon = Daemon::new(&engine);
    exchange!(daemon, world, world.guest.hello());
    world.fake.say(&world.guest.evidence(b"bad"));
    let errors = rounds(&mut daemon, &world).await;
    assert!(matches!(errors.as_slice(), [Error::Refused(_)]), "{errors:?}");
    assert!(matches!(world.fake.heard(), ToGuest::Refused { .. }));
    let record = world.records.load(world.guest.instance).unwrap();
    assert_eq!(record.refused, Some(verdict(Decision::Rejected)));
    assert!(record.released.is_none() && record.attested.is_none());
}

#[tokio::test]
async fn a_daemon_announces_a_refusal_with_its_verdict_once() {
    let world = World::new().await;
    let engine = world.engine();
    let mut daemon = Daemon::new(&engine);
    exchange!(daemon, world, world.guest.hello());
    world.fake.say(&world.guest.evidence(b"bad"));
    let waiting = world.fake.waiting();
    let mut notices = Vec::new();
    for _ in 0..3 {
        daemon.round(&waiting, &mut |notice| notices.push(notice)).await;
    }
    let [Notice::Event(id, Event::Refused(refused))] = notices.as_slice() else { panic!("{notices:?}") };
    assert_eq!((*id, refused.verdict), (world.guest.instance, Decision::Rejected));
}

#[tokio::test]
async fn a_hello_of_another_instance_is_not_challenged() {
    let world = World::new().await;
    let engine = world.engine();
    world.fake.say(&Guest::new(InstanceId::from_bits(2)).hello());
    let errors = rounds(&mut Daemon::new(&engine), &world).await;
    assert!(matches!(errors.as_slice(), [Error::Inconsistent { .. }]), "{errors:?}");
    assert_eq!(world.posts(), 0);
}

#[tokio::test]
async fn a_pin_is_stored_although_the_record_changes_meanwhile() {
    let mut world = World::new().await;
    let engine = world.engine();
    released(&mut world, &engine).await;
    world.fake.fail(Method::PATCH, "", Fault::TouchFirst);
    world.fake.fail(Method::PATCH, "", Fault::LoseAnswer);
    let report = world.guest.report(PIN);
    exchange!(Daemon::new(&engine), world, report);
    assert_eq!(world.stored_pin(), Some(PIN));
    assert_eq!(world.fake.state.lock().unwrap().updates, 1);
}

#[tokio::test]
async fn older_sealed_secrets_that_would_allow_initialising_again_are_not_released() {
    let mut world = World::new().await;
    let old = world.fake.state.lock().unwrap().instance.secrets.clone();
    let engine = world.engine();
    released(&mut world, &engine).await;
    let report = world.guest.report(PIN);
    exchange!(Daemon::new(&engine), world, report);
    world.fake.state.lock().unwrap().instance.secrets = old;
    world.guest = Guest::new(world.guest.instance);
    let mut daemon = Daemon::new(&engine);
    let challenge = exchange!(daemon, world, world.guest.hello());
    world.fake.say(&world.guest.answer(&challenge));
    let errors = rounds(&mut daemon, &world).await;
    assert!(matches!(errors.as_slice(), [Error::Inconsistent { .. }]), "{errors:?}");
    assert_eq!(world.fake.heard(), challenge, "nothing was released");
}

#[tokio::test]
async fn an_allowed_image_that_was_not_asked_for_is_refused() {
    let world = World::new().await;
    let id = world.guest.instance;
    let wanted = crate::state::Wanted {
        image: lambda_types::ImageId::from_bits(2),
        shape: lambda_types::shape::Shape::Nano,
        profile: lambda_types::shape::LaunchProfile::Tpm,
    };
    world
        .records
        .update(id, |record| {
            record.wanted = Some(wanted);
            Ok(())
        })
        .unwrap();
    let engine = world.engine();
    let mut daemon = Daemon::new(&engine);
    let challenge = exchange!(daemon, world, world.guest.hello());
    world.fake.say(&world.guest.answer(&challenge));
    let errors = rounds(&mut daemon, &world).await;
    assert!(matches!(errors.as_slice(), [Error::IdentityRefused(_)]), "{errors:?}");
    assert_eq!(world.fake.heard(), ToGuest::Refused { failed_checks: vec!["instance.wanted".into()] });
}

#[tokio::test]
async fn evidence_of_another_kind_than_the_profile_that_was_asked_for_is_refused_whatever_the_cloud_says_of_it() {
    let world = World::new().await;
    let id = world.guest.instance;
    let Instance { image, shape, profile, .. } = world.fake.state.lock().unwrap().instance;
    assert_eq!(profile, LaunchProfile::Tpm, "what the cloud says, and what the evidence is of");
    let wanted = crate::state::Wanted { image, shape, profile: LaunchProfile::Snp };
    world
        .records
        .update(id, |record| {
            record.wanted = Some(wanted);
            Ok(())
        })
        .unwrap();
    let engine = world.engine();
    let mut daemon = Daemon::new(&engine);
    let challenge = exchange!(daemon, world, world.guest.hello());
    world.fake.say(&world.guest.answer(&challenge));
    let errors = rounds(&mut daemon, &world).await;
    assert!(
        matches!(errors.as_slice(), [Error::IdentityRefused(refusal)] if refusal.detail.contains("snp")),
        "{errors:?}"
    );
    assert_eq!(world.fake.heard(), ToGuest::Refused { failed_checks: vec!["instance.wanted".into()] });
}

#[tokio::test]
async fn fresh_evidence_of_another_kind_than_was_asked_for_is_refused_and_not_put_on_record() {
    for (profile, refused) in [(LaunchProfile::Tpm, false), (LaunchProfile::Tdx, true)] {
        let world = World::new().await;
        let id = world.guest.instance;
        world.fake.state.lock().unwrap().instance.state = InstanceState::Ready;
        let Instance { image, shape, .. } = world.fake.state.lock().unwrap().instance;
        world
            .records
            .update(id, |record| {
                record.wanted = Some(crate::state::Wanted { image, shape, profile });
                Ok(())
            })
            .unwrap();
        world.fake.say(&world.guest.hello());
        let engine = world.engine();
        let (attested, ()) = tokio::join!(engine.attest(id, Duration::from_secs(5)), async {
            let challenge = said(&world, |message| matches!(message, ToGuest::Challenge(_))).await;
            world.fake.say(&world.guest.answer(&challenge));
        });
        match attested {
            Ok((verdict, _)) => assert!(verdict.accepted() && !refused, "{profile}"),
            Err(error) => assert!(matches!(error, Error::IdentityRefused(_)) && refused, "{profile}: {error}"),
        }
        assert_eq!(world.records.load(id).unwrap().attested.is_none(), refused, "{profile}");
    }
}

#[tokio::test]
async fn a_foreground_wait_that_ends_says_what_was_last_seen() {
    let world = World::new().await;
    world.fake.state.lock().unwrap().instance.conditions.push(Condition {
        kind: ConditionKind::AwaitingGuest,
        message: "the guest is booting".into(),
        since_ms: 0,
        until_ms: None,
    });
    let error = world.engine().serve(world.guest.instance, Duration::from_millis(600), &mut |_| ()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("attesting") && text.contains("the guest is booting"), "{text}");
}

#[tokio::test]
async fn a_foreground_broker_announces_each_step_once_and_in_order() {
    let mut world = World::new().await;
    let (engine, id) = (world.engine(), world.guest.instance);
    let steps = std::sync::Mutex::new(Vec::new());
    let mut note = |event: Event| steps.lock().unwrap().push(event);
    let guest = async {
        world.fake.say(&world.guest.hello());
        let challenge = said(&world, |message| matches!(message, ToGuest::Challenge(_))).await;
        world.fake.say(&world.guest.answer(&challenge));
        let release = said(&world, |message| matches!(message, ToGuest::Release { .. })).await;
        world.guest.open(&release);
        let report = world.guest.report(PIN);
        world.fake.say(&report);
        said(&world, |message| matches!(message, ToGuest::Acknowledge { .. })).await;
        let mut state = world.fake.state.lock().unwrap();
        let phases =
            [Phase::Preparing, Phase::Booting, Phase::Attesting, Phase::Unlocking, Phase::Starting, Phase::Ready];
        state.instance.phases = phases.map(|phase| PhaseTime { phase, at_ms: 0 }).to_vec();
        state.instance.node = Some(NodeId::from_bits(3));
        state.instance.state = InstanceState::Ready;
    };
    let (served, ()) = tokio::join!(engine.serve(id, Duration::from_secs(10), &mut note), guest);
    served.unwrap();
    let names: Vec<String> = steps
        .lock()
        .unwrap()
        .iter()
        .map(|step| format!("{step:?}").split(['(', ' ']).next().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["Challenged", "Attested", "Released", "PinStored", "Placed", "Booting", "Unlocked", "Ready"]);
}

/// The broker's message, once it is one of these.
async fn said(world: &World, wanted: fn(&ToGuest) -> bool) -> ToGuest {
    for _ in 0..500 {
        let heard = world.fake.state.lock().unwrap().broker.clone();
        if let Some((_, message)) = heard.filter(|(_, message)| wanted(message)) {
            return message;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("last heard: {:?}", world.fake.state.lock().unwrap().broker);
}

#[tokio::test]
async fn a_server_under_another_ca_is_not_spoken_to() {
    let world = World::new().await;
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = crate::config::ApiKey::parse(&format!("lam_{}", "a".repeat(36))).unwrap();
    let client = crate::Client::with(world.fake.client.endpoint(), &other.cert.pem(), &key).unwrap();
    let error = client.patience(Duration::ZERO).instance(world.guest.instance).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && error.to_string().contains("certificate"), "{error}");
}
