//! `lambda instance attest` and `lambda attest …`: verdicts, and the policies and collateral behind them.

pub(crate) mod collateral;
mod eventlog;
pub(crate) mod policy;
mod subject;

use std::path::Path;
use std::time::Duration;

use lambda_attest::{
    Check, Claims, Collateral, Endorsements, Inspection, Outcome, Record, UnixTime, Verdict, inspect as inspect_report,
    inspect_evidence, judge,
};
use lambda_sdk::anchors;
use lambda_sdk::broker::Fresh;
use lambda_sdk::files;
use serde::Serialize;

use crate::args::{AttestInstance, Format, Inspect, Verify};
use crate::commands::customer;
use crate::exit::{Failure, REFUSED};
use crate::output::{self, Show, table};

pub(crate) use eventlog::eventlog;
pub(crate) use subject::Subject;

/// Bound on fresh evidence.
const BOUND: Duration = Duration::from_secs(120);

impl Show for Verdict {
    fn text(&self) -> String {
        format!("{}\n\n{}\n\n{}", summary(self), checks(&self.checks), self.tier_statement())
    }
}

impl Show for Inspection {
    fn text(&self) -> String {
        let verdict = self.verdict();
        let (checks, claims) = (checks(&self.checks), claims(&self.claims));
        format!("{}\n\n{checks}\n\n{claims}\n\n{}\n{}", summary(&verdict), verdict.tier_statement(), self.note)
    }
}

/// An inspection's outcome as a verdict, to be worded like one.
trait AsVerdict {
    fn verdict(&self) -> Verdict;
}

impl AsVerdict for Inspection {
    fn verdict(&self) -> Verdict {
        let Self { verdict, tier, tee, product, claims, checks, note: _ } = self.clone();
        Verdict { verdict, tier, tee, product, claims, checks }
    }
}

pub(crate) fn checks(checks: &[Check]) -> String {
    let rows = checks.iter().map(|check| {
        let outcome = serde_json::json!(check.outcome);
        [outcome.as_str().unwrap_or("?").to_owned(), check.id.clone(), check.detail.clone()]
    });
    table(["OUTCOME", "CHECK", "DETAIL"], rows)
}

fn claims(claims: &Claims) -> String {
    let rows = claims.iter().map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        [name.clone(), text]
    });
    table(["CLAIM", "VALUE"], rows)
}

/// The verdict in one line: yes or no, tier, and what failed.
pub(crate) fn summary(verdict: &Verdict) -> String {
    let count = |outcome| verdict.checks.iter().filter(|check| check.outcome == outcome).count();
    let tier = format!("tier {}", verdict.tier);
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
    let policy = args.policy.policy.as_deref().map(policy::accepted).transpose()?;
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
    decided(verdict.accepted())
}

/// A rejection is a failure of its own kind; it was printed already.
pub(crate) fn decided(accepted: bool) -> Result<(), Failure> {
    if accepted { Ok(()) } else { Err(Failure::new(REFUSED, "the evidence was refused")) }
}

/// The instant of the verdict: as given, else this machine's clock.
pub(crate) fn instant(at: Option<UnixTime>) -> Result<UnixTime, Failure> {
    match at {
        Some(at) => Ok(at),
        None => i64::try_from(lambda_sdk::wait::now_ms() / 1000).map(UnixTime).map_err(Failure::other),
    }
}

/// An inspection of whatever was presented.
pub(crate) fn inspection(
    path: &Path,
    subject: &Subject,
    collateral: &Collateral,
    now: UnixTime,
) -> Result<Inspection, Failure> {
    let anchors = anchors().map_err(Failure::other)?;
    let endorsements = Endorsements { anchors: &anchors, collateral };
    let inspected = match subject {
        Subject::Record(record) => inspect_evidence(&record.evidence, &endorsements, now),
        Subject::Evidence(evidence) => inspect_evidence(evidence, &endorsements, now),
        Subject::Presented(presented) => inspect_report(&presented.report, &presented.given, &endorsements, now),
    };
    inspected.map_err(|error| unreadable(path, error))
}

/// `lambda attest inspect`.
pub(crate) fn inspect(format: Format, args: &Inspect) -> Result<(), Failure> {
    let now = instant(args.evidence.at)?;
    let subject = Subject::read(&args.evidence)?;
    let collateral = subject.collateral(&args.evidence.collateral, now)?;
    let inspection = inspection(&args.evidence.path, &subject, &collateral, now)?;
    output::print(format, &inspection)?;
    decided(inspection.accepted())
}

/// `lambda attest verify`.
pub(crate) fn verify(format: Format, args: &Verify) -> Result<(), Failure> {
    let evidence = &args.evidence;
    let policy = policy::accepted(&args.policy)?;
    let now = instant(evidence.at)?;
    let subject = Subject::read(evidence)?;
    let collateral = subject.collateral(&evidence.collateral, now)?;
    let anchors = anchors().map_err(Failure::other)?;
    let verified = match subject {
        Subject::Record(record) if args.report_data.is_none() => {
            let record = Record { collateral, ..*record };
            let verdict = record
                .judge(args.instance.unwrap_or(record.instance), &policy, &anchors, now)
                .map_err(|error| unreadable(&evidence.path, error))?;
            Verified { verdict, record: Some(Asked::of(&record)) }
        }
        Subject::Record(_) => {
            return Err(Failure::usage("a record says what was asked: leave --report-data out"));
        }
        Subject::Evidence(_) => {
            let message = format!(
                "{}: challenge: evidence alone does not say what was asked: give its record",
                evidence.path.display()
            );
            return Err(Failure::usage(message));
        }
        Subject::Presented(presented) => {
            let endorsements = Endorsements { anchors: &anchors, collateral: &collateral };
            let asked = args.report_data.as_deref();
            let verdict = judge(&presented.report, asked, args.instance, &policy, &endorsements, now)
                .map_err(|error| unreadable(&evidence.path, error))?;
            Verified { verdict, record: None }
        }
    };
    output::print(format, &verified)?;
    decided(verified.verdict.accepted())
}

/// A verdict, and what was asked where that is recorded.
#[derive(Serialize)]
struct Verified {
    #[serde(flatten)]
    verdict: Verdict,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<Asked>,
}

/// What a record says of itself.
#[derive(Serialize)]
struct Asked {
    instance: String,
    boot: String,
    recorded_at: String,
}

impl Asked {
    fn of(record: &Record) -> Self {
        Self {
            instance: record.instance.to_string(),
            boot: record.boot.to_string(),
            recorded_at: record.at.to_string(),
        }
    }
}

impl Show for Verified {
    fn text(&self) -> String {
        let Self { verdict, record } = self;
        let asked = record.as_ref().map(|Asked { instance, boot, recorded_at }| {
            format!("asked: {instance}, {boot}; recorded at {recorded_at} by the clock of who recorded it\n")
        });
        format!("{}{}", asked.unwrap_or_default(), verdict.text())
    }
}

fn unreadable(path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::usage(format!("{}: {error}", path.display()))
}
