//! `lambda attest …`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use lambda_attest::UnixTime;
use lambda_types::InstanceId;
use lambda_types::shape::LaunchProfile;

use super::seconds;

/// `lambda attest …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Attest {
    /// Says whether evidence is authentic and what it claims. Nothing can be released on it.
    #[command(after_help = "Examples:
  lambda instance attest web --record web-evidence.json
  lambda attest inspect web-evidence.json
  lambda attest inspect ./evidence --at 2026-01-31T12:00:00Z -o json
  lambda attest inspect report.bin --tee snp --chain vcek.der --chain ask.pem
  lambda attest inspect quote.bin --tee tdx --collateral ./collateral --event-log ccel.bin

Exit codes: 0 authentic and good enough by the default appraisal, 3 not, 2 input that cannot be read.")]
    Inspect(Inspect),
    /// Judges evidence under a policy, without the cloud.
    #[command(after_help = "Examples:
  lambda attest verify web-evidence.json --policy policy.json
  lambda attest verify web-evidence.json --policy policy.json --at 2026-01-31T12:00:00Z
  lambda attest verify quote.bin --tee tdx --policy policy.json --report-data 00ff

Exit codes: 0 accepted, 3 rejected, 2 input that cannot be read. A record holds its spent challenge, so it convinces those
who trust whoever recorded it.")]
    Verify(Box<Verify>),
    /// Reads and replays a firmware event log.
    #[command(after_help = "Examples:
  lambda attest eventlog event_log.bin
  lambda attest eventlog /sys/kernel/security/tpm0/binary_bios_measurements --registers pcrs.json

Exit codes: 0 nothing wrong, 3 something is wrong, 2 not an event log.")]
    Eventlog(EventlogArgs),
    /// Keeps what AMD and Intel publish about their hardware.
    #[command(
        subcommand,
        after_help = "Examples:
  lambda attest collateral fetch web-evidence.json
  lambda attest collateral show"
    )]
    Collateral(Collateral),
    /// Writes, shows, signs and checks release policies.
    #[command(
        subcommand,
        after_help = "Examples:
  lambda attest policy new --from ./debian-12 --out policy.json
  lambda attest policy sign policy.json --key policy.key
  lambda attest policy check policy.json"
    )]
    Policy(Policy),
}

/// Kinds of evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TeeName {
    /// AMD SEV-SNP report, or what configfs-tsm gave (CBOR).
    Snp,
    /// Intel TDX quote.
    Tdx,
    /// Intel SGX quote.
    Sgx,
    /// Arm CCA token.
    Cca,
    /// Arm PSA token.
    Psa,
    /// TPM 2.0 quote (TPMS_ATTEST).
    Tpm,
    /// Event log by itself.
    Eventlog,
}

/// Where evidence is.
#[derive(Debug, Args)]
pub(crate) struct Evidence {
    /// A record of `lambda instance attest --record`, evidence alone, a folder with manifest.json, or a file or folder of the
    /// kind that --tee names.
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// What PATH is, when it does not say so itself.
    #[arg(long, value_enum)]
    pub(crate) tee: Option<TeeName>,
    /// Certificates that came with it, PEM or DER, leaf first; may be given several times.
    #[arg(long, value_name = "FILE", requires = "tee")]
    pub(crate) chain: Vec<PathBuf>,
    /// Public key that signed it, PEM, DER or JWK (TPM, CCA, PSA); may be given several times.
    #[arg(long, value_name = "FILE", requires = "tee")]
    pub(crate) key: Vec<PathBuf>,
    /// Nonce or challenge that it answers: hex, or @FILE with the bytes.
    #[arg(long, value_name = "HEX", requires = "tee", value_parser = bytes)]
    pub(crate) nonce: Option<Bytes>,
    /// Event log of the same boot.
    #[arg(long, value_name = "FILE", requires = "tee")]
    pub(crate) event_log: Option<PathBuf>,
    /// Signature of a TPM quote (TPMT_SIGNATURE).
    #[arg(long, value_name = "FILE", requires = "tee")]
    pub(crate) signature: Option<PathBuf>,
    /// Register values by bank and index, JSON.
    #[arg(long, value_name = "FILE", requires = "tee")]
    pub(crate) registers: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) collateral: CollateralSource,
    /// Judges dates as of this time, UTC; now if left out.
    #[arg(long, value_name = "RFC3339")]
    pub(crate) at: Option<UnixTime>,
}

