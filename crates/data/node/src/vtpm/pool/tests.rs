use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use lambda_transport::pki::Authority;

use super::*;
use crate::host::cgroup::{Cgroups, Limits};
use crate::vtpm::control::Control;

const UID: u32 = 412_400;

struct Bench {
    folder: tempfile::TempDir,
    cgroups: Cgroups,
    platform: Authority,
    workshop: Workshop,
}

impl Bench {
    fn new(swtpm: &str) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        std::fs::create_dir(folder.path().join("instance")).unwrap();
        let cgroups = Cgroups::open(folder.path()).unwrap();
        let limits = Limits { memory_bytes: 64 << 20, processes: 16, cpus: 1 };
        let cgroup = Arc::new(cgroups.create("pool", limits).unwrap());
        let platform = Authority::generate("platform").unwrap();
        let authority = Arc::new(platform.issue_authority("node").unwrap());
        let workshop = Workshop { swtpm: swtpm.into(), authority, uid: UID, cgroup };
        Self { folder, cgroups, platform, workshop }
    }

    fn pool(&self) -> Pool {
        Pool::open(&self.folder.path().join("pool"), self.workshop.clone(), 1).unwrap()
    }

    fn instance(&self) -> PathBuf {
        self.folder.path().join("instance")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let bound = Duration::from_secs(5);
        self.cgroups.remove("pool", bound).and_then(|()| self.cgroups.remove_roots(bound)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_verifies_the_endorsement_certificate_up_to_the_platform_ca() {
    let bench = Bench::new("/usr/bin/swtpm");
    let identity = bench.pool().adopt(&bench.instance()).await.unwrap();
    let path = |name: &str| bench.folder.path().join(name);
    for (name, der) in ["ek.der", "node.der"].iter().zip(&identity.ek_chain) {
        std::fs::write(path(name), der.as_slice()).unwrap();
        let converted = Command::new("openssl")
            .args(["x509", "-inform", "der", "-in"])
            .arg(path(name))
            .arg("-out")
            .arg(path(name).with_extension("pem"))
            .status();
        assert!(converted.unwrap().success());
    }
    std::fs::write(path("platform.pem"), bench.platform.certificate_pem()).unwrap();
    let verified = Command::new("openssl")
        .args(["verify", "-x509_strict", "-CAfile"])
        .arg(path("platform.pem"))
        .arg("-untrusted")
        .arg(path("node.pem"))
        .arg(path("ek.pem"))
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let text = Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(path("ek.pem")).output().unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for part in ["CA:FALSE", "Key Agreement", "2.23.133.8.1", "prime256v1"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let other = Authority::generate("platform").unwrap();
    std::fs::write(path("platform.pem"), other.certificate_pem()).unwrap();
    let refused = Command::new("openssl")
        .args(["verify", "-CAfile"])
        .arg(path("platform.pem"))
        .arg("-untrusted")
        .arg(path("node.pem"))
        .arg(path("ek.pem"))
        .status();
    assert!(!refused.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_and_a_half_moved_vtpm_of_an_earlier_agent_are_removed_and_a_finished_one_is_kept() {
    let bench = Bench::new("/usr/bin/swtpm");
    let pool = bench.folder.path().join("pool");
    std::fs::create_dir_all(pool.join("new-3/tpm")).unwrap();
    std::fs::create_dir_all(pool.join("4")).unwrap();
    std::fs::write(pool.join("4/vtpm.json"), b"{}").unwrap();
    std::fs::create_dir_all(pool.join("7/tpm")).unwrap();
    std::fs::write(pool.join("7/vtpm.json"), b"{}").unwrap();
    let (finished, next) = take_stock(&pool).unwrap();
    assert_eq!((finished, next), (vec![pool.join("7")], 8));
    assert_eq!(std::fs::read_dir(&pool).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_adoption_is_replaced_by_a_whole_one() {
    let bench = Bench::new("/usr/bin/swtpm");
    std::fs::create_dir(bench.instance().join("tpm")).unwrap();
    std::fs::write(bench.instance().join("tpm/half"), b"x").unwrap();
    let identity = bench.pool().adopt(&bench.instance()).await.unwrap();
    assert_eq!(Identity::load(&bench.instance()).unwrap(), Some(identity));
    assert!(!bench.instance().join("tpm/half").exists());
    assert!(bench.instance().join("tpm/tpm2-00.permall").exists());
}

/// Powers a vTPM on, reads its endorsement key, and kills swtpm with the TPM running.
fn key_read_before_a_kill(bench: &Bench) -> lambda_tpm::Public {
    use crate::host::process::end_child;
    use crate::layout::{connect, listen};
    let folder = bench.instance();
    let listener = listen(&folder, file::TPM_SOCKET, 0o600).unwrap();
    let workshop = &bench.workshop;
    let process = crate::vtpm::start(&workshop.swtpm, &folder, &listener, UID, &workshop.cgroup).unwrap();
    let mut control = Control::new(connect(&folder, file::TPM_SOCKET).unwrap()).unwrap();
    let mut data = control.open_data().unwrap();
    control.power_on().unwrap();
    let mut tpm = lambda_tpm::Tpm::new(&mut data);
    tpm.startup_clear().unwrap();
    let public = tpm.create_ek().unwrap().public;
    end_child(process, Duration::ZERO).unwrap();
    public
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endorsement_key_survives_that_swtpm_is_killed() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let bench = Bench::new("/usr/bin/swtpm");
    let identity = bench.pool().adopt(&bench.instance()).await.unwrap();
    std::fs::set_permissions(bench.instance(), std::fs::Permissions::from_mode(0o711)).unwrap();
    chown(bench.instance().join("tpm"), Some(UID), Some(UID)).unwrap();
    for _ in 0..3 {
        assert_eq!(key_read_before_a_kill(&bench).encode().unwrap(), identity.ek_public.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_swtpm_is_named_in_the_error() {
    let bench = Bench::new("/nonexistent/swtpm");
    let error = bench.pool().adopt(&bench.instance()).await.unwrap_err();
    assert!(matches!(error, VtpmError::Start { .. }), "{error}");
    assert!(error.to_string().contains("/nonexistent/swtpm"));
}
