//! A real QEMU with a real image. `./x test` builds one and names it; `./x test --quick` leaves out what has `real_guest` in
//! its name.

use lambda_types::InstanceId;
use lambda_types::instance::{Phase, Power};

use crate::harness::{Bench, instance};

/// Folder of an image made by `lambda image build`.
const IMAGE: &str = "LAMBDA_IMAGE_DIR";

const ID: InstanceId = InstanceId::from_bits(1);

#[test]
fn a_real_guest_boots_attests_survives_the_agent_and_shuts_down() {
    let Ok(source) = std::env::var(IMAGE) else {
        panic!("set {IMAGE} to the folder that `./x image` prints, or run `./x test real_guest`");
    };
    let mut bench = Bench::new();
    bench.qemu = "/usr/bin/qemu-system-x86_64".into();
    let image = bench.link_image(std::path::Path::new(&source));
    bench.start_agent();
    bench.desire(1, vec![instance(1, image, Power::Running, 1)]);
    let attesting = bench.await_observed(ID, "a hello", |observed| observed.guest.is_some());
    assert_eq!(attesting.phase, Phase::Attesting);
    bench.kill_agent();
    let qemu = bench.pid(ID, "qemu");
    bench.start_agent();
    bench.await_observed(ID, "a hello again", |observed| observed.guest.is_some());
    assert_eq!(bench.pid(ID, "qemu"), qemu);
    bench.desire(2, vec![instance(1, image, Power::Stopped, 1)]);
    let stopped = bench.await_phase(ID, Phase::Stopped);
    assert_eq!(stopped.failure, None);
}
