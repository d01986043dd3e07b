//! Intel quotes in a folder outside the repository (`LAMBDA_FIXTURES`, else `../shared/fixtures` beside the repository):
//! each is judged as its manifest says at its instant, and claims what its manifest says.

use std::path::{Path, PathBuf};

use lambda_attest::{
    Anchors, Collateral, Endorsements, Given, Inspection, IntelCollateral, Outcome, ParseError, Report, SgxEvidence,
    TdxEvidence, UnixTime, inspect,
};
use serde_json::Value;

/// Keys of `expected` that are about the verdict.
const NOT_CLAIMS: [&str; 4] = ["verdict", "why", "crypto_valid", "time_for_validity"];

/// A moment for evidence that is not valid at any.
const SOME_TIME: &str = "2025-06-25T00:00:00Z";

struct Fixture {
    folder: PathBuf,
    tee: String,
    expected: Value,
}

fn fixtures() -> Vec<Fixture> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root =
        std::env::var_os("LAMBDA_FIXTURES").map_or_else(|| here.join("../../../../shared/fixtures"), PathBuf::from);
    let mut fixtures = Vec::new();
    for tee in ["tdx", "sgx"] {
        let Ok(entries) = std::fs::read_dir(root.join(tee)) else {
            eprintln!("NOT CHECKED: real Intel quotes (no {}/{tee}; set LAMBDA_FIXTURES)", root.display());
            return Vec::new();
        };
        for entry in entries {
            let folder = entry.unwrap().path();
            let manifest: Value =
                serde_json::from_slice(&std::fs::read(folder.join("manifest.json")).unwrap()).unwrap();
            fixtures.push(Fixture { folder, tee: tee.into(), expected: manifest["expected"].clone() });
        }
    }
    fixtures.sort_by(|a, b| a.folder.cmp(&b.folder));
    assert!(fixtures.len() >= 35, "only {} quotes", fixtures.len());
    fixtures
}

