//! `./x demo` and its removal leave a machine as it was. Needs root; one of the tests boots a guest.

mod machine;

use std::path::{Path, PathBuf};

use machine::{Machine, said};

/// Outside the folder that is removed there must be nothing new; where the daemons keep everything.
const DATA: &str = "/run/data/demo";

fn from_environment(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set: run this through `./x test`")))
}

/// Kinds among these lines.
fn kinds(lines: &[String]) -> Vec<&str> {
    let mut kinds: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}

#[test]
fn real_guest_demo_leaves_nothing_behind_when_it_is_taken_down() {
    let (programs, image) = (from_environment("LAMBDA_BIN_DIR"), from_environment("LAMBDA_IMAGE_DIR"));
    let xtask = Path::new(env!("CARGO_BIN_EXE_xtask"));
    let mut machine = Machine::start(&[xtask.parent().unwrap(), &programs, &image]);
    let demo = |machine: &Machine, more: &[&str]| {
        let mut command = machine.command("/mnt/1/xtask");
        command.args(["demo", "--data", DATA, "--bin-dir", "/mnt/2"]).args(more);
        said(&mut command)
    };
    let before = machine.state();

    let told = demo(&machine, &["--image", "/mnt/3", "--shape", "nano"]);
    assert!(told.contains("Linux") && told.contains("Debian GNU/Linux"), "{told}");
    let running = machine.new_since(&before);
    let expected = ["cgroup", "file", "mount", "namespace", "process", "socket"];
    for kind in expected {
        assert!(
            kinds(&running).contains(&kind),
            "a running demo has a {kind}, or the comparison misses it: {running:#?}"
        );
    }

    demo(&machine, &["--down"]);
    assert_eq!(machine.settle(&before), Vec::<String>::new(), "left behind");
    demo(&machine, &["--down"]);
    assert_eq!(machine.settle(&before), Vec::<String>::new(), "left behind by a second removal");
}

#[test]
fn a_leftover_of_each_kind_is_seen() {
    let mut machine = Machine::start(&[]);
    let before = machine.state();
    assert_eq!(machine.new_since(&before), Vec::<String>::new(), "two looks at an idle machine are the same");
    for (kind, plant, remove) in [
        ("process", "setsid sleep 3599 >/dev/null 2>&1 &", "pkill -x -f 'sleep 3599'"),
        ("link", "ip tuntap add planted mode tap", "ip link del planted"),
        (
            "namespace",
            "mkdir /run/netns; ip netns add planted",
            "ip netns del planted; umount /run/netns; rmdir /run/netns",
        ),
        ("nft", "nft add table inet planted", "nft delete table inet planted"),
        ("mount", "mkdir /tmp/planted; mount -t tmpfs planted /tmp/planted", "umount /tmp/planted; rmdir /tmp/planted"),
        ("file", "touch /var/tmp/planted", "rm /var/tmp/planted"),
        ("file", "mkdir -p /mnt/home/.config/lambda", "rm -r /mnt/home/.config"),
    ] {
        machine.shell(plant);
        let found = machine.new_since(&before);
        assert!(kinds(&found).contains(&kind), "{kind}: {found:#?}");
        machine.shell(remove);
        assert_eq!(machine.settle(&before), Vec::<String>::new(), "after `{remove}`");
    }
}

#[test]
fn a_leftover_socket_or_control_group_is_seen() {
    const LISTEN: &str = "import socket, sys, time
made = socket.socket(socket.AF_UNIX)
made.bind(sys.argv[1].replace('@', '\\0'))
made.listen()
print('listening', flush=True)
time.sleep(600)";
    let mut machine = Machine::start(&[]);
    let before = machine.state();
    for name in ["@lambda-planted", "/tmp/planted.sock"] {
        let mut python = machine.command("python3");
        let mut python = python.args(["-c", LISTEN, name]).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let said = python.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(said), &mut line).unwrap();
        let found = machine.new_since(&before);
        assert!(found.contains(&format!("socket {name}")), "{name}: {found:#?}");
        machine.shell("pkill -x python3; rm -f /tmp/planted.sock");
        let _ = python.wait().unwrap();
        assert_eq!(machine.settle(&before), Vec::<String>::new(), "{name}");
    }

    let tree = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(Path::new).into_iter().find(|tree| tree.is_dir()).unwrap();
    let group = tree.join(format!("lambda-planted-{}", std::process::id()));
    std::fs::create_dir(&group).unwrap();
    machine.shell(&format!("setsid sleep 3599 >/dev/null 2>&1 & echo $! >{}/cgroup.procs", group.display()));
    let found = machine.new_since(&before);
    assert!(found.contains(&format!("cgroup {}", group.display())), "{found:#?}");
    machine.shell("pkill -x -f 'sleep 3599'");
    let without_process = machine.settle(&before);
    std::fs::remove_dir(&group).unwrap();
    assert_eq!(without_process, [format!("cgroup {}", group.display())], "an empty group is a leftover too");
    assert_eq!(machine.settle(&before), Vec::<String>::new());
}
