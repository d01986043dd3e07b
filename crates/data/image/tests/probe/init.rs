//! A guest program for tests: prints the SHA-256 bank, loads the modules, and makes and opens an encrypted volume.
//! Built static by the tests; not part of any image.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};

const SYS_FINIT_MODULE: i64 = 313;
const POWER_OFF: i32 = 0x4321_fedc;

unsafe extern "C" {
    fn mount(source: *const i8, target: *const i8, kind: *const i8, flags: u64, data: *const u8) -> i32;
    fn syscall(number: i64, ...) -> i64;
    fn reboot(command: i32) -> i32;
}

fn mount_at(kind: &std::ffi::CStr, target: &std::ffi::CStr) {
    // SAFETY: every pointer is a terminated string that outlives the call, or null where null is allowed.
    unsafe { mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
}

fn main() {
    for (kind, target) in [(c"proc", c"/proc"), (c"sysfs", c"/sys"), (c"devtmpfs", c"/dev"), (c"tmpfs", c"/run")] {
        mount_at(kind, target);
    }
    let mut said = String::new();
    for index in [0, 1, 2, 3, 4, 5, 6, 7, 9] {
        let value = fs::read_to_string(format!("/sys/class/tpm/tpm0/pcr-sha256/{index}")).unwrap_or_default();
        let _ = writeln!(said, "pcr {index} {}", value.trim().to_lowercase());
    }
    for name in fs::read_to_string("/modules/order").unwrap_or_default().lines() {
        let _ = writeln!(said, "module {name} {}", load(name));
    }
    for line in volume() {
        let _ = writeln!(said, "{line}");
    }
    let _ = writeln!(said, "end");
    for port in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
        if fs::read_to_string(port.path().join("name")).unwrap_or_default().trim() == "lambda.guest" {
            if let Ok(mut file) = fs::File::options().write(true).open(std::path::Path::new("/dev").join(port.file_name())) {
                let _ = file.write_all(said.as_bytes());
            }
        }
    }
    // SAFETY: takes no pointer.
    unsafe { reboot(POWER_OFF) };
}

fn load(name: &str) -> &'static str {
    let Ok(file) = fs::File::open(format!("/modules/{name}")) else { return "missing" };
    // SAFETY: the descriptor is open and the parameter string is terminated.
    let result = unsafe { syscall(SYS_FINIT_MODULE, file.as_raw_fd(), c"".as_ptr(), 0) };
    if result == 0 { "loaded" } else { "refused" }
}

fn volume() -> Vec<String> {
    let run = |program: &str, args: &[&str]| {
        let mut child = Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        child.stdin.take()?.write_all(&[7; 32]).ok()?;
        child.wait().ok()?.code()
    };
    let format = [
        "luksFormat", "-q", "--type", "luks2", "--cipher", "aes-gcm-random", "--key-size", "256", "--integrity", "aead",
        "--integrity-no-wipe", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--sector-size", "4096",
        "--key-file", "-", "/dev/vdb",
    ];
    let formatted = run("/usr/sbin/cryptsetup", &format);
    let opened = run("/usr/sbin/cryptsetup", &["open", "--key-file", "-", "/dev/vdb", "volume"]);
    let usable = run("/usr/sbin/mkfs.ext4", &["-V"]);
    vec![format!("luks {formatted:?} {opened:?}"), format!("mkfs {usable:?}")]
}
