//! What a customer's machine remembers of an instance, and asks for, between commands.

use std::collections::BTreeMap;

use lambda_attest::{Policy, TpmClock};
use lambda_types::shape::{LaunchProfile, Shape, Tier};

use super::*;
use crate::broker::answer::remember;
use crate::broker::judge::Accepted;
use crate::config::{Config, Platform};
use crate::customer::{NewInstance, Started};
use crate::images::Trusted;
use crate::policies::{self, Source};
use crate::{Customer, files};

fn policy(tier: Tier) -> Policy {
    Policy { minimum_tier: Some(tier), ..Policy::silent() }
}

fn customer(world: &World) -> (Customer, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let folder = Folder::at(dir.path());
    let platform = Platform { region: "local".into(), platform_ca: String::new(), fingerprint: String::new() };
    let client = world.fake.client.clone();
    let customer = Customer {
        config: Config::new(client.endpoint().to_owned(), String::new(), platform),
        client,
        keyring: world.keyring.clone(),
        records: Records::open(&folder).unwrap(),
        folder,
    };
    (customer, dir)
}

fn new() -> NewInstance {
    let mut image = Trusted::parse(&crate::images::tests::manifest("d", "1")).unwrap();
    let expected = serde_json::json!({
        "pcrs": {}, "firmware_volumes": [], "kernel": "", "initramfs": "", "command_line": ""
    });
    image.manifest.expected.tpm.insert(Shape::Nano, serde_json::from_value(expected).unwrap());
    NewInstance {
        name: "web".into(),
        description: String::new(),
        tags: BTreeMap::new(),
        shape: Shape::Nano,
        profile: LaunchProfile::Tpm,
        image,
        volume_gib: 1,
        hostname: None,
        authorized_keys: Vec::new(),
        user_data: None,
        environment: BTreeMap::new(),
        policy: Some(policy(Tier::Hardware)),
    }
}

#[tokio::test]
async fn a_policy_given_at_creation_is_remembered_before_anything_is_sent() {
    let world = World::new().await;
    let (customer, dir) = customer(&world);
    // This API refuses creations: what is there was there before the request.
    assert!(customer.create(new()).await.is_err());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir.path().join("policies")).unwrap() {
        found.push(entry.unwrap().path());
    }
    let [path] = found.as_slice() else { panic!("{found:?}") };
    assert!(path.file_name().unwrap().to_str().unwrap().starts_with("inst_"));
    assert_eq!(policies::load_file(&customer.folder, path).unwrap().policy, policy(Tier::Hardware));
}

/// An instance of an image with reference values for the confidential profiles, under a policy made from it.
fn confidential(customer: &Customer, profile: LaunchProfile) -> NewInstance {
    let image = crate::images::trust(&customer.folder, &policies::make_tests::image()).unwrap();
    NewInstance { shape: Shape::Small, profile, image, policy: None, ..new() }
}

#[tokio::test]
async fn a_confidential_creation_says_its_profile_and_an_snp_one_carries_the_signed_block() {
    let world = World::new().await;
    let (customer, _dir) = customer(&world);
    for profile in [LaunchProfile::Snp, LaunchProfile::Tdx] {
        assert!(customer.create(confidential(&customer, profile)).await.is_err(), "this API refuses creations");
        let sent = world.fake.state.lock().unwrap().created.take().unwrap();
        assert_eq!(sent.profile, profile);
        assert_eq!(sent.launch.is_some(), profile == LaunchProfile::Snp);
        if let Some(launch) = sent.launch {
            launch.check(profile).unwrap();
            let (block, auth) = (launch.id_block.unwrap(), launch.id_auth.unwrap());
            let held = lambda_crypto::id_block::verify(block.as_slice(), auth.as_slice()).unwrap();
            assert_eq!(held.block.measurement, [0xaa; 48]);
        }
    }
}

