//! A probe guest of a confidential profile: launched, asked for evidence, and judged as an inspection judges.
//!
//! The operator's own view of what customers will see. Nothing rests on it: customers judge for themselves.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use lambda_attest::{
    Anchors, Binding, Claims, Collateral, Endorsements, Evidence, Given, Outcome, Report, UnixTime, inspect,
    report_data,
};
use lambda_node::{ProbeGuest, Tees};
use lambda_types::image::ImageManifest;
use lambda_types::shape::{LaunchProfile, Shape};
use serde::Serialize;

/// How it came out.
#[derive(Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub(super) enum Probe {
    /// The guest ran, and its evidence is what a customer could accept.
    Attested { product: String },
    /// The guest ran, and its evidence fails these checks.
    Refused { product: String, failed: Vec<Failed> },
    /// No guest ran, or it gave no evidence.
    Failed { why: String },
    /// There is nothing to start one from.
    Untried { why: &'static str },
}

/// A check of the evidence that fails.
#[derive(Serialize)]
pub(super) struct Failed {
    id: String,
    detail: String,
}

impl Probe {
    /// Starts one and judges it. Takes up to 90 s.
    pub(super) fn run(
        qemu: &Path,
        images: &[PathBuf],
        tees: &Tees,
        profile: LaunchProfile,
        collateral: &Collateral,
    ) -> Self {
        if images.is_empty() {
            return Self::Untried { why: "there is no image to start a probe guest from: lambdad doctor --data DIR" };
        }
        match ProbeGuest::run(qemu, images, tees, profile) {
            Ok(guest) => Self::judge(&guest, profile, collateral).unwrap_or_else(|why| Self::Failed { why }),
            Err(why) => Self::Failed { why },
        }
    }

    fn judge(guest: &ProbeGuest, profile: LaunchProfile, collateral: &Collateral) -> Result<Self, String> {
        let evidence = Evidence::from_json(&guest.evidence).map_err(|error| error.to_string())?;
        let kind = match &evidence.report {
            Report::Snp(_) => LaunchProfile::Snp,
            Report::Tdx(_) => LaunchProfile::Tdx,
            Report::Cca(_) => LaunchProfile::Cca,
            _ => LaunchProfile::Tpm,
        };
        if kind != profile {
            return Err(format!("the guest gave evidence of profile {kind}"));
        }
        let anchors = Anchors::vendor().map_err(|error| error.to_string())?;
        let endorsements = Endorsements { anchors: &anchors, collateral };
        let inspection = inspect(&evidence.report, &Given::default(), &endorsements, now())
            .map_err(|error| format!("the evidence cannot be read: {error}"))?;
        let asked = hex(&report_data(&guest.nonce, &Binding::from(&guest.hello)));
        let mut expected = vec![("report_data", asked)];
        expected.extend(measurements(&guest.manifest, guest.shape, profile));
        let mut failed: Vec<Failed> = differing(&inspection.claims, &expected);
        let of_evidence = inspection.checks.into_iter().filter(|check| check.outcome == Outcome::Fail);
        failed.extend(of_evidence.map(|check| Failed { id: check.id, detail: check.detail }));
        let product = inspection.product;
        Ok(if failed.is_empty() { Self::Attested { product } } else { Self::Refused { product, failed } })
    }

    /// Whether customers could use such guests of this host, as far as is known.
    pub(super) fn possible(&self) -> bool {
        matches!(self, Self::Attested { .. } | Self::Untried { .. })
    }

    pub(super) fn print(&self) {
        match self {
            Self::Attested { product } => {
                println!("      a probe guest ran, and its processor vouches for it: {product}");
            }
            Self::Refused { product, failed } => {
                println!("      a probe guest ran ({product}); customers would refuse its evidence:");
                failed.iter().for_each(|Failed { id, detail }| println!("        {id}: {detail}"));
                println!(
                    "      needs: updated firmware and microcode; the processor's certificates on the host (AMD: snphost import);"
                );
                println!("      vendors' collateral that is current (--collateral FILE)");
            }
            Self::Failed { why } => println!("      no probe guest could be attested: {why}"),
            Self::Untried { why } => println!("      {why}"),
        }
    }
}

/// What the image says that such a guest measures to.
fn measurements(manifest: &ImageManifest, shape: Shape, profile: LaunchProfile) -> Vec<(&'static str, String)> {
    let expected = &manifest.expected;
    let snp = expected.snp.get(&shape).filter(|_| profile == LaunchProfile::Snp);
    let tdx = expected.tdx.get(&shape).filter(|_| profile == LaunchProfile::Tdx);
    let of_tdx =
        tdx.map(|tdx| [("mrtd", tdx.mrtd.clone()), ("rtmr1", tdx.rtmr1.clone()), ("rtmr2", tdx.rtmr2.clone())]);
    let of_snp = snp.map(|snp| ("measurement", snp.measurement.clone()));
    of_snp.into_iter().chain(of_tdx.into_iter().flatten()).collect()
}

fn differing(claims: &Claims, expected: &[(&str, String)]) -> Vec<Failed> {
    let differs = |(claim, value): &&(&str, String)| claims.get(*claim).and_then(|it| it.as_str()) != Some(value);
    let failed = expected.iter().filter(differs).map(|(claim, value)| Failed {
        id: format!("probe.{}", claim.replace('_', "-")),
        detail: format!("it is {}, not {value}", claims.get(*claim).unwrap_or(&serde_json::Value::Null)),
    });
    failed.collect()
}

fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime(i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_is_missing_or_other_than_expected_is_named() {
        let claims = Claims::from([("report_data".into(), "ab".into()), ("measurement".into(), "01".into())]);
        let expected = |measurement: &str| [("report_data", "ab".to_owned()), ("measurement", measurement.to_owned())];
        assert!(differing(&claims, &expected("01")).is_empty());
        let failed = differing(&claims, &expected("02"));
        assert_eq!(failed.iter().map(|it| it.id.as_str()).collect::<Vec<_>>(), ["probe.measurement"]);
        assert_eq!(differing(&Claims::new(), &expected("01")).len(), 2);
    }
}
