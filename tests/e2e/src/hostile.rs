//! An operator who lies: a QEMU wrapper that swaps what the node agent asked for, or adds to it.
//!
//! The node agent checks its own files before it uses them; an operator who wants to cheat replaces the agent's tools.
//! The wrapper stands where the agent expects QEMU and rewrites the arguments before it runs the real one.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// What to swap: in the value that follows `flag`, the first match of `from` is replaced by `to`.
#[derive(Debug, Clone)]
pub struct Swap {
    /// For example `-initrd`.
    pub flag: &'static str,
    /// Regular expression.
    pub from: &'static str,
    /// Replacement.
    pub to: String,
}

/// The wrapper: swaps and adds arguments, then stands between the node agent and the guest channel.
const WRAPPER: &str = r##"#!/usr/bin/python3
import base64, json, os, re, socket, struct, sys, threading

args, home = sys.argv[1:], os.path.dirname(os.path.abspath(sys.argv[0]))

def lines(name):
    try:
        return open(os.path.join(home, name)).read().splitlines()
    except FileNotFoundError:
        return []

for line in lines("swaps"):
    flag, old, new = line.split("\t")
    for i in range(len(args) - 1):
        if args[i] == flag:
            args[i + 1] = re.sub(old, new, args[i + 1], count=1)
args += lines("extra")

def read_frame(sock):
    head = sock.recv(4, socket.MSG_WAITALL)
    if len(head) < 4:
        return None
    return sock.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL)

def tampered(frame):
    outer = json.loads(frame)
    if outer.get("type") != "to-broker":
        return frame
    body = json.loads(base64.b64decode(outer["body"]))
    if body.get("type") != "evidence":
        return frame
    instance = body["hello"]["instance"]
    recorded = os.path.join(home, "recorded-" + instance)
    substitute = os.path.join(home, "substitute-" + instance)
    if os.path.exists(substitute):
        evidence = open(substitute).read()
        if os.path.exists(os.path.join(home, "rebind")):
            parsed = json.loads(base64.b64decode(evidence))
            parsed["binding"].update({name: body["hello"][name] for name in ("instance", "boot")})
            evidence = base64.b64encode(json.dumps(parsed).encode()).decode()
        body["evidence"] = evidence
        outer["body"] = base64.b64encode(json.dumps(body).encode()).decode()
    else:
        with open(recorded, "w") as file:
            file.write(body["evidence"])
        os.chmod(recorded, 0o644)
    return json.dumps(outer).encode()

def upwards(guest, agent):
    try:
        while (frame := read_frame(guest)) is not None:
            frame = tampered(frame)
            agent.sendall(struct.pack(">I", len(frame)) + frame)
    except OSError:
        pass
    agent.close()
    guest.close()

def downwards(agent, guest):
    try:
        while data := agent.recv(65536):
            guest.sendall(data)
    except OSError:
        pass
    agent.close()
    guest.close()

def stand_between(listener, inner):
    while True:
        agent, _ = listener.accept()
        guest = socket.socket(socket.AF_UNIX)
        guest.connect(inner)
        for target, ends in ((upwards, (guest, agent)), (downwards, (agent, guest))):
            threading.Thread(target=target, args=ends, daemon=True).start()

if os.path.exists(os.path.join(home, "listen")):
    for i, arg in enumerate(args):
        if arg.startswith("socket,id=guest,fd="):
            fd = int(arg.split("fd=")[1].split(",")[0])
            inner = "\0lambda-hostile-%d" % os.getpid()
            mine = socket.socket(socket.AF_UNIX)
            mine.bind(inner)
            mine.listen()
            parent = os.getpid()
            if os.fork() == 0:
                threading.Thread(target=stand_between, args=(socket.socket(fileno=fd), inner), daemon=True).start()
                mine.close()
                while os.getppid() == parent:
                    threading.Event().wait(0.5)
                os._exit(0)
            os.set_inheritable(mine.fileno(), True)
            args[i] = arg.replace("fd=%d" % fd, "fd=%d" % mine.fileno())

os.execv("/usr/bin/qemu-system-x86_64", ["qemu-system-x86_64"] + args)
"##;

/// Writes the wrapper into a folder that every uid may use, and returns its path. What it swaps is read at each start, so
/// that a test can change it between boots; see [`set`] and [`listen`].
///
/// # Panics
/// When the file cannot be written.
#[must_use]
pub fn wrapper(folder: &Path) -> PathBuf {
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).expect("own folder");
    let path = folder.join("qemu-wrapper");
    std::fs::write(&path, WRAPPER).expect("writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("own file");
    path
}

/// From the next start on, the wrapper relays the guest channel itself: it keeps the last evidence of each instance as
/// `recorded-ID`, and sends the content of `substitute-ID` in its place when there is such a file.
///
/// # Panics
/// When the file cannot be written.
pub fn listen(wrapper: &Path) {
    std::fs::write(wrapper.with_file_name("listen"), "").expect("writable");
}

/// From now on, substituted evidence is rewritten to name the instance and boot that it is sent for.
///
/// # Panics
/// When the file cannot be written.
pub fn rebind(wrapper: &Path) {
    std::fs::write(wrapper.with_file_name("rebind"), "").expect("writable");
}

/// Substituted evidence is sent as it was recorded.
///
/// # Panics
/// When the file cannot be removed.
pub fn keep_binding(wrapper: &Path) {
    std::fs::remove_file(wrapper.with_file_name("rebind")).expect("rebound before");
}

