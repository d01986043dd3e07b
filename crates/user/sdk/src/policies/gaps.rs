//! What a policy leaves out.
//!
//! Expectations are the fields of the policy's types, and serde knows their names: a value that never comes is
//! deserialised as far as the place of interest, where the type says which fields it has. So a new expectation is a gap in every
//! older policy by itself.

use std::cell::RefCell;

use lambda_attest::Policy;
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor, value};
use serde_json::Value;

/// How deep expectations nest.
const MAX_DEPTH: usize = 4;

/// An expectation that a policy leaves out. Its check fails whatever the evidence.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// Where it belongs, such as `snp.vmpl`.
    pub field: String,
}

/// Every expectation that this policy leaves out, of the kinds of evidence that it has a section for.
#[must_use]
pub fn gaps(policy: &Policy) -> Vec<Gap> {
    gaps_of::<Policy>(&serde_json::to_value(policy).unwrap_or_default())
}

/// The same for a document of any type of which each field is an expectation or a section.
fn gaps_of<T: DeserializeOwned>(written: &Value) -> Vec<Gap> {
    let mut found = Vec::new();
    for field in fields::<T>(&[]).unwrap_or_default() {
        let value = written.get(field);
        match fields::<T>(&[field]) {
            // A section that is not there refuses a kind of evidence, which is a decision.
            Some(_) if value.is_none() => {}
            Some(inner) => walk::<T>(&mut vec![field], &inner, value.unwrap_or(&Value::Null), &mut found),
            None if is_absent(value) => found.push(Gap { field: field.to_owned() }),
            None => {}
        }
    }
    found
}

fn walk<T: DeserializeOwned>(
    path: &mut Vec<&'static str>,
    fields_here: &[&'static str],
    value: &Value,
    found: &mut Vec<Gap>,
) {
    for field in fields_here {
        path.push(field);
        let inner_value = value.get(*field);
        let inner = if path.len() < MAX_DEPTH { fields::<T>(path) } else { None };
        match (inner, inner_value) {
            (Some(inner), Some(object)) if object.is_object() => walk::<T>(path, &inner, object, found),
            _ if is_absent(inner_value) => found.push(Gap { field: path.join(".") }),
            _ => {}
        }
        path.pop();
    }
}

fn is_absent(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    }
}

/// Names of the fields of the type at this place; `None` when it is not a type with fields.
fn fields<T: DeserializeOwned>(path: &[&'static str]) -> Option<Vec<&'static str>> {
    let found = RefCell::new(None);
    // The error is the way back: nothing is ever deserialised.
    let _ = T::deserialize(Probe { path, found: &found });
    found.into_inner()
}

#[derive(Clone, Copy)]
struct Probe<'a> {
    path: &'a [&'static str],
    found: &'a RefCell<Option<Vec<&'static str>>>,
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = value::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self.path {
            [] => {
                *self.found.borrow_mut() = Some(fields.to_vec());
                Err(value::Error::custom("found"))
            }
            [next, ..] => visitor.visit_map(Step { probe: self, next: Some(next) }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        visitor.visit_some(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Self::Error> {
        Err(value::Error::custom("not a type with fields"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// One field on the way.
struct Step<'a> {
    probe: Probe<'a>,
    next: Option<&'static str>,
}

impl<'de> MapAccess<'de> for Step<'_> {
    type Error = value::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Self::Error> {
        match self.next.take() {
            Some(name) => seed.deserialize(value::StrDeserializer::new(name)).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Self::Error> {
        let path = self.probe.path.split_first().map(|(_, rest)| rest).unwrap_or_default();
        seed.deserialize(Probe { path, ..self.probe })
    }
}

#[cfg(test)]
mod tests {
    use lambda_attest::dcap::TdxPolicy;
    use lambda_attest::snp::SnpPolicy;
    use serde::Deserialize;

    use super::*;

    fn names(json: &str) -> Vec<String> {
        gaps(&Policy::parse(json.as_bytes()).unwrap()).into_iter().map(|gap| gap.field).collect()
    }

    #[test]
    fn what_a_section_leaves_out_is_named_and_a_missing_section_is_a_decision() {
        assert_eq!(names(r#"{"version":1}"#), ["minimum_tier"]);
        assert_eq!(
            names(r#"{"version":1,"minimum_tier":"platform","tpm":{"images":[]}}"#),
            ["tpm.platform_cas", "tpm.firmware_version", "tpm.images"]
        );
    }

    #[test]
    fn the_fields_are_those_of_the_types() {
        assert!(fields::<Policy>(&[]).unwrap().starts_with(&["version", "minimum_tier", "tpm"]));
        assert_eq!(fields::<Policy>(&["tpm"]).unwrap(), ["platform_cas", "firmware_version", "images"]);
        assert_eq!(fields::<Policy>(&["minimum_tier"]), None);
        assert_eq!(fields::<Policy>(&["tpm", "images"]), None);
        assert_eq!(fields::<Policy>(&["nonsense"]), None);
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only the names of the fields are looked at")]
    struct Sections {
        snp: Option<SnpPolicy>,
        tdx: Option<TdxPolicy>,
    }

    #[test]
    fn expectations_within_expectations_are_looked_at_too() {
        let written = serde_json::json!({"snp": {"guest_policy": {"smt": "any"}}, "tdx": {"platform": {}}});
        let found: Vec<String> = gaps_of::<Sections>(&written).into_iter().map(|gap| gap.field).collect();
        for gap in ["snp.vmpl", "snp.platform", "snp.guest_policy.cxl", "tdx.platform.statuses", "tdx.rtmr3"] {
            assert!(found.iter().any(|field| field == gap), "{gap}: {found:?}");
        }
        assert!(!found.iter().any(|field| field == "snp.guest_policy.smt" || field == "snp.guest_policy"), "{found:?}");
    }

    #[test]
    fn what_is_made_from_an_image_leaves_nothing_out() {
        let (snp, tdx) = super::super::make::tests::sections();
        assert_eq!(gaps_of::<Sections>(&serde_json::json!({"snp": snp, "tdx": tdx})), []);
    }
}
