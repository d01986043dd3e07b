//! What a failing command must not repeat.

use crate::bench::Bench;

const CANARY: &str = "canary-7f3a";

fn assert_silent(bench: &Bench, args: &[&str], code: i32) {
    let run = bench.run(args);
    assert_eq!(run.code, code, "{args:?}: {run:?}");
    assert!(!run.err.is_empty() && !run.err.contains(CANARY) && !run.out.contains(CANARY), "{args:?}: {run:?}");
}

#[test]
fn a_file_that_is_no_api_key_is_not_quoted() {
    let bench = Bench::new();
    let (key, ca) = (bench.file("api.key", format!("lam_{CANARY}").as_bytes()), bench.file("ca.pem", b""));
    assert_silent(&bench, &["connect", "https://127.0.0.1:1", "--ca", &ca, "--api-key-file", &key], 2);
}

#[test]
fn a_private_key_given_for_a_public_one_is_refused_and_not_quoted() {
    let bench = Bench::new().connected();
    let key = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}\n-----END OPENSSH PRIVATE KEY-----\n");
    let key = bench.file("id_ed25519", key.as_bytes());
    assert_silent(&bench, &["instance", "create", "--name", "web", "--image", "x", "--ssh-key", &key], 2);
}

#[test]
fn a_damaged_master_key_is_not_quoted() {
    let bench = Bench::new().connected();
    let path = bench.folder().join("master.key");
    lambda_sdk::files::write(&path, CANARY.as_bytes()).unwrap();
    assert_silent(&bench, &["key", "rotate-master"], 1);
    let mut whole = CANARY.as_bytes().to_vec();
    whole.resize(32, b'.');
    lambda_sdk::files::write(&path, &whole).unwrap();
    assert_silent(&bench, &["key", "rotate-master"], 1);
}

#[test]
fn a_file_of_variables_that_makes_no_sense_is_refused_by_line_and_not_quoted() {
    let bench = Bench::new().connected();
    let key = bench.file("id.pub", b"ssh-ed25519 AAAA me\n");
    let file = bench.file("api.env", format!("# comment\n\nTOKEN=x\n{CANARY}\n").as_bytes());
    let args = ["instance", "create", "--name", "web", "--image", "x", "--ssh-key", &key, "--env-file", &file];
    assert_silent(&bench, &args, 2);
    let run = bench.run(&args);
    assert!(run.err.contains("line 4") && run.err.contains("NAME=VALUE"), "{run:?}");
}

#[test]
fn a_variable_is_taken_from_the_environment_and_its_absence_is_said() {
    let bench = Bench::new();
    let key = bench.file("id.pub", b"ssh-ed25519 AAAA me\n");
    let args = ["instance", "create", "--name", "web", "--image", "x", "--ssh-key", &key, "--env", "TOKEN"];
    let absent = bench.run(&args);
    assert!(absent.code == 2 && absent.err.contains("TOKEN") && absent.err.contains("not set"), "{absent:?}");
    // Set, it is accepted, and the missing connection ends the command.
    let set = bench.run_with(&args, "TOKEN", CANARY);
    assert!(set.err.contains("not connected") && !set.err.contains(CANARY), "{set:?}");
    let help = bench.run(&["instance", "create", "--help"]);
    assert!(help.out.contains("process listings") && help.out.contains("--env-file"), "{help:?}");
}
