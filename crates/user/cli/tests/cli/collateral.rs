//! `lambda attest collateral` against a real HTTPS server.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::{Bench, Run, data};
use crate::publisher::{Answer, Publisher, Vendor};

const CHAIN: &str = "/vcek/v1/Milan/cert_chain";
const CRL: &str = "/vcek/v1/Milan/crl";

struct World {
    bench: Bench,
    publisher: Publisher,
    vendor: Vendor,
    ca: String,
}

impl World {
    fn new() -> Self {
        let (bench, publisher, vendor) = (Bench::new(), Publisher::start(), Vendor::new());
        let ca = bench.file("publisher.pem", publisher.ca.as_bytes());
        publisher.answers(CHAIN, vec![Answer::ok(vendor.chain())]);
        publisher.answers(CRL, vec![Answer::ok(vendor.crl(2099))]);
        Self { bench, publisher, vendor, ca }
    }

    fn args<'a>(&'a self, more: &[&'a str], root_crl: &'a str) -> Vec<&'a str> {
        let url = self.publisher.url.as_str();
        let common = ["attest", "collateral", "fetch", "--kds-url", url, "--pcs-url", url, "--tls-ca", &self.ca];
        [&common[..], &["--root-crl-url", root_crl], more].concat()
    }

    fn fetch(&self, more: &[&str]) -> Run {
        let root_crl = format!("{}/root.der", self.publisher.url);
        self.bench.run(&self.args(more, &root_crl))
    }

    fn stored(&self) -> Vec<String> {
        let Ok(listing) = std::fs::read_dir(self.bench.folder().join("collateral")) else { return Vec::new() };
        let mut names: Vec<String> = listing
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".json"))
            .collect();
        names.sort();
        names
    }

    fn answers_intel(&self) {
        let chain: String = self.vendor.pem().bytes().map(|byte| format!("%{byte:02x}")).collect();
        let info = tcb_info("00806f050000", "2099-01-01T00:00:00Z");
        let identity = json!({"enclaveIdentity": {"id": "TD_QE", "issueDate": "2020-01-01T00:00:00Z",
            "nextUpdate": "2099-01-01T00:00:00Z"}, "signature": "00"});
        let header = |name: &str, body: Vec<u8>| vec![Answer::ok(body).with(name, &chain)];
        let answers = |path: &str, answers| self.publisher.answers(path, answers);
        answers("/tdx/certification/v4/tcb?fmspc=00806f050000", header("TCB-Info-Issuer-Chain", info));
        answers(
            "/tdx/certification/v4/qe/identity",
            header("SGX-Enclave-Identity-Issuer-Chain", identity.to_string().into()),
        );
        answers(
            "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
            header("SGX-PCK-CRL-Issuer-Chain", self.vendor.crl(2099)),
        );
        answers("/root.der", vec![Answer::ok(self.vendor.crl(2099))]);
    }
}

fn tcb_info(fmspc: &str, until: &str) -> Vec<u8> {
    let info =
        json!({"id": "TDX", "version": 3, "fmspc": fmspc, "issueDate": "2020-01-01T00:00:00Z", "nextUpdate": until});
    json!({"tcbInfo": info, "signature": "00"}).to_string().into()
}

const INTEL: [&str; 4] = ["--fmspc", "00806F050000", "--ca", "platform"];

