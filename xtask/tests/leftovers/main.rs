//! `./x demo` and its removal leave a machine as it was. Needs root; one of the tests boots a guest.

mod machine;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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

/// A person who called sudo: `nobody`, whom every Debian knows; ssh wants a name.
const PERSON: &str = "65534";

/// The programs and the image of this run, on a machine of its own.
fn machine() -> Machine {
    let (programs, image) = (from_environment("LAMBDA_BIN_DIR"), from_environment("LAMBDA_IMAGE_DIR"));
    let xtask = Path::new(env!("CARGO_BIN_EXE_xtask"));
    Machine::start(&[xtask.parent().unwrap(), &programs, &image])
}

/// `./x demo` in a session of its own, as sudo starts it.
fn demo(machine: &Machine, more: &[&str]) -> Command {
    let mut command = machine.command("setsid");
    command.arg("/mnt/1/xtask").env("SUDO_UID", PERSON).env("SUDO_GID", PERSON);
    command.args(["demo", "--data", DATA, "--bin-dir", "/mnt/2"]).args(more);
    command
}

const SMALL: [&str; 4] = ["--image", "/mnt/3", "--shape", "nano"];

/// The commands that the demo prints for its user, up to the comment beside each.
fn printed(told: &str) -> Vec<&str> {
    let commands = told.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with("README"));
    commands.map(|line| line.split("    ").next().unwrap_or(line)).filter(|line| !line.is_empty()).collect()
}

/// Starts the demo, waits until it says this, and interrupts its process group as Ctrl-C does. Gives how it
/// ended, and what it said.
fn interrupt(machine: &Machine, more: &[&str], when: &str) -> (Option<i32>, String) {
    let mut command = demo(machine, more);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Standard output has the commands' results, standard error the steps.
    let results = child.stdout.take().unwrap();
    let results = std::thread::spawn(move || std::io::read_to_string(results).unwrap());
    let mut said = String::new();
    let mut steps = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    let mut told = false;
    while steps.read_line(&mut line).unwrap() > 0 {
        said.push_str(&line);
        if !told && line.contains(when) {
            told = true;
            let _ = machine.shell("kill -INT -- -$(pgrep -o -x xtask)");
        }
        line.clear();
    }
    assert!(told, "it never said {when:?}:\n{said}");
    let status = child.wait().unwrap();
    (status.code(), said + &results.join().unwrap())
}

#[test]
fn real_guest_demo_leaves_nothing_behind_when_it_is_taken_down() {
    let mut machine = machine();
    let before = machine.state();

    let told = said(&mut demo(&machine, &SMALL));
    assert!(told.contains("Linux") && told.contains("Debian GNU/Linux"), "{told}");
    let running = machine.new_since(&before);
    let expected = ["cgroup", "file", "mount", "namespace", "process", "socket"];
    for kind in expected {
        assert!(
            kinds(&running).contains(&kind),
            "a running demo has a {kind}, or the comparison misses it: {running:#?}"
        );
    }

    what_the_demo_prints_works_for_the_person_who_called_sudo(&machine, &told);

    // It was there before these two, so they leave it alone.
    let told = said(&mut demo(&machine, &[&SMALL[..], &["--once"]].concat()));
    assert!(told.contains("Debian GNU/Linux"), "{told}");
    let (_, told) = interrupt(&machine, &SMALL, "/etc/os-release");
    assert!(told.contains("it goes on running"), "{told}");
    assert_eq!(
        machine.settle(&before.union(&running.iter().cloned().collect()).cloned().collect()),
        Vec::<String>::new()
    );
    let still = machine.new_since(&before);
    let gone: Vec<&String> =
        running.iter().filter(|line| line.starts_with("process") && !still.contains(line)).collect();
    assert_eq!(gone, Vec::<&String>::new(), "ended by a demo that it did not belong to");

    let _ = said(&mut demo(&machine, &["--down"]));
    assert_eq!(machine.settle(&before), Vec::<String>::new(), "left behind");
    let _ = said(&mut demo(&machine, &["--down"]));
    assert_eq!(machine.settle(&before), Vec::<String>::new(), "left behind by a second removal");
}

fn what_the_demo_prints_works_for_the_person_who_called_sudo(machine: &Machine, told: &str) {
    let commands = printed(told);
    let export = commands.iter().find(|line| line.starts_with("export ")).expect("an export line");
    let person = |line: &str| {
        let mut command = machine.command("setpriv");
        command.args(["--reuid", PERSON, "--regid", PERSON, "--clear-groups", "--inh-caps=-all", "--"]);
        command.args(["bash", "-c", &format!("{export}; {line}")]).env("HOME", "/nonexistent").current_dir("/");
        said(&mut command)
    };
    let tried = commands.iter().filter(|line| line.starts_with("lambda ") && !line.contains("restart"));
    let tried: Vec<&&str> = tried.collect();
    assert!(tried.len() >= 4, "{told}");
    for line in tried {
        let line = if line.starts_with("lambda ssh") { format!("{line} -- id -un") } else { (*line).to_owned() };
        let said = person(&line);
        assert!(!said.trim().is_empty(), "`{line}` says nothing");
        if line.starts_with("lambda ssh") {
            assert_eq!(said.trim(), "lambda");
        }
    }
    let look = commands.iter().find_map(|line| line.strip_prefix("sudo ")).expect("a command for root");
    assert!(machine.shell(look).contains("volume.raw"));
}

#[test]
fn real_guest_demo_once_or_interrupted_leaves_nothing_behind() {
    let mut machine = machine();
    let before = machine.state();
    for (when, more) in [
        ("==> starting gateway", &[][..]),
        ("==> connecting as a customer", &["--once"]),
        ("booting", &[]),
        ("attested", &["--once"]),
    ] {
        let (code, told) = interrupt(&machine, &[&SMALL[..], more].concat(), when);
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains("interrupted"), "{told}");
        assert_eq!(
            machine.settle(&before),
            Vec::<String>::new(),
            "left behind by an interruption at {when:?}:\n{told}"
        );
    }

    let told = said(&mut demo(&machine, &[&SMALL[..], &["--once"]].concat()));
    assert!(told.contains("Linux") && told.contains("Debian GNU/Linux"), "{told}");
    assert_eq!(machine.settle(&before), Vec::<String>::new(), "left behind by --once");
}

#[test]
fn once_refuses_a_data_folder_that_holds_a_stopped_demo() {
    let machine = Machine::start(&[Path::new(env!("CARGO_BIN_EXE_xtask")).parent().unwrap()]);
    machine.shell(&format!("mkdir -p {DATA}/pki; touch {DATA}/settings.json"));
    let refused = demo(&machine, &[&SMALL[..], &["--once"]].concat()).output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("--down"), "{told}");
    assert_eq!(machine.shell(&format!("ls {DATA}")), "pki\nsettings.json\n");
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
