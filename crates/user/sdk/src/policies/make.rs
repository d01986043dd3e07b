//! Policies made from an image's manifest.

use std::collections::BTreeMap;

use lambda_attest::dcap::{DcapPolicy, LogRule, TcbStatus, TdxPolicy, TdxReference};
use lambda_attest::snp::SnpPolicy;
use lambda_attest::{Hex, ImageReference, POLICY_VERSION, Policy, Reference, Rule, TpmPolicy};
use lambda_types::image::ImageManifest;
use lambda_types::shape::{Shape, Tier};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::Error;
use crate::config::Platform;
use crate::images::Trusted;

/// How an instance can be launched, as far as an image has reference values for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// Measured boot with the node's vTPM.
    Tpm,
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
}

impl Profile {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Tpm, Self::Snp, Self::Tdx];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tpm => "tpm",
            Self::Snp => "snp",
            Self::Tdx => "tdx",
        }
    }

    fn is_of(self, manifest: &ImageManifest) -> bool {
        match self {
            Self::Tpm => !manifest.expected.tpm.is_empty(),
            Self::Snp => !manifest.expected.snp.is_empty(),
            Self::Tdx => !manifest.expected.tdx.is_empty(),
        }
    }
}

/// A policy that accepts this image under these profiles, or under every one that it has reference values for. Profile `tpm`
/// needs a platform CA to pin.
///
/// # Errors
/// When the manifest is not usable or has no values for a profile, or there is no platform CA.
pub fn make(manifest: &[u8], profiles: &[Profile], platform: Option<&Platform>) -> Result<Policy, Error> {
    let image = Trusted::parse(manifest)?;
    let chosen: Vec<Profile> = if profiles.is_empty() {
        Profile::ALL.into_iter().filter(|profile| profile.is_of(&image.manifest)).collect()
    } else {
        profiles.to_vec()
    };
    if let Some(profile) = chosen.iter().find(|profile| !profile.is_of(&image.manifest)) {
        let message = format!("the image has no reference values for profile {}", profile.name());
        return Err(Error::Usage(message));
    }
    if chosen.is_empty() {
        return Err(Error::Usage("the image has no reference values for any profile".into()));
    }
    let tier = if chosen.contains(&Profile::Tpm) { Tier::Platform } else { Tier::Hardware };
    let mut document =
        Map::from_iter([("version".into(), POLICY_VERSION.into()), ("minimum_tier".into(), json(&tier)?)]);
    for profile in chosen {
        let section = match profile {
            Profile::Tpm => json(&tpm(manifest, platform)?)?,
            Profile::Snp => json(&snp(&image)?)?,
            Profile::Tdx => json(&tdx(&image)?)?,
        };
        let _ = document.insert(profile.name().into(), section);
    }
    Policy::parse(Value::from(document).to_string().as_bytes()).map_err(unusable)
}

fn tpm(manifest: &[u8], platform: Option<&Platform>) -> Result<Option<TpmPolicy>, Error> {
    let platform = platform.ok_or_else(|| {
        Error::Usage(
            "profile tpm pins the platform CA, which `lambda connect` learns: connect first, or choose --profile"
                .into(),
        )
    })?;
    super::from_manifest(manifest, platform).map(|policy| policy.tpm)
}

fn snp(image: &Trusted) -> Result<SnpPolicy, Error> {
    let shapes = image.manifest.expected.snp.iter();
    let shapes = shapes.map(|(shape, expected)| Ok((*shape, measurement(&expected.measurement)?)));
    Ok(SnpPolicy::for_measurement(Reference::Images(vec![reference(image, shapes.collect::<Result<_, Error>>()?)])))
}