#[test]
fn what_is_here_and_fresh_is_not_asked_for_again() {
    let world = World::new();
    let first = world.fetch(&["--product", "milan", "-o", "json"]);
    assert_eq!(first.code, 0, "{first:?}");
    assert_eq!(world.publisher.asked(), [CHAIN, CRL]);
    assert_eq!(world.stored(), ["amd-milan-vcek-chain.json", "amd-milan-vcek-crl.json"]);
    let second = world.fetch(&["--product", "milan", "-o", "json"]);
    let from = |run: &Run| {
        let json: Value = serde_json::from_str(&run.out).unwrap();
        json["documents"].as_array().unwrap().iter().map(|row| row["from"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(from(&first), ["publisher", "publisher"]);
    assert_eq!(from(&second), ["cache", "cache"]);
    assert_eq!(world.publisher.asked().len(), 2);
    let shown = world.bench.run(&["attest", "collateral", "show"]);
    assert!(shown.out.contains("amd-milan-vcek-crl") && shown.out.contains("2099-01-01T00:00:00Z"), "{shown:?}");
}

#[test]
fn a_chips_certificate_is_asked_for_by_chip_and_tcb() {
    let world = World::new();
    let chip = "ab".repeat(64);
    let path = format!("/vcek/v1/Milan/{chip}?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=84");
    world.publisher.answers(&path, vec![Answer::ok(world.vendor.certificate())]);
    let args = ["--product", "milan", "--chip-id", &chip, "--tcb", "bl=10,tee=0,snp=23,ucode=84"];
    let run = world.fetch(&args);
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(world.publisher.asked(), [path.as_str(), CHAIN, CRL]);
    let turin = "/vcek/v1/Turin/abababababababab?fmcSPL=01&blSPL=02&teeSPL=03&snpSPL=04&ucodeSPL=05";
    let run = world.fetch(&["--product", "turin", "--chip-id", &chip, "--tcb", "fmc=1,bl=2,tee=3,snp=4,ucode=5"]);
    assert!(run.code == 1 && run.err.contains("404"), "{run:?}");
    assert_eq!(world.publisher.asked().last().unwrap(), turin);
    assert_eq!(world.fetch(&["--product", "milan", "--chip-id", "abcd", "--tcb", args[5]]).code, 2);
}

#[test]
fn a_busy_publisher_is_asked_again_when_it_said_and_not_before() {
    let world = World::new();
    world.publisher.answers(CHAIN, vec![Answer::busy(2), Answer::ok(world.vendor.chain())]);
    let started = Instant::now();
    let run = world.fetch(&["--product", "milan"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(world.publisher.asked(), [CHAIN, CHAIN, CRL]);
}

#[test]
fn a_publisher_that_stays_busy_beyond_the_bound_ends_with_6_at_once_and_says_so() {
    let world = World::new();
    world.publisher.answers(CHAIN, vec![Answer::busy(3600)]);
    let started = Instant::now();
    let run = world.fetch(&["--product", "milan", "--timeout", "30"]);
    assert!(run.code == 6 && run.err.contains("429") && run.err.contains("3600"), "{run:?}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(world.publisher.asked(), [CHAIN]);
    assert!(world.stored().is_empty());
}

#[test]
fn stale_garbled_and_foreign_answers_are_refused_and_never_stored() {
    let world = World::new();
    let chain = vec![Answer::ok(world.vendor.chain())];
    let long = vec![0x30; 2 * 1024 * 1024];
    for (path, answer, reason) in [
        (CRL, Answer::ok(world.vendor.crl(2021)), "stale"),
        (CRL, Answer::ok("<html>"), "revocation list"),
        (CRL, Answer::ok(long), "longer than"),
        (CHAIN, Answer::ok(world.vendor.pem()), "found 1"),
        (CHAIN, Answer::ok(""), ""),
    ] {
        world.publisher.answers(CHAIN, chain.clone());
        world.publisher.answers(CRL, vec![Answer::ok(world.vendor.crl(2099))]);
        world.publisher.answers(path, vec![answer]);
        let run = world.fetch(&["--product", "milan"]);
        assert!(run.code == 1 && run.err.contains(reason) && run.err.contains(path), "{reason}: {run:?}");
        let wrong = if path == CRL { "crl" } else { "chain" };
        assert!(world.stored().iter().all(|name| !name.contains(wrong)), "{reason}: {:?}", world.stored());
        let _ = std::fs::remove_dir_all(world.bench.folder().join("collateral"));
    }
    world.answers_intel();
    let path = "/tdx/certification/v4/tcb?fmspc=00806f050000";
    let chain = "%2d%2d";
    for (answer, reason) in [
        (Answer::ok(tcb_info("00806f050000", "2099-01-01T00:00:00Z")), "tcb-info-issuer-chain"),
        (Answer::ok(tcb_info("00806f050000", "2099-01-01T00:00:00Z")).with("TCB-Info-Issuer-Chain", chain), "header"),
    ] {
        world.publisher.answers(path, vec![answer]);
        let run = world.fetch(&INTEL);
        assert!(run.code == 1 && run.err.contains(reason), "{reason}: {run:?}");
    }
    let pem: String = world.vendor.pem().bytes().map(|byte| format!("%{byte:02X}")).collect();
    for (body, reason) in [
        (tcb_info("00806f050001", "2099-01-01T00:00:00Z"), "tcbInfo.fmspc"),
        (tcb_info("00806f050000", "2021-01-01T00:00:00Z"), "stale"),
        (tcb_info("00806f050000", "soon"), "tcbInfo.nextUpdate"),
        (b"{}".to_vec(), "signature"),
    ] {
        world.publisher.answers(path, vec![Answer::ok(body).with("TCB-Info-Issuer-Chain", &pem)]);
        let run = world.fetch(&INTEL);
        assert!(run.code == 1 && run.err.contains(reason), "{reason}: {run:?}");
    }
    assert!(world.stored().is_empty(), "{:?}", world.stored());
}

#[test]
fn of_several_who_want_the_same_one_asks() {
    let world = World::new();
    let slow = Duration::from_millis(700);
    world.publisher.answers(CHAIN, vec![Answer::ok(world.vendor.chain()).after(slow)]);
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| world.fetch(&["--product", "milan"]))).collect();
        for run in runs {
            let run = run.join().unwrap();
            assert_eq!(run.code, 0, "{run:?}");
        }
    });
    assert_eq!(world.publisher.asked(), [CHAIN, CRL]);
}

#[test]
fn what_ran_out_is_shown_as_such_and_fetched_anew() {
    let world = World::new();
    assert_eq!(world.fetch(&["--product", "milan"]).code, 0);
    let path = world.bench.folder().join("collateral/amd-milan-vcek-crl.json");
    let mut entry: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    entry["until"] = 1_600_000_000.into();
    std::fs::write(&path, entry.to_string()).unwrap();
    assert!(world.bench.run(&["attest", "collateral", "show"]).out.contains("RAN OUT"));
    assert_eq!(world.fetch(&["--product", "milan"]).code, 0);
    assert_eq!(world.publisher.asked(), [CHAIN, CRL, CRL]);
    assert!(!world.bench.run(&["attest", "collateral", "show"]).out.contains("RAN OUT"));
    std::fs::write(&path, b"{").unwrap();
    let run = world.bench.run(&["attest", "collateral", "show"]);
    assert!(run.code == 1 && run.err.contains("amd-milan-vcek-crl.json"), "{run:?}");
}

#[test]
fn a_server_under_another_ca_is_told_nothing() {
    let mut world = World::new();
    world.ca = world.bench.file("other.pem", Vendor::new().pem().as_bytes());
    let run = world.fetch(&["--product", "milan", "--timeout", "1"]);
    assert_eq!(run.code, 6, "{run:?}");
    assert!(world.publisher.asked().is_empty());
    let plain = world.publisher.url.replace("https", "http");
    let run = world.bench.run(&["attest", "collateral", "fetch", "--product", "milan", "--kds-url", &plain]);
    assert!(run.code == 2 && run.err.contains("https://"), "{run:?}");
}

#[test]
fn a_signed_bundle_is_taken_from_its_signer_and_nobody_else() {
    let world = World::new();
    world.answers_intel();
    let bench = &world.bench;
    let [key, stranger] = ["fetcher", "stranger"].map(|name| bench.path(&format!("{name}.key")));
    for key in [&key, &stranger] {
        assert_eq!(bench.run(&["attest", "policy", "key", "new", key]).code, 0);
    }
    let [public, other] = ["fetcher", "stranger"].map(|name| bench.path(&format!("{name}.pub")));
    let bundle = bench.path("bundle.json");
    let run = world.fetch(&[&INTEL[..], &["--bundle", &bundle, "--key", &key]].concat());
    assert_eq!(run.code, 0, "{run:?}");

    let offline = Bench::new();
    let show = |key: &str| offline.run(&["attest", "collateral", "show", &bundle, "--key", key, "-o", "json"]);
    let shown = show(&public);
    assert_eq!(shown.code, 0, "{shown:?}");
    let json: Value = serde_json::from_str(&shown.out).unwrap();
    assert!(json["verified"].is_string());
    assert_eq!(json["intel_platforms"], json!(["TDX 00806f050000 until 2099-01-01T00:00:00Z"]));
    assert_eq!(show(&other).code, 3);

    let record = data("record.json");
    let inspect =
        |more: &[&str]| offline.run(&[&["attest", "inspect", &record, "--collateral", &bundle][..], more].concat());
    assert_eq!(inspect(&["--collateral-key", &public]).code, 0);
    assert_eq!(inspect(&["--collateral-key", &other]).code, 3);
    let unsaid = inspect(&[]);
    assert!(unsaid.code == 2 && unsaid.err.contains("--collateral-key"), "{unsaid:?}");

    let mut envelope: Value = serde_json::from_slice(&std::fs::read(&bundle).unwrap()).unwrap();
    let payload = envelope["payload"].as_str().unwrap().to_owned();
    envelope["payload"] = format!("{}AAAA", &payload[..payload.len() - 4]).into();
    std::fs::write(&bundle, envelope.to_string()).unwrap();
    assert_eq!(show(&public).code, 3, "changed");
}
