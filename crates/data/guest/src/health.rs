//! What may go wrong in a guest that is ready, looked at from inside: cheap, bounded, and without a trace in its logs.
//!
//! SSH: is anything listening on port 22? A connection would ask the same of the kernel, but start a process of sshd and leave
//! a line in the journal each time. The volume: dm-crypt counts nothing, and a dm-integrity below it that only stores tags
//! cannot; what the kernel says of a sector that does not authenticate is one line of its log, and so is what it says of a
//! disk that refuses a request.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use lambda_types::guest::Degradation;
use rustix::io::Errno;

use crate::volume;

/// In a row, before SSH counts as gone: a service that is restarted is away for a moment.
const MISSES: u32 = 2;
/// Listening sockets come first in the kernel's tables; more than these are not read.
const MOST_SOCKET_BYTES: u64 = 1024 * 1024;
/// Most records that one look takes from the kernel's log; the next look goes on there.
const MOST_RECORDS: usize = 4096;
/// The longest record that the kernel hands out.
const RECORD_BYTES: usize = 8192;
const O_NONBLOCK: i32 = 0o4000;

/// What is remembered between two looks.
#[derive(Debug)]
pub struct Health {
    misses: u32,
    log: Option<File>,
    complaints: Complaints,
    volume_damaged: bool,
    volume_refuses: bool,
    /// Found at the boot, and true until the next.
    volume_not_grown: bool,
}

impl Health {
    /// Goes on from what was wrong so far. The kernel's log is read from its beginning.
    #[must_use]
    pub fn resumed(degraded: &[Degradation]) -> Self {
        let log = File::options().read(true).custom_flags(O_NONBLOCK).open("/dev/kmsg").ok();
        let misses = if degraded.contains(&Degradation::SshUnreachable) { MISSES } else { 0 };
        Self {
            misses,
            log,
            complaints: Complaints::of(Path::new("/sys/block")),
            volume_damaged: degraded.contains(&Degradation::VolumeIntegrity),
            volume_refuses: degraded.contains(&Degradation::VolumeIo),
            volume_not_grown: degraded.contains(&Degradation::VolumeNotGrown),
        }
    }

    /// Looks, and says what is wrong.
    pub fn look(&mut self) -> Vec<Degradation> {
        let listens = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().any(|path| File::open(path).is_ok_and(listens));
        for record in self.log.iter().flat_map(records) {
            self.volume_damaged |= is_of_kernel(&record, &self.complaints.damage);
            self.volume_refuses |= is_of_kernel(&record, &self.complaints.refusal);
        }
        self.judge(listens)
    }

    fn judge(&mut self, listens: bool) -> Vec<Degradation> {
        self.misses = if listens { 0 } else { self.misses.saturating_add(1) };
        let found = [
            (Degradation::SshUnreachable, self.misses >= MISSES),
            (Degradation::VolumeIntegrity, self.volume_damaged),
            (Degradation::VolumeIo, self.volume_refuses),
            (Degradation::VolumeNotGrown, self.volume_not_grown),
        ];
        found.into_iter().filter_map(|(degradation, seen)| seen.then_some(degradation)).collect()
    }
}

/// Whether a table of TCP sockets, as in `/proc/net/tcp`, has one that listens on port 22.
fn listens(table: impl std::io::Read) -> bool {
    let lines = BufReader::new(table.take(MOST_SOCKET_BYTES)).lines().map_while(Result::ok).skip(1);
    let mut listening = lines.map_while(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (local, state) = (fields.next()?.to_owned(), fields.nth(1)?);
        (state == "0A").then_some(local)
    });
    listening.any(|local| local.ends_with(":0016"))
}

/// How the kernel's log names what goes wrong with the volume. Another device, which the customer may have made, is the
/// customer's.
#[derive(Debug, Default)]
struct Complaints {
    /// A sector does not authenticate. dm-crypt says it in the name of its own device or of the one below it; which, depends on
    /// the request.
    damage: Vec<String>,
    /// The disk answered a request with an error.
    refusal: Vec<String>,
}

impl Complaints {
    fn of(blocks: &Path) -> Self {
        let mut complaints = Self::default();
        for entry in std::fs::read_dir(blocks).into_iter().flatten().flatten() {
            let device = entry.file_name().to_string_lossy().into_owned();
            let attribute = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            if volume::mappings().iter().any(|mapping| mapping == attribute("dm/name").trim_end()) {
                complaints.damage.push(format!("device-mapper: crypt: {device}: INTEGRITY AEAD ERROR"));
            }
            if attribute("serial").trim_end() == volume::VOLUME_SERIAL {
                complaints.refusal.push(format!("I/O error, dev {device}, sector "));
            }
        }
        complaints
    }
}

/// What the kernel's log says after the last look.
fn records(mut log: &File) -> Vec<Vec<u8>> {
    let mut record = [0u8; RECORD_BYTES];
    let mut records = Vec::new();
    for _ in 0..MOST_RECORDS {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(length) => records.push(record[..length].to_vec()),
            // Records were overwritten before they were read: on with the oldest there is.
            Err(error) if error.raw_os_error() == Some(Errno::PIPE.raw_os_error()) => {}
            Err(_) => break,
        }
    }
    records
}

