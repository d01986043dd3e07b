//! `lambda attest collateral fetch|show|export|import`: what AMD and Intel publish, on this machine and for others.

use std::path::Path;

use lambda_attest::{AmdLine, Collateral, UnixTime};
use lambda_sdk::collateral::{
    self, AmdKey, Cache, Document, Fetched, Fetcher, Imported, Named, Opened, Origin, PckCa, Publishers, Technology,
};
use lambda_sdk::config::Folder;
use lambda_sdk::policies::keys::{self, PolicyKey};
use lambda_sdk::{files, policies, presented};
use serde::Serialize;

use crate::args::{
    AmdLineName, CollateralSource, Evidence, Export, Fetch, Format, ImportBundle, PckCaName, TechnologyName,
};
use crate::commands::attest::{Subject, inspection, instant};
use crate::exit::{Failure, REFUSED};
use crate::output::{self, Show, table};

/// A document on this machine.
#[derive(Serialize)]
struct Row {
    document: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'static str>,
    source: String,
    fetched: String,
    until: String,
    current: bool,
    bytes: usize,
}

impl Row {
    fn new(entry: &collateral::Entry, origin: Option<Origin>, now: UnixTime) -> Self {
        Self {
            document: entry.document.name(),
            from: origin.map(|origin| match origin {
                Origin::Cache => "cache",
                Origin::Publisher => "publisher",
            }),
            source: entry.source.clone(),
            fetched: entry.fetched.to_string(),
            until: entry.until.to_string(),
            current: entry.is_current(now),
            bytes: entry.body.as_slice().len(),
        }
    }
}

#[derive(Serialize)]
struct Listing {
    documents: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<String>,
}

impl Show for Listing {
    fn text(&self) -> String {
        if self.documents.is_empty() {
            return "nothing was fetched: lambda attest collateral fetch --help".into();
        }
        let rows = self.documents.iter().map(|row| {
            let state = if row.current { row.from.unwrap_or("current") } else { "RAN OUT" };
            [row.document.clone(), state.to_owned(), row.fetched.clone(), row.until.clone(), row.bytes.to_string()]
        });
        let mut text = table(["DOCUMENT", "STATE", "FETCHED", "GOOD UNTIL", "BYTES"], rows);
        if let Some(bundle) = &self.bundle {
            text.push_str(&format!("\n{bundle}"));
        }
        text
    }
}

/// `lambda attest collateral fetch`.
pub(crate) async fn fetch(format: Format, args: &Fetch) -> Result<(), Failure> {
    let now = instant(None)?;
    let wanted = wanted(args, now)?;
    // Before anything is asked for: a key that cannot be read must not be noticed after the work.
    let key = args.key.as_deref().map(PolicyKey::load).transpose()?;
    let tls_ca = args.tls_ca.as_deref().map(presented::bounded).transpose()?;
    let tls_ca = tls_ca.map(String::from_utf8).transpose().map_err(|_| Failure::usage("--tls-ca is not PEM"))?;
    let default = Publishers::default();
    let publishers = Publishers {
        kds: args.kds_url.clone().unwrap_or(default.kds),
        pcs: args.pcs_url.clone().unwrap_or(default.pcs),
        root_crl: args.root_crl_url.clone().unwrap_or(default.root_crl),
    };
    let fetcher = Fetcher::new(publishers, tls_ca.as_deref(), args.timeout)?;
    let cache = Cache::of(&Folder::from_environment()?);
    let mut fetched = Vec::new();
    for document in &wanted {
        fetched.push(fetcher.fetch(&cache, document, now).await?);
    }
    let mut bundle = None;
    if let (Some(path), Some(key)) = (&args.bundle, &key) {
        let entries: Vec<_> = fetched.iter().map(|Fetched { entry, .. }| entry.clone()).collect();
        files::write(path, &collateral::seal(&entries, key)?)?;
        bundle = Some(format!("{}, signed by key {}", path.display(), keys::id(&key.public())));
    }
    let documents = fetched.iter().map(|Fetched { entry, origin }| Row::new(entry, Some(*origin), now)).collect();
    output::print(format, &Listing { documents, bundle })
}

fn wanted(args: &Fetch, now: UnixTime) -> Result<Vec<Document>, Failure> {
    let line = args.product.map(line);
    if let Some(path) = &args.evidence {
        let source = CollateralSource { collateral: None, collateral_key: Vec::new() };
        let evidence = Evidence {
            path: path.clone(),
            tee: args.tee,
            chain: Vec::new(),
            key: Vec::new(),
            nonce: None,
            event_log: None,
            signature: None,
            registers: None,
            collateral: source,
            at: None,
        };
        let subject = Subject::read(&evidence)?;
        let inspection = inspection(path, &subject, &Collateral::none(), now)?;
        return Ok(collateral::documents_for(&inspection, line)?);
    }
    let machine = match (line, &args.fmspc, args.ca) {
        (Some(line), _, _) => Named::Amd {
            line,
            chip: args.chip_id.clone().zip(args.tcb),
            key: if args.vlek { AmdKey::Vlek } else { AmdKey::Vcek },
        },
        (None, Some(fmspc), Some(ca)) => Named::Intel {
            technology: match args.technology {
                TechnologyName::Sgx => Technology::Sgx,
                TechnologyName::Tdx => Technology::Tdx,
            },
            fmspc: fmspc.clone(),
            ca: match ca {
                PckCaName::Processor => PckCa::Processor,
                PckCaName::Platform => PckCa::Platform,
            },
        },
        _ => return Err(Failure::usage("name evidence, --product, or --fmspc with --ca")),
    };
    Ok(collateral::documents_named(&machine)?)
}

