//! `lambda instance attest` and `lambda attest …`: verdicts.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use lambda_attest::{Inspection, MAX_RECORD_BYTES, Outcome, Record, UnixTime, Verdict, inspect as read_claims};
use lambda_sdk::broker::Fresh;
use lambda_sdk::{files, policies};
use lambda_types::shape::Tier;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::{AttestInstance, Format, Verify};
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
    let count = |outcome| verdict.checks.iter().filter(|check| check.outcome == outcome).count();
    let tier = match verdict.tier {
        Tier::Platform => "tier platform",
        Tier::Hardware => "tier hardware",
    };
    if verdict.accepted() {
        let aside = match count(Outcome::NotApplicable) {
            0 => String::new(),
            aside => format!(", {aside} not applicable"),
        };
        return format!("accepted, {tier}, {} checks passed{aside}: {}", count(Outcome::Pass), verdict.product);
    }
    let failed: Vec<String> = verdict.failed().map(|check| format!("{} ({})", check.id, check.detail)).collect();
    format!("rejected, {tier}: {}", failed.join("; "))
}

/// `lambda instance attest`.
pub(crate) async fn instance(format: Format, args: &AttestInstance) -> Result<(), Failure> {
    let customer = customer()?;
    let policy = args.policy.policy.as_deref().map(policies::load_file).transpose()?;
    customer.check_platform().await?;
    let id = customer.find(&args.name.instance).await?.instance.id;
    if let Some(policy) = &policy {
        customer.set_policy(id, policy)?;
    }
    let Fresh { verdict, record } = customer.attest(id, BOUND).await?;
    if let Some(path) = &args.record {
        files::write_json(path, &record)?;
    }
    output::print(format, &verdict)?;
    decided(&verdict)
}

/// A rejected verdict is a failure of its own kind; it was printed already.
fn decided(verdict: &Verdict) -> Result<(), Failure> {
    if verdict.accepted() { Ok(()) } else { Err(Failure::new(REFUSED, "the evidence was refused")) }
}

/// `lambda attest inspect`.
pub(crate) fn inspect(format: Format, path: &Path) -> Result<(), Failure> {
    let bytes = read(path)?;
    let evidence = match serde_json::from_slice::<Record>(&bytes) {
        Ok(record) => record.evidence,
        Err(_) => parse(path, &bytes)?,
    };
    output::print(format, &read_claims(&evidence))
}

/// `lambda attest verify`.
pub(crate) fn verify(format: Format, args: &Verify) -> Result<(), Failure> {
    let policy = policies::load_file(&args.policy)?;
    let record: Record = parse(&args.record, &read(&args.record)?)?;
    let now = i64::try_from(lambda_sdk::wait::now_ms() / 1000).map_err(Failure::other)?;
    let verdict = record
        .judge(args.instance.unwrap_or(record.instance), &policy, args.at.unwrap_or(UnixTime(now)))
        .map_err(|error| Failure::usage(format!("{}: {error}", args.record.display())))?;
    let verified = Verified {
        instance: record.instance.to_string(),
        boot: record.boot.to_string(),
        recorded_at: record.at.to_string(),
        verdict,
    };
    output::print(format, &verified)?;
    decided(&verified.verdict)
}

/// A verdict on recorded evidence.
#[derive(Serialize)]
struct Verified {
    instance: String,
    boot: String,
    recorded_at: String,
    verdict: Verdict,
}

impl Show for Verified {
    fn text(&self) -> String {
        let Self { instance, boot, recorded_at, verdict } = self;
        format!(
            "asked: {instance}, {boot}; recorded at {recorded_at} by the clock of who recorded it\n{}",
            verdict.text()
        )
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(failed)?;
    let most = u64::try_from(MAX_RECORD_BYTES).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > MAX_RECORD_BYTES {
        return Err(Failure::usage(format!("{} is longer than {MAX_RECORD_BYTES} bytes", path.display())));
    }
    Ok(bytes)
}

/// A document; the error names the field.
fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, Failure> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| error.to_string());
    let whole = parsed.and_then(|value| reader.end().map(|()| value).map_err(|error| error.to_string()));
    whole.map_err(|error| Failure::usage(format!("{} cannot be read: {error}", path.display())))
}
