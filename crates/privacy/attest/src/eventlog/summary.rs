//! One readable line for an event. A description only: what may be believed of it is [`Event::grounding`]'s to say.

use std::fmt::Write as _;

use super::{Event, EventKind};

/// Most characters in a summary.
const MAX_SUMMARY_CHARS: usize = 160;

impl Event {
    /// What the event's data says, in at most 160 printable characters.
    #[must_use]
    pub fn summary(&self) -> String {
        let text = match self.kind {
            EventKind::SEPARATOR => self.separator(),
            EventKind::EVENT_TAG => self.tag_text().map(str::to_owned),
            EventKind::EFI_VARIABLE_DRIVER_CONFIG
            | EventKind::EFI_VARIABLE_BOOT
            | EventKind::EFI_VARIABLE_BOOT2
            | EventKind::EFI_VARIABLE_AUTHORITY => variable(&self.data),
            EventKind::EFI_BOOT_SERVICES_APPLICATION
            | EventKind::EFI_BOOT_SERVICES_DRIVER
            | EventKind::EFI_RUNTIME_SERVICES_DRIVER => image(&self.data),
            EventKind::EFI_PLATFORM_FIRMWARE_BLOB => blob(&self.data),
            EventKind::EFI_PLATFORM_FIRMWARE_BLOB2 | EventKind::EFI_HANDOFF_TABLES2 => described(&self.data),
            EventKind::EFI_GPT_EVENT | EventKind::EFI_GPT_EVENT2 => partitions(&self.data),
            EventKind::NO_ACTION => signature(&self.data),
            _ => text(&self.data),
        };
        bounded(&text.unwrap_or_else(|| format!("{} bytes", self.data.len())))
    }

    fn separator(&self) -> Option<String> {
        match self.data.as_slice() {
            [0, 0, 0, 0] => Some("success".into()),
            [1, 0, 0, 0] => Some("error".into()),
            data if data.len() <= 32 => Some(text(data).unwrap_or_else(|| hex::encode(data))),
            _ => None,
        }
    }
}

fn bounded(text: &str) -> String {
    let mut line: String = text.chars().take(MAX_SUMMARY_CHARS).map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.chars().nth(MAX_SUMMARY_CHARS).is_some() {
        line = line.chars().take(MAX_SUMMARY_CHARS.saturating_sub(1)).collect();
        line.push('…');
    }
    line
}

/// Printable text, UTF-8 or UTF-16, up to its terminator.
fn text(data: &[u8]) -> Option<String> {
    let end = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let narrow = data.get(..end).and_then(|bytes| std::str::from_utf8(bytes).ok()).filter(|text| readable(text));
    // A single character before the first zero is rather the first of a wide string.
    match narrow {
        Some(text) if text.len() > 1 || data.len() <= 2 => Some(text.to_owned()),
        _ => wide(data).or_else(|| narrow.map(str::to_owned)),
    }
}

fn readable(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| !c.is_control() || c == '\n' || c == '\t')
}

/// UTF-16LE of ASCII characters up to its terminator. Any bytes at all are UTF-16 of some script.
fn wide(data: &[u8]) -> Option<String> {
    let (units, _odd) = data.as_chunks::<2>();
    let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|unit| *unit != 0).collect();
    String::from_utf16(&units).ok().filter(|text| text.is_ascii() && readable(text))
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    let bytes = data.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*bytes))
}

/// UEFI_VARIABLE_DATA (PFP): name, GUID and size.
fn variable(data: &[u8]) -> Option<String> {
    let guid = guid(data.get(..16)?)?;
    let name_bytes = usize::try_from(u64_at(data, 16)?).ok()?.checked_mul(2)?;
    let name = wide(data.get(32..)?.get(..name_bytes)?)?;
    let size = u64_at(data, 24)?;
    let value = match (size, data.get(32usize.checked_add(name_bytes)?..)) {
        (1, Some([value, ..])) => format!(" = {value}"),
        _ => format!(", {size} bytes"),
    };
    Some(format!("{name}{value} ({guid})"))
}

