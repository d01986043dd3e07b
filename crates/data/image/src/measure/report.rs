//! Checking an image folder against its manifest: everything is recomputed from the parts.

use std::path::Path;

use lambda_types::ImageId;
use lambda_types::image::{Expected, ImageManifest, file};
use serde::Serialize;

use crate::error::Result;
use crate::{hash, manifest, verity};

/// What recomputing gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Identity of the manifest that was read.
    pub id: ImageId,
    /// The manifest.
    pub manifest: ImageManifest,
    /// What the parts measure to.
    pub expected: Expected,
    /// Where the manifest says otherwise than the parts. Empty for an image that is what it says.
    pub differences: Vec<Difference>,
}

/// One contradiction between manifest and parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What differs, for example `parts.kernel.sha256` or `expected.tpm.small.pcrs.4`.
    pub what: String,
    /// What the manifest says.
    pub manifest: String,
    /// What the parts give.
    pub computed: String,
}

impl Report {
    /// Whether the image is what its manifest says.
    #[must_use]
    pub fn is_consistent(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Recomputes everything that the manifest of `dir` says from the parts, and lists what differs.
///
/// # Errors
/// When a part cannot be read or is not what its name says. A part that is merely a different one is no error but a
/// difference.
pub fn measure(dir: &Path) -> Result<Report> {
    let (id, manifest) = manifest::load(dir)?;
    let mut differences = Vec::new();
    let mut compare = |what: String, said: &str, found: &str| {
        if said != found {
            differences.push(Difference { what, manifest: said.to_owned(), computed: found.to_owned() });
        }
    };
    for name in manifest::NEEDED {
        if manifest.part(name).is_none() {
            compare(format!("parts.{name}"), "absent", "required");
        }
    }
    for (name, part) in &manifest.parts {
        if !manifest::PARTS.contains(&name.as_str()) {
            compare(format!("parts.{name}"), "present", "not part of an image");
            continue;
        }
        let found = hash::file(&dir.join(name))?;
        compare(format!("parts.{name}.size"), &part.size.to_string(), &found.size.to_string());
        compare(format!("parts.{name}.sha256"), &part.sha256, &found.sha256);
    }
    match verity::root_hash(&dir.join(file::ROOT), &manifest.verity)? {
        verity::Checked::Consistent { root_hash } => {
            compare("verity.root_hash".into(), &manifest.verity.root_hash, &root_hash);
        }
        verity::Checked::TreeDiffers { root_hash } => {
            compare("verity.root_hash".into(), &manifest.verity.root_hash, &root_hash);
            compare("root.img hash tree".into(), "as its data", "differs from its data");
        }
    }
    compare("command_line".into(), &manifest.command_line, &manifest::command_line(&manifest.verity));
    let expected = super::expected(dir, &manifest.command_line, &manifest.parts)?;
    let flatten = |expected: &Expected| serde_json::to_value(expected).unwrap_or_default();
    values("expected", &flatten(&manifest.expected), &flatten(&expected), &mut compare);
    Ok(Report { id, manifest, expected, differences })
}

/// [`measure`], as one sentence for each difference. Empty when the image is what its manifest says.
///
/// # Errors
/// As [`measure`].
pub fn differences(dir: &Path) -> Result<Vec<String>> {
    let sentence = |Difference { what, manifest, computed }: Difference| {
        format!("{what}: the manifest says `{manifest}`, the parts give `{computed}`")
    };
    Ok(measure(dir)?.differences.into_iter().map(sentence).collect())
}

/// Compares two JSON trees leaf by leaf.
fn values(
    path: &str,
    said: &serde_json::Value,
    found: &serde_json::Value,
    compare: &mut impl FnMut(String, &str, &str),
) {
    use serde_json::Value::{Array, Null, Object};
    match (said, found) {
        (Object(said), Object(found)) => {
            let names: std::collections::BTreeSet<&String> = said.keys().chain(found.keys()).collect();
            for name in names {
                let (said, found) = (said.get(name).unwrap_or(&Null), found.get(name).unwrap_or(&Null));
                values(&format!("{path}.{name}"), said, found, compare);
            }
        }
        (Array(said), Array(found)) if said.len() == found.len() => {
            for (index, (said, found)) in said.iter().zip(found).enumerate() {
                values(&format!("{path}.{index}"), said, found, compare);
            }
        }
        _ => compare(
            path.to_owned(),
            said.as_str().unwrap_or(&said.to_string()),
            found.as_str().unwrap_or(&found.to_string()),
        ),
    }
}
