//! The instance's one encrypted volume: what may be done with what the host presents, and doing it.
//!
//! ```text
//!   first 1 MiB on the device           sealed secrets say          then
//!   no header                           initialise                  format
//!   strict header that our key opens    initialise                  adopt: an earlier boot died before the pin was stored
//!   strict header with the pinned hash  pinned                      open
//!   anything else                       either                      refuse; nothing is written
//! ```
//!
//! Formatting works on a header in memory. It reaches the device last, after the file system is complete, so a crash
//! at any point leaves either no header or a whole volume.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lambda_types::guest::FailureReason;

use crate::dm;
use crate::failure::{Because, Failure};
use crate::filesystem::{self, Aligned, O_DIRECT};
use crate::luks::{self, HEADER_BYTES, Header, HeaderError, METADATA_BYTES};
use crate::process::{ProcessError, run};

/// Serial of the virtio disk that holds the root file system.
pub const ROOT_SERIAL: &str = "lambda-root";
/// Serial of the virtio disk that holds the volume.
pub const VOLUME_SERIAL: &str = "lambda-volume";

const CRYPTSETUP: &str = "/usr/sbin/cryptsetup";
const MAPPED_NAME: &str = "lambda-volume";
const MAPPED: &str = "/dev/mapper/lambda-volume";
const HEADER_COPY: &str = "/run/lambda-header";
/// A format or an unlock past this bound is given up; emulated machines take about two seconds.
const TOOL_BOUND: Duration = Duration::from_secs(120);
/// cryptsetup's exit code for a passphrase that opens no key slot.
const WRONG_KEY: i32 = 2;

/// The mappings of an open volume, the upper one first: dm-crypt, and the dm-integrity that cryptsetup puts below it.
#[must_use]
pub fn mappings() -> [String; 2] {
    [MAPPED_NAME.to_owned(), format!("{MAPPED_NAME}_dif")]
}

/// What the sealed secrets demand of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expectation {
    /// First use: there is nothing yet, or what an interrupted first use left.
    Initialise,
    /// The header must be exactly this one.
    Pinned([u8; 32]),
}

/// What to do with the header that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Format the volume.
    Format,
    /// Open it, and report this pin.
    Adopt([u8; 32]),
    /// Open it.
    Open,
}

/// Decides what to do with a header area, from memory alone.
///
/// # Errors
/// The refusal, by its stable code.
pub fn decide(area: &[u8], expectation: Expectation) -> Result<Decision, Failure> {
    let header = Header::parse(area);
    let refuse = |reason, error: &HeaderError| Err(Failure::new(reason, error.to_string()));
    match (expectation, header) {
        (Expectation::Initialise, Err(HeaderError::Blank)) => Ok(Decision::Format),
        (Expectation::Initialise, Ok(header)) => Ok(Decision::Adopt(header.pin())),
        (Expectation::Pinned(_), Err(error @ HeaderError::Blank)) => refuse(FailureReason::VolumeHeaderMissing, &error),
        (_, Err(error @ HeaderError::Truncated(_))) => refuse(FailureReason::VolumeIntegrity, &error),
        (_, Err(error)) => refuse(FailureReason::VolumeHeaderRejected, &error),
        (Expectation::Pinned(pin), Ok(header)) if header.pin() == pin => Ok(Decision::Open),
        (Expectation::Pinned(_), Ok(_)) => Err(Failure::new(
            FailureReason::VolumeHeaderMismatch,
            "the volume's header is well-formed but not the pinned one",
        )),
    }
}

/// A volume that is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mounted {
    /// The pin to report, if there is a new one.
    pub pin: Option<[u8; 32]>,
    /// The file system takes what the volume provides.
    pub fits: bool,
}

/// A volume whose header has been read, once.
#[derive(Debug)]
pub struct Volume {
    device: PathBuf,
    bytes: u64,
    area: Vec<u8>,
}

impl Volume {
    /// Reads the header area of `device` into memory. A device too short for it yields a short area, refused later.
    ///
    /// # Errors
    /// [`FailureReason::VolumeIntegrity`] when the device cannot be read.
    pub fn read(device: PathBuf) -> Result<Self, Failure> {
        let reason = FailureReason::VolumeIntegrity;
        let mut file = File::open(&device).because(reason, "open the volume")?;
        let bytes = file.seek(SeekFrom::End(0)).because(reason, "size of the volume")?;
        file.rewind().because(reason, "rewind the volume")?;
        let mut area = Vec::with_capacity(HEADER_BYTES);
        file.take(HEADER_BYTES as u64).read_to_end(&mut area).because(reason, "read the volume's header")?;
        Ok(Self { device, bytes, area })
    }

