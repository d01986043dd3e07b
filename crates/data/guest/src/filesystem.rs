//! The ext4 on the volume: made, mounted, and grown when the volume has grown.
//!
//! A sector of the volume that was never written does not authenticate: it reads as an error. So whatever is read before it is
//! written must be written first: the ends of the device, which are probed, the journal, which recovery reads, and the copies of
//! the superblock, of which mke2fs writes a part of a sector.
//!
//! The kernel grows a mounted ext4 through its journal, and writes what it adds as whole sectors. It would read bitmaps that it has
//! not written, for their checksums: there are none, since every sector carries its authentication. It reads the last sector.
//! Where the file system ends is read from its own superblock, which authenticates. Nothing below that is ever zeroed.

use std::ffi::CStr;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use lambda_types::guest::FailureReason;
use rustix::ioctl::{Setter, opcode};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::failure::{Because, Failure};
use crate::kmsg;
use crate::process::run;

const MKFS: &str = "/usr/sbin/mkfs.ext4";
/// An ext4 block and a sector of the volume.
const BLOCK: u64 = 4096;
const GROUP_BLOCKS: u64 = 32_768;
const FIRST_BYTES: u64 = 1024 * 1024;
const LAST_BYTES: u64 = 128 * 1024;
/// O_DIRECT takes whole sectors, in buffers aligned to them.
pub(crate) const O_DIRECT: i32 = 0o40000;
const SUPERBLOCK: usize = 1024;

/// `EXT4_IOC_RESIZE_FS`, `_IOW('f', 16, __u64)`: the new size in blocks.
const RESIZE: u32 = opcode::write::<u64>(b'f', 16);

/// One sector that O_DIRECT can fill.
#[derive(Debug)]
#[repr(C, align(4096))]
pub(crate) struct Aligned([u8; BLOCK as usize]);

impl Aligned {
    pub(crate) fn zeroed() -> Box<Self> {
        Box::new(Self([0; BLOCK as usize]))
    }

