//! `lambda instance attest` and `lambda attest …`: verdicts.

use std::path::Path;
use std::time::Duration;

use lambda_attest::{Evidence, Inspection, Verdict, inspect as read_claims};
use lambda_types::shape::Tier;

use crate::args::{Format, Name};
use crate::commands::customer;
use crate::exit::{Failure, REFUSED};
use crate::output::{self, Show, table};

/// Bound on fresh evidence.
const BOUND: Duration = Duration::from_secs(120);

impl Show for Verdict {
    fn text(&self) -> String {
        let rows = self.checks.iter().map(|check| {
            let outcome = serde_json::json!(check.outcome);
            [outcome.as_str().unwrap_or("?").to_owned(), check.id.clone(), check.detail.clone()]
        });
        format!("{}\n\n{}\n\n{}", summary(self), table(["OUTCOME", "CHECK", "DETAIL"], rows), self.tier_statement())
    }
}

impl Show for Inspection {
    fn text(&self) -> String {
        let claims = serde_json::to_value(&self.claims).unwrap_or_default();
        let rows = claims.as_object().into_iter().flatten().map(|(name, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            [name.clone(), text]
        });
        format!("{}\n{} (tier {})\n\n{}", self.note, self.product, self.tier, table(["CLAIM", "VALUE"], rows))
    }
}

/// The verdict in one line: yes or no, tier, and what failed.
pub(crate) fn summary(verdict: &Verdict) -> String {
    let passed = verdict.checks.len().saturating_sub(verdict.failed().count());
    let tier = match verdict.tier {
        Tier::Platform => "tier platform",
        Tier::Hardware => "tier hardware",
    };
    if verdict.accepted() {
        return format!("accepted, {tier}, {passed} checks: {}", verdict.product);
    }
    let failed: Vec<String> = verdict.failed().map(|check| format!("{} ({})", check.id, check.detail)).collect();
    format!("rejected, {tier}: {}", failed.join("; "))
}

/// `lambda instance attest`.
pub(crate) async fn instance(format: Format, args: &Name) -> Result<(), Failure> {
    let customer = customer()?;
    customer.check_platform().await?;
    let known = customer.find(&args.instance).await?;
    let verdict = customer.attest(known.instance.id, None, BOUND).await?;
    output::print(format, &verdict)?;
    decided(&verdict)
}

/// A rejected verdict is a failure of its own kind; it was printed already.
fn decided(verdict: &Verdict) -> Result<(), Failure> {
    if verdict.accepted() { Ok(()) } else { Err(Failure::new(REFUSED, "the evidence was refused")) }
}

/// `lambda attest inspect`.
pub(crate) fn inspect(format: Format, path: &Path) -> Result<(), Failure> {
    output::print(format, &read_claims(&evidence(path)?))
}

fn evidence(path: &Path) -> Result<Evidence, Failure> {
    let bytes =
        std::fs::read(path).map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    Evidence::from_json(&bytes).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}
