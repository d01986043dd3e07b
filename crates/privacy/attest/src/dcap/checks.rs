//! Checks of Intel's quotes: those that SGX and TDX share, and those of each.

use std::sync::LazyLock;

use crate::checks::{CheckInfo, checks, listed};

checks! {
    /// Checks of every DCAP quote, of an enclave or of a trust domain.
    DCAP;
    QUOTE_STRUCTURE = "dcap.quote.structure", "Intel SGX ECDSA QuoteLib Reference, Quote Format; Intel TDX DCAP Quoting Library API, A.3, A.4", "The quote is of a version for its technology, every length in it is exact, and nothing but zeros follows it.";
    QUOTE_KEY_TYPE = "dcap.quote.key-type", "Intel SGX ECDSA QuoteLib Reference, Quote Header", "The attestation key is an ECDSA key on P-256.";
    QUOTE_VENDOR = "dcap.quote.qe-vendor", "Intel SGX ECDSA QuoteLib Reference, Quote Header", "The quoting enclave is Intel's, by vendor id.";
    QUOTE_SIGNATURE = "dcap.quote.signature", "Intel SGX ECDSA QuoteLib Reference, ECDSA Quote Signature Data", "The attestation key signed header and report.";
    QUOTE_REPORT_DATA = "dcap.quote.report-data", "Intel SDM, REPORTDATA; Intel TDX Module ABI, REPORTDATA", "The report covers what was asked, all 64 bytes.";
    QE_SIGNATURE = "dcap.qe.signature", "Intel SGX ECDSA QuoteLib Reference, QE Report Signature", "The platform's certified key (PCK) signed the quoting enclave's report.";
    QE_BINDING = "dcap.qe.binding", "Intel SGX ECDSA QuoteLib Reference, QE Report", "The quoting enclave's report covers the attestation key and the authentication data, and nothing else.";
    QE_SIGNER = "dcap.qe.mrsigner", "Intel SGX and TDX PCS API, Enclave Identity", "The quoting enclave has the signer of Intel's identity.";
    QE_PRODUCT = "dcap.qe.isvprodid", "Intel SGX and TDX PCS API, Enclave Identity", "The quoting enclave has the product id of Intel's identity.";
    QE_MISCSELECT = "dcap.qe.miscselect", "Intel SGX and TDX PCS API, Enclave Identity", "The quoting enclave's MISCSELECT is Intel's, under its mask.";
    QE_ATTRIBUTES = "dcap.qe.attributes", "Intel SGX and TDX PCS API, Enclave Identity", "The quoting enclave's attributes are Intel's, under their mask.";
    QE_DEBUG = "dcap.qe.debug", "Intel SDM, ATTRIBUTES", "The quoting enclave runs for real: initialised, and closed to debuggers.";
    PCK_STRUCTURE = "dcap.pck.chain.structure", "Intel SGX PCK Certificate and CRL Profile, §1.3; RFC 5280 §4.1", "The quote or the collateral holds three well-formed certificates: PCK, its CA, root.";
    PCK_ALGORITHMS = "dcap.pck.chain.algorithms", "RFC 5758 §3.2", "Every certificate is X.509 version 3, holds a P-256 key and is signed with ECDSA and SHA-256.";
    PCK_ANCHOR = "dcap.pck.chain.anchor", "RFC 5280 §6.1.1", "The chain ends at Intel's root, pinned by name and key.";
    PCK_NAMES = "dcap.pck.chain.names", "RFC 5280 §6.1.3 (a)(4); Intel SGX PCK Certificate and CRL Profile, §1.3", "Each certificate names the next as its issuer, and they are a PCK certificate and a PCK CA by name.";
    PCK_SIGNATURES = "dcap.pck.chain.signatures", "RFC 5280 §6.1.3 (a)(1)", "Each certificate is signed by the next one's key, and a root that is not the pinned certificate itself by its own.";
    PCK_DATES = "dcap.pck.chain.dates", "RFC 5280 §6.1.3 (a)(2)", "Every certificate, the root too, is valid at this time.";
    PCK_AUTHORITIES = "dcap.pck.chain.authorities", "RFC 5280 §4.2.1.9, §6.1.4 (k)-(m)", "CA and root are authorities and allow the length of the path; the PCK certificate is none.";
    PCK_KEY_USAGE = "dcap.pck.chain.key-usage", "RFC 5280 §4.2.1.3", "CA and root may sign certificates; the PCK may sign.";
    PCK_CRITICAL = "dcap.pck.chain.critical-extensions", "RFC 5280 §4.2", "No certificate carries a critical extension that is not understood.";
    PCK_EXTENSION = "dcap.pck.extension", "Intel SGX PCK Certificate and CRL Profile, §1.3.5", "The PCK certificate states the platform's PPID, TCB, PCE, FMSPC and type, each once and well-formed.";
    PCK_CRL_ISSUER = "dcap.crl.pck.issuer", "RFC 5280 §6.3.3 (b)", "The PCK revocation list is well-formed and of the CA that issued the PCK certificate.";
    PCK_CRL_SIGNATURE = "dcap.crl.pck.signature", "RFC 5280 §6.3.3 (f)-(g)", "That CA may sign revocation lists, and signed this one.";
    PCK_CRL_DATES = "dcap.crl.pck.dates", "RFC 5280 §5.1.2.4, §5.1.2.5", "The PCK revocation list was issued, and the next one is not yet due.";
    PCK_CRL_CRITICAL = "dcap.crl.pck.critical-extensions", "RFC 5280 §5.2, §5.3", "The PCK revocation list carries no critical extension that is not understood.";
    PCK_REVOKED = "dcap.pck.revoked", "RFC 5280 §6.3.3 (i)", "The PCK certificate is not revoked.";
    ROOT_CRL_ISSUER = "dcap.crl.root.issuer", "RFC 5280 §6.3.3 (b)", "The root's revocation list is well-formed and of the pinned root.";
    ROOT_CRL_SIGNATURE = "dcap.crl.root.signature", "RFC 5280 §6.3.3 (f)-(g)", "The root may sign revocation lists, and signed this one.";
    ROOT_CRL_DATES = "dcap.crl.root.dates", "RFC 5280 §5.1.2.4, §5.1.2.5", "The root's revocation list was issued, and the next one is not yet due.";
    ROOT_CRL_CRITICAL = "dcap.crl.root.critical-extensions", "RFC 5280 §5.2, §5.3", "The root's revocation list carries no critical extension that is not understood.";
    PCK_CA_REVOKED = "dcap.pck.ca-revoked", "RFC 5280 §6.3.3 (i)", "Neither the PCK CA nor the root is revoked.";
    SIGNER_STRUCTURE = "dcap.tcb-signer.chain.structure", "Intel SGX and TDX PCS API, Issuer Chain; RFC 5280 §4.1", "TCB info and QE identity each come with two well-formed certificates: TCB signer, root.";
    SIGNER_ALGORITHMS = "dcap.tcb-signer.chain.algorithms", "RFC 5758 §3.2", "Every certificate is X.509 version 3, holds a P-256 key and is signed with ECDSA and SHA-256.";
    SIGNER_ANCHOR = "dcap.tcb-signer.chain.anchor", "RFC 5280 §6.1.1", "The chain ends at the root that the PCK chain ends at.";
    SIGNER_NAMES = "dcap.tcb-signer.chain.names", "RFC 5280 §6.1.3 (a)(4); Intel SGX PCK Certificate and CRL Profile, §1.3", "The root issued the signer, which is a TCB signer by name.";
    SIGNER_SIGNATURES = "dcap.tcb-signer.chain.signatures", "RFC 5280 §6.1.3 (a)(1)", "The root's key signed the TCB signer's certificate.";
    SIGNER_DATES = "dcap.tcb-signer.chain.dates", "RFC 5280 §6.1.3 (a)(2)", "Every certificate is valid at this time.";
    SIGNER_AUTHORITIES = "dcap.tcb-signer.chain.authorities", "RFC 5280 §4.2.1.9", "The TCB signer is not itself an authority.";
    SIGNER_KEY_USAGE = "dcap.tcb-signer.chain.key-usage", "RFC 5280 §4.2.1.3", "The TCB signer may sign.";
    SIGNER_CRITICAL = "dcap.tcb-signer.chain.critical-extensions", "RFC 5280 §4.2", "No certificate carries a critical extension that is not understood.";
    SIGNER_REVOKED = "dcap.tcb-signer.revoked", "RFC 5280 §6.3.3 (i)", "The TCB signer is not revoked.";
    TCB_INFO_STRUCTURE = "dcap.tcb-info.structure", "Intel SGX and TDX PCS API, TCB Info", "TCB info can be read whole: known fields, none twice, sixteen components in every level, known statuses.";
    TCB_INFO_SIGNATURE = "dcap.tcb-info.signature", "Intel SGX and TDX PCS API, TCB Info", "The TCB signer signed the TCB info, byte for byte.";
    TCB_INFO_KIND = "dcap.tcb-info.kind", "Intel SGX and TDX PCS API, TCB Info", "The TCB info is of the quote's technology, in a version that is known.";
    TCB_INFO_DATES = "dcap.tcb-info.dates", "Intel SGX and TDX PCS API, TCB Info", "The TCB info was issued, and the next one is not yet due.";
    TCB_INFO_FMSPC = "dcap.tcb-info.fmspc", "Intel SGX and TDX PCS API, TCB Info", "The TCB info is of the platform's family (FMSPC).";
    TCB_INFO_PCE_ID = "dcap.tcb-info.pce-id", "Intel SGX and TDX PCS API, TCB Info", "The TCB info is of the platform's provisioning enclave (PCE).";
    TCB_INFO_EVALUATION = "dcap.tcb-info.evaluation", "Intel SGX and TDX PCS API, TCB Evaluation Data Number", "The TCB info is of an evaluation no older than the policy demands.";
    IDENTITY_STRUCTURE = "dcap.qe-identity.structure", "Intel SGX and TDX PCS API, Enclave Identity", "The QE identity can be read whole: known fields, none twice, known statuses.";
    IDENTITY_SIGNATURE = "dcap.qe-identity.signature", "Intel SGX and TDX PCS API, Enclave Identity", "The TCB signer signed the QE identity, byte for byte.";
    IDENTITY_KIND = "dcap.qe-identity.kind", "Intel SGX and TDX PCS API, Enclave Identity", "The identity is that of the quoting enclave of the quote's technology, in a version that is known.";
    IDENTITY_DATES = "dcap.qe-identity.dates", "Intel SGX and TDX PCS API, Enclave Identity", "The QE identity was issued, and the next one is not yet due.";
    IDENTITY_EVALUATION = "dcap.qe-identity.evaluation", "Intel SGX and TDX PCS API, TCB Evaluation Data Number", "The QE identity is of an evaluation no older than the policy demands.";
    TCB_LEVEL = "dcap.tcb.level", "Intel SGX and TDX PCS API, TCB Info, determining the status", "The platform reaches a level of the TCB info in each of sixteen components, PCE and, in a trust domain, each TDX component.";
    TCB_QE_LEVEL = "dcap.tcb.qe-level", "Intel SGX and TDX PCS API, Enclave Identity, determining the status", "The quoting enclave reaches a level of its identity.";
    TCB_STATUS = "dcap.tcb.status", "Intel SGX and TDX PCS API, TCB status", "The policy allows the worst of what Intel says of platform, TDX module and quoting enclave.";
    PLATFORM_FMSPC = "dcap.platform.fmspc", "Lambda policy", "The policy allows the platform's family (FMSPC).";
    PLATFORM_PPID = "dcap.platform.ppid", "Lambda policy", "The policy allows this very processor (PPID).";
    PLATFORM_SMT = "dcap.platform.smt", "Intel SGX PCK Certificate and CRL Profile, §1.3.5", "The policy allows what the platform says of simultaneous multithreading.";
    PLATFORM_DYNAMIC = "dcap.platform.dynamic", "Intel SGX PCK Certificate and CRL Profile, §1.3.5", "The policy allows what the platform says of packages that can be added.";
    PLATFORM_CACHED_KEYS = "dcap.platform.cached-keys", "Intel SGX PCK Certificate and CRL Profile, §1.3.5", "The policy allows what the platform says of keys that Intel's service keeps.";
}

