use lambda_tpm::alg;
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::Event;

/// TCG_EVENTTYPE (PFP, Event Types).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKind(pub u32);

macro_rules! kinds {
    ($($name:ident = $value:literal;)*) => {
        #[allow(missing_docs, reason = "the names are the standard's")]
        impl EventKind {
            $(pub const $name: Self = Self($value);)*

            /// The standard's name.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(concat!("EV_", stringify!($name))),)*
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    PREBOOT_CERT = 0x0;
    POST_CODE = 0x1;
    NO_ACTION = 0x3;
    SEPARATOR = 0x4;
    ACTION = 0x5;
    EVENT_TAG = 0x6;
    S_CRTM_CONTENTS = 0x7;
    S_CRTM_VERSION = 0x8;
    CPU_MICROCODE = 0x9;
    PLATFORM_CONFIG_FLAGS = 0xa;
    TABLE_OF_DEVICES = 0xb;
    COMPACT_HASH = 0xc;
    IPL = 0xd;
    IPL_PARTITION_DATA = 0xe;
    NONHOST_CODE = 0xf;
    NONHOST_CONFIG = 0x10;
    NONHOST_INFO = 0x11;
    OMIT_BOOT_DEVICE_EVENTS = 0x12;
    EFI_VARIABLE_DRIVER_CONFIG = 0x8000_0001;
    EFI_VARIABLE_BOOT = 0x8000_0002;
    EFI_BOOT_SERVICES_APPLICATION = 0x8000_0003;
    EFI_BOOT_SERVICES_DRIVER = 0x8000_0004;
    EFI_RUNTIME_SERVICES_DRIVER = 0x8000_0005;
    EFI_GPT_EVENT = 0x8000_0006;
    EFI_ACTION = 0x8000_0007;
    EFI_PLATFORM_FIRMWARE_BLOB = 0x8000_0008;
    EFI_HANDOFF_TABLES = 0x8000_0009;
    EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000_000a;
    EFI_HANDOFF_TABLES2 = 0x8000_000b;
    EFI_VARIABLE_BOOT2 = 0x8000_000c;
    EFI_GPT_EVENT2 = 0x8000_000d;
    EFI_HCRTM_EVENT = 0x8000_0010;
    EFI_VARIABLE_AUTHORITY = 0x8000_00e0;
    EFI_SPDM_FIRMWARE_BLOB = 0x8000_00e1;
    EFI_SPDM_FIRMWARE_CONFIG = 0x8000_00e2;
}

impl std::fmt::Display for EventKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "event type {:#010x}", self.0),
        }
    }
}

/// How an event's digest stands to its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grounding {
    /// The type defines the digest over the data, and it is the hash of the data.
    Proven,
    /// The type defines the digest over the data, and it is the hash of something else.
    Contradicted,
    /// The type measures something that is not in the log; the data only describes it.
    Described,
}

impl Event {
    /// Recomputes the digest of one bank from the event's data, where the type defines how (PFP, Event Types).
    #[must_use]
    pub fn grounding(&self, bank: u16) -> Grounding {
        let Some(digest) = self.digests.get(&bank) else { return Grounding::Contradicted };
        let is_hash_of = |data: &[u8]| hash(bank, data).is_some_and(|hash| hash == *digest);
        let proven = match self.kind {
            // A string; some firmware logs its terminator, which it did not measure.
            EventKind::ACTION | EventKind::EFI_ACTION | EventKind::OMIT_BOOT_DEVICE_EVENTS => {
                is_hash_of(&self.data) || self.data.strip_suffix(&[0]).is_some_and(is_hash_of)
            }
            EventKind::SEPARATOR
            | EventKind::S_CRTM_VERSION
            | EventKind::EFI_VARIABLE_DRIVER_CONFIG
            | EventKind::EFI_VARIABLE_BOOT2
            | EventKind::EFI_GPT_EVENT => is_hash_of(&self.data),
            // The variable's data alone, or the whole structure in older firmware.
            EventKind::EFI_VARIABLE_BOOT => variable_data(&self.data).is_some_and(is_hash_of) || is_hash_of(&self.data),
            EventKind::EFI_VARIABLE_AUTHORITY => {
                is_hash_of(&self.data) || measured_short(&self.data).is_some_and(is_hash_of)
            }
            _ if is_hash_of(&self.data) => true,
            EventKind::IPL => match grub_command(&self.data) {
                Some(command) => is_hash_of(command) || is_hash_of(&[command, &[0]].concat()),
                None => return Grounding::Described,
            },
            _ => return Grounding::Described,
        };
        if proven { Grounding::Proven } else { Grounding::Contradicted }
    }

    /// The description inside an EV_EVENT_TAG's TCG_PCClientTaggedEvent, when it is text.
    #[must_use]
    pub fn tag_text(&self) -> Option<&str> {
        let (_id, rest) = self.data.split_at_checked(4)?;
        let (size, text) = rest.split_first_chunk::<4>()?;
        if usize::try_from(u32::from_le_bytes(*size)) != Ok(text.len()) {
            return None;
        }
        std::str::from_utf8(text.strip_suffix(&[0]).unwrap_or(text)).ok()
    }
}

/// The command or kernel command line that GRUB measures, with or without its terminator; it logs it after a label.
fn grub_command(data: &[u8]) -> Option<&[u8]> {
    const LABELS: [&[u8]; 5] =
        [b"grub_cmd: ", b"grub_cmd ", b"kernel_cmdline: ", b"grub_kernel_cmdline ", b"module_cmdline: "];
    let command = LABELS.iter().find_map(|label| data.strip_prefix(*label))?;
    command.split(|byte| *byte == 0).next()
}

/// What shim hashes of the certificate that it logs: all but a last byte, which it leaves uninitialised. The variable
/// itself, as long as it says, is within what is hashed.
fn measured_short(bytes: &[u8]) -> Option<&[u8]> {
    let (_last, measured) = bytes.split_last()?;
    let (_guid, rest) = measured.split_at_checked(16)?;
    let (name_len, rest) = rest.split_first_chunk::<8>()?;
    let (data_len, rest) = rest.split_first_chunk::<8>()?;
    let name_bytes = usize::try_from(u64::from_le_bytes(*name_len)).ok()?.checked_mul(2)?;
    let needed = name_bytes.checked_add(usize::try_from(u64::from_le_bytes(*data_len)).ok()?)?;
    (needed <= rest.len()).then_some(measured)
}

/// VariableData of a UEFI_VARIABLE_DATA (PFP): GUID, name length in characters, data length, name, data.
fn variable_data(bytes: &[u8]) -> Option<&[u8]> {
    let (_guid, rest) = bytes.split_at_checked(16)?;
    let (name_len, rest) = rest.split_first_chunk::<8>()?;
    let (data_len, rest) = rest.split_first_chunk::<8>()?;
    let name_bytes = usize::try_from(u64::from_le_bytes(*name_len)).ok()?.checked_mul(2)?;
    let (_name, data) = rest.split_at_checked(name_bytes)?;
    (usize::try_from(u64::from_le_bytes(*data_len)) == Ok(data.len())).then_some(data)
}

/// Hash of `data` in a bank's algorithm.
pub(super) fn hash(bank: u16, data: &[u8]) -> Option<Vec<u8>> {
    match bank {
        alg::SHA1 => Some(Sha1::digest(data).to_vec()),
        alg::SHA256 => Some(Sha256::digest(data).to_vec()),
        alg::SHA384 => Some(Sha384::digest(data).to_vec()),
        alg::SHA512 => Some(Sha512::digest(data).to_vec()),
        _ => None,
    }
}
