//! Judging an AMD SEV-SNP attestation report.
//!
//! The trust runs from the pinned root (ARK) of the product line over the intermediate (ASK, ASVK) to the certificate of
//! the key that signed the report (VCEK, VLEK), and over that key's signature to the report's bytes. Each arrow is at
//! least one check; none is taken from what the evidence says about itself.

mod chain;
pub mod checks;
mod claims;
mod leaf;
mod policy;
mod report;
mod roots;
mod rules;
mod table;
mod tcb;

use p384::ecdsa::signature::Verifier as _;

use self::chain::Leaf;
use self::leaf::Owner;
use self::report::{ECDSA_P384_SHA384, SnpReport, VERSIONS};
use crate::anchors::AmdLine;
use crate::appraise::{Appraised, Context};
use crate::checks::Recorder;
use crate::error::ParseError;
use crate::evidence::SnpEvidence;
use crate::pki::PublicKey;
use crate::verdict::{Assurance, Claims};

pub(crate) use policy::SILENT;
pub use policy::{
    FirmwareFloor, FlagRule, GuestPolicyRule, Mask, Migration, MitigationRule, PlatformRule, Revocation, SigningKey,
    SnpPolicy,
};
pub use table::certificates_of_table;
pub use tcb::{TcbFloors, TcbParts};

/// Whether the report has a report's length.
pub(crate) fn readable(evidence: &SnpEvidence) -> Result<(), ParseError> {
    SnpReport::parse(evidence.report.as_slice()).map(drop)
}

/// Makes every SEV-SNP check.
pub(crate) fn check(
    evidence: &SnpEvidence,
    policy: &SnpPolicy,
    context: &Context<'_>,
    recorder: &mut Recorder,
) -> Appraised {
    if context.given.is_some_and(|given| given.certificates_only) {
        return roots::check(&evidence.certificates, context, recorder);
    }
    let mut appraised = Appraised {
        product: "AMD SEV-SNP".into(),
        claims: Claims::new(),
        tier: Assurance::Unanchored,
        image: None,
        clock: None,
        checks: checks::SNP,
    };
    let report = match SnpReport::parse(evidence.report.as_slice()) {
        Ok(report) => report,
        Err(error) => {
            recorder.record(&checks::REPORT_VERSION, Err(error.to_string()));
            return appraised;
        }
    };
    let signer = check_form(&report, recorder);
    let leaf = chain::check(&report, signer, &evidence.certificates, policy, context, recorder);
    let facts = leaf.as_ref().and_then(|leaf| leaf.facts.as_ref().ok());
    let line = report.line().or_else(|| facts.map(|facts| facts.line));
    if check_signature(&report, leaf.as_ref(), recorder) && leaf.as_ref().is_some_and(|leaf| leaf.is_anchored) {
        appraised.tier = Assurance::Hardware;
    }
    if let Some(leaf) = &leaf {
        check_leaf(&report, leaf, signer, policy, context, recorder);
    }
    check_product(&report, facts.map(|facts| facts.line), policy, recorder);
    rules::check_tcb(&report, line, policy, recorder);
    rules::check_mitigations(&report, policy, recorder);
    rules::check_guest_policy(&report, policy, recorder);
    rules::check_platform(&report, policy, recorder);
    context.demand.check(&checks::REPORT_DATA, &report.report_data, recorder);
    appraised.image = rules::check_identity(&report, policy, context.instance, recorder);
    appraised.claims = claims::claims(&report, line, signer, leaf.as_ref());
    if let Some(name) = facts.map(|facts| facts.product_name.as_str()).or_else(|| line.map(AmdLine::name)) {
        appraised.product = name.into();
    }
    appraised
}

/// What the report itself has to look like; the kind of key that it says signed it.
fn check_form(report: &SnpReport<'_>, recorder: &mut Recorder) -> Option<SigningKey> {
    recorder.record(
        &checks::REPORT_VERSION,
        if VERSIONS.contains(&report.version) {
            Ok(format!("version {}", report.version))
        } else {
            Err(format!("version {} is not one of 2 to 5", report.version))
        },
    );
    recorder.record(
        &checks::REPORT_RESERVED,
        match report.reserved_used {
            None => Ok("reserved fields are zero".into()),
            Some(offset) => Err(format!("byte {offset:#x} is reserved and not zero")),
        },
    );
    recorder.require(
        &checks::REPORT_SIGNATURE_ALGORITHM,
        report.signature_algorithm == ECDSA_P384_SHA384,
        "ECDSA P-384 with SHA-384",
        "the report names another signature algorithm than ECDSA P-384 with SHA-384",
    );
    recorder.require(
        &checks::REPORT_SIGNATURE_FORM,
        report.signature.is_padded_with_zero,
        "the unused bytes of the signature are zero",
        "the signature's unused bytes are not zero",
    );
    let (result, signer) = match report.key_info.signing_key() {
        0 if report.key_info.mask_chip_key() => {
            (Err("the report names a VCEK, which this platform does not use (MASK_CHIP_KEY)".to_owned()), None)
        }
        0 => (Ok("the report is signed by a VCEK".to_owned()), Some(SigningKey::Vcek)),
        1 => (Ok("the report is signed by a VLEK".to_owned()), Some(SigningKey::Vlek)),
        7 => (Err("the report says that nothing signed it".to_owned()), None),
        other => (Err(format!("the report names the reserved signing key {other}")), None),
    };
    recorder.record(&checks::REPORT_SIGNING_KEY, result);
    signer
}

