//! The built program: exit codes, output formats, and what it never prints. No cloud is there.

mod bench;
mod bundles;
mod collateral;
mod eventlog;
mod evidence;
mod folders;
mod launch;
mod policies;
mod publisher;
mod secrets;

use bench::Bench;

/// Every command a person can type, without arguments.
const COMMANDS: [&str; 38] = [
    "connect",
    "instance create",
    "instance list",
    "instance show",
    "instance start",
    "instance stop",
    "instance restart",
    "instance resize",
    "instance delete",
    "instance attest",
    "instance why",
    "ssh",
    "cp",
    "image build",
    "image import",
    "image measure",
    "image trust",
    "image list",
    "broker run",
    "key rotate-master",
    "key rotate-project",
    "key show",
    "attest inspect",
    "attest verify",
    "attest eventlog",
    "attest collateral fetch",
    "attest collateral show",
    "attest collateral export",
    "attest collateral import",
    "attest policy new",
    "attest policy show",
    "attest policy sign",
    "attest policy check",
    "attest policy key new",
    "attest policy key show",
    "attest policy key pin",
    "attest policy key unpin",
    "completions",
];

/// Every group of commands.
const GROUPS: [&str; 8] =
    ["instance", "image", "broker", "key", "attest", "attest collateral", "attest policy", "attest policy key"];

#[test]
fn the_help_of_every_command_and_group_has_an_example_of_it() {
    let bench = Bench::new();
    for command in COMMANDS.into_iter().chain(GROUPS) {
        let mut args: Vec<&str> = command.split(' ').collect();
        args.push("--help");
        let run = bench.run(&args);
        assert_eq!(run.code, 0, "{command}: {run:?}");
        let examples = run.out.split_once("\nExample").map_or("", |(_, examples)| examples);
        assert!(examples.contains(&format!("\n  lambda {command}")), "{command}:\n{}", run.out);
    }
}

#[test]
fn a_command_line_that_makes_no_sense_ends_with_2_and_says_why() {
    let bench = Bench::new();
    let lines: [(&[&str], &str); 9] = [
        (&["nonsense"], "nonsense"),
        (&["instance", "create"], "--name"),
        (&["instance", "list", "-o", "xml"], "xml"),
        (&["instance", "start", "web", "--timeout", "0"], "--timeout"),
        (&["instance", "create", "--name", "a", "--image", "b", "--ssh-key", "c", "--shape", "huge"], "huge"),
        (
            &["instance", "create", "--name", "a", "--image", "b", "--ssh-key", "c", "--profile", "sev"],
            "tpm, snp, tdx, sgx, cca",
        ),
        (&["attest", "verify", "x", "--policy", "y", "--at", "yesterday"], "2026-01-31T12:00:00Z"),
        (&["attest", "verify", "x", "--policy", "y", "--instance", "web"], "web"),
        (&["cp", "a", "b"], "INSTANCE:PATH"),
    ];
    for (args, reason) in lines {
        let run = bench.connected().run(args);
        assert_eq!(run.code, 2, "{args:?}: {run:?}");
        assert!(run.err.contains(reason) && run.out.is_empty(), "{args:?}: {run:?}");
    }
}

#[test]
fn without_a_connection_every_command_that_needs_one_ends_with_2_and_says_how_to_connect() {
    let bench = Bench::new();
    let policy = bench::data("policy.json");
    let lines: [&[&str]; 10] = [
        &["instance", "list"],
        &["instance", "show", "web"],
        &["instance", "start", "web"],
        &["instance", "attest", "web"],
        &["ssh", "web"],
        &["cp", "x", "web:/"],
        &["image", "list"],
        &["broker", "run", "--policy", &policy],
        &["key", "rotate-master"],
        &["key", "rotate-project"],
    ];
    for args in lines {
        let run = bench.run(args);
        assert_eq!(run.code, 2, "{args:?}: {run:?}");
        assert!(run.err.contains("lambda connect") && run.out.is_empty(), "{args:?}: {run:?}");
    }
    assert_eq!(std::fs::read_dir(bench.folder()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn completions_know_the_commands() {
    let bench = Bench::new();
    for shell in ["bash", "zsh", "fish"] {
        let run = bench.run(&["completions", shell]);
        assert_eq!(run.code, 0, "{run:?}");
        for word in ["rotate-project", "import", "completions"] {
            assert!(run.out.contains(word), "{shell} does not know {word}");
        }
    }
}

#[test]
fn nothing_is_coloured_where_nobody_looks_or_colour_is_not_wanted() {
    let bench = Bench::new();
    let policy = bench::data("policy.json");
    let lines: [&[&str]; 3] = [&["--help"], &["nonsense"], &["attest", "policy", "show", &policy]];
    for args in lines {
        for variable in ["NO_COLOR", "UNUSED"] {
            let run = bench.run_with(args, variable, "1");
            assert!(!run.out.contains('\u{1b}') && !run.err.contains('\u{1b}'), "{args:?} {variable}: {run:?}");
        }
    }
}

#[test]
fn an_import_of_bad_input_ends_with_2_and_the_reason() {
    let bench = Bench::new();
    let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
    elf.resize(64, 0);
    (elf[16], elf[18], elf[20], elf[52]) = (2, 62, 1, 64);
    let guest = bench.file("lambda-guest", &elf);
    let (rootfs, kernel, out) = (bench.file("rootfs.tar", b"no"), bench.file("vmlinuz", b"no"), bench.path("out"));
    let import = |kernel: &str, guest: &str| {
        let paths = ["--rootfs", &rootfs, "--kernel", kernel, "--guest", guest, "--out", &out];
        bench.run(&[&["image", "import", "--name", "mine"][..], &paths].concat())
    };
    for (run, reason) in [
        (import(&kernel, &guest), "the kernel is not usable"),
        (import(&bench.path("none"), &guest), "none"),
        (import(&kernel, &bench.path("none")), "--guest"),
        (import(&kernel, &kernel), "not a static ELF"),
    ] {
        assert_eq!(run.code, 2, "{reason}: {run:?}");
        assert!(run.err.contains(reason), "{reason}: {run:?}");
    }
    assert!(!std::path::Path::new(&out).join("image.json").exists());
}

#[test]
fn the_master_key_is_rotated_without_a_cloud_and_the_keyring_still_opens() {
    let bench = Bench::new().connected();
    let key = || std::fs::read(bench.folder().join("master.key")).unwrap();
    let before = key();
    let run = bench.run(&["key", "rotate-master", "-o", "json"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert_ne!(key(), before);
    lambda_sdk::Keyring::load(&lambda_sdk::config::Folder::at(bench.folder())).unwrap();
    let _: serde_json::Value = serde_json::from_str(&run.out).unwrap();
}
