//! Confidential profiles from launch to release, on a simulated processor under test-only roots; and that nothing else
//! believes it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use lambda_e2e::cloud::Options;
use lambda_e2e::customer::finish;
use lambda_e2e::{Cloud, Customer, Output};
use lambda_simulated_tee::{Operator, Setup, Vendor, install};

/// Where the programs look for roots.
const ROOTS: &str = "LAMBDA_SIMULATED_ROOTS";

/// A cloud on a simulated processor, and what its customer trusts.
struct Simulated {
    cloud: Cloud,
    customer: Customer,
    /// The program in QEMU's place.
    qemu: PathBuf,
    folder: tempfile::TempDir,
}

fn built(name: &str) -> PathBuf {
    let folder = std::env::var_os("LAMBDA_SIMULATED_DIR");
    PathBuf::from(folder.expect("LAMBDA_SIMULATED_DIR is not set: run this through `./x test`")).join(name)
}

impl Simulated {
    /// The host's processor and the customer's roots are of the first vendor.
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("ls").tempdir_in("/tmp").expect("a temporary folder");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("own folder");
        let setup = Setup { vendor: Vendor::First, operator: Operator::honest() };
        let qemu = install(&built("simulated-tee-qemu"), &folder.path().join("tee"), &setup);
        let roots = folder.path().join("roots");
        Vendor::First.write_roots(&roots);
        let cloud = Cloud::start_with(Options {
            qemu: Some(qemu.clone()),
            bin: Some(built("")),
            image: Some(built("image")),
            customers: vec![(ROOTS, roots)],
            ..Options::default()
        });
        let customer = cloud.customer("ada");
        let (bundle, key) = (folder.path().join("collateral.json"), folder.path().join("collateral.pub"));
        Vendor::First.write_collateral(&bundle, &key);
        let [bundle, key] = [bundle, key].map(|path| path.display().to_string());
        let _ = customer.run(["attest", "collateral", "import", &bundle, "--key", &key]).ok();
        Self { cloud, customer, qemu, folder }
    }

    /// From the next launch on.
    fn processor(&self, vendor: Vendor, operator: Operator) {
        Setup { vendor, operator }.write(&self.qemu);
    }

    /// An instance is created, attested as hardware of this product, given its secrets, and used.
    fn walk(&self, name: &str, profile: &str, product: &str) {
        let created = self.customer.create(name, &["--profile", profile]).succeeded();
        for step in ["sealed", "placed", "booting", "attested", "released", "unlocked", "ready"] {
            assert!(created.contains(step), "no `{step}` in:\n{created}");
        }
        assert!(created.contains("hardware"), "the tier is named:\n{created}");
        assert!(self.customer.ssh(name, "uname -a").ok().contains("Linux"));
        let verdict = self.verdict(self.customer.run(["instance", "attest", name, "-o", "json"]), 0);
        assert_eq!(verdict["verdict"], "accepted", "{verdict:#}");
        assert_eq!(verdict["tier"], "hardware");
        assert_eq!(verdict["tee"], profile);
        assert!(verdict["product"].as_str().expect("a product").contains(product), "{}", verdict["product"]);
        let id = self.customer.id(name);
        let running = self.cloud.left_behind();
        assert!(running.iter().any(|what| what.contains("lambda.tee") && what.contains(&id)), "{running:?}");
        assert!(!running.iter().any(|what| what.contains("swtpm") && what.contains(&id)), "no vTPM: {running:?}");
    }

    /// Creates an instance that must be refused by its evidence; gives the checks that failed.
    fn refused(&self, name: &str, profile: &str, more: &[&str]) -> Vec<String> {
        let mut arguments = vec!["--profile", profile];
        arguments.extend(more);
        let output = self.customer.create(name, &arguments);
        assert_eq!(output.code, 3, "attestation refused:\n{}", output.all());
        let said = output.stderr.lines().find_map(|line| line.strip_prefix("error: the evidence was refused: "));
        let failed = said.unwrap_or_default().split(", ").map(str::to_owned).collect();
        let _ = self.customer.run(["instance", "delete", name]).ok();
        failed
    }

    /// The processor does not start the guest, for what its customer signed; the operator's log says why.
    fn not_launched(&self, name: &str, code: &str) {
        let output = self.customer.create(name, &["--profile", "snp"]);
        assert_eq!(output.code, 1, "{}", output.all());
        assert!(output.stderr.contains("[qemu-start]") && !output.all().contains("attested"), "{}", output.all());
        let log = self.cloud.data().join("node/instances").join(self.customer.id(name)).join("qemu.log");
        let log = std::fs::read_to_string(log).expect("the log of a launch");
        assert!(log.contains(&format!("SNP_LAUNCH_FINISH: {code}")), "{log}");
        let _ = self.customer.run(["instance", "delete", name]).ok();
    }

    fn verdict(&self, output: Output, code: i32) -> serde_json::Value {
        assert_eq!(output.code, code, "{}", output.all());
        serde_json::from_str(&output.stdout).expect("a verdict")
    }

    /// Attests again and keeps the record; the shipped program, told of the same roots, then judges it.
    fn shipped_program_refuses(&self, name: &str, chain: &str) {
        let record = self.folder.path().join("record.json").display().to_string();
        let policy = self.folder.path().join("policy.json").display().to_string();
        let image = self.cloud.image().display().to_string();
        let _ = self.customer.run(["instance", "attest", name, "--record", &record]).ok();
        let _ = self.customer.run(["attest", "policy", "new", "--from", &image, "--out", &policy]).ok();
        let verify = ["attest", "verify", &record, "--policy", &policy, "-o", "json"];
        let accepted = self.verdict(self.customer.run(verify), 0);
        assert_eq!(accepted["verdict"], "accepted", "the simulator's own build believes it: {accepted:#}");
        let shipped = PathBuf::from(std::env::var_os("LAMBDA_BIN_DIR").expect("run this through `./x test`"));
        let (recorded, now) =
            (["attest", "inspect", &record, "-o", "json"], ["instance", "attest", name, "-o", "json"]);
        for arguments in [&verify[..], &recorded, &now] {
            let mut command = Command::new(shipped.join("lambda"));
            command.args(arguments).env("LAMBDA_CONFIG_DIR", &self.customer.config);
            command.env(ROOTS, self.folder.path().join("roots"));
            let verdict = self.verdict(finish(command, None, Duration::from_secs(150)), 3);
            assert_eq!(verdict["verdict"], "rejected");
            assert_eq!(verdict["tier"], "unanchored", "no root vouches for it: {verdict:#}");
            assert!(failed(&verdict).contains(&chain.to_owned()), "{:?}", failed(&verdict));
        }
    }
}