/// `priority,sequence,microseconds,flags;text`. The kernel's own records have facility 0, which nobody else can write.
fn is_of_kernel(record: &[u8], complaints: &[String]) -> bool {
    let text = String::from_utf8_lossy(record);
    let Some((prefix, message)) = text.split_once(';') else { return false };
    let by_kernel = prefix.split(',').next().and_then(|priority| priority.parse::<u32>().ok()).is_some_and(|it| it < 8);
    by_kernel && complaints.iter().any(|complaint| message.contains(complaint))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn table(rows: &[&str]) -> bool {
        let text = rows.iter().fold(HEAD.to_owned(), |text, row| text + row + "\n");
        listens(text.as_bytes())
    }

    const SSH: &str =
        "   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 x 100";
    const HTTP: &str =
        "   1: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 x 100";
    const SESSION: &str =
        "   2: 0100007F:0016 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 3 1 x 100";

    #[test]
    fn a_listener_on_port_22_is_seen_and_a_session_that_outlived_it_is_none() {
        assert!(table(&[SSH]) && table(&[HTTP, SSH, SESSION]));
        assert!(!table(&[]) && !table(&[HTTP]) && !table(&[HTTP, SESSION]));
        assert!(!listens(&b"\xff\xfe"[..]));
    }

    #[test]
    fn this_machines_own_table_is_understood() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = format!(":{:04X}", listener.local_addr().unwrap().port());
        let text = std::fs::read_to_string("/proc/net/tcp").unwrap();
        assert!(listens(text.replace(&port, ":0016").as_bytes()), "{text}");
    }

    #[test]
    fn ssh_counts_as_gone_after_a_second_miss_and_as_back_at_once() {
        let mut health = Health { log: None, ..Health::resumed(&[]) };
        assert_eq!(health.judge(false), []);
        assert_eq!(health.judge(false), [Degradation::SshUnreachable]);
        assert_eq!(health.judge(true), []);
        assert_eq!(health.judge(false), []);
    }

    #[test]
    fn a_damaged_volume_stays_damaged_and_a_new_worker_forgets_nothing() {
        let mut health = Health { log: None, ..Health::resumed(&Degradation::ALL) };
        assert_eq!(health.judge(false), Degradation::ALL);
        assert_eq!(health.judge(true), Degradation::ALL[1..]);
        assert_eq!(health.judge(true), Degradation::ALL[1..]);
    }

    #[test]
    fn only_the_kernels_own_word_about_a_sector_of_the_volume_counts() {
        let folder = tempfile::tempdir().unwrap();
        for (device, name) in [("dm-1", "lambda-volume_dif\n"), ("dm-2", "lambda-volume\n"), ("dm-3", "mine\n")] {
            std::fs::create_dir_all(folder.path().join(device).join("dm")).unwrap();
            std::fs::write(folder.path().join(device).join("dm/name"), name).unwrap();
        }
        for (disk, serial) in [("vda", "lambda-root\n"), ("vdb", "lambda-volume\n")] {
            std::fs::create_dir(folder.path().join(disk)).unwrap();
            std::fs::write(folder.path().join(disk).join("serial"), serial).unwrap();
        }
        let complaints = Complaints::of(folder.path());
        let judged = |record: &str| {
            [&complaints.damage, &complaints.refusal].map(|complaints| is_of_kernel(record.as_bytes(), complaints))
        };
        for device in ["dm-1", "dm-2"] {
            let said =
                format!("3,445,8637808,-;trusted_key: device-mapper: crypt: {device}: INTEGRITY AEAD ERROR, sector 8");
            assert_eq!(judged(&said), [true, false], "{said}");
        }
        let refused = "I/O error, dev vdb, sector 20480 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2";
        assert_eq!(judged(&format!("3,446,8637809,-;{refused}")), [false, true]);
        for other in [
            "3,445,8637808,-;trusted_key: device-mapper: crypt: dm-3: INTEGRITY AEAD ERROR, sector 8",
            "3,445,8637808,-;trusted_key: device-mapper: crypt: dm-12: INTEGRITY AEAD ERROR, sector 8",
            "12,445,8637808,-;device-mapper: crypt: dm-1: INTEGRITY AEAD ERROR, sector 8",
            "3,445,8637808,-;device-mapper: crypt: dm-1: something else",
            "device-mapper: crypt: dm-1: INTEGRITY AEAD ERROR, sector 8",
            "3,446,8637809,-;I/O error, dev vda, sector 8 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2",
            "3,446,8637809,-;I/O error, dev vdb2, sector 8 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2",
            "12,446,8637809,-;I/O error, dev vdb, sector 8 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 2",
            "",
        ] {
            assert_eq!(judged(other), [false, false], "{other}");
        }
    }
}
