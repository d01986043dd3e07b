//! `lambda attest collateral export` and `import`: what one machine fetched, on another that cannot.

use lambda_types::Binary;
use serde_json::{Value, json};

use crate::bench::{Bench, Run};
use crate::publisher::{Answer, Publisher, Vendor};

const CRL: &str = "amd-milan-vcek-crl";

/// A machine that fetched, its key, and the file that it exported.
struct Online {
    bench: Bench,
    publisher: Publisher,
    vendor: Vendor,
    bundle: String,
    public: String,
}

impl Online {
    fn new() -> Self {
        let (bench, publisher, vendor) = (Bench::new(), Publisher::start(), Vendor::new());
        let (bundle, public) = (bench.path("bundle.json"), bench.path("fetcher.pub"));
        let online = Self { bench, publisher, vendor, bundle, public };
        online.publisher.answers("/vcek/v1/Milan/cert_chain", vec![Answer::ok(online.vendor.chain())]);
        online.publisher.answers("/vcek/v1/Milan/crl", vec![Answer::ok(online.vendor.crl(2099))]);
        online.key("fetcher");
        online.fetch();
        assert_eq!(online.export("fetcher").code, 0);
        online
    }

    fn key(&self, name: &str) {
        let run = self.bench.run(&["attest", "policy", "key", "new", &self.bench.path(&format!("{name}.key"))]);
        assert_eq!(run.code, 0, "{run:?}");
    }

    fn fetch(&self) {
        let (url, ca) = (&self.publisher.url, self.bench.file("publisher.pem", self.publisher.ca.as_bytes()));
        let line = ["attest", "collateral", "fetch", "--product", "milan", "--kds-url", url, "--tls-ca", &ca];
        let run = self.bench.run(&line);
        assert_eq!(run.code, 0, "{run:?}");
    }

    fn export(&self, key: &str) -> Run {
        let key = self.bench.path(&format!("{key}.key"));
        self.bench.run(&["attest", "collateral", "export", &self.bundle, "--key", &key])
    }

    /// Changes a document of what is exported next.
    fn edit(&self, field: &str, value: Value) {
        let path = self.bench.folder().join(format!("collateral/{CRL}.json"));
        let mut entry: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        entry[field] = value;
        std::fs::write(&path, entry.to_string()).unwrap();
    }

    fn import(&self, offline: &Bench) -> Run {
        offline.run(&["attest", "collateral", "import", &self.bundle, "--key", &self.public, "-o", "json"])
    }
}

fn documents(bench: &Bench) -> Value {
    let run = bench.run(&["attest", "collateral", "show", "-o", "json"]);
    assert_eq!(run.code, 0, "{run:?}");
    serde_json::from_str::<Value>(&run.out).unwrap()["documents"].clone()
}

fn from(run: &Run) -> Vec<Value> {
    assert_eq!(run.code, 0, "{run:?}");
    let json: Value = serde_json::from_str(&run.out).unwrap();
    json["documents"].as_array().unwrap().iter().map(|row| row["from"].clone()).collect()
}

#[test]
fn an_offline_machine_has_just_what_the_fetching_one_had() {
    let online = Online::new();
    let offline = Bench::new();
    assert_eq!(documents(&offline), json!([]));
    assert_eq!(from(&online.import(&offline)), ["bundle", "bundle"]);
    assert_eq!(documents(&offline), documents(&online.bench), "with where and when each was fetched");
    let nobody = ["attest", "collateral", "fetch", "--product", "milan", "--kds-url", "https://127.0.0.1:1"];
    assert_eq!(offline.run(&nobody).code, 0, "what is fresh is not asked for");
}

#[test]
fn a_fetch_writes_the_same_kind_of_file() {
    let online = Online::new();
    let (url, ca) = (&online.publisher.url, online.bench.path("publisher.pem"));
    let key = online.bench.path("fetcher.key");
    let line = ["attest", "collateral", "fetch", "--product", "milan", "--kds-url", url, "--tls-ca", &ca];
    let run = online.bench.run(&[&line[..], &["--bundle", &online.bundle, "--key", &key]].concat());
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(from(&online.import(&Bench::new())), ["bundle", "bundle"]);
}

