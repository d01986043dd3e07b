//! Which file of a folder is what, by its name.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lambda_attest::Tee;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{kind, read};
use crate::Error;

/// Says what a folder holds.
pub(super) const MANIFEST: &str = "manifest.json";

/// Most files of one folder.
const MAX_FILES: usize = 64;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Evidence,
    Signature,
    Registers,
    EventLog,
    Chain,
    Root,
    Key,
    Nonce,
    Crl,
    TcbInfo,
    TcbInfoChain,
    QeIdentity,
    QeIdentityChain,
    PckCrl,
    PckCrlChain,
    RootCrl,
    PckChain,
    /// Report of the paravisor whose TPM it is, and what belongs to the hardware's report in it.
    Paravisor,
    HardwareChain,
    HardwareQuote,
}

/// The names in a folder, and what kind of evidence it is.
pub(super) struct Listing {
    pub(super) tee: Tee,
    pub(super) nonce: Option<Vec<u8>>,
    pub(super) names: Vec<String>,
}

/// All that is read of a manifest. Other fields are somebody's opinion of the evidence.
#[derive(Deserialize)]
struct Manifest {
    tee: String,
    nonce: Option<String>,
    challenge: Option<String>,
    files: std::collections::BTreeMap<String, IgnoredAny>,
}

impl Listing {
    pub(super) fn of_manifest(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(MANIFEST);
        let bad = |detail: String| Error::Usage(format!("{}: {detail}", path.display()));
        let manifest: Manifest =
            serde_json::from_slice(&read::bounded(&path)?).map_err(|error| bad(error.to_string()))?;
        let tee = kind(&manifest.tee)
            .ok_or_else(|| bad(format!("tee: `{}` is not a known kind of evidence", manifest.tee)))?;
        let nonce = match (&manifest.nonce, &manifest.challenge) {
            (Some(text), _) => Some(bytes(text).ok_or_else(|| bad("nonce: neither hex nor base64".into()))?),
            (None, Some(text)) => Some(bytes(text).ok_or_else(|| bad("challenge: neither hex nor base64".into()))?),
            (None, None) => None,
        };
        let names: Vec<String> = manifest.files.into_keys().collect();
        if let Some(name) = names.iter().find(|name| !is_plain(name)) {
            return Err(bad(format!("files: `{name}` is not the name of a file in the folder")));
        }
        bounded(folder, names).map(|names| Self { tee, nonce, names })
    }

    pub(super) fn of_folder(folder: &Path, tee: Tee) -> Result<Self, Error> {
        let failed = |error: std::io::Error| Error::Usage(format!("cannot read {}: {error}", folder.display()));
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if let (Ok(name), true) = (entry.file_name().into_string(), entry.path().is_file()) {
                names.push(name);
            }
        }
        names.sort();
        bounded(folder, names).map(|names| Self { tee, nonce: None, names })
    }
}

fn bounded(folder: &Path, names: Vec<String>) -> Result<Vec<String>, Error> {
    if names.len() > MAX_FILES {
        return Err(Error::Usage(format!("{} has more than {MAX_FILES} files", folder.display())));
    }
    Ok(names)
}

/// A file in the folder itself, and not one that the name leads away to.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

/// A text of bytes.
fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    hex::decode(digits).ok().or_else(|| STANDARD.decode(text).ok())
}

/// Every file that means something, in the order in which it is to be read: certificates from the leaf up.
pub(super) fn roles(tee: Tee, names: &[String]) -> Vec<(String, Role)> {
    let evidence = evidence(tee, names);
    let mut found: Vec<(String, Role)> = names
        .iter()
        .filter_map(|name| {
            if Some(name) == evidence {
                return Some((name.clone(), Role::Evidence));
            }
            role(tee, &name.to_ascii_lowercase()).map(|role| (name.clone(), role))
        })
        .collect();
    let rank = |(name, role): &(String, Role)| (*role == Role::Chain).then(|| height(&name.to_ascii_lowercase()));
    found.sort_by_key(rank);
    // A key in a standard form goes before the same one in another.
    if found.iter().any(|(name, role)| *role == Role::Key && !name.ends_with(".jwk")) {
        found.retain(|(name, role)| *role != Role::Key || !name.ends_with(".jwk"));
    }
    found
}

/// The files of a folder that holds nothing but collateral.
pub(super) fn collateral_roles(names: &[String]) -> Vec<(String, Role)> {
    let role = |name: &str| intel(name).or_else(|| amd(name));
    names.iter().filter_map(|name| role(&name.to_ascii_lowercase()).map(|role| (name.clone(), role))).collect()
}

/// How far above the leaf a certificate stands, by its name.
fn height(name: &str) -> u8 {
    match name {
        _ if ["leaf", "ak_cert", "vcek", "vlek", "ek_cert"].iter().any(|leaf| name.starts_with(leaf)) => 0,
        _ if name.contains("intermediate") => 1,
        _ if name.starts_with("ask") || name.starts_with("asvk") => 1,
        _ => 2,
    }
}

/// The file that is judged: by its usual name, else the first that looks like it.
fn evidence(tee: Tee, names: &[String]) -> Option<&String> {
    let (usual, like): (&[&str], &[&str]) = match tee {
        Tee::Snp => (&["report.bin", "tsm-report.cbor"], &["report"]),
        Tee::Tdx | Tee::Sgx => (&["quote.bin", "quote.dat", "tsm-report.cbor"], &["quote"]),
        Tee::Cca | Tee::Psa => (&["token.cbor", "token.bin"], &["token"]),
        Tee::Tpm => (&["quote.msg", "quote.bin"], &[".msg"]),
        Tee::Eventlog => (&["event_log.bin", "ccel_data.bin"], &["event_log", "eventlog", "ccel_data"]),
    };
    let exact = usual.iter().find_map(|usual| names.iter().find(|name| name.eq_ignore_ascii_case(usual)));
    exact.or_else(|| {
        let is_data = |name: &str| {
            let text = [".json", ".pem", ".jwk", ".md", ".txt", ".sig", ".der", ".raw"];
            !text.iter().any(|end| name.ends_with(end))
        };
        names.iter().find(|name| {
            let name = name.to_ascii_lowercase();
            is_data(&name) && like.iter().any(|part| name.contains(part))
        })
    })
}

