//! Which confidential launch profiles this host can run, how many guests of each, and why not.
//!
//! Nothing is believed for a device file being there: the kernel's module says that the technology is on, the `misc`
//! cgroup controller says how many guests the hardware has keys for, and QEMU says that it can use them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lambda_types::launch::TeeCapacity;
use lambda_types::shape::LaunchProfile;
use serde::Deserialize;

use crate::qemu::launch::{EPC_MIB, SnpHost};

/// How long QEMU may take to say what it can do.
const BOUND: Duration = Duration::from_secs(10);

/// Most bytes of QEMU's answer.
const MAX_ANSWER: u64 = 256 * 1024;

/// One profile on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// Which.
    pub profile: LaunchProfile,
    /// How many guests, or what is missing.
    pub outcome: Result<u32, Lack>,
}

/// Why a profile cannot run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// What was found.
    pub what: String,
    /// What to do.
    pub fix: &'static str,
}

fn lack(what: impl Into<String>, fix: &'static str) -> Lack {
    Lack { what: what.into(), fix }
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Tees {
    snp: Option<SnpHost>,
    support: Vec<Support>,
}

impl Tees {
    /// Asks the kernel and QEMU.
    #[must_use]
    pub fn detect(qemu: &Path) -> Self {
        Host { root: root(qemu), qemu: qemu.to_owned() }.detect()
    }

    /// Every confidential profile, possible or not.
    #[must_use]
    pub fn support(&self) -> &[Support] {
        &self.support
    }

    /// What may be given out.
    #[must_use]
    pub fn capacities(&self) -> Vec<TeeCapacity> {
        let able =
            |it: &Support| it.outcome.as_ref().ok().map(|slots| TeeCapacity { profile: it.profile, slots: *slots });
        self.support.iter().filter_map(able).collect()
    }

    /// What QEMU has to be told of an SNP host's processor.
    pub(crate) fn snp(&self) -> Option<SnpHost> {
        self.snp
    }

    pub(crate) fn can(&self, profile: LaunchProfile) -> bool {
        self.support.iter().any(|it| it.profile == profile && it.outcome.is_ok())
    }
}

/// Answers of QMP's `query-sev-capabilities` that are used.
#[derive(Deserialize)]
struct SevCapabilities {
    cbitpos: u8,
    #[serde(rename = "reduced-phys-bits")]
    reduced_phys_bits: u8,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "return")]
    value: Option<serde_json::Value>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

/// Below which the kernel's files are.
#[cfg(not(feature = "simulated-tee"))]
fn root(_qemu: &Path) -> PathBuf {
    PathBuf::from("/")
}

/// Below which the kernel's files are: a QEMU that simulates a processor brings them along, in the folder `host` beside it.
#[cfg(feature = "simulated-tee")]
fn root(qemu: &Path) -> PathBuf {
    let beside = qemu.with_file_name("host");
    if beside.is_dir() { beside } else { PathBuf::from("/") }
}

#[cfg(all(feature = "simulated-tee", not(debug_assertions)))]
compile_error!("the feature `simulated-tee` believes made-up hardware and does not belong in a release build");

struct Host {
    root: PathBuf,
    qemu: PathBuf,
}

impl Host {
    fn detect(&self) -> Tees {
        let snp = self.snp();
        let support = |profile, outcome| Support { profile, outcome };
        let tees = vec![
            support(LaunchProfile::Snp, snp.as_ref().map(|(_, slots)| *slots).map_err(Lack::clone)),
            support(LaunchProfile::Tdx, self.tdx()),
            support(LaunchProfile::Sgx, self.sgx()),
            support(LaunchProfile::Cca, self.cca()),
        ];
        Tees { snp: snp.ok().map(|(host, _)| host), support: tees }
    }

    fn is_on(&self, parameter: &str) -> bool {
        std::fs::read_to_string(self.root.join(parameter)).is_ok_and(|text| matches!(text.trim(), "Y" | "1"))
    }

    /// What the `misc` controller has of a resource.
    fn capacity(&self, resource: &str) -> Option<u64> {
        let files = ["sys/fs/cgroup/misc.capacity", "sys/fs/cgroup/misc/misc.capacity"];
        let text = files.iter().find_map(|file| std::fs::read_to_string(self.root.join(file)).ok())?;
        text.lines().find_map(|line| line.strip_prefix(resource)?.strip_prefix(' ')?.trim().parse().ok())
    }

    fn slots(&self, resource: &str, what: &str) -> Result<u32, Lack> {
        const FIX: &str =
            "boot a kernel with the misc cgroup controller, and leave keys to such guests in the firmware";
        match self.capacity(resource) {
            Some(slots) if slots > 0 => Ok(u32::try_from(slots).unwrap_or(u32::MAX)),
            Some(_) => Err(lack(format!("the firmware leaves no {what} to such guests"), FIX)),
            None => Err(lack(format!("the kernel does not say how many {what} there are (misc.capacity)"), FIX)),
        }
    }

