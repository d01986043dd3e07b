//! Two builds from one lock are the same bytes.

use lambda_types::image::file;

use super::static_program;
use crate::hash;
use crate::host_tools;
use crate::tool::Tool;
use crate::{BuildOptions, Lock, ProfileFirmware, build, differences};

#[test]
fn two_builds_from_one_lock_are_byte_identical() {
    let dir = tempfile::tempdir().unwrap();
    let guest = static_program(dir.path(), "fn main() {}");
    let outs = [dir.path().join("one"), dir.path().join("another-folder-name")];
    std::thread::scope(|scope| {
        for out in &outs {
            let mut options = BuildOptions::new("debian-12", out, &guest);
            options.profile_firmware = Some(ProfileFirmware::default());
            scope.spawn(move || build(&options, &mut |_| {}).unwrap());
        }
    });
    for name in [file::KERNEL, file::INITRAMFS, file::ROOT, file::FIRMWARE, file::LOCK, file::MANIFEST] {
        let [one, two] = outs.each_ref().map(|out| hash::file(&out.join(name)).unwrap());
        assert_eq!(one, two, "{name}");
    }
    let lock = Lock::parse(&std::fs::read(outs[0].join(file::LOCK)).unwrap()).unwrap();
    assert_eq!(lock.tools, host_tools::installed().unwrap(), "the lock names the tools that made it");
    assert_eq!(differences(&outs[0]).unwrap(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(&outs[0]).unwrap().count(), 6, "nothing but the parts is left");

    let (_, manifest) = crate::load(&outs[0]).unwrap();
    let verity = manifest.verity;
    let root = outs[0].join(file::ROOT);
    Tool::new("veritysetup")
        .args(["verify", "--no-superblock", &format!("--hash-offset={}", verity.data_size)])
        .args([format!("--salt={}", verity.salt), format!("--data-blocks={}", verity.data_size / 4096)])
        .args([&root, &root])
        .arg(&verity.root_hash)
        .run()
        .unwrap();
}
