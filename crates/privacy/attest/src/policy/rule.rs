use std::collections::BTreeMap;

use lambda_types::launch::host_data;
use lambda_types::shape::Shape;
use lambda_types::{ImageId, InstanceId};
use serde::{Deserialize, Serialize};

/// What a value may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule<T> {
    /// Anything: said, not left out.
    Any,
    /// One of these.
    OneOf(Vec<T>),
}

impl<T: PartialEq> Rule<T> {
    /// Whether this value is good enough.
    pub fn allows(&self, value: &T) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(values) => values.contains(value),
        }
    }
}

/// What the host may have bound to the guest at launch, in the field that the processor keeps for that: SNP's HOST_DATA,
/// TDX's MRCONFIGID, CCA's personalization value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostDataRule<T> {
    /// Anything: said, not left out. Evidence of one instance then looks like that of another, as far as the processor says.
    Any,
    /// The id of the instance that is being judged, as [`host_data`] writes it, and zeros behind it.
    Instance,
    /// One of these.
    OneOf(Vec<T>),
}

impl<T: PartialEq + std::fmt::Display> HostDataRule<T> {
    /// Whether a host may have bound this. `bytes` are the value's; `instance` is what is being judged, where that is known.
    ///
    /// # Errors
    /// A sentence, when it is not allowed, or when nobody said which instance it has to name.
    pub(crate) fn judge(&self, value: &T, bytes: &[u8], instance: Option<InstanceId>) -> Result<String, String> {
        match self {
            Self::Any => Ok("the policy allows any".into()),
            Self::OneOf(values) if values.contains(value) => Ok(format!("{value} is allowed")),
            Self::OneOf(_) => Err(format!("{value} is not one that the policy allows")),
            Self::Instance => {
                let instance = instance.ok_or(
                    "the policy wants it to name the instance, and nobody said which instance this is evidence of",
                )?;
                let named = host_data(instance).into_iter().chain(std::iter::repeat(0)).take(bytes.len());
                if named.eq(bytes.iter().copied()) {
                    Ok(format!("it names {instance}"))
                } else {
                    Err(format!("{value} does not name {instance}: this was launched as something else"))
                }
            }
        }
    }
}

/// What may run: by measurement alone, or as images with a measurement for each shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reference<T> {
    /// Anything: said, not left out. Nothing is ever released on it, since no image is known to run.
    Any,
    /// One of these measurements. Nothing is ever released on it, since no image is known to run.
    OneOf(Vec<T>),
    /// One of these images.
    Images(Vec<ImageReference<T>>),
}

/// An image that may run, with what it measures to in each shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageReference<T> {
    /// The image.
    pub image: ImageId,
    /// Its name, for people.
    pub name: String,
    /// Its version, for people.
    pub version: String,
    /// Reference values for each shape that it may run in.
    pub shapes: BTreeMap<Shape, T>,
}

/// The image that was recognised, in the shapes that measure alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matched {
    /// The image.
    pub image: ImageId,
    /// Its shapes, never none.
    pub shapes: Vec<Shape>,
}

impl<T> Reference<T> {
    /// Compares with what was measured: `Ok` with the image, when one is named, `Err` with a sentence.
    ///
    /// # Errors
    /// When nothing that the policy names measures so.
    pub(crate) fn find(&self, same: impl Fn(&T) -> bool) -> Result<Option<Matched>, String> {
        match self {
            Self::Any => Ok(None),
            Self::OneOf(values) if values.iter().any(&same) => Ok(None),
            Self::OneOf(values) => Err(format!("it is none of the {} that the policy allows", values.len())),
            Self::Images(images) => {
                let shapes = |reference: &ImageReference<T>| -> Vec<Shape> {
                    reference.shapes.iter().filter(|(_, value)| same(value)).map(|(shape, _)| *shape).collect()
                };
                images
                    .iter()
                    .map(|reference| Matched { image: reference.image, shapes: shapes(reference) })
                    .find(|matched| !matched.shapes.is_empty())
                    .map(Some)
                    .ok_or_else(|| format!("it is none of the {} images that the policy allows", images.len()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Hex;

    #[test]
    fn what_host_data_has_to_be_is_said_in_one_of_three_ways_and_no_other() {
        let read = |text: &str| serde_json::from_str::<HostDataRule<Hex<2>>>(text);
        assert_eq!(read(r#""any""#).unwrap(), HostDataRule::Any);
        assert_eq!(read(r#""instance""#).unwrap(), HostDataRule::Instance);
        assert_eq!(read(r#"{"one-of":["00ff"]}"#).unwrap(), HostDataRule::OneOf(vec![Hex([0, 0xff])]));
        for bad in [r#""Instance""#, r#""none""#, r#"{"instance":"inst_x"}"#, r#"{"one-of":["0"]}"#, "null"] {
            read(bad).unwrap_err();
        }
    }
}