/// A trust domain that nobody can debug, move or look into by other means, on a platform that Intel calls up to date. What
/// the node's QEMU puts into RTMR 0 is not known beforehand; what identifies one platform or owner is left open.
fn tdx(image: &Trusted) -> Result<TdxPolicy, Error> {
    let shapes = image.manifest.expected.tdx.iter().map(|(shape, expected)| {
        let value = TdxReference {
            mrtd: measurement(&expected.mrtd)?,
            rtmr0: Rule::Any,
            rtmr1: Rule::OneOf(vec![measurement(&expected.rtmr1)?]),
            rtmr2: Rule::OneOf(vec![measurement(&expected.rtmr2)?]),
        };
        Ok((*shape, value))
    });
    let zero = || Some(Rule::OneOf(vec![Hex([0; 48])]));
    Ok(TdxPolicy {
        platform: DcapPolicy {
            statuses: Some(vec![TcbStatus::UpToDate]),
            minimum_evaluation_number: Some(0),
            fmspc: Some(Rule::Any),
            ppid: Some(Rule::Any),
            smt: Some(Rule::Any),
            dynamic_platform: Some(Rule::Any),
            cached_keys: Some(Rule::Any),
        },
        mrseam: Some(Rule::Any),
        sept_ve_disable: Some(Rule::OneOf(vec![true])),
        migratable: Some(Rule::OneOf(vec![false])),
        pks: Some(Rule::Any),
        key_locker: Some(Rule::Any),
        perfmon: Some(Rule::OneOf(vec![false])),
        xfam: Some(Rule::Any),
        measurement: Some(Reference::Images(vec![reference(image, shapes.collect::<Result<_, Error>>()?)])),
        rtmr3: zero(),
        mrconfigid: Some(Rule::Any),
        mrowner: zero(),
        mrownerconfig: zero(),
        mrservicetd: zero(),
        event_log: Some(LogRule::Optional),
    })
}

fn reference<T>(image: &Trusted, shapes: BTreeMap<Shape, T>) -> ImageReference<T> {
    let ImageManifest { name, version, .. } = &image.manifest;
    ImageReference { image: image.id, name: name.clone(), version: version.clone(), shapes }
}

fn measurement(text: &str) -> Result<Hex<48>, Error> {
    text.parse().map_err(|error| Error::Usage(format!("a measurement in the image manifest cannot be used: {error}")))
}

fn json<T: Serialize>(value: &T) -> Result<Value, Error> {
    serde_json::to_value(value).map_err(unusable)
}

fn unusable(error: impl std::fmt::Display) -> Error {
    Error::Usage(format!("no policy can be made from this image: {error}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::images;

    fn image() -> Vec<u8> {
        let hex = |digit: &str| digit.repeat(96);
        serde_json::to_vec(&serde_json::json!({
            "format": 1, "name": "debian-12", "version": "1", "parts": {},
            "verity": {"root_hash": "", "salt": "", "data_size": 0}, "command_line": "",
            "expected": {
                "tpm": {},
                "snp": {"small": {"measurement": hex("a"), "cpu": "EPYC-v4", "features": 1}},
                "tdx": {"small": {"mrtd": hex("b"), "rtmr1": hex("c"), "rtmr2": hex("d"),
                    "kernel": hex("0"), "initramfs": hex("0"), "command_line": hex("0")}}
            }
        }))
        .unwrap()
    }

    pub(in crate::policies) fn sections() -> (Value, Value) {
        let image = Trusted::parse(&image()).unwrap();
        (json(&snp(&image).unwrap()).unwrap(), json(&tdx(&image).unwrap()).unwrap())
    }

    #[test]
    fn the_sections_expect_what_the_image_measures_to_in_each_shape() {
        let (snp, tdx) = sections();
        assert_eq!(snp["measurement"]["images"][0]["shapes"]["small"], "a".repeat(96));
        assert_eq!(snp["measurement"]["images"][0]["image"], images::id_of(&image()).to_string());
        assert_eq!(snp["vmpl"], serde_json::json!([0]));
        let shape = &tdx["measurement"]["images"][0]["shapes"]["small"];
        assert_eq!(shape["mrtd"], "b".repeat(96));
        assert_eq!(shape["rtmr1"]["one-of"][0], "c".repeat(96));
        assert_eq!(shape["rtmr2"]["one-of"][0], "d".repeat(96));
    }

    #[test]
    fn a_profile_without_values_or_without_a_platform_ca_is_refused() {
        let refused = |image: &[u8], profiles: &[Profile]| make(image, profiles, None).unwrap_err().to_string();
        assert!(refused(&image(), &[Profile::Tpm]).contains("profile tpm"));
        assert!(refused(&images::tests::manifest("x", "1"), &[]).contains("any profile"));
        assert!(refused(b"{}", &[]).contains("image.json"));
    }
}