fn failed(verdict: &serde_json::Value) -> Vec<String> {
    let checks = verdict["checks"].as_array().expect("checks").iter();
    checks.filter(|check| check["outcome"] == "fail").map(|it| it["id"].as_str().expect("an id").to_owned()).collect()
}

/// Ids of another instance than any that a test creates.
fn another_instance() -> Vec<u8> {
    [&b"lambda-instance\0"[..], &[7; 16]].concat()
}

#[test]
fn a_simulated_snp_guest_is_created_attested_and_released_and_what_its_operator_changes_is_refused() {
    let simulated = Simulated::start();
    simulated.walk("web", "snp", "Genoa");
    let _ = simulated.customer.ssh("web", "echo kept | sudo tee /var/lib/kept && sync").ok();
    let _ = simulated.customer.run(["instance", "stop", "web"]).ok();
    let _ = simulated.customer.run(["instance", "start", "web"]).ok();
    assert_eq!(
        simulated.customer.ssh("web", "cat /var/lib/kept").ok().trim(),
        "kept",
        "released again at the next boot"
    );
    simulated.shipped_program_refuses("web", "snp.chain.ark-pinned");
    let _ = simulated.customer.run(["instance", "delete", "web"]).ok();

    let changed_line = Operator { command_line: Some("lambda.debug".into()), ..Operator::default() };
    for (name, code, operator) in [
        ("other-measurement", "BAD_MEASUREMENT", changed_line.clone()),
        ("other-policy", "POLICY_FAILURE", Operator { debug: true, ..Operator::default() }),
        ("other-block", "BAD_SIGNATURE", Operator { changed_id_block: true, ..Operator::default() }),
    ] {
        simulated.processor(Vendor::First, operator);
        simulated.not_launched(name, code);
    }

    simulated.processor(Vendor::Second, Operator::honest());
    let of_another_root = simulated.refused("other-root", "snp", &[]);
    assert!(of_another_root.contains(&"snp.chain.ark-pinned".to_owned()), "{of_another_root:?}");

    let without = Operator { no_id_block: true, ..Operator::default() };
    let no_id_block =
        ["snp.id-block.family-id", "snp.id-block.image-id", "snp.id-block.id-key", "snp.id-block.author-key"];
    let only = |failed: Vec<String>| -> Vec<String> {
        { failed }.into_iter().filter(|check| !no_id_block.contains(&check.as_str())).collect()
    };
    simulated.processor(Vendor::First, Operator { no_id_block: true, ..changed_line });
    assert_eq!(only(simulated.refused("command-line", "snp", &[])), ["policy.reference", "snp.measurement"]);

    simulated.processor(Vendor::First, Operator { debug: true, ..without });
    assert_eq!(only(simulated.refused("debug", "snp", &[])), ["snp.policy.debug"]);

    let operator = Operator { host_data: Some(another_instance()), ..Operator::default() };
    simulated.processor(Vendor::First, operator);
    assert_eq!(simulated.refused("host-data", "snp", &[]), ["snp.host-data"]);
}