checks! {
    /// Checks of a trust domain.
    TDX_ONLY;
    MODULE_SIGNER = "tdx.module.mrsignerseam", "Intel SGX and TDX PCS API, TDX Module Identity", "The TDX module has Intel's signer.";
    MODULE_ATTRIBUTES = "tdx.module.attributes", "Intel SGX and TDX PCS API, TDX Module Identity", "The TDX module's attributes are Intel's under their mask, and zero outside it.";
    MODULE_LEVEL = "tdx.module.level", "Intel SGX and TDX PCS API, TDX Module Identity", "The TDX module is of a version that Intel lists and reaches a level of it, at launch and now.";
    MODULE_MRSEAM = "tdx.module.mrseam", "Intel TDX Module ABI, TDREPORT_STRUCT", "The policy allows this TDX module.";
    TD_DEBUG = "tdx.attributes.debug", "Intel TDX Module ABI, ATTRIBUTES.TUD", "The TD is closed to debuggers: no bit of TUD, the untrusted group, is set.";
    TD_RESERVED = "tdx.attributes.reserved", "Intel TDX Module ABI, ATTRIBUTES", "No reserved attribute is set.";
    TD_SEPT_VE = "tdx.attributes.sept-ve-disable", "Intel TDX Module ABI, ATTRIBUTES.SEPT_VE_DISABLE", "The policy allows what the TD says of exceptions that a host can inject by taking pages away.";
    TD_MIGRATABLE = "tdx.attributes.migratable", "Intel TDX Module ABI, ATTRIBUTES.MIGRATABLE", "The policy allows what the TD says of live migration.";
    TD_PKS = "tdx.attributes.pks", "Intel TDX Module ABI, ATTRIBUTES.PKS", "The policy allows what the TD says of protection keys for supervisor pages.";
    TD_KEY_LOCKER = "tdx.attributes.key-locker", "Intel TDX Module ABI, ATTRIBUTES.KL", "The policy allows what the TD says of Key Locker.";
    TD_PERFMON = "tdx.attributes.perfmon", "Intel TDX Module ABI, ATTRIBUTES.PERFMON", "The policy allows what the TD says of performance monitoring.";
    TD_XFAM_FIXED = "tdx.xfam.fixed", "Intel TDX Module ABI, XFAM", "XFAM has the bits that every TD has, and none that no TD can have.";
    TD_XFAM = "tdx.xfam.allowed", "Intel TDX Module ABI, XFAM", "The policy allows the TD's XFAM.";
    TD_MEASUREMENT = "tdx.measurement", "Intel TDX Module ABI, MRTD, RTMR", "The policy allows what was built and booted: MRTD and RTMR0 to RTMR2 together.";
    TD_RTMR3 = "tdx.rtmr3", "Intel TDX Module ABI, RTMR", "The policy allows what was measured at run time: RTMR3.";
    TD_MRCONFIGID = "tdx.mrconfigid", "Intel TDX Module ABI, MRCONFIGID", "The policy allows MRCONFIGID.";
    TD_MROWNER = "tdx.mrowner", "Intel TDX Module ABI, MROWNER", "The policy allows MROWNER.";
    TD_MROWNERCONFIG = "tdx.mrownerconfig", "Intel TDX Module ABI, MROWNERCONFIG", "The policy allows MROWNERCONFIG.";
    TD_MRSERVICETD = "tdx.mrservicetd", "Intel TDX Module ABI, SERVTD_HASH", "The policy allows the service TDs that are bound to the TD, if any.";
    TD_LOG_PRESENT = "tdx.log.present", "UEFI, Confidential Computing Event Log", "The event log comes along where the policy demands it.";
    TD_LOG_STRUCTURE = "tdx.log.structure", "TCG PFP, Event Log Entries; UEFI, Confidential Computing Event Log", "The event log is a crypto-agile log of a TD with a SHA-384 bank, and extends nothing but RTMRs.";
    TD_LOG_REPLAY = "tdx.log.replay", "Intel TDX Module ABI, TDG.MR.RTMR.EXTEND", "The log's events, replayed from zero, give every RTMR in the quote.";
    TD_LOG_DIGESTS = "tdx.log.digests", "TCG PFP, Event Types", "Where an event's type defines it, its digest is the hash of its data.";
}