#[test]
fn a_pinned_key_stands_in_for_a_given_one_and_without_either_nothing_is_taken() {
    let online = Online::new();
    let offline = Bench::new();
    let import = || offline.run(&["attest", "collateral", "import", &online.bundle]);
    let run = import();
    assert!(run.code == 2 && run.err.contains("--key") && run.err.contains("pin"), "{run:?}");
    online.key("stranger");
    for (key, code) in [("stranger", 3), ("fetcher", 0)] {
        let public = online.bench.path(&format!("{key}.pub"));
        assert_eq!(offline.run(&["attest", "policy", "key", "pin", &public]).code, 0);
        let run = import();
        assert_eq!(run.code, code, "{key}: {run:?}");
        assert_eq!(documents(&offline) == json!([]), code != 0, "{key}");
    }
}

#[test]
fn a_bundle_that_is_stale_foreign_changed_truncated_unsigned_or_empty_is_refused_whole_with_the_reason() {
    let online = Online::new();
    let offline = Bench::new();
    let good = std::fs::read(&online.bundle).unwrap();
    let refused = |what: &str, code: i32, reason: &str| {
        let run = online.import(&offline);
        assert!(run.code == code && run.err.contains(reason), "{what}: {run:?}");
        assert_eq!(documents(&offline), json!([]), "{what}");
    };
    online.key("stranger");
    assert_eq!(online.export("stranger").code, 0);
    refused("foreign", 3, "trusted key");
    std::fs::write(&online.bundle, &good[..good.len() / 2]).unwrap();
    refused("truncated", 2, "bundle.json");
    let mut envelope: Value = serde_json::from_slice(&good).unwrap();
    let payload = envelope["payload"].as_str().unwrap().to_owned();
    envelope["payload"] = payload[..payload.len() / 8 * 4].into();
    std::fs::write(&online.bundle, envelope.to_string()).unwrap();
    refused("truncated payload", 3, "trusted key");
    std::fs::write(&online.bundle, br#"{"version":1}"#).unwrap();
    refused("unsigned", 3, "not signed");
    let tcb = json!({"bl": 0, "tee": 0, "snp": 0, "ucode": 0});
    let outside = json!({"kind": "amd-key", "line": "milan", "hwid": "../../outside", "tcb": tcb});
    let crl = json!({"kind": "amd-crl", "line": "milan", "key": "vcek"});
    let stale = serde_json::to_value(Binary::from(online.vendor.crl(2021))).unwrap();
    for (what, document, body, reason) in [
        ("no document of its kind", &crl, json!(""), CRL),
        ("stale", &crl, stale, "it is stale: it was good until 2021"),
        ("a name that leads elsewhere", &outside, json!(""), "no hex of its length"),
    ] {
        online.edit("document", document.clone());
        online.edit("body", body);
        assert_eq!(online.export("fetcher").code, 0);
        refused(what, 3, reason);
    }
}

#[test]
fn what_was_fetched_later_than_the_bundle_stays() {
    let online = Online::new();
    let offline = Bench::new();
    assert_eq!(from(&online.import(&offline)), ["bundle", "bundle"]);
    let before = documents(&offline);
    online.edit("fetched", json!(1_600_000_000));
    assert_eq!(online.export("fetcher").code, 0);
    assert_eq!(from(&online.import(&offline)), ["cache", "cache"], "an older bundle");
    assert_eq!(documents(&offline), before);
}

#[test]
fn there_has_to_be_something_to_export_and_what_ran_out_is_left_out() {
    let online = Online::new();
    online.edit("until", json!(1_600_000_000));
    assert_eq!(online.export("fetcher").code, 0);
    assert_eq!(from(&online.import(&Bench::new())).len(), 1, "the chain alone");
    let empty = Bench::new();
    let key = online.bench.path("fetcher.key");
    let run = empty.run(&["attest", "collateral", "export", &empty.path("bundle.json"), "--key", &key]);
    assert!(run.code == 2 && run.err.contains("collateral fetch"), "{run:?}");
}