    /// Unlocks or initialises the volume and mounts it. If it is longer than when it was last used, its file system grows.
    ///
    /// # Errors
    /// The refusal or what failed, by its stable code.
    pub fn mount(mut self, key: &[u8], expectation: Expectation, target: &Path) -> Result<Mounted, Failure> {
        let decision = decide(&self.area, expectation)?;
        let pin = match decision {
            Decision::Format => {
                self.format(key)?;
                Some(luks::pin(&self.area))
            }
            Decision::Adopt(pin) => {
                self.unlock(key)?;
                Some(pin)
            }
            Decision::Open => {
                self.unlock(key)?;
                None
            }
        };
        std::fs::remove_file(HEADER_COPY).because(FailureReason::RootAssembly, "copy of the header")?;
        std::fs::create_dir_all(target).because(FailureReason::RootAssembly, "mount point")?;
        let fits = filesystem::mount_and_grow(Path::new(MAPPED), target)?;
        Ok(Mounted { pin, fits })
    }

    /// Opens the volume at its full length. dm-integrity finds by itself that its device has grown, and writes so; cryptsetup maps
    /// what was written before it looked.
    fn unlock(&self, key: &[u8]) -> Result<(), Failure> {
        let reason = FailureReason::VolumeIntegrity;
        let provided = self.check_size()?;
        std::fs::write(HEADER_COPY, &self.area).because(FailureReason::VolumeKey, "copy of the header")?;
        self.open_existing(key)?;
        if self.check_size()? == provided {
            return Ok(());
        }
        mappings()
            .iter()
            .try_for_each(|mapping| dm::remove(mapping))
            .because(reason, "close a volume that has grown")?;
        self.open_existing(key)
    }

    fn open_existing(&self, key: &[u8]) -> Result<(), Failure> {
        self.open(key).map_err(|error| {
            let reason = match error.code() {
                Some(WRONG_KEY) => FailureReason::VolumeKey,
                _ => FailureReason::VolumeIntegrity,
            };
            Failure::new(reason, error.to_string())
        })
    }

    /// dm-integrity's superblock says how many bytes of data the volume provides; a device that ends before was truncated.
    fn check_size(&self) -> Result<u64, Failure> {
        let reason = FailureReason::VolumeIntegrity;
        let mut superblock = Aligned::zeroed();
        // Past the page cache, which does not see what dm-integrity writes.
        File::options()
            .read(true)
            .custom_flags(O_DIRECT)
            .open(&self.device)
            .and_then(|file| file.read_exact_at(superblock.sector(), HEADER_BYTES as u64))
            .because(reason, "integrity superblock")?;
        let provided = provided_bytes(superblock.sector())
            .ok_or_else(|| Failure::new(reason, "the volume carries no integrity superblock"))?;
        match provided.checked_add(HEADER_BYTES as u64) {
            Some(needed) if needed <= self.bytes => Ok(provided),
            _ => Err(Failure::new(reason, format!("{} bytes cannot hold {provided} bytes of data", self.bytes))),
        }
    }

    fn open(&self, key: &[u8]) -> Result<(), ProcessError> {
        let device = self.device.to_string_lossy();
        let arguments = [
            "open",
            "--type",
            "luks2",
            "--header",
            HEADER_COPY,
            "--key-file",
            "-",
            "--disable-locks",
            "--batch-mode",
            &*device,
            MAPPED_NAME,
        ];
        run(CRYPTSETUP, &arguments, key, TOOL_BOUND)
    }

    fn format(&mut self, key: &[u8]) -> Result<(), Failure> {
        let reason = FailureReason::VolumeInitialise;
        let header = File::create(HEADER_COPY).because(reason, "header in memory")?;
        header.set_len(HEADER_BYTES as u64).because(reason, "header in memory")?;
        let device = self.device.to_string_lossy();
        let sectors = (HEADER_BYTES / 512).to_string();
        let keyslots = (HEADER_BYTES - 2 * METADATA_BYTES).to_string();
        let metadata = METADATA_BYTES.to_string();
        let sector = luks::SECTOR_BYTES.to_string();
        let arguments = [
            "luksFormat",
            "--type",
            "luks2",
            "--batch-mode",
            "--disable-locks",
            "--cipher",
            luks::CIPHER,
            "--key-size",
            "256",
            "--integrity",
            "aead",
            "--integrity-no-wipe",
            "--sector-size",
            &sector,
            "--pbkdf",
            "pbkdf2",
            "--pbkdf-force-iterations",
            "1000",
            "--hash",
            "sha256",
            "--luks2-metadata-size",
            &metadata,
            "--luks2-keyslots-size",
            &keyslots,
            "--offset",
            &sectors,
            "--header",
            HEADER_COPY,
            "--key-file",
            "-",
            &*device,
        ];
        run(CRYPTSETUP, &arguments, key, TOOL_BOUND).because(reason, "format")?;
        self.area = std::fs::read(HEADER_COPY).because(reason, "header in memory")?;
        Header::parse(&self.area).because(reason, "the new header")?;
        self.open(key).because(reason, "first unlock")?;
        filesystem::make(Path::new(MAPPED), TOOL_BOUND).because(reason, "file system")?;
        self.write_header().because(reason, "write the header")
    }

