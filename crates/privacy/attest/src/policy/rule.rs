use std::collections::BTreeMap;

use lambda_types::ImageId;
use lambda_types::shape::Shape;
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
