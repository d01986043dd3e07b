//! Event logs and quotes of real machines: the few in `tests/data/machines`, and the many of a folder outside the repository
//! where it is available (`LAMBDA_FIXTURES`, else `../shared/fixtures` beside the repository).
//!
//! What is in `tests/data/machines` was computed by tpm2-tools: `tpm2_eventlog` for the registers, `tpm2_quote` on a swtpm.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lambda_attest::eventlog::{EventKind, EventLog, Grounding};
use lambda_tpm::{Quote, Signature, alg};
use p256::ecdsa::VerifyingKey;
use p256::ecdsa::signature::Verifier as _;
use sha2::{Digest as _, Sha256};

type Registers = BTreeMap<String, BTreeMap<u32, String>>;

const BANKS: [(&str, u16); 3] = [("sha256", alg::SHA256), ("sha384", alg::SHA384), ("sha512", alg::SHA512)];

/// The folders of one kind that hold a file of this name.
fn folders(kind: &str, file: &str) -> Vec<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let own = here.join("tests/data/machines");
    let outside =
        std::env::var_os("LAMBDA_FIXTURES").map_or_else(|| here.join("../../../../shared/fixtures"), PathBuf::from);
    let mut entries: Vec<_> = std::fs::read_dir(own.join(kind)).unwrap().collect();
    match std::fs::read_dir(outside.join(kind)) {
        Ok(more) => entries.extend(more),
        Err(_) => {
            eprintln!("NOT CHECKED: more real machines (no {}; set LAMBDA_FIXTURES)", outside.join(kind).display())
        }
    }
    let mut found: Vec<PathBuf> =
        entries.into_iter().map(|entry| entry.unwrap().path()).filter(|path| path.join(file).exists()).collect();
    found.sort();
    assert!(!found.is_empty(), "no folder of {kind} holds {file}");
    found
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