/// Where collateral is.
#[derive(Debug, Args)]
pub(crate) struct CollateralSource {
    /// Collateral: a bundle of `lambda attest collateral fetch --bundle`, or a folder of certificates, revocation lists and
    /// PCS answers. If left out: what lies beside the evidence, else what this machine fetched.
    #[arg(long, value_name = "FILE|DIR")]
    pub(crate) collateral: Option<PathBuf>,
    /// Public key that must have signed the bundle; may be given several times.
    #[arg(long, value_name = "PUB", requires = "collateral")]
    pub(crate) collateral_key: Vec<PathBuf>,
}

/// Bytes of the command line.
pub(crate) type Bytes = std::sync::Arc<[u8]>;

/// `lambda attest inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    pub(crate) evidence: Evidence,
}

/// `lambda attest verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) evidence: Evidence,
    /// Release policy, plain or signed.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: PathBuf,
    /// The instance that it must be evidence of; of a record, the one that it says was asked if left out. Of a bare report, it is
    /// what the policy may want the host data to name.
    #[arg(long, value_name = "ID")]
    pub(crate) instance: Option<InstanceId>,
    /// What the report must cover: hex, or @FILE with the bytes. A record says so itself; anything else is refused without.
    #[arg(long, value_name = "HEX", value_parser = bytes)]
    pub(crate) report_data: Option<Bytes>,
}

/// `lambda attest eventlog`.
#[derive(Debug, Args)]
pub(crate) struct EventlogArgs {
    /// TCG 1.2, crypto-agile or CCEL log.
    #[arg(value_name = "FILE")]
    pub(crate) log: PathBuf,
    /// Register values by bank and index, JSON, to compare with.
    #[arg(long, value_name = "FILE")]
    pub(crate) registers: Option<PathBuf>,
}

/// `lambda attest collateral …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Collateral {
    /// Fetches what verdicts on some evidence, or on a machine, need.
    #[command(after_help = "Examples:
  lambda attest collateral fetch web-evidence.json
  lambda attest collateral fetch report.bin --tee snp --product genoa
  lambda attest collateral fetch --product milan
  lambda attest collateral fetch --fmspc 00806f050000 --ca platform
  lambda attest collateral fetch --fmspc 00806f050000 --ca platform --bundle collateral.json --key policy.key

Documents that are fresh are not asked for again: certificates never, the rest once a day. Exit code 6: a publisher did not
answer in time.")]
    Fetch(Box<Fetch>),
    /// Writes what this machine has and may still use as one signed file, for a machine that cannot fetch.
    #[command(after_help = "Example:\n  lambda attest collateral export collateral.json --key fetcher.key")]
    Export(Export),
    /// Takes a signed file of another machine: fills this one's collateral with it.
    #[command(after_help = "Examples:
  lambda attest collateral import collateral.json --key fetcher.pub
  lambda attest policy key pin fetcher.pub && lambda attest collateral import collateral.json

All or nothing: a document that is stale or not what it says refuses the file. What this machine fetched later stays. Exit code 3:
refused.")]
    Import(ImportBundle),
    /// Shows what this machine has, or what is in a bundle.
    #[command(after_help = "Examples:
  lambda attest collateral show
  lambda attest collateral show collateral.json --key policy.pub")]
    Show {
        /// A bundle; what this machine fetched if left out.
        #[arg(value_name = "FILE")]
        bundle: Option<PathBuf>,
        /// Public key that must have signed it; may be given several times.
        #[arg(long = "key", value_name = "PUB", requires = "bundle")]
        keys: Vec<PathBuf>,
    },
}

/// `lambda attest collateral export`.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// File to write.
    #[arg(value_name = "FILE")]
    pub(crate) bundle: PathBuf,
    /// Private key that signs it, of `lambda attest policy key new`.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
}

/// `lambda attest collateral import`.
#[derive(Debug, Args)]
pub(crate) struct ImportBundle {
    /// A file of `lambda attest collateral export` or `fetch --bundle`.
    #[arg(value_name = "FILE")]
    pub(crate) bundle: PathBuf,
    /// Public key that must have signed it; may be given several times. The pinned policy keys if left out.
    #[arg(long = "key", value_name = "PUB")]
    pub(crate) keys: Vec<PathBuf>,
}

/// AMD product lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AmdLineName {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004, 8004, 97x4.
    Genoa,
    /// EPYC 9005.
    Turin,
}

/// Intel's technologies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TechnologyName {
    /// Enclaves.
    Sgx,
    /// Trust domains.
    Tdx,
}

/// CAs of Intel platforms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PckCaName {
    /// Single-package platforms.
    Processor,
    /// Multi-package platforms.
    Platform,
}

