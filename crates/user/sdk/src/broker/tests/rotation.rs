//! Rotation of the project key against an API that loses answers and changes records meanwhile.

use lambda_crypto::Metadata;

use super::*;
use crate::rotation::rotate_project;

struct Rotation {
    fake: Fake,
    folder: Folder,
    _dir: TempDir,
}

impl Rotation {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::at(dir.path());
        let keyring = Keyring::load_or_create(&folder).unwrap();
        let mut secrets = InstanceSecrets::new("web").unwrap();
        secrets.pin(PIN);
        let fake = Fake::start(&keyring, &secrets).await;
        {
            let mut state = fake.state.lock().unwrap();
            let id = state.instance.id;
            state.instance.metadata =
                keyring.seal(id, &Metadata { name: "web".into(), ..Metadata::default() }).unwrap();
        }
        Self { fake, folder, _dir: dir }
    }

    fn instance(&self) -> lambda_types::instance::Instance {
        self.fake.state.lock().unwrap().instance.clone()
    }

    /// Under which version both values are sealed; they must open to what they were.
    fn version(&self) -> u32 {
        let (instance, keyring) = (self.instance(), Keyring::load(&self.folder).unwrap());
        let secrets: InstanceSecrets = keyring.open(instance.id, &instance.secrets).unwrap();
        assert_eq!(secrets.header_pin, Some(PIN));
        assert_eq!(keyring.open::<Metadata>(instance.id, &instance.metadata).unwrap().name, "web");
        let version = lambda_crypto::seal::sealed_under(&instance.secrets).unwrap().1;
        assert_eq!(lambda_crypto::seal::sealed_under(&instance.metadata).unwrap().1, version);
        version
    }
}

#[tokio::test]
async fn a_rotation_moves_every_value_to_a_new_version() {
    let world = Rotation::new().await;
    let rotated = rotate_project(&world.folder, &world.fake.client).await.unwrap();
    assert_eq!((rotated.version, rotated.resumed, rotated.resealed), (2, false, vec![world.instance().id]));
    assert_eq!(world.version(), 2);
}

#[tokio::test]
async fn a_rotation_survives_a_record_that_changes_and_an_answer_that_is_lost() {
    let world = Rotation::new().await;
    world.fake.fail(Method::PATCH, "", Fault::TouchFirst);
    world.fake.fail(Method::PATCH, "", Fault::LoseAnswer);
    let rotated = rotate_project(&world.folder, &world.fake.client).await.unwrap();
    assert_eq!(rotated.resealed, [world.instance().id]);
    assert_eq!((world.version(), world.fake.state.lock().unwrap().updates), (2, 1));
}

#[tokio::test]
async fn an_interrupted_rotation_is_finished_by_the_next_one_without_another_version() {
    let world = Rotation::new().await;
    world.fake.fail(Method::PATCH, "", Fault::Problem(Code::Internal));
    assert!(rotate_project(&world.folder, &world.fake.client).await.is_err());
    assert_eq!(world.version(), 1, "the version is there, and nothing was moved");
    let rotated = rotate_project(&world.folder, &world.fake.client).await.unwrap();
    assert_eq!((rotated.version, rotated.resumed, world.version()), (2, true, 2));
    let rotated = rotate_project(&world.folder, &world.fake.client).await.unwrap();
    assert_eq!((rotated.version, rotated.resumed, world.version()), (3, false, 3));
}

#[tokio::test]
async fn values_under_a_key_that_this_machine_has_not_are_named_and_left_alone() {
    let world = Rotation::new().await;
    let other = Keyring::ephemeral().unwrap();
    let id = world.instance().id;
    let sealed = other.seal(id, &InstanceSecrets::new("web").unwrap()).unwrap();
    world.fake.state.lock().unwrap().instance.secrets = sealed.clone();
    let rotated = rotate_project(&world.folder, &world.fake.client).await.unwrap();
    assert_eq!((rotated.foreign, rotated.resealed), (vec![id], Vec::new()));
    assert!(world.instance().secrets == sealed);
}