fn json<T: serde::de::DeserializeOwned>(path: PathBuf) -> T {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn log(folder: &Path) -> Result<EventLog, String> {
    EventLog::parse(&std::fs::read(folder.join("event_log.bin")).unwrap()).map_err(|error| error.to_string())
}

/// Registers that differ from what the folder's file says they are, in the banks that prove something.
fn differing(folder: &Path, file: &str, log: &EventLog) -> Vec<String> {
    let recorded: Registers = json(folder.join(file));
    let mut wrong = Vec::new();
    for (bank, algorithm) in BANKS {
        let (Some(recorded), Some(replayed)) = (recorded.get(bank), log.replay(algorithm)) else { continue };
        for (index, value) in replayed {
            if recorded.get(&index).is_some_and(|recorded| *recorded != hex::encode(&value)) {
                wrong.push(format!("{bank}:{index}"));
            }
        }
    }
    wrong
}

#[test]
fn real_event_logs_replay_to_what_they_are_known_to_give() {
    let mut wrong = Vec::new();
    for folder in folders("eventlog", "replay.json") {
        if name(&folder) == "neg-short-no-action" {
            continue;
        }
        match log(&folder) {
            Err(error) => wrong.push(format!("{}: {error}", name(&folder))),
            Ok(log) => {
                let manifest: serde_json::Value = json(folder.join("manifest.json"));
                let differing = differing(&folder, "replay.json", &log);
                if !differing.is_empty() {
                    wrong.push(format!("{}: {differing:?}", name(&folder)));
                }
                let events = manifest["expected"]["events"].as_u64().unwrap();
                // The manifests stop at the event of no register that Windows adds.
                let count = u64::try_from(log.events.iter().filter(|event| event.pcr < 24).count()).unwrap();
                if count != events && count + 1 != events {
                    wrong.push(format!("{}: {count} events, not {events}", name(&folder)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn real_event_logs_replay_to_the_registers_of_their_machines() {
    for kind in ["eventlog", "tpm"] {
        for folder in folders(kind, "event_log.bin").into_iter().filter(|folder| folder.join("pcrs.json").exists()) {
            let bad = name(&folder).starts_with("neg-");
            let Ok(log) = log(&folder) else {
                assert!(bad, "{} cannot be parsed", name(&folder));
                continue;
            };
            let differing = differing(&folder, "pcrs.json", &log);
            // The only evidence against this one is in SHA-1 registers, which prove nothing here.
            if name(&folder) == "neg-ebs-missing" {
                assert!(log.replay(alg::SHA1).is_none());
                continue;
            }
            assert_eq!(!differing.is_empty(), bad, "{}: {differing:?}", name(&folder));
        }
    }
}

#[test]
fn damaged_real_logs_are_refused() {
    for folder in folders("eventlog", "event_log.bin") {
        if ["neg-cut-in-event", "neg-short-no-action"].contains(&name(&folder).as_str()) {
            log(&folder).unwrap_err();
        }
    }
}

#[test]
fn no_truncated_or_bent_real_log_panics() {
    for folder in folders("eventlog", "event_log.bin") {
        let bytes = std::fs::read(folder.join("event_log.bin")).unwrap();
        for position in (0..bytes.len()).step_by(131) {
            let _ = EventLog::parse(&bytes[..position]);
            let mut bent = bytes.clone();
            bent[position] ^= 0x40;
            if let Ok(log) = EventLog::parse(&bent) {
                let _ = log.replay(alg::SHA256);
                log.events.iter().for_each(|event| {
                    let _ = (event.grounding(alg::SHA256), event.tag_text());
                });
            }
        }
    }
}

#[test]
fn what_defines_its_digest_has_that_digest_in_real_logs() {
    let mut contradicted = BTreeMap::<String, usize>::new();
    let mut proven = 0;
    for folder in folders("eventlog", "event_log.bin") {
        let Ok(log) = log(&folder) else { continue };
        for event in log.events.iter().filter(|event| event.kind != EventKind::NO_ACTION) {
            for bank in log.banks.iter().filter(|bank| **bank != alg::SHA1) {
                match event.grounding(*bank) {
                    Grounding::Proven => proven += 1,
                    Grounding::Contradicted => {
                        *contradicted.entry(format!("{} {}", name(&folder), event.kind)).or_default() += 1;
                    }
                    Grounding::Described => {}
                }
            }
        }
    }
    assert!(contradicted.is_empty(), "{contradicted:#?}");
    eprintln!("{proven} digests recomputed");
}

#[test]
fn real_quotes_say_what_their_manifests_say() {
    for folder in folders("tpm", "quote.msg") {
        let manifest: serde_json::Value = json(folder.join("manifest.json"));
        let expected = &manifest["expected"];
        let message = std::fs::read(folder.join("quote.msg")).unwrap();
        let Ok(quote) = Quote::parse(&message) else { panic!("{} cannot be parsed", name(&folder)) };
        if let Some(count) = expected["reset_count"].as_u64() {
            assert_eq!(u64::from(quote.clock.reset_count), count, "{}", name(&folder));
            assert_eq!(format!("{:016x}", quote.firmware_version), expected["firmware_version"], "{}", name(&folder));
            assert_eq!(hex::encode(&quote.qualified_signer), expected["qualified_signer"], "{}", name(&folder));
            assert_eq!(hex::encode(&quote.pcr_digest), expected["measurement"], "{}", name(&folder));
            assert_eq!(hex::encode(&quote.extra_data), expected["report_data"].as_str().unwrap_or_default());
        }
        let signature = Signature::parse(&std::fs::read(folder.join("quote.sig")).unwrap()).unwrap();
        if let Signature::EcdsaP256 { hash: alg::SHA256, r, s } = signature {
            let pem = std::fs::read_to_string(folder.join("ak_pub.pem")).unwrap();
            let (_, spki) = der::Document::from_pem(&pem).unwrap();
            // An uncompressed P-256 point ends its SubjectPublicKeyInfo.
            let key = VerifyingKey::from_sec1_bytes(&spki.as_bytes()[spki.as_bytes().len() - 65..]).unwrap();
            let signature = p256::ecdsa::Signature::from_scalars(r, s).unwrap();
            key.verify(&message, &signature).unwrap();
        }
    }
}

#[test]
fn quoted_digests_of_real_quotes_are_over_the_registers_sent_with_them() {
    for folder in folders("tpm", "quote.msg") {
        let quote = Quote::parse(&std::fs::read(folder.join("quote.msg")).unwrap()).unwrap();
        let recorded: Registers = json(folder.join("pcrs.json"));
        let [bank] = quote.selection.banks() else { panic!("{}: not one bank", name(&folder)) };
        if bank.hash != alg::SHA256 {
            continue;
        }
        let mut hash = Sha256::new();
        for index in &bank.pcrs {
            hash.update(hex::decode(&recorded["sha256"][&u32::from(*index)]).unwrap());
        }
        let bad = ["neg-quote-bit", "neg-pcr4-zeroed"].contains(&name(&folder).as_str());
        assert_eq!(hash.finalize().as_slice() != quote.pcr_digest, bad, "{}", name(&folder));
    }
}
