//! What a command line presents as evidence.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use lambda_attest::{Collateral, Evidence, MAX_RECORD_BYTES, Record, Tee, UnixTime};
use lambda_sdk::collateral::{self, Cache};
use lambda_sdk::config::Folder;
use lambda_sdk::policies::keys;
use lambda_sdk::presented::{self, Files, Presented};
use serde::de::DeserializeOwned;

use crate::args::{self, CollateralSource, TeeName};
use crate::exit::Failure;

/// Evidence, as it was presented.
pub(crate) enum Subject {
    /// With what was asked.
    Record(Box<Record>),
    /// A guest's, alone.
    Evidence(Box<Evidence>),
    /// As files.
    Presented(Box<Presented>),
}

impl From<TeeName> for Tee {
    fn from(name: TeeName) -> Self {
        match name {
            TeeName::Snp => Self::Snp,
            TeeName::Tdx => Self::Tdx,
            TeeName::Sgx => Self::Sgx,
            TeeName::Cca => Self::Cca,
            TeeName::Psa => Self::Psa,
            TeeName::Tpm => Self::Tpm,
            TeeName::Eventlog => Self::Eventlog,
        }
    }
}

impl Subject {
    /// Reads what the arguments name.
    pub(crate) fn read(args: &args::Evidence) -> Result<Self, Failure> {
        let path = &args.path;
        if path.is_dir() {
            let lone = [
                ("--chain", !args.chain.is_empty()),
                ("--key", !args.key.is_empty()),
                ("--event-log", args.event_log.is_some()),
                ("--signature", args.signature.is_some()),
                ("--registers", args.registers.is_some()),
            ];
            if let Some((option, _)) = lone.iter().find(|(_, given)| *given) {
                return Err(Failure::usage(format!(
                    "{option} goes with a file; of a folder everything is read by its name"
                )));
            }
            let mut presented = presented::folder(path, args.tee.map(Tee::from))?;
            if let Some(nonce) = &args.nonce {
                presented.given.nonce = Some(nonce.to_vec());
            }
            return Ok(Self::Presented(Box::new(presented)));
        }
        match args.tee {
            Some(tee) => Ok(Self::Presented(Box::new(presented::files(tee.into(), &raw_files(args))?))),
            None => Self::document(path),
        }
    }

    /// A record, or evidence alone.
    fn document(path: &Path) -> Result<Self, Failure> {
        let bytes = bounded(path)?;
        if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            let message = format!("{}: byte 0 does not begin a JSON object: say with --tee what it is", path.display());
            return Err(Failure::usage(message));
        }
        // Of the two, only evidence alone has a report.
        let is_alone =
            serde_json::from_slice::<serde_json::Value>(&bytes).is_ok_and(|value| value.get("report").is_some());
        if is_alone {
            return parse(path, &bytes).map(|evidence| Self::Evidence(Box::new(evidence)));
        }
        parse(path, &bytes).map(|record| Self::Record(Box::new(record)))
    }

    /// What it is judged with: what the arguments name, else what lies beside it, else what this machine fetched.
    pub(crate) fn collateral(&self, source: &CollateralSource, now: UnixTime) -> Result<Collateral, Failure> {
        let beside = match self {
            Self::Record(record) => record.collateral.clone(),
            Self::Evidence(_) => Collateral::none(),
            Self::Presented(presented) => presented.collateral.clone(),
        };
        if let Some(given) = given_collateral(source)? {
            return Ok(presented::merge(beside, given));
        }
        let carried = match self {
            Self::Presented(presented) => match &presented.report {
                lambda_attest::Report::Snp(evidence) => !evidence.certificates.is_empty(),
                _ => false,
            },
            _ => false,
        };
        if carried || beside != Collateral::none() {
            return Ok(beside);
        }
        match Folder::from_environment() {
            Ok(folder) => Ok(Cache::of(&folder).collateral(now)?),
            // Without a configuration folder nothing was ever fetched.
            Err(_) => Ok(beside),
        }
    }
}

/// What the arguments name.
fn given_collateral(source: &CollateralSource) -> Result<Option<Collateral>, Failure> {
    let Some(path) = &source.collateral else { return Ok(None) };
    if path.is_dir() {
        if !source.collateral_key.is_empty() {
            return Err(Failure::usage("--collateral-key goes with a signed bundle, and a folder is not signed"));
        }
        return Ok(Some(presented::collateral_folder(path)?));
    }
    let keys: Vec<_> = source.collateral_key.iter().map(|path| keys::load_public(path)).collect::<Result<_, _>>()?;
    let opened = collateral::load_file(path, &keys)?;
    if opened.verified.is_none() && !opened.signers.is_empty() {
        let message =
            format!("{} is a signed bundle: say with --collateral-key who must have signed it", path.display());
        return Err(Failure::usage(message));
    }
    Ok(Some(opened.collateral))
}

/// The files that the arguments name.
fn raw_files(args: &args::Evidence) -> Files {
    let some = |path: &Option<PathBuf>| path.clone();
    Files {
        evidence: Some(args.path.clone()),
        chain: args.chain.clone(),
        keys: args.key.clone(),
        nonce: args.nonce.as_ref().map(|nonce| nonce.to_vec()),
        event_log: some(&args.event_log),
        signature: some(&args.signature),
        registers: some(&args.registers),
    }
}

fn bounded(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(failed)?;
    let most = u64::try_from(MAX_RECORD_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_RECORD_BYTES {
        return Err(Failure::usage(format!("{} is longer than {MAX_RECORD_BYTES} bytes", path.display())));
    }
    Ok(bytes)
}

/// A document; the error names the field.
fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, Failure> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| error.to_string());
    let whole = parsed.and_then(|value| reader.end().map(|()| value).map_err(|error| error.to_string()));
    whole.map_err(|error| Failure::usage(format!("{} cannot be read: {error}", path.display())))
}