/// Sets arguments that the wrapper adds from its next start on.
///
/// # Panics
/// When the file cannot be written.
pub fn add(wrapper: &Path, arguments: &[&str]) {
    let path = wrapper.with_file_name("extra");
    std::fs::write(&path, arguments.join("\n")).expect("writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("own file");
}

/// Sets what the wrapper swaps from its next start on.
///
/// # Panics
/// When the file cannot be written.
pub fn set(wrapper: &Path, swaps: &[Swap]) {
    let text: String = swaps.iter().map(|swap| format!("{}\t{}\t{}\n", swap.flag, swap.from, swap.to)).collect();
    let path = wrapper.with_file_name("swaps");
    std::fs::write(&path, text).expect("writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("own file");
}

/// Changes one byte of the measured firmware volume inside a firmware file: unpacks it, sets a byte of its free space, and
/// packs it again, so that the firmware still boots.
///
/// # Panics
/// When the file is not firmware of this kind.
pub fn patch_firmware(path: &Path) {
    let script = r#"
import lzma, struct, sys
path = sys.argv[1]
fw = bytearray(open(path, "rb").read())
at = fw.find(bytes.fromhex("98584eee143959429d6edc7bd79403cf"))
size = int.from_bytes(fw[at - 4:at - 1], "little")
start, end = at - 4 + struct.unpack("<H", fw[at + 16:at + 18])[0], at - 4 + size
volume = bytearray(lzma.LZMADecompressor(format=lzma.FORMAT_ALONE).decompress(bytes(fw[start:end])))
assert volume[-1] == 0xFF, "the volume ends in free space"
volume[-1] = 0xFE
prop = fw[start]
options = {"id": lzma.FILTER_LZMA1, "lc": prop % 9, "lp": prop // 9 % 5, "pb": prop // 45,
           "dict_size": struct.unpack("<I", fw[start + 1:start + 5])[0], "preset": 9 | lzma.PRESET_EXTREME}
packed = bytearray(lzma.compress(bytes(volume), format=lzma.FORMAT_ALONE, filters=[options]))
packed[5:13] = struct.pack("<Q", len(volume))
assert len(packed) <= end - start, (len(packed), end - start)
fw[start:end] = packed + bytes(end - start - len(packed))
open(path, "wb").write(fw)
"#;
    let mut command = std::process::Command::new("python3");
    command.args(["-c", script]).arg(path).stdin(std::process::Stdio::null());
    let _ = crate::customer::finish(command, None, std::time::Duration::from_secs(120)).ok();
}

/// How the hashes of an image's root file system are made.
#[derive(Debug)]
pub struct Verity {
    /// What the measured command line names.
    pub root_hash: String,
    salt: String,
    data_size: u64,
}

/// The manifest's word on the root file system of the image in this folder.
///
/// # Panics
/// When it has none.
#[must_use]
pub fn verity(image: &Path) -> Verity {
    let manifest = std::fs::read(image.join("image.json")).expect("readable");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    let text = |field: &str| manifest["verity"][field].as_str().expect("a text field").to_owned();
    let data_size = manifest["verity"]["data_size"].as_u64().expect("a number");
    Verity { root_hash: text("root_hash"), salt: text("salt"), data_size }
}

/// Writes the hashes of the root file system as it is behind it, and returns the root hash.
///
/// # Panics
/// When veritysetup fails.
#[must_use]
pub fn format_verity(root: &Path, verity: &Verity) -> String {
    let said = veritysetup("format", root, verity, None);
    let hash = said.lines().find_map(|line| line.strip_prefix("Root hash:")).expect("veritysetup says the hash");
    hash.trim().to_owned()
}

/// The root file system and its hashes fit this root hash.
///
/// # Panics
/// When they do not.
pub fn verify_verity(root: &Path, verity: &Verity, root_hash: &str) {
    let _ = veritysetup("verify", root, verity, Some(root_hash));
}

fn veritysetup(action: &str, root: &Path, verity: &Verity, root_hash: Option<&str>) -> String {
    let mut command = std::process::Command::new("veritysetup");
    command.args([action, "--no-superblock", "--hash=sha256", "--data-block-size=4096", "--hash-block-size=4096"]);
    command.arg(format!("--hash-offset={}", verity.data_size)).arg(format!("--salt={}", verity.salt));
    command.arg(format!("--data-blocks={}", verity.data_size / 4096)).args([root, root]).args(root_hash);
    crate::customer::finish(command, None, std::time::Duration::from_secs(120)).ok()
}

/// Replaces the first occurrence of some bytes in a file by as many others.
///
/// # Panics
/// When the file does not hold them, or the lengths differ.
pub fn replace(path: &Path, old: &[u8], new: &[u8]) {
    assert_eq!(old.len(), new.len());
    let mut bytes = std::fs::read(path).expect("readable");
    let at = memchr::memmem::find(&bytes, old).expect("the file holds it");
    bytes[at..at + new.len()].copy_from_slice(new);
    std::fs::write(path, bytes).expect("writable");
}

/// Gives a file the owner of its folder, as a careful thief would.
///
/// # Panics
/// When it cannot.
pub fn own_like_parent(path: &Path) {
    use std::os::unix::fs::MetadataExt as _;
    let folder = std::fs::metadata(path.parent().expect("in a folder")).expect("exists");
    std::os::unix::fs::chown(path, Some(folder.uid()), Some(folder.gid())).expect("root");
}
