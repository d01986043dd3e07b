//! Locks, mirrors and the cache.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Progress;
use crate::apt::Mirrors;
use crate::error::Error;
use crate::hash;
use crate::lock::{Archive, Lock, Package, Use};
use crate::packages::{Packages, default_cache, download};

const CONTENT: &[u8] = b"a package";

/// A mirror over HTTP that answers by what the path contains: `gone` with 404, `ill` with 500, `short` with half of the
/// announced body, `other` with other content, and else with [`CONTENT`].
struct Mirror {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mirror {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                // A client that hangs up in the middle costs its own connection.
                let _ended = serve(&stream.unwrap());
            }
        });
        Self { address, stop, thread: Some(thread) }
    }

    fn mirrors(&self) -> Mirrors {
        let base = format!("http://{}/debian", self.address);
        Mirrors { debian: base.clone(), security: base }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let woken = TcpStream::connect(self.address);
        let ended = self.thread.take().unwrap().join();
        assert!((woken.is_ok() && ended.is_ok()) || std::thread::panicking(), "the mirror did not end well");
    }
}

/// Answers the requests of one connection.
fn serve(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(request) = lines.next() {
        let request = request?;
        for header in lines.by_ref() {
            if header?.is_empty() {
                break;
            }
        }
        let is = |what: &str| request.contains(what);
        let (status, body) = match () {
            () if is("gone") => ("404 Not Found", b"none".as_slice()),
            () if is("ill") => ("500 Internal Server Error", b"none".as_slice()),
            () if is("other") => ("200 OK", b"not the package".as_slice()),
            () => ("200 OK", CONTENT),
        };
        let mut writer = stream;
        write!(writer, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len())?;
        if is("short") {
            writer.write_all(&body[..body.len() / 2])?;
            stream.shutdown(Shutdown::Write)?;
            // Closing with something unread would take back what was sent.
            return (&mut writer).read_to_end(&mut Vec::new()).map(|_| ());
        }
        writer.write_all(body)?;
    }
    Ok(())
}

/// A lock of packages with [`CONTENT`].
fn lock_of(names: &[&str]) -> Lock {
    let mut lock = Lock::shipped("debian-12").unwrap();
    let package = |name: &&str| Package {
        name: (*name).to_owned(),
        version: "1.404-1".into(),
        architecture: "all".into(),
        archive: Archive::Debian,
        // A path with 404 in it, and with what Debian's pool paths need encoded.
        filename: format!("pool/main/404/{name}_1:404+b1~1_all.deb"),
        size: CONTENT.len() as u64,
        sha256: hex::encode(hash::bytes(CONTENT)),
        uses: vec![Use::Root],
    };
    lock.packages = names.iter().map(package).collect();
    lock
}

fn cached(cache: &Path, lock: &Lock) -> Vec<String> {
    let present = |package: &&Package| cache.join(package.cache_name()).is_file();
    lock.packages.iter().filter(present).map(|package| package.name.clone()).collect()
}

#[test]
fn only_what_the_mirror_answers_404_for_is_gone() {
    let (mirror, cache) = (Mirror::start(), tempfile::tempdir().unwrap());
    let lock = lock_of(&["first", "gone", "last"]);
    let gone = download(&lock, &mirror.mirrors(), cache.path(), &mut |_| {}).unwrap();
    assert_eq!(gone.iter().map(|package| package.name.as_str()).collect::<Vec<_>>(), ["gone"]);
    assert_eq!(cached(cache.path(), &lock), ["first", "last"]);
}

#[test]
fn a_package_that_breaks_for_another_reason_fails_the_build_with_it_even_beside_one_that_is_gone() {
    let (mirror, cache) = (Mirror::start(), tempfile::tempdir().unwrap());
    for (name, told) in [("ill", "500"), ("other", "Hash Sum mismatch"), ("short", "")] {
        let lock = lock_of(&["fine", "gone", name]);
        let mut notices = Vec::new();
        let fetched = Packages::fetch(lock.clone(), &mirror.mirrors(), cache.path(), &mut |event| {
            if let Progress::Notice(text) = event {
                notices.push(text);
            }
        });
        match fetched {
            Err(Error::Download { names, mirror: asked }) => {
                assert_eq!((names, asked), (vec![name.to_owned()], mirror.mirrors().debian));
            }
            Err(error) => panic!("{name}: {error}"),
            Ok(_) => panic!("{name} was taken"),
        }
        let said = notices.iter().find_map(|text| text.strip_prefix(&format!("{name} 1.404-1: "))).unwrap();
        assert!(said.contains(told) && !said.trim().is_empty(), "{notices:?}");
        assert!(!notices.iter().any(|text| text.contains("no longer has")), "nothing is locked anew: {notices:?}");
        assert_eq!(cached(cache.path(), &lock), ["fine"]);
    }
}

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