/// Verifies the signature over the bytes as they came.
fn check_signature(report: &SnpReport<'_>, leaf: Option<&Leaf>, recorder: &mut Recorder) -> bool {
    let Some(leaf) = leaf else { return false };
    let signature = p384::ecdsa::Signature::from_scalars(report.signature.r, report.signature.s);
    let result = match (leaf.certificate.public_key(), signature) {
        (Some(PublicKey::P384(key)), Ok(signature)) if key.verify(report.signed_part(), &signature).is_ok() => {
            Ok("the certified key signed the report".to_owned())
        }
        (Some(PublicKey::P384(_)), _) => {
            Err("the certified key did not sign this report: it was altered, or comes from elsewhere".to_owned())
        }
        _ => Err("the certificate holds no P-384 key".to_owned()),
    };
    recorder.record(&checks::REPORT_SIGNATURE, result)
}

/// What the certificate of the signing key says against what the report says.
fn check_leaf(
    report: &SnpReport<'_>,
    leaf: &Leaf,
    signer: Option<SigningKey>,
    policy: &SnpPolicy,
    context: &Context<'_>,
    recorder: &mut Recorder,
) {
    let kind = leaf::kind(&leaf.certificate);
    let result = match (signer, kind, &policy.signing_keys) {
        (Some(_), _, None) => Err(rules::silent("signing_keys")),
        (Some(signer), Some(kind), Some(allowed)) if signer == kind => {
            if allowed.contains(&signer) {
                Ok(format!("a {}, which the policy allows", signer.name()))
            } else {
                Err(format!("the policy does not allow reports under a {}", signer.name()))
            }
        }
        (Some(signer), _, Some(_)) => {
            Err(format!("the report says that a {} signed it, the certificate is not of one", signer.name()))
        }
        (None, ..) => Err("the report does not say what kind of key signed it".into()),
    };
    recorder.record(&checks::LEAF_KIND, result);
    let facts = match &leaf.facts {
        Ok(facts) => facts,
        Err(why) => {
            recorder.record(&checks::LEAF_EXTENSIONS, Err(why.clone()));
            return;
        }
    };
    recorder.record(&checks::LEAF_EXTENSIONS, Ok("every extension is there".into()));
    let reported = report.reported_tcb.parts(report.line().or(Some(facts.line)));
    recorder.record(
        &checks::LEAF_TCB,
        if facts.tcb == reported {
            Ok(format!("both say {reported}"))
        } else {
            Err(format!("the report says {reported}, the certificate {}", facts.tcb))
        },
    );
    check_owner(report, &facts.owner, policy, context, recorder);
}

/// The chip, or the provider and a chip that may be masked.
fn check_owner(
    report: &SnpReport<'_>,
    owner: &Owner,
    policy: &SnpPolicy,
    context: &Context<'_>,
    recorder: &mut Recorder,
) {
    let masked = report.chip_id.is_zero();
    let result = match (owner, policy.masked_chip_id) {
        (Owner::Chip(id), _) if *id == report.chip_id => Ok("the certificate is this chip's".to_owned()),
        (Owner::Chip(id), _) => Err(format!("the certificate is of chip {id}, the report of {}", report.chip_id)),
        (Owner::Provider(_), _) if !masked => Ok("a VLEK names no chip, the report does".to_owned()),
        (Owner::Provider(_), None) => Err(rules::silent("masked_chip_id")),
        (Owner::Provider(_), Some(true)) => Ok("the host hides which chip it is, which the policy allows".to_owned()),
        (Owner::Provider(_), Some(false)) => Err("the host hides which chip it is".to_owned()),
    };
    if masked && matches!(owner, Owner::Chip(_)) && context.given.is_some() {
        let why = "the host hides which chip it is, of which an inspection expects nothing; a policy refuses that";
        recorder.not_applicable(&checks::LEAF_CHIP, why);
    } else {
        recorder.record(&checks::LEAF_CHIP, result);
    }
    match owner {
        Owner::Chip(_) => recorder.not_applicable(&checks::LEAF_PROVIDER, "a VCEK belongs to no provider"),
        Owner::Provider(provider) => {
            rules::check_rule(&checks::LEAF_PROVIDER, "providers", policy.providers.as_ref(), provider, recorder);
        }
    }
    rules::check_rule(&checks::CHIP_ALLOWED, "chip_ids", policy.chip_ids.as_ref(), &report.chip_id, recorder);
}

/// Report and certificate agree on the product line, and the policy allows it.
fn check_product(report: &SnpReport<'_>, certified: Option<AmdLine>, policy: &SnpPolicy, recorder: &mut Recorder) {
    let named = match (report.cpuid, report.line(), certified) {
        (_, _, None) => Err("no certificate names the product line".to_owned()),
        (Some(cpuid), None, Some(_)) => Err(format!(
            "family {:#x}, model {:#x} is of no product line that is known here",
            cpuid.family, cpuid.model
        )),
        (_, Some(line), Some(certified)) if line != certified => {
            Err(format!("the report is of {}, the certificate of {}", line.name(), certified.name()))
        }
        (_, _, Some(certified)) => Ok(certified),
    };
    let allowed = match (&policy.lines, report.line().or(certified)) {
        (None, _) => Err(rules::silent("lines")),
        (Some(_), None) => Err("the product line is not known".to_owned()),
        (Some(lines), Some(line)) if lines.contains(&line) => Ok(format!("the policy allows {}", line.name())),
        (Some(_), Some(line)) => Err(format!("the policy does not allow {}", line.name())),
    };
    recorder.record(&checks::PRODUCT_LINE, named.map(|line| line.name().into()));
    recorder.record(&checks::PRODUCT_ALLOWED, allowed);
}
