//! Software components of a platform's root of trust (RFC 9783 §4.4.1), and hash algorithms by name.

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::cbor::Value;
use super::hexstring::HexString;
use crate::policy::Rule;

/// Most components in a token.
const MAX_COMPONENTS: usize = 64;

/// Lengths of SHA-2 hashes.
const SIZES: [usize; 3] = [32, 48, 64];

/// A component that a policy allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoftwareComponent {
    /// Its role, as in "BL" or "RMM". Every role that the policy names has to be there, once.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its measurement.
    pub measurement: HexString,
    /// Hash of the key that signed it.
    pub signer_id: HexString,
    /// Its version, where it matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// A component as the token describes it.
pub(crate) struct Component<'a> {
    pub(crate) kind: Option<&'a str>,
    pub(crate) measurement: &'a [u8],
    pub(crate) version: Option<&'a str>,
    pub(crate) signer_id: &'a [u8],
    pub(crate) algorithm: Option<&'a str>,
}

/// Hash algorithms (IANA Hash Function Textual Names).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HashAlgorithm {
    Sha256,
    Sha384,
    Sha512,
}

impl HashAlgorithm {
    /// Older firmware leaves out the hyphen or writes capitals.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().replace('-', "").as_str() {
            "sha256" => Some(Self::Sha256),
            "sha384" => Some(Self::Sha384),
            "sha512" => Some(Self::Sha512),
            _ => None,
        }
    }

    pub(crate) const fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// TPM_ALG_ID, as event logs name banks.
    pub(crate) const fn bank(self) -> u16 {
        match self {
            Self::Sha256 => lambda_tpm::alg::SHA256,
            Self::Sha384 => lambda_tpm::alg::SHA384,
            Self::Sha512 => lambda_tpm::alg::SHA512,
        }
    }

    pub(crate) fn hash(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(data).to_vec(),
            Self::Sha384 => Sha384::digest(data).to_vec(),
            Self::Sha512 => Sha512::digest(data).to_vec(),
        }
    }
}

/// Reads the list of components. What is wrong with it goes to `faults`.
pub(crate) fn components<'a>(list: &Value<'a>, faults: &mut Vec<String>) -> Vec<Component<'a>> {
    let Some(items) = list.as_array().filter(|items| (1..=MAX_COMPONENTS).contains(&items.len())) else {
        faults.push(format!("the software components are not a list of one to {MAX_COMPONENTS}"));
        return Vec::new();
    };
    let mut found = Vec::new();
    for item in items {
        let text = |key| item.get(key).map(|value| value.as_text().ok_or(key)).transpose();
        let bytes = |key| item.get(key).map(|value| value.as_bytes().ok_or(key)).transpose();
        let read = || -> Result<Component<'a>, i128> {
            Ok(Component {
                kind: text(1)?,
                measurement: bytes(2)?.ok_or(2i128)?,
                version: text(4)?,
                signer_id: bytes(5)?.ok_or(5i128)?,
                algorithm: text(6)?,
            })
        };
        match read() {
            Ok(component) => found.push(component),
            Err(key) => faults.push(format!("a software component's field {key} is missing or of another type")),
        }
    }
    found
}

/// The components as claims, under the numbers that the standard gives their fields.
pub(crate) fn listed(components: &[Component<'_>]) -> serde_json::Value {
    let one = |component: &Component<'_>| {
        let Component { kind, measurement, version, signer_id, algorithm } = component;
        let mut fields = serde_json::Map::new();
        let mut put = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                fields.insert(key.into(), json!(value));
            }
        };
        put("1", kind.map(str::to_owned));
        put("2", Some(hex::encode(measurement)));
        put("4", version.map(str::to_owned));
        put("5", Some(hex::encode(signer_id)));
        put("6", algorithm.map(str::to_owned));
        serde_json::Value::Object(fields)
    };
    serde_json::Value::Array(components.iter().map(one).collect())
}

/// Whether each measurement has the length of its hash: the component's own, else the token's, else any known one.
pub(crate) fn lengths_agree(components: &[Component<'_>], default: Option<&str>) -> Result<String, String> {
    for component in components {
        let title = component.kind.unwrap_or("without a role");
        let len = component.measurement.len();
        let fits = match component.algorithm.or(default) {
            Some(name) => match HashAlgorithm::named(name) {
                Some(algorithm) => algorithm.len() == len,
                None => return Err(format!("component {title} is measured with `{name}`, which is not a SHA-2 hash")),
            },
            None => SIZES.contains(&len),
        };
        if !fits {
            return Err(format!(
                "the measurement of component {title} has {len} bytes, which is not its hash's length"
            ));
        }
        if !SIZES.contains(&component.signer_id.len()) {
            return Err(format!("the signer id of component {title} is not a hash"));
        }
    }
    Ok("every measurement is of a SHA-2 hash and has its length".into())
}

/// Whether the policy allows every component.
pub(crate) fn is_known(
    tee: &str,
    rule: Option<&Rule<SoftwareComponent>>,
    components: &[Component<'_>],
) -> Result<String, String> {
    let allowed = match rule {
        None => return Err(format!("the policy does not say which software is good enough: add `{tee}.software`")),
        Some(Rule::Any) => return Ok("the policy allows any software".into()),
        Some(Rule::OneOf(allowed)) => allowed,
    };
    let same = |known: &SoftwareComponent, component: &Component<'_>| {
        let SoftwareComponent { kind, measurement, signer_id, version } = known;
        component.kind == Some(kind)
            && *measurement == *component.measurement
            && *signer_id == *component.signer_id
            && version.as_ref().is_none_or(|version| component.version == Some(version))
    };
    match components.iter().find(|component| !allowed.iter().any(|known| same(known, component))) {
        None => Ok(format!("the policy allows each of the {} components", components.len())),
        Some(unknown) => Err(format!(
            "component {} with measurement {} is none that the policy allows",
            unknown.kind.unwrap_or("without a role"),
            hex::encode(unknown.measurement),
        )),
    }
}

/// Whether every role that the policy names is there, once: software that is not mentioned was not measured.
pub(crate) fn is_complete(
    tee: &str,
    rule: Option<&Rule<SoftwareComponent>>,
    components: &[Component<'_>],
) -> Result<String, String> {
    let allowed = match rule {
        None => return Err(format!("the policy does not say which software has to be there: add `{tee}.software`")),
        Some(Rule::Any) => return Ok("the policy names no software that has to be there".into()),
        Some(Rule::OneOf(allowed)) if allowed.is_empty() => return Err("the policy allows no software at all".into()),
        Some(Rule::OneOf(allowed)) => allowed,
    };
    let count = |kind: &str| components.iter().filter(|component| component.kind == Some(kind)).count();
    match allowed.iter().find(|known| count(&known.kind) != 1) {
        None => Ok("every component that the policy names is there, once".into()),
        Some(known) => Err(format!("component {} is there {} times, not once", known.kind, count(&known.kind))),
    }
}