    fn snp(&self) -> Result<(SnpHost, u32), Lack> {
        if !self.is_on("sys/module/kvm_amd/parameters/sev_snp") {
            let fix = "an AMD EPYC 7003 or newer, SEV-SNP and its RMP table enabled in the firmware, Linux 6.11 or newer, \
                       kvm_amd loaded with sev_snp=1";
            return Err(lack("kvm_amd does not run SEV-SNP guests", fix));
        }
        if !self.root.join("dev/sev").exists() {
            return Err(lack("there is no /dev/sev", "modprobe ccp, and update the processor's security firmware"));
        }
        // The ASIDs of SNP guests are those of SEV-ES.
        let slots = self.slots("sev_es", "address space ids")?;
        let fix = "install QEMU 9.1 or newer, and let the group kvm open /dev/kvm and /dev/sev";
        self.has_object("sev-snp-guest", fix)?;
        let SevCapabilities { cbitpos, reduced_phys_bits } = self
            .ask("query-sev-capabilities")
            .and_then(|value| serde_json::from_value(value).map_err(|error| error.to_string()))
            .map_err(|said| lack(format!("QEMU cannot use SEV: {said}"), fix))?;
        Ok((SnpHost { cbitpos, reduced_phys_bits }, slots))
    }

    fn tdx(&self) -> Result<u32, Lack> {
        if !self.is_on("sys/module/kvm_intel/parameters/tdx") {
            let fix = "a Xeon with TDX, TDX enabled in the firmware, Linux 6.16 or newer, kvm_intel loaded with tdx=1";
            return Err(lack("kvm_intel does not run TDX guests", fix));
        }
        self.has_object("tdx-guest", "install QEMU 10.1 or newer")?;
        self.slots("tdx", "TDX key ids")
    }

    /// Enclave memory is counted in guests of a fixed share.
    fn sgx(&self) -> Result<u32, Lack> {
        if !self.root.join("dev/sgx_vepc").exists() {
            let fix =
                "a Xeon with SGX, SGX and its enclave memory enabled in the firmware, a kernel with CONFIG_X86_SGX_KVM";
            return Err(lack("there is no /dev/sgx_vepc", fix));
        }
        let bytes = u64::from(self.slots("sgx_epc", "bytes of enclave memory")?);
        let slots = bytes / (u64::from(EPC_MIB) << 20);
        let fix = "give SGX more memory in the firmware (PRMRR size)";
        match u32::try_from(slots).unwrap_or(u32::MAX) {
            0 => Err(lack(format!("{bytes} bytes of enclave memory are less than one guest's {EPC_MIB} MiB"), fix)),
            slots => Ok(slots),
        }
    }

    fn cca(&self) -> Result<u32, Lack> {
        let fix = "an Arm v9 machine with the Realm Management Extension, and the node built for it";
        Err(lack(format!("this is a node for {}", std::env::consts::ARCH), fix))
    }

    fn has_object(&self, object: &str, fix: &'static str) -> Result<(), Lack> {
        let arguments = ["-machine", "none", "-object", "help"];
        let output = Command::new(&self.qemu).args(arguments).env_clear().stdin(Stdio::null()).output();
        let output = output.map_err(|error| lack(format!("cannot run {}: {error}", self.qemu.display()), fix))?;
        let known = String::from_utf8_lossy(&output.stdout).lines().any(|line| line.trim() == object);
        if known { Ok(()) } else { Err(lack(format!("QEMU knows no {object}"), fix)) }
    }

    /// One QMP command to a QEMU that runs nothing.
    fn ask(&self, command: &str) -> Result<serde_json::Value, String> {
        let script =
            format!("{{\"execute\":\"qmp_capabilities\"}}\n{{\"execute\":\"{command}\"}}\n{{\"execute\":\"quit\"}}\n");
        let mut child = Command::new("timeout")
            .arg(BOUND.as_secs().to_string())
            .arg(&self.qemu)
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "none", "-accel", "kvm"])
            .args(["-qmp", "stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot run {}: {error}", self.qemu.display()))?;
        let written = child.stdin.take().map(|mut input| input.write_all(script.as_bytes()));
        let mut text = String::new();
        if let Some(output) = child.stdout.take() {
            use std::io::Read as _;
            output.take(MAX_ANSWER).read_to_string(&mut text).map_err(|error| error.to_string())?;
        }
        child.wait().map_err(|error| error.to_string())?;
        // A QEMU that ended at once did not read; what it said before says why.
        if !matches!(written, Some(Ok(()))) && text.is_empty() {
            return Err("it ended at once".into());
        }
        answer(&text)
    }
}