    /// Key slots first, then the secondary and the primary header: only a complete header looks like one.
    fn write_header(&self) -> std::io::Result<()> {
        let device = File::options().write(true).open(&self.device)?;
        let slots = 2 * METADATA_BYTES;
        for range in [slots..HEADER_BYTES, METADATA_BYTES..slots, 0..METADATA_BYTES] {
            device.write_all_at(&self.area[range.clone()], range.start as u64)?;
            device.sync_all()?;
        }
        Ok(())
    }
}

/// Bytes of data according to a dm-integrity superblock (`struct superblock` in the kernel's `dm-integrity.c`).
fn provided_bytes(superblock: &[u8]) -> Option<u64> {
    if !superblock.starts_with(b"integrt\0") {
        return None;
    }
    let sectors = u64::from_le_bytes(*superblock.get(16..)?.first_chunk::<8>()?);
    sectors.checked_mul(512)
}

/// The device node of the virtio disk with this serial, waiting up to `bound` for it.
///
/// # Errors
/// `reason`, with the serials that were seen.
pub fn find_disk(serial: &str, reason: FailureReason, bound: Duration) -> Result<PathBuf, Failure> {
    let deadline = Instant::now() + bound;
    loop {
        let mut seen = Vec::new();
        for entry in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            let found = std::fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
            let device = Path::new("/dev").join(entry.file_name());
            if found.trim_end() == serial && device.exists() {
                return Ok(device);
            }
            seen.push(found);
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(reason, format!("no disk has the serial {serial}; seen: {seen:?}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::luks::tests::{area_with, metadata};

    fn good() -> Vec<u8> {
        area_with(&metadata().to_string())
    }

    fn refusal(area: &[u8], expectation: Expectation) -> FailureReason {
        decide(area, expectation).unwrap_err().reason
    }

    #[test]
    fn a_blank_volume_is_formatted_only_when_the_secrets_say_so() {
        let blank = vec![0; HEADER_BYTES];
        assert_eq!(decide(&blank, Expectation::Initialise).unwrap(), Decision::Format);
        assert_eq!(refusal(&blank, Expectation::Pinned([1; 32])), FailureReason::VolumeHeaderMissing);
    }

    #[test]
    fn the_pinned_header_is_opened_and_another_sound_one_is_refused() {
        let area = good();
        assert_eq!(decide(&area, Expectation::Pinned(luks::pin(&area))).unwrap(), Decision::Open);
        let mut swapped = area.clone();
        swapped[HEADER_BYTES - 1] ^= 1;
        assert_eq!(refusal(&swapped, Expectation::Pinned(luks::pin(&area))), FailureReason::VolumeHeaderMismatch);
    }

    #[test]
    fn a_sound_header_from_an_interrupted_first_use_is_adopted_and_an_unsound_one_is_never_overwritten() {
        let area = good();
        assert_eq!(decide(&area, Expectation::Initialise).unwrap(), Decision::Adopt(luks::pin(&area)));
        let mut garbage = vec![0; HEADER_BYTES];
        garbage[100] = 1;
        assert_eq!(refusal(&garbage, Expectation::Initialise), FailureReason::VolumeHeaderRejected);
    }

    #[test]
    fn a_null_cipher_is_refused_even_under_its_own_pin() {
        let mut null = metadata();
        null["segments"]["0"]["encryption"] = "cipher_null-ecb".into();
        let area = area_with(&null.to_string());
        assert_eq!(refusal(&area, Expectation::Pinned(luks::pin(&area))), FailureReason::VolumeHeaderRejected);
        assert_eq!(refusal(&area, Expectation::Initialise), FailureReason::VolumeHeaderRejected);
    }

    #[test]
    fn a_volume_shorter_than_its_header_is_refused() {
        assert_eq!(refusal(&good()[..4096], Expectation::Initialise), FailureReason::VolumeIntegrity);
        assert_eq!(refusal(&[], Expectation::Pinned([0; 32])), FailureReason::VolumeIntegrity);
    }

    #[test]
    fn a_device_that_ends_before_the_integrity_superblock_says_is_truncated() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("volume");
        let mut bytes = vec![0u8; HEADER_BYTES + 4096];
        bytes[HEADER_BYTES..HEADER_BYTES + 8].copy_from_slice(b"integrt\0");
        bytes[HEADER_BYTES + 16..HEADER_BYTES + 24].copy_from_slice(&8u64.to_le_bytes());
        std::fs::write(&device, &bytes).unwrap();
        Volume::read(device.clone()).unwrap().check_size().unwrap();
        for (provided, what) in [(9u64, "one sector too many"), (u64::MAX, "overflow")] {
            bytes[HEADER_BYTES + 16..HEADER_BYTES + 24].copy_from_slice(&provided.to_le_bytes());
            std::fs::write(&device, &bytes).unwrap();
            let error = Volume::read(device.clone()).unwrap().check_size().unwrap_err();
            assert_eq!(error.reason, FailureReason::VolumeIntegrity, "{what}");
        }
        bytes[HEADER_BYTES] = 0;
        std::fs::write(&device, &bytes).unwrap();
        assert!(Volume::read(device).unwrap().check_size().is_err());
    }
}
