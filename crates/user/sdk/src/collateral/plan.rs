//! Which documents a piece of evidence needs.

use lambda_attest::{AmdLine, Claims, Inspection, Tee};

use super::{AmdKey, AmdTcb, Document, PckCa, Technology};
use crate::Error;

/// Bytes of a hardware id: a Turin's is the first eight of the report's field.
const TURIN_HWID_BYTES: usize = 8;

/// A machine, by what its owner knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// An AMD product line, and a chip of it at one TCB where its own certificate is wanted.
    Amd {
        /// Product line.
        line: AmdLine,
        /// Chip id in hex, and its TCB.
        chip: Option<(String, AmdTcb)>,
        /// Of which kind of key.
        key: AmdKey,
    },
    /// An Intel platform family.
    Intel {
        /// SGX or TDX.
        technology: Technology,
        /// 6 bytes of hex.
        fmspc: String,
        /// Who certified the platform.
        ca: PckCa,
    },
}

/// What verdicts on a machine's evidence need.
///
/// # Errors
/// When an id is no hex of its length.
pub fn documents_named(machine: &Named) -> Result<Vec<Document>, Error> {
    match machine {
        Named::Amd { line, chip, key } => {
            let mut wanted = Vec::new();
            if let Some((chip, tcb)) = chip {
                wanted.push(Document::AmdKey { line: *line, hwid: hwid(*line, chip)?, tcb: *tcb });
            }
            wanted.push(Document::AmdChain { line: *line, key: *key });
            wanted.push(Document::AmdCrl { line: *line, key: *key });
            Ok(wanted)
        }
        Named::Intel { technology, fmspc, ca } => {
            let (technology, ca) = (*technology, *ca);
            let fmspc = hex_of("the FMSPC", fmspc, 6)?;
            Ok(vec![
                Document::IntelTcb { technology, fmspc, ca },
                Document::IntelQe { technology },
                Document::IntelPckCrl { ca },
                Document::IntelRootCrl,
            ])
        }
    }
}

/// What a verdict on this evidence needs, going by its claims. `line` stands in where a report does not say its product line.
///
/// # Errors
/// When the claims do not say enough, or its vendor publishes nothing about it.
pub fn documents_for(inspection: &Inspection, line: Option<AmdLine>) -> Result<Vec<Document>, Error> {
    let claims = &inspection.claims;
    match inspection.tee {
        Tee::Snp => amd(inspection, line),
        Tee::Tdx | Tee::Sgx => {
            let technology = if inspection.tee == Tee::Tdx { Technology::Tdx } else { Technology::Sgx };
            let ca = match text(claims, "pck_ca") {
                Some("platform") => PckCa::Platform,
                Some("processor") => PckCa::Processor,
                _ => return Err(unsaid("which CA certified its platform", "--ca")),
            };
            let fmspc = text(claims, "fmspc").ok_or_else(|| unsaid("its platform family", "--fmspc"))?.to_owned();
            documents_named(&Named::Intel { technology, fmspc, ca })
        }
        Tee::Tpm | Tee::Cca | Tee::Psa | Tee::Eventlog => {
            Err(Error::Usage("only the vendors of SNP, TDX and SGX publish collateral".into()))
        }
    }
}

fn amd(inspection: &Inspection, line: Option<AmdLine>) -> Result<Vec<Document>, Error> {
    let claims = &inspection.claims;
    let known = [AmdLine::Milan, AmdLine::Genoa, AmdLine::Turin];
    let said = known.into_iter().find(|line| inspection.product.starts_with(line.name()));
    let line = said.or(line).ok_or_else(|| unsaid("its product line", "--product"))?;
    let key = match text(claims, "signing_key") {
        Some("VCEK") => AmdKey::Vcek,
        Some("VLEK") => AmdKey::Vlek,
        _ => return Err(Error::Usage("the report does not say which kind of key signed it".into())),
    };
    let chip = match key {
        AmdKey::Vlek => None,
        AmdKey::Vcek => {
            let chip = text(claims, "chip_id").filter(|chip| chip.bytes().any(|digit| digit != b'0'));
            let chip = chip.ok_or_else(|| unsaid("its chip", "--chip-id"))?;
            let tcb = claims.get("reported_tcb").and_then(tcb).ok_or_else(|| unsaid("its TCB", "--tcb"))?;
            Some((chip.to_owned(), tcb))
        }
    };
    documents_named(&Named::Amd { line, chip, key })
}

fn tcb(claim: &serde_json::Value) -> Option<AmdTcb> {
    let part =
        |name: &str| claim.get(name).and_then(serde_json::Value::as_u64).and_then(|part| u8::try_from(part).ok());
    Some(AmdTcb { bl: part("bl")?, tee: part("tee")?, snp: part("snp")?, ucode: part("ucode")?, fmc: part("fmc") })
}

fn hwid(line: AmdLine, chip: &str) -> Result<String, Error> {
    let digits = if line == AmdLine::Turin { chip.get(..2 * TURIN_HWID_BYTES).unwrap_or(chip) } else { chip };
    let bytes = if line == AmdLine::Turin { TURIN_HWID_BYTES } else { 64 };
    hex_of("the chip id", digits, bytes)
}

fn hex_of(what: &str, text: &str, bytes: usize) -> Result<String, Error> {
    match hex::decode(text) {
        Ok(found) if found.len() == bytes => Ok(hex::encode(found)),
        _ => Err(Error::Usage(format!("{what} is not {bytes} bytes in hex"))),
    }
}

fn text<'a>(claims: &'a Claims, name: &str) -> Option<&'a str> {
    claims.get(name).and_then(serde_json::Value::as_str)
}

fn unsaid(what: &str, option: &str) -> Error {
    Error::Usage(format!("the evidence does not say {what}: ask by name, with {option}"))
}