/// The answer to the second command: the first that is neither greeting, empty answer nor event.
fn answer(text: &str) -> Result<serde_json::Value, String> {
    let answers = text.lines().filter_map(|line| serde_json::from_str::<Answer>(line).ok());
    for Answer { value, error } in answers {
        if let Some(Refusal { desc }) = error {
            return Err(desc);
        }
        if let Some(value) = value.filter(|value| value.as_object().is_some_and(|object| !object.is_empty())) {
            return Ok(value);
        }
    }
    Err("it says nothing about it".into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        /// A QEMU that says this, whatever it is asked: no machine of a test has the processor.
        fn detect(&self, said: &str) -> Tees {
            let qemu = self.0.path().join("qemu");
            std::fs::write(&qemu, format!("#!/bin/sh\ncat <<'X'\n{said}\nX\n")).unwrap();
            std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).unwrap();
            Host { root: self.0.path().to_owned(), qemu }.detect()
        }
    }

    fn what(tees: &Tees, profile: LaunchProfile) -> &str {
        let found = tees.support().iter().find(|it| it.profile == profile).unwrap();
        &found.outcome.as_ref().unwrap_err().what
    }

    const SEV: &str = r#"  sev-snp-guest
{"QMP": {"version": {}, "capabilities": []}}
{"return": {}}
{"return": {"cbitpos": 51, "reduced-phys-bits": 1, "pdh": "x", "cert-chain": "x", "cpu0-id": "x"}}"#;

    #[test]
    fn an_snp_host_offers_as_many_guests_as_it_has_address_space_ids() {
        let host = Machine::new();
        assert_eq!(what(&host.detect(SEV), LaunchProfile::Snp), "kvm_amd does not run SEV-SNP guests");
        host.file("sys/module/kvm_amd/parameters/sev_snp", "Y\n");
        assert_eq!(what(&host.detect(SEV), LaunchProfile::Snp), "there is no /dev/sev");
        host.file("dev/sev", "");
        assert!(what(&host.detect(SEV), LaunchProfile::Snp).contains("misc.capacity"));
        host.file("sys/fs/cgroup/misc.capacity", "sev 410\nsev_es 99\n");
        assert_eq!(what(&host.detect("  sev-guest"), LaunchProfile::Snp), "QEMU knows no sev-snp-guest");
        let tees = host.detect(SEV);
        assert_eq!(tees.capacities(), [TeeCapacity { profile: LaunchProfile::Snp, slots: 99 }]);
        assert_eq!(tees.snp(), Some(SnpHost { cbitpos: 51, reduced_phys_bits: 1 }));
        let refused = r#"  sev-snp-guest
{"return": {}}
{"error": {"class": "GenericError", "desc": "SEV: Failed to initialize"}}"#;
        assert_eq!(what(&host.detect(refused), LaunchProfile::Snp), "QEMU cannot use SEV: SEV: Failed to initialize");
        host.file("sys/fs/cgroup/misc.capacity", "sev_es 0\n");
        assert!(what(&host.detect(SEV), LaunchProfile::Snp).contains("no address space ids"));
    }

    #[test]
    fn a_tdx_host_needs_a_qemu_that_knows_the_object() {
        let host = Machine::new();
        assert_eq!(what(&host.detect(""), LaunchProfile::Tdx), "kvm_intel does not run TDX guests");
        host.file("sys/module/kvm_intel/parameters/tdx", "Y\n");
        host.file("sys/fs/cgroup/misc.capacity", "tdx 31\n");
        assert_eq!(
            what(&host.detect("List of objects:\n  sev-snp-guest"), LaunchProfile::Tdx),
            "QEMU knows no tdx-guest"
        );
        let tees = host.detect("List of objects:\n  tdx-guest");
        assert_eq!(tees.capacities(), [TeeCapacity { profile: LaunchProfile::Tdx, slots: 31 }]);
    }

    #[test]
    fn enclave_memory_is_shared_out_in_whole_guests() {
        let host = Machine::new();
        assert_eq!(what(&host.detect(""), LaunchProfile::Sgx), "there is no /dev/sgx_vepc");
        host.file("dev/sgx_vepc", "");
        host.file("sys/fs/cgroup/misc.capacity", "sgx_epc 201326592\n");
        assert_eq!(host.detect("").capacities(), [TeeCapacity { profile: LaunchProfile::Sgx, slots: 3 }]);
        host.file("sys/fs/cgroup/misc.capacity", "sgx_epc 1048576\n");
        assert!(what(&host.detect(""), LaunchProfile::Sgx).contains("less than one guest's"));
    }
}