#[test]
fn a_simulated_trust_domain_is_created_attested_and_released_and_what_its_operator_changes_is_refused() {
    let simulated = Simulated::start();
    simulated.walk("web", "tdx", "FMSPC b0c06f000000");
    simulated.shipped_program_refuses("web", "dcap.pck.chain.anchor");
    let _ = simulated.customer.run(["instance", "delete", "web"]).ok();

    simulated.processor(Vendor::Second, Operator::honest());
    let of_another_root = simulated.refused("other-root", "tdx", &[]);
    assert!(of_another_root.contains(&"dcap.pck.chain.anchor".to_owned()), "{of_another_root:?}");
    let cases: [(_, &[&str], _); 3] = [
        (
            "command-line",
            &["policy.reference", "tdx.measurement"],
            Operator { command_line: Some("lambda.debug".into()), ..Operator::default() },
        ),
        ("debug", &["tdx.attributes.debug"], Operator { debug: true, ..Operator::default() }),
        ("host-data", &["tdx.mrconfigid"], Operator { host_data: Some(another_instance()), ..Operator::default() }),
    ];
    for (name, checks, operator) in cases {
        simulated.processor(Vendor::First, operator);
        assert_eq!(simulated.refused(name, "tdx", &[]), checks);
    }
}

/// What `lambdad doctor` says of probe guests on a simulated host: the ids of what fails, for `snp` and `tdx`.
fn doctor(simulated: &Simulated) -> [Vec<String>; 2] {
    let collateral = simulated.folder.path().join("plain.json");
    std::fs::write(&collateral, Vendor::First.collateral().to_json()).expect("writable");
    let mut command = simulated.cloud.lambdad(["doctor", "--json", "--data"]);
    command.arg(simulated.cloud.data()).arg("--collateral").arg(collateral);
    let folder = simulated.qemu.parent().expect("in a folder").display();
    command.env("PATH", format!("{folder}:{}", std::env::var("PATH").unwrap_or_default()));
    let report = finish(command, None, Duration::from_secs(240)).stdout;
    let report: serde_json::Value = serde_json::from_str(&report).expect("one JSON document");
    ["snp", "tdx"].map(|profile| {
        let profiles = report["profiles"].as_array().expect("profiles");
        let found = profiles.iter().find(|found| found["profile"] == profile).expect("every profile is listed");
        assert_eq!(found["probe"]["outcome"], "refused", "shipped roots vouch for no simulator: {found:#}");
        let failed = found["probe"]["failed"].as_array().expect("checks").iter();
        failed.map(|check| check["id"].as_str().expect("an id").to_owned()).collect()
    })
}