/// `lambda attest collateral fetch`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("subject").required(true).multiple(true).args(["evidence", "product", "fmspc"]))]
pub(crate) struct Fetch {
    /// Evidence whose verdict needs it: as for `lambda attest inspect`.
    #[arg(value_name = "PATH", conflicts_with = "fmspc")]
    pub(crate) evidence: Option<PathBuf>,
    /// What PATH is, when it does not say so itself.
    #[arg(long, value_enum, requires = "evidence")]
    pub(crate) tee: Option<TeeName>,
    /// AMD product line; needed where a report does not say it.
    #[arg(long, value_enum, conflicts_with = "fmspc")]
    pub(crate) product: Option<AmdLineName>,
    /// Chip id, hex, for that chip's certificate.
    #[arg(long, value_name = "HEX", requires = "product", requires = "tcb", conflicts_with = "evidence")]
    pub(crate) chip_id: Option<String>,
    /// TCB of that certificate.
    #[arg(long, value_name = "bl=N,tee=N,snp=N,ucode=N[,fmc=N]", requires = "chip_id", value_parser = tcb)]
    pub(crate) tcb: Option<lambda_sdk::collateral::AmdTcb>,
    /// The chain and revocation list of cloud providers' keys (VLEK) instead of chips' own (VCEK).
    #[arg(long, requires = "product", conflicts_with_all = ["evidence", "chip_id"])]
    pub(crate) vlek: bool,
    /// Intel platform family (FMSPC), hex.
    #[arg(long, value_name = "HEX", requires = "ca")]
    pub(crate) fmspc: Option<String>,
    /// CA that certified the platform.
    #[arg(long, value_enum, requires = "fmspc")]
    pub(crate) ca: Option<PckCaName>,
    /// For which of Intel's technologies.
    #[arg(long, value_enum, requires = "fmspc", default_value_t = TechnologyName::Tdx)]
    pub(crate) technology: TechnologyName,
    /// AMD's service, or a mirror.
    #[arg(long, value_name = "URL")]
    pub(crate) kds_url: Option<String>,
    /// Intel's service, or a PCCS.
    #[arg(long, value_name = "URL")]
    pub(crate) pcs_url: Option<String>,
    /// The revocation list of Intel's root, DER.
    #[arg(long, value_name = "URL")]
    pub(crate) root_crl_url: Option<String>,
    /// The only CAs that the services' TLS certificates may come from, PEM; this system's if left out.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Gives up on a document after this many seconds, pauses that its publisher asks for included.
    #[arg(long, default_value = "120", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Duration,
    /// Writes what was fetched as one signed file, for a machine that cannot fetch.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) bundle: Option<PathBuf>,
    /// Private key that signs the bundle, of `lambda attest policy key new`.
    #[arg(long, value_name = "FILE", requires = "bundle")]
    pub(crate) key: Option<PathBuf>,
}

/// `lambda attest policy …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Writes a policy that accepts one image, with what it measures to under every profile that it has values for.
    #[command(after_help = "Examples:
  lambda attest policy new --from ./debian-12 --out policy.json
  lambda attest policy new --from image.json --profile snp --profile tdx --out policy.json

A folder is measured first; an image.json alone is taken at its word. Profile tpm needs the platform CA pinned at connect.
Profile snp pins your keys for ID blocks (`lambda key show`), which are made when they are first needed.")]
    New(NewPolicy),
    /// Says what a policy accepts.
    #[command(after_help = "Example:\n  lambda attest policy show policy.json")]
    Show {
        /// The policy, plain or signed.
        #[arg(value_name = "FILE")]
        policy: PathBuf,
    },
    /// Signs a policy.
    #[command(after_help = "Examples:
  lambda attest policy sign policy.json --key policy.key
  lambda attest policy sign policy.json --key policy.key --out signed.json")]
    Sign(SignPolicy),
    /// Says what a policy leaves out, and whether its signature holds.
    #[command(after_help = "Examples:
  lambda attest policy check policy.json
  lambda attest policy check policy.json --key policy.pub

Each expectation that is left out fails its check, whatever the evidence. Exit codes: 0 complete and, where a key was given or is
pinned, signed by it; 3 not; 2 not a policy.")]
    Check {
        /// The policy, plain or signed.
        #[arg(value_name = "FILE")]
        policy: PathBuf,
        /// Public key that must have signed it; may be given several times. The pinned ones if left out.
        #[arg(long = "key", value_name = "PUB")]
        keys: Vec<PathBuf>,
    },
    /// Makes, shows and pins the keys that sign policies and bundles of collateral.
    #[command(
        subcommand,
        after_help = "Examples:\n  lambda attest policy key new policy.key\n  lambda attest policy key pin policy.pub"
    )]
    Key(PolicyKey),
}

