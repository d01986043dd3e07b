//! Disagreements that are meant to be; `docs/attestation.md` lists them.

use crate::compare::{Class, Side};

/// Why this disagreement is right, if somebody argued for it.
#[must_use]
pub fn argument(class: &Class) -> Option<&'static str> {
    match class.side {
        Side::OursAccepts => {
            let found = ACCEPTED.iter().find(|(tee, start, _)| *tee == class.tee && class.why.starts_with(start));
            found.map(|(_, _, why)| *why)
        }
        Side::TheirsAccepts => {
            let failed: Vec<&str> = class.why.split(' ').collect();
            // What cannot be read fails every check that needs it.
            if let Some(why) = WHOLE.iter().find(|(id, _)| failed.contains(id)).map(|(_, why)| *why) {
                return Some(why);
            }
            // Each failed check has to be argued for; one that is not takes the whole disagreement along.
            let arguments: Option<Vec<_>> = failed.iter().map(|id| stricter(class.tee, id)).collect();
            arguments?.first().copied()
        }
    }
}

fn stricter(tee: &str, id: &str) -> Option<&'static str> {
    STRICTER.iter().find(|(of, check, _)| of.contains(&tee) && *check == id).map(|(_, _, why)| *why)
}

const INTEL: &[&str] = &["tdx", "sgx"];
const SNP: &[&str] = &["snp"];
const CCA: &[&str] = &["cca"];

const ROOT_SENT: &str = "dcap-qvl does not look at the root that is sent along; Lambda does, and refuses a damaged one";
const PARAMETERS: &str = "sev looks at the signature's algorithm, not at hash and salt beside it";
const DATES: &str = "sev compares no dates";

/// What Lambda accepts and the yardstick refuses: evidence, how the yardstick's words start, argument.
const ACCEPTED: &[(&str, &str, &str)] = &[
    (
        "tdx",
        "Invalid MR service TD",
        "dcap-qvl refuses every TD with a service TD unless told otherwise; an inspection shows MRSERVICETD, and a policy \
         has to name it (tdx.mrservicetd)",
    ),
    (
        "cca",
        "Semantic error: unknown profile tag:arm.com",
        "ccatoken knows the profile CCA-SSD/#.#.# only, Lambda that of draft-ffm-rats-cca-token too",
    ),
];

/// What Lambda refuses for being unreadable, and the yardstick accepts: the check, argument.
const WHOLE: &[(&str, &str)] = &[
    ("dcap.pck.chain.structure", ROOT_SENT),
    ("dcap.tcb-signer.chain.structure", ROOT_SENT),
    ("dcap.identity-signer.chain.structure", ROOT_SENT),
];

/// What Lambda refuses and the yardstick accepts: evidence, the failed check, argument.
const STRICTER: &[(&[&str], &str, &str)] = &[
    (INTEL, "unreadable", "dcap-qvl does not look at the type of the outer certification data; Lambda requires type 6"),
    (INTEL, "dcap.pck.chain.authorities", ROOT_SENT),
    (INTEL, "dcap.tcb-signer.chain.key-usage", ROOT_SENT),
    (INTEL, "dcap.pck.chain.algorithms", ROOT_SENT),
    (INTEL, "dcap.pck.chain.anchor", ROOT_SENT),
    (INTEL, "dcap.pck.chain.names", ROOT_SENT),
    (INTEL, "dcap.pck.chain.signatures", ROOT_SENT),
    (INTEL, "dcap.crl.root.signature", ROOT_SENT),
    (INTEL, "dcap.crl.root.issuer", ROOT_SENT),
    (INTEL, "dcap.tcb-signer.chain.algorithms", ROOT_SENT),
    (INTEL, "dcap.tcb-signer.chain.anchor", ROOT_SENT),
    (INTEL, "dcap.tcb-signer.chain.names", ROOT_SENT),
    (INTEL, "dcap.tcb-signer.chain.signatures", ROOT_SENT),
    (CCA, "unreadable", "ccatoken does not count the members of a COSE_Sign1; Lambda requires four"),
    (SNP, "snp.chain.dates", DATES),
    (SNP, "snp.crl.dates", DATES),
    (SNP, "snp.crl.revoked", "sev takes no revocation list"),
    (SNP, "snp.policy.debug", "sev leaves the guest's policy to its caller"),
    (SNP, "snp.chain.algorithms", PARAMETERS),
    (SNP, "snp.chain.ark-pinned", PARAMETERS),
    (SNP, "snp.chain.leaf-signature", PARAMETERS),
    (SNP, "snp.report.signature", "sev verifies the report as it writes it anew, Lambda the bytes that came"),
    (SNP, "snp.tcb.form", "sev verifies the report as it writes it anew, without the bytes that are reserved"),
    (SNP, "snp.report.signature-form", "sev does not look at the bytes of the signature that are unused"),
];
