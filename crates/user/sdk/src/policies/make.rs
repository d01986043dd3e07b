//! Policies made from an image's manifest.

use std::collections::BTreeMap;

use lambda_attest::dcap::{DcapPolicy, LogRule, TcbStatus, TdxPolicy, TdxReference};
use lambda_attest::snp::SnpPolicy;
use lambda_attest::{Hex, HostDataRule, ImageReference, POLICY_VERSION, Policy, Reference, Rule, TpmPolicy};
use lambda_types::image::ImageManifest;
use lambda_types::shape::{LaunchProfile, Shape};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::Error;
use crate::config::Platform;
use crate::images::Trusted;
use crate::launch::{self, LaunchDigests};

fn is_of(profile: LaunchProfile, manifest: &ImageManifest) -> bool {
    match profile {
        LaunchProfile::Tpm | LaunchProfile::Sgx => !manifest.expected.tpm.is_empty(),
        LaunchProfile::Snp => !manifest.expected.snp.is_empty(),
        LaunchProfile::Tdx => !manifest.expected.tdx.is_empty(),
        LaunchProfile::Cca => false,
    }
}

/// What a policy pins beside an image.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pins<'a> {
    /// The platform CA, under which the vTPMs of profiles `tpm` and `sgx` are certified.
    pub platform: Option<&'a Platform>,
    /// The customer's keys, which sign the ID blocks of profile `snp`.
    pub launch: Option<LaunchDigests>,
}

/// Whether a policy for these profiles, or for every one that the image has reference values for, pins keys of ID blocks.
///
/// # Errors
/// When the manifest is not usable.
pub fn pins_launch_keys(manifest: &[u8], profiles: &[LaunchProfile]) -> Result<bool, Error> {
    let image = Trusted::parse(manifest)?;
    Ok(is_of(LaunchProfile::Snp, &image.manifest) && (profiles.is_empty() || profiles.contains(&LaunchProfile::Snp)))
}

/// A policy that accepts this image under these profiles, or under every one that it has reference values for. A guest of
/// profile `sgx` has a vTPM, and is judged by it.
///
/// # Errors
/// When the manifest is not usable or has no values for a profile, or what a profile pins is not there.
pub fn make(manifest: &[u8], profiles: &[LaunchProfile], pins: &Pins<'_>) -> Result<Policy, Error> {
    let image = Trusted::parse(manifest)?;
    let chosen: Vec<LaunchProfile> = if profiles.is_empty() {
        LaunchProfile::ALL.into_iter().filter(|profile| is_of(*profile, &image.manifest)).collect()
    } else {
        profiles.to_vec()
    };
    if let Some(profile) = chosen.iter().find(|profile| !is_of(**profile, &image.manifest)) {
        let why = launch::without_values(*profile);
        return Err(Error::Usage(format!("the image has no reference values for profile {profile}: {why}")));
    }
    let tier = chosen.iter().map(|profile| profile.tier()).min();
    let tier = tier.ok_or_else(|| Error::Usage("the image has no reference values for any profile".into()))?;
    let mut document =
        Map::from_iter([("version".into(), POLICY_VERSION.into()), ("minimum_tier".into(), json(&tier)?)]);
    for profile in chosen {
        let (name, section) = match profile {
            LaunchProfile::Tpm | LaunchProfile::Sgx => ("tpm", json(&tpm(manifest, pins.platform)?)?),
            LaunchProfile::Snp => ("snp", json(&snp(&image, pins.launch)?)?),
            LaunchProfile::Tdx => ("tdx", json(&tdx(&image)?)?),
            LaunchProfile::Cca => continue,
        };
        let _ = document.insert(name.into(), section);
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

fn snp(image: &Trusted, keys: Option<LaunchDigests>) -> Result<SnpPolicy, Error> {
    let LaunchDigests { id, author } = keys.ok_or_else(|| {
        Error::NotTrusted(
            "profile snp pins the keys that sign ID blocks, and snp-id.key and snp-author.key are not on this machine: copy \
             them from the one that creates instances, or give --policy"
                .into(),
        )
    })?;
    let shapes = image.manifest.expected.snp.iter();
    let shapes = shapes.map(|(shape, expected)| Ok((*shape, measurement(&expected.measurement)?)));
    let measurement = Reference::Images(vec![reference(image, shapes.collect::<Result<_, Error>>()?)]);
    Ok(SnpPolicy {
        id_key: Some(Rule::OneOf(vec![id])),
        author_key: Some(Rule::OneOf(vec![author])),
        ..SnpPolicy::for_measurement(measurement)
    })
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
        mrconfigid: Some(HostDataRule::Instance),
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
pub(crate) mod tests {
    use lambda_types::shape::Tier;

    use super::*;
    use crate::images;

    pub(crate) fn image() -> Vec<u8> {
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

    /// The same with values for a measured boot.
    pub(crate) fn with_tpm() -> Trusted {
        let mut image = Trusted::parse(&image()).unwrap();
        let expected = serde_json::json!({
            "pcrs": {}, "firmware_volumes": [], "kernel": "", "initramfs": "", "command_line": ""
        });
        image.manifest.expected.tpm.insert(Shape::Small, serde_json::from_value(expected).unwrap());
        image
    }

    fn keys() -> LaunchDigests {
        LaunchDigests { id: Hex([1; 48]), author: Hex([2; 48]) }
    }

    pub(in crate::policies) fn sections() -> (Value, Value) {
        let image = Trusted::parse(&image()).unwrap();
        (json(&snp(&image, Some(keys())).unwrap()).unwrap(), json(&tdx(&image).unwrap()).unwrap())
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
    fn a_policy_for_hardware_wants_host_data_that_names_the_instance_and_id_blocks_under_the_customers_keys() {
        let pins = Pins { platform: None, launch: Some(keys()) };
        let policy = make(&image(), &[], &pins).unwrap();
        assert_eq!(policy.minimum_tier, Some(Tier::Hardware));
        assert!(policy.tpm.is_none());
        let (snp, tdx) = (policy.snp.unwrap(), policy.tdx.unwrap());
        assert_eq!(snp.host_data, Some(HostDataRule::Instance));
        assert_eq!(tdx.mrconfigid, Some(HostDataRule::Instance));
        assert_eq!(snp.id_key, Some(Rule::OneOf(vec![keys().id])));
        assert_eq!(snp.author_key, Some(Rule::OneOf(vec![keys().author])));
        let alone = make(&image(), &[LaunchProfile::Tdx], &Pins::default()).unwrap();
        assert!(alone.snp.is_none() && alone.tdx.is_some());
        let without_keys = make(&image(), &[], &Pins::default()).unwrap_err();
        assert!(matches!(&without_keys, Error::NotTrusted(why) if why.contains("snp-id.key")), "{without_keys}");
    }

    #[test]
    fn a_profile_without_values_or_without_a_platform_ca_is_refused() {
        let pins = Pins { platform: None, launch: Some(keys()) };
        let refused = |image: &[u8], profiles: &[LaunchProfile]| make(image, profiles, &pins).unwrap_err().to_string();
        assert!(refused(&image(), &[LaunchProfile::Tpm]).contains("profile tpm"));
        assert!(refused(&image(), &[LaunchProfile::Cca]).contains("profile cca"));
        let with_tpm = serde_json::to_vec(&with_tpm().manifest).unwrap();
        assert!(refused(&with_tpm, &[LaunchProfile::Sgx]).contains("lambda connect"));
        assert!(refused(&images::tests::manifest("x", "1"), &[]).contains("any profile"));
        assert!(refused(b"{}", &[]).contains("image.json"));
    }
}
