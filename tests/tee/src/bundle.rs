//! What the made-up vendors publish, as `lambda attest collateral import` takes it: one file, signed by whoever "fetched" it.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use lambda_attest::envelope::{COLLATERAL_TYPE, Envelope};
use lambda_attest::{Collateral, UnixTime};
use lambda_types::Binary;
use serde_json::{Value, json};

/// SubjectPublicKeyInfo of an Ed25519 key, up to the key (RFC 8410).
const PUBLIC_KEY: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

/// FMSPC of the platform.
const FMSPC: &str = "b0c06f000000";

/// Writes the bundle, and the key to check it with.
pub(crate) fn write(collateral: &Collateral, bundle: &Path, key: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let signer = SigningKey::from_bytes(&[0x5e; 32]);
    let document = json!({ "version": 1, "documents": documents(collateral) });
    let envelope = Envelope::sign(COLLATERAL_TYPE, serde_json::to_vec(&document)?, &signer);
    std::fs::write(bundle, envelope.to_json())?;
    let public = STANDARD.encode([&PUBLIC_KEY[..], signer.verifying_key().as_bytes()].concat());
    Ok(std::fs::write(key, format!("-----BEGIN PUBLIC KEY-----\n{public}\n-----END PUBLIC KEY-----\n"))?)
}

fn documents(collateral: &Collateral) -> Vec<Value> {
    let at = collateral.as_of.unwrap_or(UnixTime(0));
    let one = |document: Value, body: Binary, chain: Option<&str>| {
        json!({
            "format": 1, "document": document, "source": "a simulated vendor", "fetched": at, "until": at,
            "body": body, "issuer_chain": chain,
        })
    };
    let text = |text: &str| Binary::from(text.as_bytes().to_vec());
    let amd = collateral.amd.iter().flat_map(|amd| &amd.crls);
    let mut all: Vec<Value> =
        amd.map(|crl| one(json!({"kind": "amd-crl", "line": "genoa", "key": "vcek"}), crl.clone(), None)).collect();
    for intel in &collateral.intel {
        let tcb = json!({"kind": "intel-tcb", "technology": "tdx", "fmspc": FMSPC, "ca": "platform"});
        let qe = json!({"kind": "intel-qe", "technology": "tdx"});
        let pck = json!({"kind": "intel-pck-crl", "ca": "platform"});
        all.extend([
            one(tcb, text(&intel.tcb_info), Some(&intel.tcb_info_issuer_chain)),
            one(qe, text(&intel.qe_identity), Some(&intel.qe_identity_issuer_chain)),
            one(pck, intel.pck_crl.clone(), Some(&intel.pck_crl_issuer_chain)),
            one(json!({"kind": "intel-root-crl"}), intel.root_ca_crl.clone(), None),
        ]);
    }
    all
}