impl Fixture {
    fn name(&self) -> String {
        self.folder.strip_prefix(self.folder.parent().unwrap().parent().unwrap()).unwrap().display().to_string()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        let path = self.folder.join(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    fn report(&self, quote: Vec<u8>) -> Report {
        let log = self.folder.join("ccel_data.bin");
        match self.tee.as_str() {
            "tdx" => Report::Tdx(TdxEvidence {
                quote: quote.into(),
                event_log: log.exists().then(|| std::fs::read(log).unwrap().into()),
            }),
            _ => Report::Sgx(SgxEvidence { quote: quote.into() }),
        }
    }

    fn collateral(&self) -> Collateral {
        if !self.folder.join("tcb_info.json").exists() {
            return Collateral::none();
        }
        let intel = IntelCollateral {
            tcb_info: self.text("tcb_info.json"),
            tcb_info_issuer_chain: self.text("tcb_info_issuer_chain.pem"),
            qe_identity: self.text("qe_identity.json"),
            qe_identity_issuer_chain: self.text("qe_identity_issuer_chain.pem"),
            pck_crl: self.read("pck_crl.der").into(),
            pck_crl_issuer_chain: self.text("pck_crl_issuer_chain.pem"),
            root_ca_crl: self.read("root_ca_crl.der").into(),
            pck_certificate_chain: None,
        };
        Collateral { intel: vec![intel], ..Collateral::none() }
    }

    fn time(&self) -> UnixTime {
        self.expected["time_for_validity"].as_str().unwrap_or(SOME_TIME).parse().unwrap()
    }

    fn inspect(&self) -> Result<Inspection, ParseError> {
        let anchors = Anchors::vendor().unwrap();
        let collateral = self.collateral();
        let endorsements = Endorsements { anchors: &anchors, collateral: &collateral };
        inspect(&self.report(self.read("quote.bin")), &Given::default(), &endorsements, self.time())
    }
}

fn failed(inspection: &Inspection) -> Vec<&str> {
    let failed = inspection.checks.iter().filter(|check| check.outcome == Outcome::Fail);
    failed.map(|check| check.id.as_str()).collect()
}

#[test]
fn every_quote_is_judged_as_its_manifest_says() {
    for fixture in fixtures() {
        let name = fixture.name();
        let valid = fixture.expected["verdict"] == "valid";
        match fixture.inspect() {
            Ok(inspection) => {
                let failed = failed(&inspection);
                println!("{name}: {failed:?}");
                assert_eq!(inspection.accepted(), valid, "{name}: {failed:?}");
            }
            Err(error) => {
                println!("{name}: {error}");
                assert!(!valid, "{name}: {error}");
            }
        }
    }
}

#[test]
fn every_quote_claims_what_its_manifest_says() {
    let mut compared = 0;
    let mut different = Vec::new();
    for fixture in fixtures() {
        let Ok(inspection) = fixture.inspect() else { continue };
        for (key, expected) in fixture.expected.as_object().unwrap() {
            // Without a PCK certificate nobody can say which CA issued it.
            let unknowable = key == "pck_ca" && fixture.expected["fmspc"].is_null();
            if NOT_CLAIMS.contains(&key.as_str()) || unknowable {
                continue;
            }
            compared += 1;
            let claimed = inspection.claims.get(key).unwrap_or(&Value::Null);
            if claimed != expected {
                different.push(format!("{}: {key}: {claimed}, manifest: {expected}", fixture.name()));
            }
        }
    }
    assert_eq!(different, Vec::<String>::new());
    println!("{compared} claims compared");
}

/// Judges changed quotes of the valid fixtures and returns those that are accepted all the same.
fn accepted_of<I: Iterator<Item = (usize, Vec<u8>)>>(changes: impl Fn(Vec<u8>) -> I) -> Vec<String> {
    let anchors = Anchors::vendor().unwrap();
    let mut accepted = Vec::new();
    for fixture in fixtures().into_iter().filter(|fixture| fixture.expected["verdict"] == "valid") {
        let collateral = fixture.collateral();
        let endorsements = Endorsements { anchors: &anchors, collateral: &collateral };
        for (at, quote) in changes(fixture.read("quote.bin")) {
            let inspection = inspect(&fixture.report(quote), &Given::default(), &endorsements, fixture.time());
            if inspection.is_ok_and(|inspection| inspection.accepted()) {
                accepted.push(format!("{}: {at}", fixture.name()));
            }
        }
    }
    accepted
}

#[test]
fn no_flipped_byte_of_what_is_signed_is_accepted() {
    let flipped = |quote: Vec<u8>| {
        let pem = quote.windows(10).position(|window| window == b"-----BEGIN").unwrap();
        (0..pem).map(move |at| {
            let mut quote = quote.clone();
            quote[at] ^= 1 << (at % 8);
            (at, quote)
        })
    };
    assert_eq!(accepted_of(flipped), Vec::<String>::new());
}

#[test]
fn no_shortened_quote_is_accepted() {
    // Some quotes come with the zeros of the buffer that they were read from.
    let shortened = |quote: Vec<u8>| {
        let end = quote.iter().rposition(|byte| *byte != 0).unwrap();
        (0..=end).map(move |length| (length, quote[..length].to_vec()))
    };
    assert_eq!(accepted_of(shortened), Vec::<String>::new());
}

#[test]
fn a_real_event_log_is_judged_with_its_quote_and_one_of_another_boot_is_refused() {
    let Some(fixture) = fixtures().into_iter().find(|fixture| fixture.folder.join("ccel_data.bin").exists()) else {
        return;
    };
    let outcomes = |report: &Report| {
        let anchors = Anchors::vendor().unwrap();
        let collateral = fixture.collateral();
        let endorsements = Endorsements { anchors: &anchors, collateral: &collateral };
        let inspection = inspect(report, &Given::default(), &endorsements, fixture.time()).unwrap();
        let of = |id: &str| inspection.checks.iter().find(|check| check.id == id).unwrap().outcome;
        ["tdx.log.structure", "tdx.log.replay", "tdx.log.digests"].map(of)
    };
    let quote = fixture.read("quote.bin");
    assert_eq!(outcomes(&fixture.report(quote.clone())), [Outcome::Pass; 3]);
    let other = fixture.folder.join("../../eventlog/neg-ccel-duplicate-separator/event_log.bin");
    let event_log = Some(std::fs::read(other).unwrap().into());
    let changed = Report::Tdx(TdxEvidence { quote: quote.into(), event_log });
    assert_eq!(outcomes(&changed), [Outcome::Pass, Outcome::Fail, Outcome::Pass]);
}