checks! {
    /// Checks of an SGX enclave.
    SGX_ONLY;
    ENCLAVE_DEBUG = "sgx.attributes.debug", "Intel SDM, ATTRIBUTES.DEBUG", "The enclave is closed to debuggers.";
    ENCLAVE_INIT = "sgx.attributes.init", "Intel SDM, ATTRIBUTES.INIT", "The enclave was initialised: what was measured is what runs.";
    ENCLAVE_RESERVED = "sgx.report.reserved", "Intel SDM, REPORT", "No reserved attribute is set, and every reserved byte of the report is zero.";
    ENCLAVE_FLAGS = "sgx.attributes.allowed", "Intel SDM, ATTRIBUTES", "The policy allows the enclave's flags: provisioning and launch keys among them.";
    ENCLAVE_XFRM = "sgx.xfrm", "Intel SDM, ATTRIBUTES.XFRM", "The policy allows the enclave's XFRM.";
    ENCLAVE_MISCSELECT = "sgx.miscselect", "Intel SDM, MISCSELECT", "The policy allows the enclave's MISCSELECT.";
    ENCLAVE_CPUSVN = "sgx.cpusvn", "Intel SDM, CPUSVN", "The policy allows the CPUSVN that the enclave reports.";
    ENCLAVE_MRENCLAVE = "sgx.mrenclave", "Intel SDM, MRENCLAVE", "The policy allows the enclave.";
    ENCLAVE_MRSIGNER = "sgx.mrsigner", "Intel SDM, MRSIGNER", "The policy allows the enclave's signer.";
    ENCLAVE_PRODUCT = "sgx.isvprodid", "Intel SDM, ISVPRODID", "The policy allows the enclave's product id.";
    ENCLAVE_SVN = "sgx.isvsvn", "Intel SDM, ISVSVN", "The enclave's security version is at least what the policy demands.";
    ENCLAVE_KSS = "sgx.kss", "Intel SDM, Key Separation and Sharing", "Without key separation, the fields that belong to it are zero.";
    ENCLAVE_CONFIG_ID = "sgx.configid", "Intel SDM, CONFIGID", "The policy allows CONFIGID.";
    ENCLAVE_CONFIG_SVN = "sgx.configsvn", "Intel SDM, CONFIGSVN", "CONFIGSVN is at least what the policy demands.";
    ENCLAVE_EXT_PRODUCT = "sgx.isvextprodid", "Intel SDM, ISVEXTPRODID", "The policy allows the extended product id.";
    ENCLAVE_FAMILY = "sgx.isvfamilyid", "Intel SDM, ISVFAMILYID", "The policy allows the product family id.";
}

/// Every check of a TDX quote.
pub(crate) static TDX: LazyLock<Vec<&'static CheckInfo>> = LazyLock::new(|| listed(&[DCAP, TDX_ONLY]));

/// Every check of an SGX quote.
pub(crate) static SGX: LazyLock<Vec<&'static CheckInfo>> = LazyLock::new(|| listed(&[DCAP, SGX_ONLY]));