/// A GUID in its usual text form.
fn guid(bytes: &[u8]) -> Option<String> {
    let mut out = String::new();
    for (at, order) in [3usize, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].into_iter().enumerate() {
        if [4, 6, 8, 10].contains(&at) {
            out.push('-');
        }
        write!(out, "{:02x}", bytes.get(order)?).ok()?;
    }
    Some(out)
}

/// UEFI_IMAGE_LOAD_EVENT (PFP): size, and the file names in the device path.
fn image(data: &[u8]) -> Option<String> {
    let size = u64_at(data, 8)?;
    let mut path = String::new();
    let mut rest = data.get(32..)?;
    while let [kind, subtype, low, high, ..] = rest {
        let len = usize::from(u16::from_le_bytes([*low, *high]));
        let node = rest.get(4..len);
        if (*kind, *subtype) == (4, 4) {
            path.push_str(&node.and_then(wide).unwrap_or_default());
        }
        match rest.get(len..) {
            Some(next) if len >= 4 => rest = next,
            _ => break,
        }
    }
    Some(if path.is_empty() { format!("image of {size} bytes") } else { format!("{path}, image of {size} bytes") })
}

/// UEFI_PLATFORM_FIRMWARE_BLOB (PFP).
fn blob(data: &[u8]) -> Option<String> {
    let (base, size) = (u64_at(data, 0)?, u64_at(data, 8)?);
    (data.len() == 16).then(|| format!("{size} bytes at {base:#x}"))
}

/// The description that starts UEFI_PLATFORM_FIRMWARE_BLOB2 and UEFI_HANDOFF_TABLE_POINTERS2 (PFP).
fn described(data: &[u8]) -> Option<String> {
    let (len, rest) = data.split_first()?;
    text(rest.get(..usize::from(*len))?)
}

/// UEFI_GPT_DATA (PFP): a GPT header of 92 bytes, then the number of partitions.
fn partitions(data: &[u8]) -> Option<String> {
    data.starts_with(b"EFI PART").then_some(())?;
    Some(format!("partition table with {} partitions", u64_at(data, 92)?))
}

/// The 16-byte signature of an EV_NO_ACTION event.
fn signature(data: &[u8]) -> Option<String> {
    text(data.get(..16)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn event(kind: EventKind, data: &[u8]) -> Event {
        Event { offset: 0, pcr: 0, kind, digests: BTreeMap::new(), data: data.to_vec() }
    }

    #[test]
    fn texts_are_read_in_either_width_and_bounded() {
        let wide: Vec<u8> = "Boot0001".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(event(EventKind::S_CRTM_VERSION, &wide).summary(), "Boot0001");
        assert_eq!(event(EventKind::IPL, b"grub_cmd insmod ext2\0\x9f").summary(), "grub_cmd insmod ext2");
        let long = event(EventKind::IPL, &[b'x'; 4096]).summary();
        assert_eq!(long.chars().count(), MAX_SUMMARY_CHARS);
        assert!(long.ends_with('…'));
        assert_eq!(event(EventKind::IPL, &[0xff; 9]).summary(), "9 bytes");
        assert_eq!(event(EventKind::ACTION, b"a\x1b[2Jb").summary(), "6 bytes");
    }

    #[test]
    fn structures_that_lie_about_their_lengths_are_given_by_size() {
        let mut lie = vec![0u8; 32];
        lie[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(event(EventKind::EFI_VARIABLE_BOOT, &lie).summary(), "32 bytes");
        assert_eq!(event(EventKind::EFI_GPT_EVENT, b"EFI PART").summary(), "8 bytes");
        assert_eq!(event(EventKind::EFI_PLATFORM_FIRMWARE_BLOB2, &[200, b'x']).summary(), "2 bytes");
    }
}
