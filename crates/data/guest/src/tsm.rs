//! A confidential processor as an attester: reports through the kernel's trusted security module interface
//! (configfs-tsm, Linux `Documentation/ABI/testing/configfs-tsm`), the same for SEV-SNP, TDX and CCA.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lambda_attest::{
    Binding, CcaEvidence, EVIDENCE_VERSION, Evidence, Report, SnpEvidence, TdxEvidence, report_data,
    snp::certificates_of_table,
};
use lambda_types::guest::FailureReason;
use lambda_types::session::{Challenge, Hello};

use crate::failure::{Because, Failure};
use crate::session::Attester;

/// Where the kernel offers reports.
pub const REPORTS: &str = "/sys/kernel/config/tsm/report";

/// The firmware's event log of a TDX guest.
const CCEL: &str = "/sys/firmware/acpi/tables/data/CCEL";

/// Longest wait for a report: a host may hold back requests.
const BOUND: Duration = Duration::from_secs(20);

/// Attributes are one page at most, but for the certificates.
const MOST_BYTES: u64 = 128 * 1024;

/// What the kernel gave.
pub(crate) struct TsmReport {
    pub(crate) provider: String,
    pub(crate) report: Vec<u8>,
    pub(crate) auxiliary: Vec<u8>,
}

impl TsmReport {
    /// The report with what it takes to judge it. The firmware's event log is read where the provider has one.
    pub(crate) fn evidence(
        self,
        binding: Binding,
        event_log: impl FnOnce() -> Option<Vec<u8>>,
    ) -> Result<Evidence, Box<dyn std::error::Error>> {
        let Self { provider, report, auxiliary } = self;
        let report = match provider.as_str() {
            "sev_guest" => {
                let certificates = certificates_of_table(&auxiliary)?;
                Report::Snp(SnpEvidence { report: report.into(), certificates })
            }
            "tdx_guest" => Report::Tdx(TdxEvidence { quote: report.into(), event_log: event_log().map(Into::into) }),
            "arm_cca_guest" => Report::Cca(CcaEvidence { token: report.into(), event_log: None }),
            other => return Err(format!("the kernel's report provider `{other}` is not known").into()),
        };
        Ok(Evidence { version: EVIDENCE_VERSION, binding, report })
    }
}

/// An attester without state: each report is a request of its own.
#[derive(Debug)]
pub struct TsmAttester {
    reports: PathBuf,
}

impl TsmAttester {
    /// Over this folder of configfs.
    #[must_use]
    pub fn new(reports: &Path) -> Self {
        Self { reports: reports.to_owned() }
    }

    /// One report over 64 bytes of user data.
    fn report(&self, data: &[u8; 64]) -> io::Result<TsmReport> {
        let request = Request::open(&self.reports)?;
        let deadline = Instant::now() + BOUND;
        loop {
            match request.once(data) {
                // Another request came between, or the host asks to come again later.
                Err(error) if is_transient(&error) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                other => return other,
            }
        }
    }

    fn evidence(&self, hello: &Hello, challenge: &Challenge) -> Result<Evidence, Box<dyn std::error::Error>> {
        let binding = Binding::from(hello);
        let report = self.report(&report_data(challenge.nonce.as_slice(), &binding))?;
        report.evidence(binding, || fs::read(CCEL).ok())
    }
}

impl Attester for TsmAttester {
    fn attest(&mut self, hello: &Hello, challenge: &Challenge) -> Result<Vec<u8>, Failure> {
        Ok(self.evidence(hello, challenge).because(FailureReason::Tee, "report")?.to_json())
    }
}

/// A folder that the kernel fills, and that is gone with it.
struct Request(PathBuf);

impl Request {
    fn open(reports: &Path) -> io::Result<Self> {
        let folder = reports.join("lambda");
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(Self(folder)),
        }
    }

    fn once(&self, data: &[u8; 64]) -> io::Result<TsmReport> {
        fs::write(self.0.join("inblob"), data)?;
        let before = self.generation()?;
        let report = self.read("outblob")?;
        let auxiliary = match self.read("auxblob") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        let provider = String::from_utf8_lossy(&self.read("provider")?).trim().to_owned();
        // Somebody else wrote an inblob meanwhile: these bytes may belong to their question.
        if self.generation()? != before {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        Ok(TsmReport { provider, report, auxiliary })
    }

    fn generation(&self) -> io::Result<Vec<u8>> {
        self.read("generation")
    }

    fn read(&self, attribute: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(fs::File::open(self.0.join(attribute))?, MOST_BYTES), &mut bytes)?;
        Ok(bytes)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        // What is left is empty, and the next request takes it over.
        fs::remove_dir(&self.0).ok();
    }
}

fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, ResourceBusy, WouldBlock};
    matches!(error.kind(), Interrupted | ResourceBusy | WouldBlock)
}

#[cfg(test)]
mod tests {
    use lambda_types::{BootId, InstanceId};

    use super::*;

    /// The files of one request, as the kernel's ABI names them. What the processor would write there is written beforehand:
    /// no machine of a test has one.
    fn kernel(provider: &str, generation: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let request = folder.path().join("lambda");
        fs::create_dir(&request).unwrap();
        for (name, content) in
            [("provider", provider), ("generation", generation), ("outblob", "quote"), ("auxblob", "")]
        {
            fs::write(request.join(name), content).unwrap();
        }
        folder
    }

    fn hello() -> Hello {
        Hello {
            protocol: lambda_types::session::PROTOCOL,
            instance: InstanceId::from_bits(1),
            boot: BootId::from_bits(2),
            hpke_public: vec![3; 32].into(),
            ssh_host_key: vec![4; 51].into(),
            tpm: None,
        }
    }

    fn attest(folder: &Path) -> Result<Evidence, String> {
        let challenge = Challenge { nonce: vec![5; 32].into(), credential: None };
        let evidence = TsmAttester::new(folder).attest(&hello(), &challenge).map_err(|failure| failure.to_string())?;
        Ok(Evidence::from_json(&evidence).unwrap())
    }

    #[test]
    fn the_report_is_asked_for_over_the_binding_and_named_after_its_provider() {
        let folder = kernel("tdx_guest\n", "1\n");
        let evidence = attest(folder.path()).unwrap();
        let Report::Tdx(report) = &evidence.report else { panic!("not TDX evidence") };
        assert_eq!(report.quote.as_slice(), b"quote");
        let asked = fs::read(folder.path().join("lambda/inblob")).unwrap();
        assert_eq!(asked, report_data(&[5; 32], &Binding::from(&hello())));
    }

    #[test]
    fn an_unknown_provider_and_a_missing_interface_are_named() {
        let folder = kernel("quantum_guest\n", "1\n");
        assert!(attest(folder.path()).unwrap_err().contains("quantum_guest"));
        let missing = folder.path().join("nothing");
        assert!(attest(&missing).unwrap_err().contains("No such file"), "{:?}", attest(&missing));
    }
}
