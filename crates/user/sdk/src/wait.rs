//! What an instance waits for, in words.

use std::time::{SystemTime, UNIX_EPOCH};

use lambda_types::instance::Instance;

/// Milliseconds since 1970-01-01 UTC, this machine's clock.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// State and conditions: what is awaited, since when, until when.
#[must_use]
pub fn describe(instance: &Instance) -> String {
    let now = now_ms();
    let mut text = format!("state `{}`", instance.state);
    for condition in &instance.conditions {
        let since = now.saturating_sub(condition.since_ms) / 1000;
        text.push_str(&format!("; {} (for {since} s", condition.message));
        if let Some(until) = condition.until_ms {
            text.push_str(&format!(", gives up in {} s", until.saturating_sub(now) / 1000));
        }
        text.push(')');
    }
    text
}

#[cfg(test)]
mod tests {
    use lambda_types::instance::{Condition, ConditionKind, InstanceState};

    use super::*;
    use crate::resolve::tests::instance;

    #[test]
    fn the_description_names_state_conditions_and_bounds() {
        let mut instance = instance(1);
        instance.state = InstanceState::Attesting;
        instance.conditions.push(Condition {
            kind: ConditionKind::AwaitingBroker,
            message: "the guest waits for its key broker".into(),
            since_ms: now_ms().saturating_sub(5_500),
            until_ms: Some(now_ms() + 60_500),
        });
        let text = describe(&instance);
        assert_eq!(text, "state `attesting`; the guest waits for its key broker (for 5 s, gives up in 60 s)");
    }
}
