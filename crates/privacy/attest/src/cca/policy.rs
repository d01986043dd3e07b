use serde::{Deserialize, Serialize};

use crate::cose::{Endorsement, HexString, Lifecycle, SoftwareComponent};
use crate::policy::{HostDataRule, Reference, Rule};

/// Expectations of Arm CCA evidence. What is left out fails its check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CcaPolicy {
    /// Platforms, with the keys that their makers endorse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endorsements: Option<Vec<Endorsement>>,
    /// States of life that are good enough. A platform that can be debugged never is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Rule<Lifecycle>>,
    /// The platform's software: each component has to be named, and each named role has to be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub software: Option<Rule<SoftwareComponent>>,
    /// The platform's configuration claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<Rule<HexString>>,
    /// Realm initial measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_measurement: Option<Reference<HexString>>,
    /// Realm extensible measurements, four of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensible_measurements: Option<Rule<Vec<HexString>>>,
    /// Realm personalization value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personalization: Option<HostDataRule<HexString>>,
    /// Whether an event log has to come with the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_log: Option<EventLogRule>,
}

/// Whether an event log has to be there. One that is there always has to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventLogRule {
    /// It may be missing.
    Optional,
    /// It must be there.
    Required,
}

/// Expects nothing, and so refuses everything.
pub(crate) static SILENT: CcaPolicy = CcaPolicy {
    endorsements: None,
    lifecycle: None,
    software: None,
    configuration: None,
    initial_measurement: None,
    extensible_measurements: None,
    personalization: None,
    event_log: None,
};

impl CcaPolicy {
    /// What an inspection goes by.
    pub(crate) fn default_appraisal() -> Self {
        Self {
            endorsements: None,
            lifecycle: Some(Rule::OneOf(Lifecycle::INSPECTED.to_vec())),
            software: Some(Rule::Any),
            configuration: Some(Rule::Any),
            initial_measurement: Some(Reference::Any),
            extensible_measurements: Some(Rule::Any),
            personalization: Some(HostDataRule::Any),
            event_log: Some(EventLogRule::Optional),
        }
    }

    /// What is wrong with its own values.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        self.endorsements.iter().flatten().find_map(Endorsement::fault)
    }
}
