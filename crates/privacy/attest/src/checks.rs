//! Every check by its stable id. `docs/attestation-checks.md` explains them one by one; a test keeps the two lists equal.

#[cfg(feature = "mutation")]
use crate::mutation::disabled;
use crate::verdict::{Check, Outcome};

/// One check.
#[derive(Debug, PartialEq, Eq)]
pub struct CheckInfo {
    /// Stable, dotted.
    pub id: &'static str,
    /// What has to be true.
    pub asks: &'static str,
    /// Where that is written.
    pub standard: &'static str,
}

/// Checks and their list, in the order in which a verdict shows them.
macro_rules! checks {
    ($(#[$meta:meta])* $list:ident; $($name:ident = $id:literal, $standard:literal, $asks:literal;)*) => {
        $(
            #[doc = $asks]
            pub static $name: $crate::checks::CheckInfo =
                $crate::checks::CheckInfo { id: $id, asks: $asks, standard: $standard };
        )*

        $(#[$meta])*
        pub static $list: &[&$crate::checks::CheckInfo] = &[$(&$name),*];
    };
}
pub(crate) use checks;

checks! {
    /// Checks of what the customer's policy says of any evidence.
    POLICY;
    POLICY_TEE = "policy.tee", "Lambda policy", "The policy says how to judge evidence of this kind.";
    POLICY_TIER = "policy.tier", "Lambda policy", "The root of trust is at least as strong as the policy demands.";
    POLICY_REFERENCE = "policy.reference", "Lambda policy", "The policy allows at least one image, with well-formed reference values.";
}

checks! {
    /// Checks of what a guest binds into its report beside the nonce.
    BINDING;
    BINDING_INSTANCE = "binding.instance", "Lambda evidence", "The evidence speaks for the instance that was asked.";
    BINDING_BOOT = "binding.boot", "Lambda evidence", "The evidence speaks for the boot that was asked.";
    BINDING_HPKE = "binding.hpke-public", "RFC 9180 §7.1", "The key that secrets would be sent to is an X25519 public key.";
    BINDING_SSH = "binding.ssh-host-key", "RFC 8709 §4", "The SSH host key is an Ed25519 key.";
}

checks! {
    /// Checks of a TPM 2.0 quote over a measured boot.
    TPM_BOOT;
    EK_PUBLIC = "tpm.ek.template", "TCG EK Credential Profile, template L-2", "The endorsement key is a storage key that cannot leave its TPM and signs nothing.";
    EK_CHAIN_STRUCTURE = "tpm.ek.chain.structure", "RFC 5280 §4.1", "The endorsement key comes with one to four well-formed certificates.";
    EK_CHAIN_ALGORITHMS = "tpm.ek.chain.algorithms", "RFC 5758 §3.2", "Every certificate is X.509 version 3, holds a P-256 key and is signed with ECDSA and SHA-256.";
    EK_CHAIN_ANCHOR = "tpm.ek.chain.anchor", "RFC 5280 §6.1.1", "The chain ends at a platform CA that the policy pins, by name and key.";
    EK_CHAIN_NAMES = "tpm.ek.chain.names", "RFC 5280 §6.1.3 (a)(4)", "Each certificate names the next one as its issuer.";
    EK_CHAIN_SIGNATURES = "tpm.ek.chain.signatures", "RFC 5280 §6.1.3 (a)(1)", "Each certificate is signed by the next one's key.";
    EK_CHAIN_DATES = "tpm.ek.chain.dates", "RFC 5280 §6.1.3 (a)(2)", "Every certificate, the pinned one too, is valid at this time.";
    EK_CHAIN_AUTHORITIES = "tpm.ek.chain.authorities", "RFC 5280 §4.2.1.9, §6.1.4 (k)-(m)", "Every issuer is a CA and allows the length of the path below it; the endorsement key's certificate is not a CA.";
    EK_CHAIN_KEY_USAGE = "tpm.ek.chain.key-usage", "RFC 5280 §4.2.1.3; TCG EK Credential Profile, Key Usage", "Issuers may sign certificates; the endorsement key may only agree on keys.";
    EK_CHAIN_PURPOSE = "tpm.ek.chain.purpose", "TCG EK Credential Profile, Extended Key Usage", "An extended key usage, if there is one, names endorsement.";
    EK_CHAIN_CRITICAL = "tpm.ek.chain.critical-extensions", "RFC 5280 §4.2", "No certificate carries a critical extension that is not understood.";
    EK_CERTIFIED = "tpm.ek.certified", "TCG EK Credential Profile, Subject Public Key Info", "The certificate is for the endorsement key that the evidence presents.";
    AK_ATTRIBUTES = "tpm.ak.attributes", "TPM 2.0 Part 2, TPMA_OBJECT", "The attestation key was made in its TPM, cannot leave it, and signs only what the TPM itself made.";
    AK_ALGORITHM = "tpm.ak.algorithm", "TPM 2.0 Part 2, TPMT_PUBLIC", "The attestation key is ECDSA P-256 with SHA-256, and so is its name.";
    AK_ACTIVATION = "tpm.ak.activation", "TPM 2.0 Part 1, Credential Protection", "The TPM with the certified endorsement key opened the credential made for this attestation key.";
    QUOTE_STRUCTURE = "tpm.quote.structure", "TPM 2.0 Part 2, TPMS_ATTEST", "The attestation is a quote, complete and with nothing after it.";
    QUOTE_MAGIC = "tpm.quote.magic", "TPM 2.0 Part 2, TPM_GENERATED", "The attestation was made by a TPM (TPM_GENERATED_VALUE).";
    QUOTE_SIGNATURE = "tpm.quote.signature", "TPM 2.0 Part 3, TPM2_Quote", "The attestation key signed the quote, with ECDSA and SHA-256.";
    QUOTE_SIGNER = "tpm.quote.signer", "TPM 2.0 Part 1, Names", "The quote names the attestation key, as a primary of the endorsement hierarchy, as its signer.";
    QUOTE_REPORT_DATA = "tpm.quote.report-data", "TPM 2.0 Part 2, TPMS_ATTEST extraData", "The quote covers this challenge, instance, boot, HPKE key and SSH host key, exactly.";
    QUOTE_SELECTION = "tpm.quote.selection", "TPM 2.0 Part 2, TPML_PCR_SELECTION", "The quote covers PCRs 0-7 and 9 of the SHA-256 bank, no fewer and no others.";
    QUOTE_PCR_DIGEST = "tpm.quote.pcr-digest", "TPM 2.0 Part 2, TPMS_QUOTE_INFO", "The PCR values in the evidence are the quoted ones.";
    CLOCK_RESTART = "tpm.clock.restart", "TPM 2.0 Part 1, restartCount", "The TPM was not resumed from a saved state since its reset.";
    CLOCK_SAME_TPM = "tpm.clock.same-tpm", "Lambda policy", "The instance still has the TPM that it had before.";
    CLOCK_MONOTONIC = "tpm.clock.monotonic", "TPM 2.0 Part 1, Clock and resetCount", "The TPM's counters moved on since the last evidence: no rolled-back state, no unseen reset within a boot.";
    FIRMWARE_VERSION = "tpm.firmware-version", "TPM 2.0 Part 2, TPMS_ATTEST firmwareVersion", "The policy allows the TPM's firmware version.";
    LOG_STRUCTURE = "tpm.log.structure", "TCG PFP, Event Log Entries", "The event log is a crypto-agile log with a SHA-256 bank.";
    LOG_REPLAY = "tpm.log.replay", "TCG PFP, Event Log Entries; TPM 2.0 Part 1, PCR Operations", "The log's events, replayed, give every quoted PCR.";
    LOG_DIGESTS = "tpm.log.digests", "TCG PFP, Event Types", "Where an event's type defines it, its digest is the hash of its data.";
    LOG_SEPARATORS = "tpm.log.separators", "TCG PFP, EV_SEPARATOR", "Each of PCRs 0-7 is closed by exactly one separator of success.";
    LOG_EVENTS = "tpm.log.events", "TCG PFP, PCR Usage", "The log holds no event that a direct kernel boot does not produce.";
    MEASURED_FIRMWARE = "tpm.measured.firmware", "TCG PFP, usage of PCR 0", "The firmware volumes are the image's.";
    MEASURED_KERNEL = "tpm.measured.kernel", "TCG PFP, usage of PCR 4", "The kernel is the image's, and nothing else was started.";
    MEASURED_COMMAND_LINE = "tpm.measured.command-line", "Linux EFI stub (PCR 9)", "The kernel command line, with the root file system's hash in it, is the image's.";
    MEASURED_INITRAMFS = "tpm.measured.initramfs", "Linux EFI stub (PCR 9)", "The initramfs is the image's.";
    PCR_FIRMWARE = "tpm.pcr.firmware", "TCG PFP, usage of PCR 0", "PCR 0, firmware code, has the image's value.";
    PCR_CONFIGURATION = "tpm.pcr.configuration", "TCG PFP, usage of PCR 1", "PCR 1, platform configuration and boot entries, has the image's value.";
    PCR_OPTION_ROMS = "tpm.pcr.option-roms", "TCG PFP, usage of PCR 2", "PCR 2, drivers and option ROMs, has the image's value.";
    PCR_OPTION_ROM_CONFIGURATION = "tpm.pcr.option-rom-configuration", "TCG PFP, usage of PCR 3", "PCR 3, their configuration, has the image's value.";
    PCR_KERNEL = "tpm.pcr.kernel", "TCG PFP, usage of PCR 4", "PCR 4, what the firmware started, has the image's value.";
    PCR_BOOT_CONFIGURATION = "tpm.pcr.boot-configuration", "TCG PFP, usage of PCR 5", "PCR 5, boot configuration and hand-over, has the image's value.";
    PCR_PLATFORM = "tpm.pcr.platform", "TCG PFP, usage of PCR 6", "PCR 6, platform-specific events, has the image's value.";
    PCR_SECURE_BOOT = "tpm.pcr.secure-boot", "TCG PFP, usage of PCR 7", "PCR 7, secure boot state, has the image's value.";
    PCR_LOADER = "tpm.pcr.loader", "Linux EFI stub", "PCR 9, command line and initramfs, has the image's value.";
}

/// Every check of every kind of evidence, in the order of `docs/attestation-checks.md`.
#[must_use]
pub fn every() -> Vec<&'static CheckInfo> {
    listed(&[
        POLICY,
        BINDING,
        TPM_BOOT,
        crate::snp::checks::SNP,
        crate::dcap::checks::DCAP,
        crate::dcap::checks::TDX_ONLY,
        crate::dcap::checks::SGX_ONLY,
        crate::cca::checks::CCA,
        crate::psa::checks::PSA,
        crate::tpm_quote::checks::TPM_QUOTE,
        crate::eventlog::checks::EVENTLOG,
    ])
}

/// Several lists as one.
pub(crate) fn listed(lists: &[&[&'static CheckInfo]]) -> Vec<&'static CheckInfo> {
    lists.iter().flat_map(|list| list.iter().copied()).collect()
}

/// The check of each quoted PCR's value, by index.
pub(crate) static PCRS: [(u8, &CheckInfo); 9] = [
    (0, &PCR_FIRMWARE),
    (1, &PCR_CONFIGURATION),
    (2, &PCR_OPTION_ROMS),
    (3, &PCR_OPTION_ROM_CONFIGURATION),
    (4, &PCR_KERNEL),
    (5, &PCR_BOOT_CONFIGURATION),
    (6, &PCR_PLATFORM),
    (7, &PCR_SECURE_BOOT),
    (9, &PCR_LOADER),
];

/// The checks that decide whether an endorsement key may be trusted, before any quote exists.
pub(crate) static ENDORSEMENT: [&CheckInfo; 15] = [
    &POLICY_TEE,
    &EK_PUBLIC,
    &EK_CHAIN_STRUCTURE,
    &EK_CHAIN_ALGORITHMS,
    &EK_CHAIN_ANCHOR,
    &EK_CHAIN_NAMES,
    &EK_CHAIN_SIGNATURES,
    &EK_CHAIN_DATES,
    &EK_CHAIN_AUTHORITIES,
    &EK_CHAIN_KEY_USAGE,
    &EK_CHAIN_PURPOSE,
    &EK_CHAIN_CRITICAL,
    &EK_CERTIFIED,
    &AK_ATTRIBUTES,
    &AK_ALGORITHM,
];

/// No check of an ordinary build can be made to pass.
#[cfg(not(feature = "mutation"))]
const fn disabled(_id: &str) -> bool {
    false
}

/// Collects outcomes. A check made twice keeps its first failure.
#[derive(Default)]
pub(crate) struct Recorder {
    made: Vec<Check>,
}

impl Recorder {
    /// Records one outcome; true when it passed.
    pub(crate) fn record(&mut self, info: &'static CheckInfo, result: Result<String, String>) -> bool {
        let (outcome, detail) = match result {
            Ok(detail) => (Outcome::Pass, detail),
            Err(detail) => (Outcome::Fail, detail),
        };
        self.add(info, outcome, detail)
    }

    /// Records a condition with the sentences for both ways it may come out.
    pub(crate) fn require(&mut self, info: &'static CheckInfo, holds: bool, pass: &str, fail: &str) -> bool {
        self.record(info, if holds { Ok(pass.into()) } else { Err(fail.into()) })
    }

    /// Records that there is nothing to check.
    pub(crate) fn not_applicable(&mut self, info: &'static CheckInfo, why: &str) {
        self.add(info, Outcome::NotApplicable, why.into());
    }

    /// True unless it failed.
    fn add(&mut self, info: &'static CheckInfo, outcome: Outcome, detail: String) -> bool {
        let outcome = if disabled(info.id) && outcome == Outcome::Fail { Outcome::Pass } else { outcome };
        let holds = outcome != Outcome::Fail;
        let check = Check { id: info.id.into(), outcome, detail };
        match self.made.iter_mut().find(|made| made.id == check.id) {
            Some(made) if made.outcome == Outcome::Fail => {}
            Some(made) => *made = check,
            None => self.made.push(check),
        }
        holds
    }

    /// The outcomes in the order of `list`. What was not reached has failed.
    pub(crate) fn finish(mut self, list: &[&'static CheckInfo]) -> Vec<Check> {
        list.iter()
            .map(|info| {
                self.made.iter().position(|made| made.id == info.id).map_or_else(
                    || Check {
                        id: info.id.into(),
                        outcome: Outcome::Fail,
                        detail: "not reached: what it needs is missing or failed an earlier check".into(),
                    },
                    |position| self.made.swap_remove(position),
                )
            })
            .collect()
    }
}
