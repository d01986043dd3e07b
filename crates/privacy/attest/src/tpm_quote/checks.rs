//! The checks of a bare TPM quote.

use crate::checks::checks;

checks! {
    /// Every check of a bare TPM quote, in the order in which an inspection lists them.
    TPM_QUOTE;
    TPM_QUOTE_STRUCTURE = "tpm-quote.structure", "TPM 2.0 Part 2, TPMS_ATTEST", "The attestation is a quote, complete and with nothing after it.";
    TPM_QUOTE_MAGIC = "tpm-quote.magic", "TPM 2.0 Part 2, TPM_GENERATED", "The attestation was made by a TPM (TPM_GENERATED_VALUE).";
    TPM_QUOTE_KEY = "tpm-quote.key", "TPM 2.0 Part 2, TPMT_PUBLIC; RFC 5280 §4.1.2.7", "There is an attestation key, RSA with 2048 to 4096 bits or on P-256, and its certificate is for it.";
    TPM_QUOTE_SIGNATURE = "tpm-quote.signature", "TPM 2.0 Part 3, TPM2_Quote; RFC 8017 §8; FIPS 186-5", "The attestation key signed the quote: RSASSA, RSAPSS or ECDSA with a SHA-2 hash.";
    TPM_QUOTE_NONCE = "tpm-quote.nonce", "TPM 2.0 Part 2, TPMS_ATTEST extraData", "The qualifying data is just the nonce that was asked with.";
    TPM_QUOTE_SELECTION = "tpm-quote.selection", "TPM 2.0 Part 2, TPML_PCR_SELECTION", "The quote covers at least one PCR, and the value of each that it covers is given.";
    TPM_QUOTE_PCR_DIGEST = "tpm-quote.pcr-digest", "TPM 2.0 Part 2, TPMS_QUOTE_INFO", "The given PCR values are the quoted ones.";
    TPM_QUOTE_LOG_STRUCTURE = "tpm-quote.log.structure", "TCG PFP, Event Log Entries", "The event log can be read to its end and has a quoted bank.";
    TPM_QUOTE_LOG_REPLAY = "tpm-quote.log.replay", "TCG PFP, Event Log Entries; TPM 2.0 Part 1, PCR Operations", "The log's events, replayed, give every quoted PCR that they extend, and every one of PCRs 0-7 that is not at its start.";
    TPM_QUOTE_LOG_DIGESTS = "tpm-quote.log.digests", "TCG PFP, Event Types", "Where an event's type defines it, its digest is the hash of its data.";
    TPM_QUOTE_CHAIN_STRUCTURE = "tpm-quote.chain.structure", "RFC 5280 §4.1", "The key comes with at most eight certificates, each well-formed.";
    TPM_QUOTE_CHAIN_ANCHOR = "tpm-quote.chain.anchor", "RFC 5280 §6.1.1, §6.1.3 (a)(4)", "Each certificate names the next one as its issuer, and the last names a root that was given.";
    TPM_QUOTE_CHAIN_ALGORITHMS = "tpm-quote.chain.algorithms", "RFC 4055 §5; RFC 5758 §3.2", "Every certificate is X.509 version 3 and signed with an algorithm that is understood.";
    TPM_QUOTE_CHAIN_SIGNATURES = "tpm-quote.chain.signatures", "RFC 5280 §6.1.3 (a)(1)", "Each certificate is signed by the next one's key.";
    TPM_QUOTE_CHAIN_DATES = "tpm-quote.chain.dates", "RFC 5280 §6.1.3 (a)(2)", "Every certificate, the root too, is valid at this time.";
    TPM_QUOTE_CHAIN_AUTHORITIES = "tpm-quote.chain.authorities", "RFC 5280 §4.2.1.9, §6.1.4 (k)-(m)", "Every issuer is a CA and allows the length of the path below it; the key's certificate is not a CA.";
    TPM_QUOTE_CHAIN_KEY_USAGE = "tpm-quote.chain.key-usage", "RFC 5280 §4.2.1.3", "Issuers may sign certificates; a key that quotes may sign.";
    TPM_QUOTE_CHAIN_CRITICAL = "tpm-quote.chain.critical-extensions", "RFC 5280 §4.2", "No certificate carries a critical extension that is not understood.";
    TPM_QUOTE_PARAVISOR_STRUCTURE = "tpm-quote.paravisor.structure", "Azure confidential VM guest attestation, HCL report", "The paravisor's report has its structure, down to the runtime data.";
    TPM_QUOTE_PARAVISOR_KEY = "tpm-quote.paravisor.key", "Azure confidential VM guest attestation, runtime data", "The paravisor's runtime data names the attestation key as its own vTPM's.";
    TPM_QUOTE_PARAVISOR_BINDING = "tpm-quote.paravisor.binding", "Azure confidential VM guest attestation, HCL report", "The hardware's report, and a TD's quote, cover the runtime data by its hash and nothing else.";
    TPM_QUOTE_PARAVISOR_HARDWARE = "tpm-quote.paravisor.hardware", "SEV-SNP ABI, ATTESTATION_REPORT; Intel TDX DCAP Quoting Library API, A.3", "The default appraisal accepts the hardware's report, when what judges it lies beside it.";
}

/// Those that need a paravisor's report.
pub(super) static OF_THE_PARAVISOR: [&crate::checks::CheckInfo; 4] = [
    &TPM_QUOTE_PARAVISOR_STRUCTURE,
    &TPM_QUOTE_PARAVISOR_KEY,
    &TPM_QUOTE_PARAVISOR_BINDING,
    &TPM_QUOTE_PARAVISOR_HARDWARE,
];

/// Those that need a quote.
pub(super) static OF_THE_QUOTE: [&crate::checks::CheckInfo; 10] = [
    &TPM_QUOTE_STRUCTURE,
    &TPM_QUOTE_MAGIC,
    &TPM_QUOTE_KEY,
    &TPM_QUOTE_SIGNATURE,
    &TPM_QUOTE_NONCE,
    &TPM_QUOTE_SELECTION,
    &TPM_QUOTE_PCR_DIGEST,
    &TPM_QUOTE_LOG_STRUCTURE,
    &TPM_QUOTE_LOG_REPLAY,
    &TPM_QUOTE_LOG_DIGESTS,
];

/// Those that need certificates.
pub(super) static OF_THE_CHAIN: [&crate::checks::CheckInfo; 8] = [
    &TPM_QUOTE_CHAIN_STRUCTURE,
    &TPM_QUOTE_CHAIN_ANCHOR,
    &TPM_QUOTE_CHAIN_ALGORITHMS,
    &TPM_QUOTE_CHAIN_SIGNATURES,
    &TPM_QUOTE_CHAIN_DATES,
    &TPM_QUOTE_CHAIN_AUTHORITIES,
    &TPM_QUOTE_CHAIN_KEY_USAGE,
    &TPM_QUOTE_CHAIN_CRITICAL,
];
