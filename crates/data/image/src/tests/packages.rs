//! Locks, mirrors and the cache.

use crate::Progress;
use crate::apt::Mirrors;
use crate::error::Error;
use crate::lock::{Archive, Lock, Use};
use crate::packages::{Packages, default_cache};

#[test]
fn a_version_that_the_mirror_no_longer_has_is_named_and_replaced() {
    let mut lock = Lock::shipped("debian-12").unwrap();
    let gone = lock.packages.iter_mut().find(|package| package.name == "ovmf").unwrap();
    gone.version = "2019.01-1".into();
    gone.filename = "pool/main/e/edk2/ovmf_2019.01-1_all.deb".into();
    gone.sha256 = "0".repeat(64);
    let mut notices = Vec::new();
    let packages = Packages::fetch(lock, &Mirrors::default(), &default_cache(), &mut |event| {
        if let Progress::Notice(text) = event {
            notices.push(text);
        }
    })
    .unwrap();
    assert!(notices.iter().any(|text| text.contains("ovmf 2019.01-1")), "{notices:?}");
    let found = packages.lock.only(Use::Firmware).unwrap();
    assert_ne!(found.version, "2019.01-1");
    assert!(packages.file(found).is_file());
}

#[test]
fn a_package_with_other_content_than_locked_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let mut lock = Lock::shipped("debian-12").unwrap();
    lock.packages.retain(|package| package.name == "ovmf" && package.archive == Archive::Debian);
    let package = lock.packages[0].clone();
    let served = dir.path().join("mirror").join(&package.filename);
    std::fs::create_dir_all(served.parent().unwrap()).unwrap();
    std::fs::write(&served, b"not the package").unwrap();
    let base = format!("file://{}/mirror", dir.path().display());
    let mirrors = Mirrors { debian: base.clone(), security: base };
    let cache = dir.path().join("cache");
    match Packages::fetch(lock, &mirrors, &cache, &mut |_| {}) {
        Err(Error::Download { names, .. }) => assert_eq!(names, ["ovmf"]),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("a package with a wrong hash was taken"),
    }
    assert!(!cache.join(package.cache_name()).exists());
}

#[test]
fn locks_that_name_paths_or_hashes_of_another_kind_are_refused() {
    let good = Lock::shipped("debian-12").unwrap();
    assert!(good.packages.len() > 50);
    assert!(good.only(Use::Kernel).unwrap().name.starts_with("linux-image-6.12"));
    for damage in [
        |lock: &mut Lock| lock.packages[0].filename = "pool/../../etc/passwd".into(),
        |lock: &mut Lock| lock.packages[0].name = "../evil".into(),
        |lock: &mut Lock| lock.packages[0].sha256 = "abc".into(),
        |lock: &mut Lock| lock.format = 1,
        |lock: &mut Lock| lock.tools[0].version = "1\u{1b}[2J".into(),
    ] {
        let mut lock = good.clone();
        damage(&mut lock);
        assert!(Lock::parse(&lock.to_bytes().unwrap()).is_err());
    }
    assert!(Lock::shipped("debian-11").unwrap_err().to_string().contains("debian-12"));
}