const fn line(name: AmdLineName) -> AmdLine {
    match name {
        AmdLineName::Milan => AmdLine::Milan,
        AmdLineName::Genoa => AmdLine::Genoa,
        AmdLineName::Turin => AmdLine::Turin,
    }
}

/// What is in a bundle.
#[derive(Serialize)]
struct Bundle {
    as_of: Option<String>,
    signed_by: Vec<String>,
    verified: Option<String>,
    amd_certificates: usize,
    amd_revocation_lists: usize,
    intel_platforms: Vec<String>,
}

impl Show for Bundle {
    fn text(&self) -> String {
        let signature = match (&self.verified, self.signed_by.as_slice()) {
            (Some(key), _) => format!("by key {key}"),
            (None, []) => "none".into(),
            (None, signers) => format!("claims key {}, not checked: give --key", signers.join(", ")),
        };
        format!(
            "signature        {signature}\nas of            {}\nAMD              {} certificates, {} revocation lists\nIntel            {}",
            self.as_of.as_deref().unwrap_or("not said"),
            self.amd_certificates,
            self.amd_revocation_lists,
            if self.intel_platforms.is_empty() { "nothing".to_owned() } else { self.intel_platforms.join("; ") },
        )
    }
}

/// `lambda attest collateral show`.
pub(crate) fn show(format: Format, bundle: Option<&Path>, trusted: &[std::path::PathBuf]) -> Result<(), Failure> {
    let now = instant(None)?;
    let Some(path) = bundle else {
        let entries = Cache::of(&Folder::from_environment()?).entries()?;
        let documents = entries.iter().map(|entry| Row::new(entry, None, now)).collect();
        return output::print(format, &Listing { documents, bundle: None });
    };
    let trusted: Vec<_> = trusted.iter().map(|path| keys::load_public(path)).collect::<Result<_, _>>()?;
    let Opened { collateral, entries: _, signers, verified } = match collateral::load_file(path, &trusted) {
        Err(lambda_sdk::Error::NotTrusted(message)) => return Err(Failure::new(REFUSED, message)),
        opened => opened?,
    };
    let amd = collateral.amd.unwrap_or_default();
    output::print(
        format,
        &Bundle {
            as_of: collateral.as_of.map(|at| at.to_string()),
            signed_by: signers,
            verified,
            amd_certificates: amd.certificates.len(),
            amd_revocation_lists: amd.crls.len(),
            intel_platforms: collateral.intel.iter().map(|entry| platform(&entry.tcb_info)).collect(),
        },
    )
}

/// `lambda attest collateral export`.
pub(crate) fn export(format: Format, args: &Export) -> Result<(), Failure> {
    let now = instant(None)?;
    let key = PolicyKey::load(&args.key)?;
    let entries = Cache::of(&Folder::from_environment()?).current(now)?;
    files::write(&args.bundle, &collateral::seal(&entries, &key)?)?;
    let bundle = Some(format!("{}, signed by key {}", args.bundle.display(), keys::id(&key.public())));
    let documents = entries.iter().map(|entry| Row::new(entry, None, now)).collect();
    output::print(format, &Listing { documents, bundle })
}

/// `lambda attest collateral import`.
pub(crate) fn import(format: Format, args: &ImportBundle) -> Result<(), Failure> {
    let now = instant(None)?;
    let folder = Folder::from_environment()?;
    let mut trusted: Vec<_> = args.keys.iter().map(|path| keys::load_public(path)).collect::<Result<_, _>>()?;
    if trusted.is_empty() {
        trusted = policies::pinned(&folder)?;
    }
    let imported = collateral::import(&Cache::of(&folder), &args.bundle, &trusted, now)?;
    let documents = imported.iter().map(|Imported { entry, stored }| Row {
        from: Some(if *stored { "bundle" } else { "cache" }),
        ..Row::new(entry, None, now)
    });
    output::print(format, &Listing { documents: documents.collect(), bundle: None })
}

/// Which platform family TCB info is of, and until when.
fn platform(tcb_info: &str) -> String {
    let answer: serde_json::Value = serde_json::from_str(tcb_info).unwrap_or_default();
    let field = |name: &str| answer["tcbInfo"][name].as_str().unwrap_or("?").to_owned();
    format!("{} {} until {}", field("id"), field("fmspc").to_lowercase(), field("nextUpdate"))
}
