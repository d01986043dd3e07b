//! Versions of the trusted computing base: eight bytes, one security version number for each part of the firmware.
//!
//! Which byte is which depends on the product line. Versions are only ever compared part by part: the parts are
//! independent, and as one number a new microcode would outweigh an old boot loader.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::anchors::AmdLine;

/// As it stands in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TcbVersion(pub(super) [u8; 8]);

/// Security version numbers by part. In a policy: the least of each that is good enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcbParts {
    /// Firmware of the microcontroller that starts the secure processor; Turin and later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fmc: Option<u8>,
    /// Boot loader of the secure processor.
    pub bl: u8,
    /// Operating system of the secure processor.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub ucode: u8,
}

/// The least TCB that is good enough, for each product line.
pub type TcbFloors = BTreeMap<AmdLine, TcbParts>;

impl TcbVersion {
    /// The parts, as this product line lays them out.
    pub(super) fn parts(self, line: Option<AmdLine>) -> TcbParts {
        match (line, self.0) {
            (Some(AmdLine::Turin), [fmc, bl, tee, snp, .., ucode]) => TcbParts { fmc: Some(fmc), bl, tee, snp, ucode },
            (Some(AmdLine::Milan | AmdLine::Genoa) | None, [bl, tee, _, _, _, _, snp, ucode]) => {
                TcbParts { fmc: None, bl, tee, snp, ucode }
            }
        }
    }

    /// Whether the bytes that this product line does not use are zero.
    pub(super) fn is_well_formed(self, line: Option<AmdLine>) -> bool {
        match (line, self.0) {
            (Some(AmdLine::Turin), [_, _, _, _, a, b, c, _]) => [a, b, c] == [0; 3],
            (Some(AmdLine::Milan | AmdLine::Genoa) | None, [_, _, a, b, c, d, _, _]) => [a, b, c, d] == [0; 4],
        }
    }

    /// Lower-case hex.
    pub(super) fn hex(self) -> String {
        hex::encode(self.0)
    }
}

impl TcbParts {
    /// The floor that every TCB of the line reaches.
    pub(super) fn zero(line: AmdLine) -> Self {
        TcbVersion([0; 8]).parts(Some(line))
    }

    /// The parts in a fixed order with their names. A part that a product line lacks is never below anything.
    fn named(&self) -> [(&'static str, u8); 5] {
        [
            ("fmc", self.fmc.unwrap_or_default()),
            ("bl", self.bl),
            ("tee", self.tee),
            ("snp", self.snp),
            ("ucode", self.ucode),
        ]
    }

    /// Every part is at least the floor's; else a sentence with the first that is not.
    pub(super) fn reaches(&self, floor: &Self, what: &str, than: &str) -> Result<(), String> {
        let pairs = self.named().into_iter().zip(floor.named());
        for ((name, have), (_, least)) in pairs {
            if have < least {
                return Err(format!("{name} is {have} in {what}, less than the {least} of {than}"));
            }
        }
        Ok(())
    }

    /// For claims.
    pub(super) fn claim(&self) -> serde_json::Map<String, Value> {
        let parts = self.named().into_iter().filter(|(name, _)| *name != "fmc" || self.fmc.is_some());
        parts.map(|(name, value)| (name.to_owned(), json!(value))).collect()
    }
}

impl std::fmt::Display for TcbParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(fmc) = self.fmc {
            write!(f, "fmc {fmc} ")?;
        }
        write!(f, "bl {} tee {} snp {} ucode {}", self.bl, self.tee, self.snp, self.ucode)
    }
}