#[tokio::test]
async fn what_was_asked_for_decides_the_policy_and_not_what_the_cloud_says_of_the_profile() {
    let world = World::new().await;
    let (customer, _dir) = customer(&world);
    for profile in [LaunchProfile::Snp, LaunchProfile::Tdx] {
        assert!(customer.create(confidential(&customer, profile)).await.is_err(), "this API refuses creations");
        let sent = world.fake.state.lock().unwrap().created.take().unwrap();
        let mut instance = world.fake.state.lock().unwrap().instance.clone();
        (instance.id, instance.image, instance.profile) = (sent.id, sent.image, LaunchProfile::Tpm);
        let chosen = customer.policy(&instance).unwrap();
        assert_eq!(chosen.source, Source::TrustedImage);
        assert_eq!(chosen.policy.minimum_tier, Some(Tier::Hardware), "{profile}");
        assert!(chosen.policy.tpm.is_none(), "{profile}");
        assert_eq!(chosen.policy.snp.is_some(), profile == LaunchProfile::Snp);
        assert_eq!(chosen.policy.tdx.is_some(), profile == LaunchProfile::Tdx);
        let ours = crate::launch::LaunchKeys::load(&customer.folder).unwrap().unwrap().digests();
        if let Some(snp) = chosen.policy.snp {
            assert_eq!(snp.id_key, Some(lambda_attest::Rule::OneOf(vec![ours.id])));
            assert_eq!(snp.host_data, Some(lambda_attest::HostDataRule::Instance));
        }
    }
}

#[tokio::test]
async fn a_machine_without_the_keys_of_id_blocks_judges_no_snp_instance_by_itself() {
    let world = World::new().await;
    let (customer, _dir) = customer(&world);
    let image = crate::images::trust(&customer.folder, &policies::make_tests::image()).unwrap();
    let mut instance = world.fake.state.lock().unwrap().instance.clone();
    (instance.image, instance.profile) = (image.id, LaunchProfile::Snp);
    let refused = customer.policy(&instance).unwrap_err();
    assert!(matches!(&refused, Error::NotTrusted(why) if why.contains("snp-id.key")), "{refused}");
}

#[tokio::test]
async fn what_is_remembered_of_an_instance_judges_it_and_goes_with_it() {
    let world = World::new().await;
    let (customer, _dir) = customer(&world);
    let instance = world.fake.state.lock().unwrap().instance.clone();
    customer.set_policy(instance.id, &policy(Tier::Hardware)).unwrap();
    let chosen = customer.policy(&instance).unwrap();
    assert!(matches!(chosen.source, Source::Instance(_)));
    let source =
        PolicySource::PerInstance { folder: customer.folder.clone(), platform: customer.config.platform.clone() };
    assert_eq!(source.get(&instance, LaunchProfile::Tpm).unwrap(), policy(Tier::Hardware), "the broker's");
    policies::forget(&customer.folder, instance.id).unwrap();
    assert!(matches!(source.get(&instance, LaunchProfile::Tpm), Err(Error::NotTrusted(_))));
}

#[tokio::test]
async fn a_host_key_accepted_under_another_policy_is_not_used() {
    let world = World::new().await;
    let (customer, _dir) = customer(&world);
    let mut instance = world.fake.state.lock().unwrap().instance.clone();
    instance.state = InstanceState::Ready;
    customer.set_policy(instance.id, &policy(Tier::Platform)).unwrap();
    let ssh_host_key = [b"\0\0\0\x0bssh-ed25519\0\0\0\x20", &[9; 32][..]].concat();
    let accepted = Accepted {
        hpke_public: [0; 32],
        ssh_host_key,
        nonce: [0; 32],
        policy_hash: policy(Tier::Platform).hash(),
        clock: Some(TpmClock { ak_name: String::new(), boot: BOOT, reset_count: 1, restart_count: 0, clock: 1 }),
        image: instance.image,
        shapes: vec![Shape::Nano],
    };
    let lambda_types::session::FromGuest::Hello(hello) = world.guest.hello() else { panic!("hello") };
    let record = |record: &mut crate::state::Record| {
        remember(record, BOOT, &hello, &accepted, &verdict(Decision::Accepted));
        Ok(())
    };
    customer.records.update(instance.id, record).unwrap();
    let target = customer.ssh_target(&instance, Duration::from_secs(1)).await.unwrap();
    assert!(files::read(&target.known_hosts).unwrap().is_some());
    customer.set_policy(instance.id, &policy(Tier::Hardware)).unwrap();
    assert!(customer.ssh_target(&instance, Duration::from_secs(1)).await.is_err(), "it asked for fresh evidence");
}

#[tokio::test]
async fn an_instance_that_runs_is_not_asked_to_start() {
    let world = World::new().await;
    let (customer, _dir) = customer(&world);
    let mut instance = world.fake.state.lock().unwrap().instance.clone();
    instance.state = InstanceState::Ready;
    // This API refuses starts.
    assert_eq!(customer.start(&instance).await.unwrap(), Started::AlreadyRunning);
    instance.state = InstanceState::Failed;
    assert!(customer.start(&instance).await.is_err());
}