/// `lambda attest policy new`.
#[derive(Debug, Args)]
pub(crate) struct NewPolicy {
    /// Image folder, measured first; or an image.json, taken at its word.
    #[arg(long, value_name = "DIR|FILE")]
    pub(crate) from: PathBuf,
    /// Launch profile to accept: tpm, snp, tdx or sgx; every one that the image has values for if left out. May be given
    /// several times.
    #[arg(long)]
    pub(crate) profile: Vec<LaunchProfile>,
    /// File to write; standard output if left out.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// `lambda attest policy sign`.
#[derive(Debug, Args)]
pub(crate) struct SignPolicy {
    /// The policy.
    #[arg(value_name = "FILE")]
    pub(crate) policy: PathBuf,
    /// Private key, of `lambda attest policy key new`.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// File to write; in place of the policy if left out.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

/// `lambda attest policy key …`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyKey {
    /// Makes an Ed25519 key (PKCS#8, mode 0600), and its public half beside it.
    #[command(after_help = "Example:\n  lambda attest policy key new policy.key")]
    New {
        /// File to write; never overwritten. The public key goes to the same name with `.pub` for its extension.
        #[arg(value_name = "FILE")]
        out: PathBuf,
    },
    /// Shows the public half of a key, and its id.
    #[command(after_help = "Example:\n  lambda attest policy key show policy.key")]
    Show {
        /// Private or public key.
        #[arg(value_name = "FILE")]
        key: PathBuf,
    },
    /// Takes policy files only when one of these keys signed them, on this machine, from here on.
    #[command(after_help = "Example:\n  lambda attest policy key pin policy.pub")]
    Pin {
        /// Public keys; they replace earlier ones.
        #[arg(value_name = "PUB", required = true)]
        keys: Vec<PathBuf>,
    },
    /// Takes any policy file again.
    #[command(after_help = "Example:\n  lambda attest policy key unpin")]
    Unpin,
}

/// Hex, or the bytes of a file.
fn bytes(text: &str) -> Result<Bytes, String> {
    if let Some(path) = text.strip_prefix('@') {
        return lambda_sdk::presented::bounded(path.as_ref()).map(Bytes::from).map_err(|error| error.to_string());
    }
    let digits = text.strip_prefix("0x").unwrap_or(text).as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    pairs.collect::<Option<Vec<u8>>>().map(Bytes::from).ok_or_else(|| "expected hex, or @FILE".into())
}

/// Firmware versions by part.
fn tcb(text: &str) -> Result<lambda_sdk::collateral::AmdTcb, String> {
    let bad = || "expected bl=N,tee=N,snp=N,ucode=N, and fmc=N on Turin, each 0 to 255".to_owned();
    let mut parts = std::collections::BTreeMap::new();
    for part in text.split(',') {
        let (name, value) = part.split_once('=').ok_or_else(bad)?;
        let value: u8 = value.parse().map_err(|_| bad())?;
        if parts.insert(name, value).is_some() {
            return Err(bad());
        }
    }
    let fmc = parts.remove("fmc");
    match (parts.remove("bl"), parts.remove("tee"), parts.remove("snp"), parts.remove("ucode"), parts.is_empty()) {
        (Some(bl), Some(tee), Some(snp), Some(ucode), true) => {
            Ok(lambda_sdk::collateral::AmdTcb { bl, tee, snp, ucode, fmc })
        }
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_hex_or_a_file() {
        assert_eq!(bytes("00fF").unwrap().as_ref(), [0, 255]);
        assert!(bytes("0x").unwrap().is_empty());
        assert!(bytes("0").is_err() && bytes("xy").is_err() && bytes("@/nonexistent").is_err());
    }

    #[test]
    fn a_tcb_names_each_part_once() {
        let parts = tcb("bl=10,tee=0,snp=23,ucode=84").unwrap();
        assert_eq!((parts.bl, parts.tee, parts.snp, parts.ucode, parts.fmc), (10, 0, 23, 84, None));
        assert_eq!(tcb("fmc=1,bl=1,tee=1,snp=1,ucode=1").unwrap().fmc, Some(1));
        for bad in
            ["", "bl=1", "bl=1,tee=1,snp=1,ucode=256", "bl=1,bl=1,tee=1,snp=1,ucode=1", "bl=1,tee=1,snp=1,ucode=1,x=1"]
        {
            assert!(tcb(bad).is_err(), "{bad}");
        }
    }
}
