//! Certificates and revocation lists without a report: whether they are AMD's.
//!
//! For inspection. Whether an intermediate is revoked is a question about a chain at an instant, so it is claimed here
//! and judged only with a report.

use lambda_types::Binary;
use serde_json::{Value, json};

use super::{chain, checks, leaf};
use crate::anchors::AmdAnchor;
use crate::appraise::{Appraised, Context};
use crate::checks::{CheckInfo, Recorder};
use crate::pki::{ParsedCertificate, ParsedCrl};
use crate::verdict::{Assurance, Claims};

/// The checks that need no report.
static LIST: &[&CheckInfo] = &[
    &checks::CHAIN_STRUCTURE,
    &checks::CHAIN_ARK,
    &checks::CHAIN_ALGORITHMS,
    &checks::CHAIN_DATES,
    &checks::CHAIN_AUTHORITIES,
    &checks::CHAIN_KEY_USAGE,
    &checks::CHAIN_CRITICAL,
    &checks::CRL_SIGNATURE,
];

/// Judges every intermediate and every list by the pinned roots.
pub(super) fn check(given: &[Binary], context: &Context<'_>, recorder: &mut Recorder) -> Appraised {
    let mut appraised = Appraised {
        product: "AMD SEV-SNP certificates".into(),
        claims: Claims::new(),
        tier: Assurance::Unanchored,
        image: None,
        clock: None,
        checks: LIST,
    };
    let (authorities, lists) = match (authorities(given, context), chain::lists(context)) {
        (Ok(authorities), Ok(lists)) => (authorities, lists),
        (Err(why), _) | (_, Err(why)) => {
            recorder.record(&checks::CHAIN_STRUCTURE, Err(why));
            return appraised;
        }
    };
    recorder.record(&checks::CHAIN_STRUCTURE, Ok(format!("{} certificates of intermediates", authorities.len())));
    let anchors = context.endorsements.anchors.amd();
    let each = |judge: &dyn Fn(&ParsedCertificate) -> Result<(), String>| authorities.iter().try_for_each(judge);
    let results = [
        (&checks::CHAIN_ARK, each(&|it| signed_by_pinned(it, anchors)), "a pinned root signed each"),
        (&checks::CHAIN_ALGORITHMS, each(&chain::is_rsa_4096_throughout), "RSASSA-PSS with SHA-384 and RSA-4096"),
        (&checks::CHAIN_DATES, each(&|it| it.valid_at(context.now)), "each is valid at this time"),
        (&checks::CHAIN_AUTHORITIES, each(&|it| it.is_authority(0)), "each is a CA"),
        (&checks::CHAIN_KEY_USAGE, each(&ParsedCertificate::may_sign_certificates), "each may sign certificates"),
        (
            &checks::CHAIN_CRITICAL,
            each(&ParsedCertificate::understands_critical_extensions),
            "no critical extension is unknown",
        ),
    ];
    for (info, result, pass) in results {
        recorder.record(info, result.map(|()| pass.into()));
    }
    if lists.is_empty() {
        recorder.not_applicable(&checks::CRL_SIGNATURE, "there is no revocation list");
    } else {
        let signed = lists.iter().try_for_each(|list| list_of_pinned(list, context));
        recorder.record(&checks::CRL_SIGNATURE, signed.map(|()| "a pinned root signed each list".into()));
    }
    appraised.claims.insert("certificates".into(), claims(&authorities, &lists));
    appraised
}

/// Every certificate but the pinned roots, which are AMD's for being pinned.
fn authorities(given: &[Binary], context: &Context<'_>) -> Result<Vec<ParsedCertificate>, String> {
    let collateral = context.endorsements.collateral.amd.as_ref();
    let more = collateral.map(|amd| amd.certificates.as_slice()).unwrap_or_default();
    let mut parsed = chain::parse(given, chain::MAX_COLLATERAL, context, "to look at")?;
    parsed.extend(chain::parse(more, chain::MAX_COLLATERAL, context, "in the collateral")?);
    match parsed.iter().find(|certificate| leaf::is_endorsement_key(certificate)) {
        Some(leaf) => Err(format!("`{}` is judged only with a report that its key signed", leaf.subject())),
        None => Ok(parsed),
    }
}

fn signed_by_pinned(certificate: &ParsedCertificate, anchors: &[AmdAnchor]) -> Result<(), String> {
    let issuer = anchors.iter().find(|anchor| certificate.issued_by_name_of(&anchor.ark));
    match issuer {
        Some(anchor) if certificate.signed_by(&anchor.ark) => Ok(()),
        _ => Err(format!("no pinned root signed `{}`", certificate.subject())),
    }
}

fn list_of_pinned(list: &ParsedCrl, context: &Context<'_>) -> Result<(), String> {
    let anchors = context.endorsements.anchors;
    match anchors.amd().iter().find(|anchor| list.issued_by_name_of(&anchor.ark)) {
        Some(anchor) => chain::authentic(list, &anchor.ark, anchors.facts()),
        None => Err(format!("the revocation list of `{}` is of no pinned root", list.issuer())),
    }
}

fn claims(authorities: &[ParsedCertificate], lists: &[ParsedCrl]) -> Value {
    let one = |certificate: &ParsedCertificate| {
        json!({
            "subject": certificate.subject(),
            "serial": hex::encode(certificate.serial()),
            "revoked_by_given_list": lists.iter().any(|list| {
                list.revokes(certificate.serial()) && list.issuer() == certificate.issuer().to_string()
            }),
        })
    };
    Value::Array(authorities.iter().map(one).collect())
}