    pub(crate) fn sector(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// Makes the file system on an empty device.
///
/// # Errors
/// When the device is too small, cannot be written, or the program fails.
pub fn make(device: &Path, bound: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let bytes = length(device)?;
    if bytes < FIRST_BYTES + LAST_BYTES {
        return Err(format!("the volume provides only {bytes} bytes").into());
    }
    zero(device, 0, FIRST_BYTES)?;
    for copy in superblock_copies(bytes / BLOCK) {
        zero(device, copy * BLOCK, copy * BLOCK + BLOCK)?;
    }
    zero(device, bytes - LAST_BYTES, bytes)?;
    let options = "lazy_itable_init=1,lazy_journal_init=0,nodiscard";
    let device = device.to_string_lossy();
    let sizes = ["-q", "-F", "-D", "-b", "4096", "-m", "0", "-J", "size=8"];
    let arguments = [sizes.as_slice(), &["-O", "^metadata_csum,uninit_bg", "-E", options, &*device]].concat();
    run(MKFS, &arguments, b"", bound)?;
    Ok(())
}

/// First blocks of the groups that carry a copy of the superblock: 1 and the powers of 3, 5 and 7.
fn superblock_copies(blocks: u64) -> Vec<u64> {
    let groups = blocks.div_ceil(GROUP_BLOCKS);
    let powers = |base: u64| std::iter::successors(Some(base), move |power| power.checked_mul(base));
    let within = |base| powers(base).take_while(move |power| *power < groups);
    let with_copy = (1..groups.min(2)).chain([3, 5, 7].into_iter().flat_map(within));
    with_copy.map(|group| group * GROUP_BLOCKS).collect()
}

/// Mounts the file system, grown to its device where at least a group is missing; whether it has the device's size in the end.
/// One that cannot grow is mounted as it is.
///
/// # Errors
/// [`FailureReason::VolumeIntegrity`] when it cannot be read or mounted.
pub fn mount_and_grow(device: &Path, target: &Path) -> Result<bool, Failure> {
    let reason = FailureReason::VolumeIntegrity;
    // Mounting replays the journal: only from here on does the superblock say where the file system ends.
    mount_at(device, target, FOR_USE)?;
    let bytes = length(device).because(reason, "size of the volume")?;
    let Superblock { blocks, can_grow } = Superblock::read(device).because(reason, "superblock of the volume")?;
    if (bytes / BLOCK).saturating_sub(blocks) < GROUP_BLOCKS {
        return Ok(true);
    }
    if !can_grow {
        kmsg::say("the volume's file system has features with which it cannot grow");
        return Ok(false);
    }
    unmount_from(target)?;
    let zeroed = zero(device, (blocks * BLOCK).max(bytes - LAST_BYTES), bytes);
    mount_at(device, target, TO_GROW)?;
    let grown = zeroed.and_then(|()| grow(target, bytes / BLOCK));
    match &grown {
        Ok(()) => kmsg::say("the volume's file system has grown"),
        Err(error) => kmsg::say(&format!("the volume's file system does not grow: {error}")),
    }
    unmount_from(target)?;
    mount_at(device, target, FOR_USE)?;
    Ok(grown.is_ok())
}

/// An error leaves what can be read.
const FOR_USE: &CStr = c"errors=remount-ro";
/// Growing is one transaction after another: what one that fails leaves is sound, and in use at once.
const TO_GROW: &CStr = c"errors=continue";

fn mount_at(device: &Path, target: &Path, options: &CStr) -> Result<(), Failure> {
    mount(device, target, "ext4", MountFlags::NOATIME, options)
        .because(FailureReason::VolumeIntegrity, "mount the volume")
}

fn unmount_from(target: &Path) -> Result<(), Failure> {
    unmount(target, UnmountFlags::empty()).because(FailureReason::VolumeIntegrity, "unmount the volume")
}

fn grow(mounted: &Path, blocks: u64) -> std::io::Result<()> {
    let file_system = File::open(mounted)?;
    // SAFETY: the kernel reads a `__u64` for this opcode, and `Setter` gives it a pointer to one.
    let done = unsafe { rustix::ioctl::ioctl(&file_system, Setter::<{ RESIZE }, u64>::new(blocks)) };
    Ok(done?)
}

fn length(device: &Path) -> std::io::Result<u64> {
    use std::io::{Seek as _, SeekFrom};
    File::open(device)?.seek(SeekFrom::End(0))
}

/// What matters here of a `struct ext4_super_block`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Superblock {
    blocks: u64,
    /// It has no feature with which the kernel refuses to grow it, or reads what was not written.
    can_grow: bool,
}

impl Superblock {
    /// Reads it through the page cache, which the mounted file system uses too.
    fn read(device: &Path) -> std::io::Result<Self> {
        let mut block = [0; BLOCK as usize];
        File::open(device)?.read_exact_at(&mut block, 0)?;
        let parsed = Self::parse(&block[SUPERBLOCK..]);
        parsed.ok_or_else(|| std::io::Error::other("not an ext4 superblock with blocks of 4 KiB"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |offset: usize| Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk::<4>()?));
        let magic = u16::from_le_bytes(*bytes.get(0x38..)?.first_chunk::<2>()?);
        let (compatible, incompatible, read_only_compatible) = (word(0x5c)?, word(0x60)?, word(0x64)?);
        let high = if incompatible & WITH_64_BITS == 0 { 0 } else { word(0x150)? };
        let blocks = u64::from(high) << 32 | u64::from(word(0x04)?);
        let can_grow = compatible & SPARSE_SUPER2 == 0 && read_only_compatible & METADATA_CSUM == 0;
        (magic == 0xef53 && word(0x18)? == 2).then_some(Self { blocks, can_grow })
    }
}

const SPARSE_SUPER2: u32 = 0x200;
const WITH_64_BITS: u32 = 0x80;
const METADATA_CSUM: u32 = 0x400;

/// Writes zeroes from one byte up to another, both multiples of the sector.
fn zero(device: &Path, from: u64, to: u64) -> std::io::Result<()> {
    let file = File::options().write(true).custom_flags(O_DIRECT).open(device)?;
    let mut zeroes = Aligned::zeroed();
    for offset in (from..to).step_by(BLOCK as usize) {
        file.write_all_at(zeroes.sector(), offset)?;
    }
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB_BLOCKS: u64 = 262_144;

    #[test]
    fn copies_of_the_superblock_are_where_mke2fs_puts_them() {
        let groups =
            |blocks| superblock_copies(blocks).into_iter().map(|block| block / GROUP_BLOCKS).collect::<Vec<_>>();
        assert!(groups(GROUP_BLOCKS).is_empty());
        assert_eq!(groups(GROUP_BLOCKS + 1), [1]);
        assert_eq!(groups(GIB_BLOCKS), [1, 3, 5, 7]);
        let mut of_ten = groups(10 * GIB_BLOCKS);
        of_ten.sort_unstable();
        assert_eq!(of_ten, [1, 3, 5, 7, 9, 25, 27, 49]);
        assert_eq!(groups(1024 * GIB_BLOCKS).len(), 1 + 8 + 5 + 4);
    }

    #[test]
    fn a_superblocks_count_has_64_bits_only_where_it_says_so() {
        let mut superblock = vec![0u8; 1024];
        let blocks = |superblock: &[u8]| Superblock::parse(superblock).map(|parsed| parsed.blocks);
        assert_eq!(blocks(&superblock), None);
        superblock[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        superblock[0x18] = 2;
        superblock[0x04] = 9;
        superblock[0x150] = 1;
        assert_eq!(blocks(&superblock), Some(9));
        superblock[0x60] = 0x80;
        assert_eq!(blocks(&superblock), Some((1 << 32) + 9));
        superblock[0x18] = 0;
        assert_eq!(blocks(&superblock), None);
        assert_eq!(blocks(&superblock[..100]), None);
    }

    #[test]
    fn what_is_made_here_can_grow_and_other_file_systems_cannot() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("volume");
        File::create(&device).unwrap().set_len(512 << 20).unwrap();
        make(&device, Duration::from_secs(60)).unwrap();
        assert_eq!(Superblock::read(&device).unwrap(), Superblock { blocks: 512 << 20 >> 12, can_grow: true });
        for foreign in ["sparse_super2", "metadata_csum"] {
            let path = device.to_string_lossy().into_owned();
            let features = format!("^uninit_bg,^metadata_csum,{foreign}");
            let arguments = ["-q", "-F", "-b", "4096", "-O", &features, &path];
            run(MKFS, &arguments, b"", Duration::from_secs(60)).unwrap();
            assert!(!Superblock::read(&device).unwrap().can_grow, "{foreign}");
        }
    }

    #[test]
    fn zeroing_touches_nothing_outside_its_range() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("volume");
        std::fs::write(&device, vec![7u8; 5 * 4096]).unwrap();
        zero(&device, 4096, 3 * 4096).unwrap();
        zero(&device, 4 * 4096, 4 * 4096).unwrap();
        let bytes = std::fs::read(&device).unwrap();
        let zeroed: Vec<bool> = bytes.chunks(4096).map(|sector| sector.iter().all(|byte| *byte == 0)).collect();
        assert_eq!(zeroed, [false, true, true, false, false]);
    }
}