#[test]
fn doctor_launches_simulated_probe_guests_and_sees_what_was_measured_and_that_no_vendor_vouches_for_it() {
    let simulated = Simulated::start();
    let [snp, tdx] = doctor(&simulated);
    assert_eq!(snp, ["snp.chain.ark-pinned", "snp.chain.names"]);
    assert_eq!(tdx, ["dcap.pck.chain.anchor", "dcap.tcb-signer.chain.anchor"]);

    let operator = Operator { command_line: Some("lambda.debug".into()), ..Operator::default() };
    simulated.processor(Vendor::First, operator);
    let [other_snp, other_tdx] = doctor(&simulated);
    for (failed, before, differs) in [(other_snp, snp, "probe.measurement"), (other_tdx, tdx, "probe.rtmr2")] {
        assert_eq!(failed, [vec![differs.to_owned()], before].concat());
    }
}

/// Packages that can be built to believe a simulated processor, and the root of their source.
const CAPABLE: [(&str, &str); 4] = [
    ("lambda-attest", "crates/privacy/attest/src/lib.rs"),
    ("lambda-guest", "crates/data/guest/src/lib.rs"),
    ("lambda-node", "crates/data/node/src/lib.rs"),
    ("lambda-sdk", "crates/user/sdk/src/lib.rs"),
];

/// Programs that only pass the feature on, and to which of them.
const PASSING_ON: [(&str, &str); 2] = [("lambda-cli", "lambda-sdk"), ("lambdad", "lambda-node")];

#[test]
fn no_release_build_can_be_made_to_believe_a_simulated_processor() {
    let repository = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]).current_dir(&repository);
    let metadata = finish(cargo, None, Duration::from_secs(60)).ok();
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages").iter();
    let with_feature = packages.filter(|package| package["features"].get("simulated-tee").is_some());
    let mut named: Vec<&str> = with_feature.clone().map(|it| it["name"].as_str().expect("a name")).collect();
    named.sort_unstable();
    let mut expected: Vec<&str> = CAPABLE.iter().chain(&PASSING_ON).map(|(name, _)| *name).collect();
    expected.sort_unstable();
    assert_eq!(named, expected, "every package with the feature is tried here");
    for (program, to) in PASSING_ON {
        let package = with_feature.clone().find(|it| it["name"] == program).expect("listed");
        assert_eq!(package["features"]["simulated-tee"], serde_json::json!([format!("{to}/simulated-tee")]));
    }

    let folder = tempfile::tempdir().expect("a temporary folder");
    for (name, root) in CAPABLE {
        for (assertions, refused) in [("off", true), ("on", false)] {
            // The compiler expands the refusal before it looks for other crates; that it does not find them is no matter.
            let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
            rustc.args(["--edition=2024", "--crate-type=lib", "--emit=metadata", "--cfg", "feature=\"simulated-tee\""]);
            rustc.arg(format!("-Cdebug-assertions={assertions}")).arg("-o").arg(folder.path().join("out"));
            let said = finish(
                {
                    rustc.arg(repository.join(root));
                    rustc
                },
                None,
                Duration::from_secs(60),
            )
            .all();
            let refusal = said.contains("error: the feature `simulated-tee`")
                && said.contains("does not belong in a release build");
            assert_eq!(refusal, refused, "{name}, debug assertions {assertions}:\n{said}");
        }
    }
}