fn role(tee: Tee, name: &str) -> Option<Role> {
    if name.starts_with("nonce") || name.starts_with("challenge") {
        return Some(Role::Nonce);
    }
    match tee {
        Tee::Snp => amd(name),
        Tee::Tdx | Tee::Sgx => intel(name).or_else(|| event_log(name)),
        Tee::Cca | Tee::Psa => key(name).or_else(|| event_log(name)),
        Tee::Tpm => match name {
            "quote.sig" => Some(Role::Signature),
            "pcrs.json" => Some(Role::Registers),
            "hcl_report.bin" => Some(Role::Paravisor),
            "td_quote.bin" => Some(Role::HardwareQuote),
            "vcek.der" | "vcek.pem" | "ask.der" | "ask.pem" => Some(Role::HardwareChain),
            _ => key(name).or_else(|| tpm_certificate(name)).or_else(|| event_log(name)),
        },
        Tee::Eventlog => match name {
            "pcrs.json" | "registers.json" | "rtmrs.json" => Some(Role::Registers),
            _ => None,
        },
    }
}

fn event_log(name: &str) -> Option<Role> {
    let is_log = ["event_log", "eventlog", "ccel_data", "ccel.bin"].iter().any(|part| name.contains(part));
    (is_log && !name.ends_with(".json") && !name.ends_with(".txt")).then_some(Role::EventLog)
}

fn is_certificate(name: &str) -> bool {
    [".der", ".pem", ".crt", ".cer"].iter().any(|end| name.ends_with(end))
}

fn key(name: &str) -> Option<Role> {
    let is_key = name.ends_with("_pub.pem") || name.ends_with("_pub.der") || name.ends_with(".jwk");
    (is_key && !name.starts_with("ek_")).then_some(Role::Key)
}

fn amd(name: &str) -> Option<Role> {
    match name {
        _ if name.contains("crl") && is_certificate(name) => Some(Role::Crl),
        _ if name.ends_with("_pub.pem") || name.ends_with("_pub.der") => None,
        _ => is_certificate(name).then_some(Role::Chain),
    }
}

fn tpm_certificate(name: &str) -> Option<Role> {
    let known = ["ak_", "ek_", "leaf", "intermediate", "root", "chain"];
    if !is_certificate(name) || !known.iter().any(|part| name.starts_with(part)) {
        return None;
    }
    Some(if name.contains("root") { Role::Root } else { Role::Chain })
}

fn intel(name: &str) -> Option<Role> {
    Some(match name {
        "tcb_info.json" => Role::TcbInfo,
        "tcb_info_issuer_chain.pem" => Role::TcbInfoChain,
        "qe_identity.json" => Role::QeIdentity,
        "qe_identity_issuer_chain.pem" => Role::QeIdentityChain,
        "pck_crl.der" | "pck_crl.pem" => Role::PckCrl,
        "pck_crl_issuer_chain.pem" => Role::PckCrlChain,
        "root_ca_crl.der" | "root_ca_crl.pem" => Role::RootCrl,
        "pck_chain.pem" => Role::PckChain,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(tee: Tee, names: &[&str]) -> Vec<(String, Role)> {
        roles(tee, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    fn of(found: &[(String, Role)], name: &str) -> Option<Role> {
        found.iter().find(|(known, _)| known == name).map(|(_, role)| *role)
    }

    #[test]
    fn a_tpm_folder_does_not_take_the_certificates_of_the_processor_for_its_own() {
        let names = ["quote.msg", "quote.sig", "quote.sig.raw", "ak_pub.pem", "vcek.der", "ark.der", "snp_report.bin"];
        let found = found(Tee::Tpm, &names);
        assert_eq!(of(&found, "quote.msg"), Some(Role::Evidence));
        assert_eq!(of(&found, "ak_pub.pem"), Some(Role::Key));
        assert_eq!(of(&found, "vcek.der"), Some(Role::HardwareChain));
        for other in ["ark.der", "snp_report.bin", "quote.sig.raw"] {
            assert_eq!(of(&found, other), None, "{other}");
        }
    }

    #[test]
    fn certificates_come_from_the_leaf_up_whatever_their_names_sort_to() {
        let found = found(Tee::Tpm, &["ak_intermediate.der", "ak_cert.der", "ak_root.der", "chain.pem"]);
        let chain: Vec<&str> =
            found.iter().filter(|(_, role)| *role == Role::Chain).map(|(name, _)| name.as_str()).collect();
        assert_eq!(chain, ["ak_cert.der", "ak_intermediate.der", "chain.pem"]);
    }

    #[test]
    fn a_root_in_an_intel_folder_and_a_replayed_log_in_any_are_not_read() {
        assert_eq!(of(&found(Tee::Tdx, &["quote.bin", "root_ca.pem"]), "root_ca.pem"), None);
        assert_eq!(of(&found(Tee::Eventlog, &["event_log.bin", "replay.json"]), "replay.json"), None);
    }

    #[test]
    fn a_name_that_leads_out_of_the_folder_is_not_plain() {
        for name in ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b"] {
            assert!(!is_plain(name), "{name}");
        }
        assert!(is_plain("quote.bin"));
    }
}
