//! One named negative for each way to be wrong. Each says exactly which checks fail, so that a check which is removed,
//! or which stops looking, is noticed.

use std::collections::BTreeSet;

use super::forge::*;
use super::scene::*;
use crate::dcap::checks;
use crate::policy::{Reference, Rule};
use crate::{Collateral, Hex};

type Case = (&'static str, &'static [&'static str], fn(&mut Scene));

/// Nothing can be said of the platform.
const NO_PLATFORM: &[&str] = &[
    "dcap.pck.extension",
    "dcap.tcb-info.fmspc",
    "dcap.tcb-info.pce-id",
    "dcap.tcb.level",
    "dcap.tcb.status",
    "dcap.platform.fmspc",
    "dcap.platform.ppid",
    "dcap.platform.smt",
    "dcap.platform.dynamic",
    "dcap.platform.cached-keys",
    "tdx.module.level",
];

/// Nothing can be said of the PCK.
const NO_PCK: &[&str] = &[
    "dcap.qe.signature",
    "dcap.pck.chain.structure",
    "dcap.pck.chain.algorithms",
    "dcap.pck.chain.anchor",
    "dcap.pck.chain.names",
    "dcap.pck.chain.signatures",
    "dcap.pck.chain.dates",
    "dcap.pck.chain.authorities",
    "dcap.pck.chain.key-usage",
    "dcap.pck.chain.critical-extensions",
    "dcap.pck.extension",
    "dcap.crl.pck.issuer",
    "dcap.crl.pck.signature",
    "dcap.crl.pck.dates",
    "dcap.crl.pck.critical-extensions",
    "dcap.pck.revoked",
    "dcap.pck.ca-revoked",
    "dcap.tcb-info.fmspc",
    "dcap.tcb-info.pce-id",
    "dcap.tcb.level",
    "dcap.tcb.status",
    "dcap.platform.fmspc",
    "dcap.platform.ppid",
    "dcap.platform.smt",
    "dcap.platform.dynamic",
    "dcap.platform.cached-keys",
    "tdx.module.level",
];

/// Nothing can be said of the TCB signer.
const NO_SIGNER: &[&str] = &[
    "dcap.tcb-signer.chain.structure",
    "dcap.tcb-signer.chain.algorithms",
    "dcap.tcb-signer.chain.anchor",
    "dcap.tcb-signer.chain.names",
    "dcap.tcb-signer.chain.signatures",
    "dcap.tcb-signer.chain.dates",
    "dcap.tcb-signer.chain.authorities",
    "dcap.tcb-signer.chain.key-usage",
    "dcap.tcb-signer.chain.critical-extensions",
    "dcap.tcb-info.signature",
    "dcap.qe-identity.signature",
];

/// Nothing can be said without what Intel publishes.
const NO_COLLATERAL: &[&str] = &[
    "dcap.crl.pck.critical-extensions",
    "dcap.crl.pck.dates",
    "dcap.crl.pck.issuer",
    "dcap.crl.pck.signature",
    "dcap.crl.root.critical-extensions",
    "dcap.crl.root.dates",
    "dcap.crl.root.issuer",
    "dcap.crl.root.signature",
    "dcap.pck.ca-revoked",
    "dcap.pck.revoked",
    "dcap.qe-identity.dates",
    "dcap.qe-identity.evaluation",
    "dcap.qe-identity.kind",
    "dcap.qe-identity.signature",
    "dcap.qe-identity.structure",
    "dcap.qe.attributes",
    "dcap.qe.isvprodid",
    "dcap.qe.miscselect",
    "dcap.qe.mrsigner",
    "dcap.tcb-info.dates",
    "dcap.tcb-info.evaluation",
    "dcap.tcb-info.fmspc",
    "dcap.tcb-info.kind",
    "dcap.tcb-info.pce-id",
    "dcap.tcb-info.signature",
    "dcap.tcb-info.structure",
    "dcap.tcb-signer.chain.algorithms",
    "dcap.tcb-signer.chain.anchor",
    "dcap.tcb-signer.chain.authorities",
    "dcap.tcb-signer.chain.critical-extensions",
    "dcap.tcb-signer.chain.dates",
    "dcap.tcb-signer.chain.key-usage",
    "dcap.tcb-signer.chain.names",
    "dcap.tcb-signer.chain.signatures",
    "dcap.tcb-signer.chain.structure",
    "dcap.tcb-signer.revoked",
    "dcap.tcb.level",
    "dcap.tcb.qe-level",
    "dcap.tcb.status",
    "tdx.module.attributes",
    "tdx.module.level",
    "tdx.module.mrsignerseam",
];

/// Nothing can be read from the TCB info.
const NO_TCB_INFO: &[&str] = &[
    "dcap.tcb-info.structure",
    "dcap.tcb-info.kind",
    "dcap.tcb-info.dates",
    "dcap.tcb-info.fmspc",
    "dcap.tcb-info.pce-id",
    "dcap.tcb-info.evaluation",
    "dcap.tcb.level",
    "dcap.tcb.status",
    "tdx.module.mrsignerseam",
    "tdx.module.attributes",
    "tdx.module.level",
];

/// Nothing can be read from the QE identity.
const NO_IDENTITY: &[&str] = &[
    "dcap.qe.mrsigner",
    "dcap.qe.isvprodid",
    "dcap.qe.miscselect",
    "dcap.qe.attributes",
    "dcap.qe-identity.structure",
    "dcap.qe-identity.kind",
    "dcap.qe-identity.dates",
    "dcap.qe-identity.evaluation",
    "dcap.tcb.qe-level",
    "dcap.tcb.status",
];

/// Nothing can be said of the platform, judged by a revocation list that cannot be read.
const NO_PCK_CRL: &[&str] = &[
    "dcap.crl.pck.issuer",
    "dcap.crl.pck.signature",
    "dcap.crl.pck.dates",
    "dcap.crl.pck.critical-extensions",
    "dcap.pck.revoked",
];

const NO_ROOT_CRL: &[&str] = &[
    "dcap.crl.root.issuer",
    "dcap.crl.root.signature",
    "dcap.crl.root.dates",
    "dcap.crl.root.critical-extensions",
    "dcap.pck.ca-revoked",
    "dcap.tcb-signer.revoked",
];

/// A critical extension that nobody knows.
fn unknown_extension() -> Vec<u8> {
    extension("1.2.3.4", true, &[5, 0])
}

static QUOTE: &[Case] = &[
    ("a key of another type", &["dcap.quote.key-type"], |s| s.quote.key_type = 3),
    ("a quoting enclave of another vendor", &["dcap.quote.qe-vendor"], |s| s.quote.vendor[0] ^= 1),
    ("signed by another key", &["dcap.quote.signature"], |s| s.quote.signed_by = STRANGER_KEY),
    ("a changed measurement", &["dcap.quote.signature", "tdx.measurement"], |s| s.tamper = |quote| quote[200] ^= 1),
    ("a replay", &["dcap.quote.report-data"], |s| s.asked[63] ^= 1),
    ("a QE report that the PCK did not sign", &["dcap.qe.signature"], |s| s.quote.qe_signed_by = STRANGER_KEY),
    ("other authentication data", &["dcap.qe.binding"], |s| s.quote.carried = Some(vec![1; 32])),
    ("report data beyond the hash", &["dcap.qe.binding"], |s| s.quote.padding = 1),
    ("another attestation key", &["dcap.quote.signature", "dcap.qe.binding"], |s| {
        s.tamper = |quote| {
            let at = 48 + 6 + 648 + 4 + 64;
            quote[at..at + 64].copy_from_slice(&point(STRANGER_KEY));
        };
    }),
    ("a quoting enclave of another signer", &["dcap.qe.mrsigner"], |s| s.quote.qe.mrsigner[31] ^= 1),
    ("another product than the quoting enclave", &["dcap.qe.isvprodid"], |s| s.quote.qe.product = 1),
    ("another MISCSELECT of the quoting enclave", &["dcap.qe.miscselect"], |s| s.quote.qe.miscselect[0] = 1),
    ("other attributes of the quoting enclave", &["dcap.qe.attributes"], |s| s.quote.qe.flags |= 1 << 5),
    ("a quoting enclave in debug", &["dcap.qe.debug"], |s| s.quote.qe.flags |= 2),
    ("a quoting enclave older than any", &["dcap.tcb.qe-level", "dcap.tcb.status"], |s| s.quote.qe.svn = 1),
    ("a quoting enclave out of date", &["dcap.tcb.status"], |s| s.quote.qe.svn = 3),
];

static PCK: &[Case] = &[
    ("certification data that is no chain", NO_PCK, |s| s.quote.certification_type = 3),
    ("a chain of two", NO_PCK, |s| s.chain = |chain| chain[..chain.rfind("-----BEGIN").unwrap()].to_owned()),
    ("a chain of four", NO_PCK, |s| {
        s.chain = |chain| format!("{chain}{}", &chain[chain.rfind("-----BEGIN").unwrap()..])
    }),
    ("a chain that is not PEM", NO_PCK, |s| s.chain = |_| "not PEM".into()),
    (
        "a certificate of version 1",
        &[
            "dcap.pck.chain.algorithms",
            "dcap.pck.chain.authorities",
            "dcap.pck.chain.key-usage",
            "dcap.crl.pck.signature",
        ],
        |s| {
            s.pck_ca.version = 0;
        },
    ),
    ("a root that nobody pinned", &["dcap.pck.chain.anchor", "dcap.tcb-signer.chain.anchor"], |s| {
        s.pinned.key = STRANGER_KEY;
    }),
    ("a root of another name", &["dcap.pck.chain.anchor", "dcap.tcb-signer.chain.anchor"], |s| {
        s.pinned.subject = "Somebody";
    }),
    ("a root that was changed", &["dcap.pck.chain.signatures"], |s| {
        s.root.signed_by = STRANGER_KEY;
    }),
    ("a PCK certificate of another issuer", &["dcap.pck.chain.names"], |s| s.pck.issuer = "Somebody"),
    ("a leaf that is no PCK certificate by name", &["dcap.pck.chain.names"], |s| {
        s.pck.subject = "Intel SGX TCB Signing"
    }),
    ("a CA that is no PCK CA by name", &["dcap.pck.chain.names"], |s| {
        s.pck_ca.subject = "Intel SGX Other CA";
        s.pck.issuer = "Intel SGX Other CA";
        s.pck_crl.issuer = "Intel SGX Other CA";
    }),
    ("a PCK certificate that its CA did not sign", &["dcap.pck.chain.signatures"], |s| s.pck.signed_by = STRANGER_KEY),
    ("a PCK CA that the root did not sign", &["dcap.pck.chain.signatures"], |s| s.pck_ca.signed_by = STRANGER_KEY),
    ("a PCK certificate that ran out", &["dcap.pck.chain.dates"], |s| s.pck.until = "260501000000Z"),
    ("a PCK CA from tomorrow", &["dcap.pck.chain.dates"], |s| s.pck_ca.from = "260602000000Z"),
    ("a PCK CA that is no authority", &["dcap.pck.chain.authorities"], |s| {
        s.pck_ca.ca = false;
    }),
    ("a PCK that is an authority", &["dcap.pck.chain.authorities"], |s| s.pck.ca = true),
    ("a root that allows no CA below it", &["dcap.pck.chain.authorities"], |s| {
        s.root.path_length = Some(0);
    }),
    ("a PCK CA that may not sign certificates", &["dcap.pck.chain.key-usage"], |s| s.pck_ca.key_usage = 0x02),
    ("a PCK that may not sign", &["dcap.pck.chain.key-usage"], |s| s.pck.key_usage = 0x08),
    ("a critical extension nobody knows", &["dcap.pck.chain.critical-extensions"], |s| {
        s.pck_ca.extensions = vec![unknown_extension()];
    }),
    ("no SGX extension", NO_PLATFORM, |s| s.pck.extensions = vec![extension("1.2.3.4", false, &[5, 0])]),
    ("no FMSPC", NO_PLATFORM, |s| s.platform.left_out = Some(4)),
    ("no TCB", NO_PLATFORM, |s| s.platform.left_out = Some(2)),
    ("an FMSPC stated twice", &["dcap.pck.extension"], |s| s.platform.twice = Some(4)),
    ("a CPUSVN that is not made of its components", &["dcap.pck.extension"], |s| s.platform.cpusvn[3] = 6),
];

static REVOCATION: &[Case] = &[
    ("no PCK revocation list", NO_PCK_CRL, |s| s.pck_crl.cut = 1),
    ("the list of another CA", &["dcap.crl.pck.issuer"], |s| s.pck_crl.issuer = "Intel SGX PCK Processor CA"),
    ("a list that the CA did not sign", &["dcap.crl.pck.signature"], |s| s.pck_crl.signed_by = STRANGER_KEY),
    ("a CA that may not sign lists", &["dcap.crl.pck.signature"], |s| s.pck_ca.key_usage = 0x04),
    ("a stale list", &["dcap.crl.pck.dates"], |s| s.pck_crl.next = Some("260531000000Z")),
    ("a list from tomorrow", &["dcap.crl.pck.dates"], |s| s.pck_crl.from = "260602000000Z"),
    ("a list without an end", &["dcap.crl.pck.dates"], |s| s.pck_crl.next = None),
    ("a list with a critical extension", &["dcap.crl.pck.critical-extensions"], |s| {
        s.pck_crl.extensions.push(unknown_extension());
    }),
    ("a revoked PCK", &["dcap.pck.revoked"], |s| s.pck_crl.revoked.push(u64::from(PCK_KEY))),
    ("no root revocation list", NO_ROOT_CRL, |s| s.root_crl.cut = 1),
    ("the root's list of another root", &["dcap.crl.root.issuer"], |s| s.root_crl.issuer = "Somebody"),
    ("a list that the root did not sign", &["dcap.crl.root.signature"], |s| s.root_crl.signed_by = STRANGER_KEY),
    ("a stale root list", &["dcap.crl.root.dates"], |s| s.root_crl.next = Some("260531000000Z")),
    ("a root list with a critical extension", &["dcap.crl.root.critical-extensions"], |s| {
        s.root_crl.extensions.push(unknown_extension());
    }),
    ("a revoked PCK CA", &["dcap.pck.ca-revoked"], |s| s.root_crl.revoked.push(u64::from(CA_KEY))),
    ("a revoked root", &["dcap.pck.ca-revoked"], |s| s.root_crl.revoked.push(u64::from(ROOT_KEY))),
    ("a revoked TCB signer", &["dcap.tcb-signer.revoked"], |s| s.root_crl.revoked.push(u64::from(SIGNER_KEY))),
];

static SIGNERS: &[Case] = &[
    ("a TCB signer without its root", NO_SIGNER, |s| {
        s.signer_chain = |chain| chain[..chain.rfind("-----BEGIN").unwrap()].to_owned()
    }),
    ("a TCB signer of version 1", &["dcap.tcb-signer.chain.algorithms", "dcap.tcb-signer.chain.key-usage"], |s| {
        s.signer.version = 0;
    }),
    ("a TCB signer under another root", &["dcap.tcb-signer.chain.anchor", "dcap.tcb-signer.chain.signatures"], |s| {
        s.signer_chain = |chain| {
            let other = CertificateSpec::authority(ROOT, ROOT, STRANGER_KEY, STRANGER_KEY);
            format!("{}{}", &chain[..chain.rfind("-----BEGIN").unwrap()], other.pem())
        };
    }),
    ("a TCB signer of another issuer", &["dcap.tcb-signer.chain.names"], |s| s.signer.issuer = "Somebody"),
    ("a PCK as TCB signer", &["dcap.tcb-signer.chain.names"], |s| s.signer.subject = PCK_NAME),
    ("a TCB signer that the root did not sign", &["dcap.tcb-signer.chain.signatures"], |s| {
        s.signer.signed_by = STRANGER_KEY;
    }),
    ("a TCB signer that ran out", &["dcap.tcb-signer.chain.dates"], |s| s.signer.until = "260531000000Z"),
    ("a TCB signer that is an authority", &["dcap.tcb-signer.chain.authorities"], |s| s.signer.ca = true),
    ("a TCB signer that may not sign", &["dcap.tcb-signer.chain.key-usage"], |s| s.signer.key_usage = 0x08),
    ("a TCB signer with a critical extension", &["dcap.tcb-signer.chain.critical-extensions"], |s| {
        s.signer.extensions = vec![unknown_extension()];
    }),
    ("a QE identity signer that ran out", &["dcap.tcb-signer.chain.dates"], |s| {
        s.identity_signer = Some(CertificateSpec { until: "260531000000Z", ..s.signer.clone() });
    }),
    ("documents of another key", &["dcap.tcb-info.signature", "dcap.qe-identity.signature"], |s| {
        s.signs_documents = STRANGER_KEY;
    }),
];

const PCK_NAME: &str = "Intel SGX PCK Certificate";

static DOCUMENTS: &[Case] = &[
    ("TCB info changed after it was signed", &["dcap.tcb-info.signature"], |s| {
        s.tcb_info_after = (r#""category":"BIOS""#, r#""category":"bios""#);
    }),
    ("TCB info with fifteen components", NO_TCB_INFO, |s| {
        s.edit_tcb_info(r#"{"svn":5,"category":"BIOS","type":"test"},"#, "");
    }),
    ("TCB info with seventeen components", NO_TCB_INFO, |s| {
        s.edit_tcb_info(r#"{"svn":5,"#, r#"{"svn":0},{"svn":5,"#);
    }),
    ("TCB info with a status nobody knows", NO_TCB_INFO, |s| {
        s.edit_tcb_info(r#""tcbStatus":"UpToDate","advisory"#, r#""tcbStatus":"Fine","advisory"#);
    }),
    ("TCB info with a field nobody knows", NO_TCB_INFO, |s| s.edit_tcb_info(r#""tcbType":0"#, r#""tcbType":0,"x":1"#)),
    ("TCB info with a field twice", NO_TCB_INFO, |s| s.edit_tcb_info(r#""tcbType":0"#, r#""tcbType":0,"tcbType":0"#)),
    ("TCB info with a component list twice", NO_TCB_INFO, |s| {
        s.edit_tcb_info(r#""pcesvn":11"#, r#""pcesvn":11,"pcesvn":0"#);
    }),
    ("TCB info of another type", NO_TCB_INFO, |s| s.edit_tcb_info(r#""tcbType":0"#, r#""tcbType":1"#)),
    ("TCB info of SGX for a TD", &["dcap.tcb-info.kind"], |s| s.edit_tcb_info(r#""id":"TDX""#, r#""id":"SGX""#)),
    ("TCB info of a later version", &["dcap.tcb-info.kind"], |s| s.edit_tcb_info(r#""version":3"#, r#""version":4"#)),
    ("stale TCB info", &["dcap.tcb-info.dates"], |s| s.edit_tcb_info("2026-06-15", "2026-05-31")),
    ("TCB info from tomorrow", &["dcap.tcb-info.dates"], |s| s.edit_tcb_info("2026-05-15", "2026-06-02")),
    ("TCB info of another family", &["dcap.tcb-info.fmspc"], |s| s.edit_tcb_info("B0C06F", "00806F")),
    ("TCB info of another PCE", &["dcap.tcb-info.pce-id"], |s| {
        s.edit_tcb_info(r#""pceId":"0000""#, r#""pceId":"0001""#)
    }),
    ("TCB info of an old evaluation", &["dcap.tcb-info.evaluation"], |s| {
        s.edit_tcb_info(r#"DataNumber":17"#, r#"DataNumber":16"#);
    }),
    ("a QE identity changed after it was signed", &["dcap.qe-identity.signature"], |s| {
        s.identity_after = (r#""isvsvn":4"#, r#""isvsvn":3"#);
    }),
    ("a QE identity with a field nobody knows", NO_IDENTITY, |s| {
        s.edit_identity(r#""isvprodid":2"#, r#""isvprodid":2,"x":1"#)
    }),
    ("a QE identity with a field twice", NO_IDENTITY, |s| {
        s.edit_identity(r#""isvprodid":2"#, r#""isvprodid":2,"isvprodid":2"#);
    }),
    ("a QE identity with a status nobody knows", NO_IDENTITY, |s| s.edit_identity("OutOfDate", "Fine")),
    ("the identity of the SGX quoting enclave", &["dcap.qe-identity.kind"], |s| s.edit_identity("TD_QE", "QE")),
    ("a QE identity of a later version", &["dcap.qe-identity.kind"], |s| {
        s.edit_identity(r#""version":2"#, r#""version":9"#);
    }),
    ("a stale QE identity", &["dcap.qe-identity.dates"], |s| s.edit_identity("2026-06-15", "2026-05-31")),
    ("a QE identity of an old evaluation", &["dcap.qe-identity.evaluation"], |s| {
        s.edit_identity(r#"DataNumber":17"#, r#"DataNumber":16"#);
    }),
    ("no collateral", NO_COLLATERAL, |s| s.collateral = |_| Collateral::none()),
];

static TCB: &[Case] = &[
    ("one SGX component below every level", &["dcap.tcb.level", "dcap.tcb.status"], |s| {
        s.platform.components[15] = 1;
        s.platform.cpusvn[15] = 1;
    }),
    ("a PCE below every level", &["dcap.tcb.level", "dcap.tcb.status"], |s| s.platform.pcesvn = 4),
    ("one TDX component below every level", &["dcap.tcb.level", "dcap.tcb.status"], |s| s.td().svn[15] = 1),
    ("a running TDX component below every level", &["dcap.tcb.level", "dcap.tcb.status"], |s| {
        s.td().later.as_mut().unwrap().0[15] = 1;
    }),
    ("one SGX component out of date", &["dcap.tcb.status"], |s| {
        s.platform.components[7] = 4;
        s.platform.cpusvn[7] = 4;
    }),
    ("a revoked level", &["dcap.tcb.status"], |s| {
        s.edit_tcb_info(r#""tcbStatus":"UpToDate","advisory"#, r#""tcbStatus":"Revoked","advisory"#);
        s.platform_policy().statuses.as_mut().unwrap().push(crate::dcap::TcbStatus::NotFound);
    }),
    ("a platform of another family than the policy's", &["dcap.platform.fmspc"], |s| {
        s.platform_policy().fmspc = Some(one(Hex([1; 6])));
    }),
    ("a processor that the policy does not list", &["dcap.platform.ppid"], |s| s.platform.ppid[0] ^= 1),
    ("a platform with multithreading", &["dcap.platform.smt"], |s| s.platform.smt = Some(true)),
    ("a platform that does not speak of multithreading", &["dcap.platform.smt"], |s| s.platform.smt = None),
    ("a platform to which packages can be added", &["dcap.platform.dynamic"], |s| s.platform.dynamic = Some(true)),
    ("a platform whose keys Intel keeps", &["dcap.platform.cached-keys"], |s| s.platform.cached_keys = Some(true)),
];

static TD: &[Case] = &[
    ("a TDX module of another signer", &["tdx.module.mrsignerseam"], |s| s.td().mrsignerseam[0] = 1),
    ("a TDX module in debug", &["tdx.module.attributes"], |s| s.td().seam_attributes = 1),
    ("module attributes outside the mask", &["tdx.module.attributes"], |s| {
        s.tcb_info =
            s.tcb_info.replace(r#""attributesMask":"FFFFFFFFFFFFFFFF""#, r#""attributesMask":"0000000000000000""#);
        s.td().seam_attributes = 1 << 40;
    }),
    (
        "a TDX module that Intel does not list",
        &["dcap.tcb.status", "tdx.module.mrsignerseam", "tdx.module.attributes", "tdx.module.level"],
        |s| {
            s.td().svn[1] = 9;
        },
    ),
    ("a running TDX module that Intel does not list", &["dcap.tcb.status", "tdx.module.level"], |s| {
        s.td().later.as_mut().unwrap().0[1] = 9;
    }),
    ("a TDX module below every level", &["dcap.tcb.status", "tdx.module.level"], |s| s.td().svn[0] = 1),
    ("a TDX module that the policy does not list", &["tdx.module.mrseam"], |s| s.td().mrseam[0] ^= 1),
    ("a TD in debug", &["tdx.attributes.debug"], |s| s.td().attributes |= 1),
    ("a TD in another untrusted mode", &["tdx.attributes.debug"], |s| s.td().attributes |= 1 << 5),
    ("a reserved attribute", &["tdx.attributes.reserved"], |s| s.td().attributes |= 1 << 40),
    ("exceptions on pages taken away", &["tdx.attributes.sept-ve-disable"], |s| s.td().attributes = 0),
    ("a TD that can be migrated", &["tdx.attributes.migratable"], |s| s.td().attributes |= 1 << 29),
    ("protection keys for supervisor pages", &["tdx.attributes.pks"], |s| s.td().attributes |= 1 << 30),
    ("Key Locker", &["tdx.attributes.key-locker"], |s| s.td().attributes |= 1 << 31),
    ("performance monitoring", &["tdx.attributes.perfmon"], |s| s.td().attributes |= 1 << 63),
    ("an XFAM without SSE", &["tdx.xfam.fixed"], |s| {
        s.td().xfam = 0xe5;
        s.tdx_policy().xfam = Some(Rule::Any);
    }),
    ("an XFAM that no TD can have", &["tdx.xfam.fixed"], |s| {
        s.td().xfam = 0xe7 | 1 << 30;
        s.tdx_policy().xfam = Some(Rule::Any);
    }),
    ("an XFAM that the policy does not list", &["tdx.xfam.allowed"], |s| s.td().xfam = 0x7),
    ("another MRTD", &["tdx.measurement"], |s| s.td().mrtd[47] ^= 1),
    ("another RTMR0", &["tdx.measurement", "tdx.log.replay"], |s| s.td().rtmrs[0][0] ^= 1),
    ("another RTMR1", &["tdx.measurement", "tdx.log.replay"], |s| s.td().rtmrs[1][0] ^= 1),
    ("another RTMR2", &["tdx.measurement", "tdx.log.replay"], |s| s.td().rtmrs[2][0] ^= 1),
    ("another RTMR3", &["tdx.rtmr3", "tdx.log.replay"], |s| s.td().rtmrs[3][0] ^= 1),
    ("a measurement that no policy names", &["tdx.measurement"], |s| {
        s.tdx_policy().measurement = Some(Reference::OneOf(Vec::new()));
    }),
    ("another MRCONFIGID", &["tdx.mrconfigid"], |s| s.td().mrconfigid[0] ^= 1),
    ("another MROWNER", &["tdx.mrowner"], |s| s.td().mrowner[0] ^= 1),
    ("another MROWNERCONFIG", &["tdx.mrownerconfig"], |s| s.td().mrownerconfig[0] ^= 1),
    ("a bound service TD", &["tdx.mrservicetd"], |s| s.td().later.as_mut().unwrap().1[0] = 1),
    ("no event log", &["tdx.log.present"], |s| s.events = None),
    ("an event log without its last event", &["tdx.log.replay"], |s| drop(s.events.as_mut().unwrap().pop())),
    ("an event that extends MRTD", NO_LOG, |s| s.events.as_mut().unwrap().push((0, 4, vec![0; 4], vec![0; 4]))),
    ("an event that extends a register no TD has", NO_LOG, |s| {
        s.events.as_mut().unwrap().push((5, 4, vec![0; 4], vec![0; 4]));
    }),
    ("an event whose data is not what was measured", &["tdx.log.digests"], |s| {
        s.events.as_mut().unwrap()[1].3 = vec![1, 0, 0, 0];
    }),
];

const NO_LOG: &[&str] = &["tdx.log.structure", "tdx.log.replay", "tdx.log.digests"];

static ENCLAVE: &[Case] = &[
    ("a debug enclave", &["sgx.attributes.debug"], |s| {
        s.enclave().flags |= 2;
        s.sgx_policy().flags = Some(Rule::Any);
    }),
    ("an enclave that was not initialised", &["sgx.attributes.init"], |s| {
        s.enclave().flags &= !1;
        s.sgx_policy().flags = Some(Rule::Any);
    }),
    ("a reserved attribute of an enclave", &["sgx.report.reserved"], |s| {
        s.enclave().flags |= 1 << 3;
        s.sgx_policy().flags = Some(Rule::Any);
    }),
    ("reserved bytes that are set", &["sgx.report.reserved"], |s| s.enclave().reserved = 1),
    ("an enclave with the provisioning key", &["sgx.attributes.allowed"], |s| s.enclave().flags |= 1 << 4),
    ("another XFRM", &["sgx.xfrm"], |s| s.enclave().xfrm = 7),
    ("another MISCSELECT", &["sgx.miscselect"], |s| s.enclave().miscselect[0] = 1),
    ("another CPUSVN", &["sgx.cpusvn"], |s| s.enclave().cpusvn[0] = 1),
    ("another enclave", &["sgx.mrenclave"], |s| s.enclave().mrenclave[0] ^= 1),
    ("another signer", &["sgx.mrsigner"], |s| s.enclave().mrsigner[0] ^= 1),
    ("another product", &["sgx.isvprodid"], |s| s.enclave().product = 4),
    ("an old enclave", &["sgx.isvsvn"], |s| s.enclave().svn = 6),
    ("fields of key separation without key separation", &["sgx.kss"], |s| {
        s.enclave().config_id[0] = 1;
        s.sgx_policy().configid = Some(Rule::Any);
    }),
    ("another CONFIGID", &["sgx.configid"], |s| {
        s.enclave().flags |= 1 << 7;
        s.enclave().config_id[0] = 1;
        s.sgx_policy().flags = Some(Rule::Any);
    }),
    ("an old CONFIGSVN", &["sgx.configsvn"], |s| s.sgx_policy().minimum_configsvn = Some(1)),
    ("another extended product", &["sgx.isvextprodid"], |s| {
        s.enclave().flags |= 1 << 7;
        s.enclave().ext_product[0] = 1;
        s.sgx_policy().flags = Some(Rule::Any);
    }),
    ("another family", &["sgx.isvfamilyid"], |s| {
        s.enclave().flags |= 1 << 7;
        s.enclave().family[0] = 1;
        s.sgx_policy().flags = Some(Rule::Any);
    }),
    ("TCB info of TDX for an enclave", &["dcap.tcb-info.kind"], |s| {
        let tdx = Scene::tdx();
        s.tcb_info = tdx.tcb_info;
    }),
    ("the identity of the TD quoting enclave", &["dcap.qe-identity.kind"], |s| s.edit_identity("QE", "TD_QE")),
];

/// Quotes that are none: nothing else can be said.
static UNREADABLE: &[Case] = &[
    ("a quote of an unknown version", &[], |s| s.quote.version = 6),
    ("a quote of another technology", &[], |s| s.quote.tee = 0x82),
    ("a body that says it is another", &[], |s| s.quote.body_type = Some(2)),
    ("a quote with something after it", &[], |s| s.quote.trailing = vec![0, 1]),
    ("a quote of an enclave in place of a TD's", &[], |s| s.tamper = |quote| *quote = Scene::sgx().quote_bytes()),
];

fn run(base: fn() -> Scene, cases: &[Case]) -> Vec<String> {
    cases
        .iter()
        .filter_map(|(name, expected, change)| {
            let mut scene = base();
            change(&mut scene);
            let failed = scene.failed();
            let expected: BTreeSet<_> = expected.iter().map(|id| (*id).to_owned()).collect();
            let actual: BTreeSet<_> = failed.into_iter().collect();
            (actual != expected).then(|| format!("{name}:\n  fails {actual:?}\n  not   {expected:?}"))
        })
        .collect()
}

#[test]
fn each_negative_of_a_trust_domain_fails_just_its_checks() {
    let wrong: Vec<_> =
        [QUOTE, PCK, REVOCATION, SIGNERS, DOCUMENTS, TCB, TD].iter().flat_map(|cases| run(Scene::tdx, cases)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_negative_of_an_enclave_fails_just_its_checks() {
    let wrong = run(Scene::sgx, ENCLAVE);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_no_quote_fails_everything() {
    for (name, _, change) in UNREADABLE {
        let mut scene = Scene::tdx();
        change(&mut scene);
        let failed = scene.failed();
        assert_eq!(failed.len(), checks::TDX.len(), "{name}");
    }
}

#[test]
fn every_check_has_a_negative() {
    let cases = [QUOTE, PCK, REVOCATION, SIGNERS, DOCUMENTS, TCB, TD, ENCLAVE];
    let covered: BTreeSet<&str> =
        cases.iter().flat_map(|cases| cases.iter()).flat_map(|(_, ids, _)| ids.iter().copied()).collect();
    let all = checks::TDX.iter().chain(checks::SGX.iter()).map(|info| info.id);
    let missing: BTreeSet<&str> = all.filter(|id| !covered.contains(id)).collect();
    assert_eq!(missing, BTreeSet::from(["dcap.quote.structure"]), "the one that what is no quote covers");
}
