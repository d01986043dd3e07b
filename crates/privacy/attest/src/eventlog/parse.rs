use std::collections::BTreeMap;

use lambda_tpm::alg;

use super::{Event, EventKind, EventLog, EventLogError, Format, MAX_EVENTS, MAX_LOG_BYTES, Machine};

const SIGNATURE_03: &[u8; 16] = b"Spec ID Event03\0";
const SIGNATURE_02: &[u8; 16] = b"Spec ID Event02\0";
const SIGNATURE_00: &[u8; 16] = b"Spec ID Event00\0";

/// Most banks in one log.
const MAX_BANKS: u32 = 8;

/// Most bytes in one event's data: a signature database or an option ROM's description fits.
const MAX_EVENT_BYTES: usize = 256 * 1024;

/// Most registers: the 24 of a PC Client TPM.
const PCR_COUNT: u32 = 24;

/// Register in which a CC event log has its header.
const TD_HEADER_REGISTER: u32 = 1;

/// A log as far as it can be read.
pub(super) struct Scan {
    pub(super) log: EventLog,
    /// Where the last whole event ends.
    pub(super) used: usize,
    /// What stopped the reading before the end.
    pub(super) error: Option<EventLogError>,
}

impl EventLog {
    /// Parses a whole log. Bytes that are all 0x00 or all 0xff after the last event are the unused rest of the
    /// firmware's buffer; anything else there is refused.
    ///
    /// # Errors
    /// When it is too long, cut short, or inconsistent with its own header.
    pub fn parse(bytes: &[u8]) -> Result<Self, EventLogError> {
        let scan = scan(bytes);
        match scan.error {
            None => Ok(scan.log),
            Some(error) => Err(error),
        }
    }
}

/// Reads events until the end or the first error.
pub(super) fn scan(bytes: &[u8]) -> Scan {
    let mut scan = Scan {
        log: EventLog { format: Format::Tcg12, machine: Machine::Tpm, banks: vec![alg::SHA1], events: Vec::new() },
        used: 0,
        error: None,
    };
    scan.error = scan_into(bytes, &mut scan.log, &mut scan.used).err();
    scan
}

fn scan_into(bytes: &[u8], log: &mut EventLog, used: &mut usize) -> Result<(), EventLogError> {
    if bytes.len() > MAX_LOG_BYTES {
        return Err(EventLogError { at: MAX_LOG_BYTES, why: "the log is longer than one mebibyte" });
    }
    let mut cursor = Cursor { bytes, at: 0 };
    let first = cursor.event12()?;
    let header =
        if first.kind == EventKind::NO_ACTION { spec_id(&first.data, first.offset) } else { Ok(Header::Absent) };
    let sizes = match header {
        Ok(Header::CryptoAgile(sizes)) => {
            log.format = Format::CryptoAgile;
            log.banks = sizes.keys().copied().collect();
            if first.pcr == TD_HEADER_REGISTER {
                log.machine = Machine::Td;
            }
            Some(sizes)
        }
        Ok(Header::Tcg12) => None,
        Ok(Header::Absent) => {
            log.events.push(first);
            None
        }
        Err(error) => {
            *used = cursor.at;
            log.events.push(first);
            return Err(error);
        }
    };
    *used = cursor.at;
    while cursor.more(&log.events)? {
        let event = match &sizes {
            Some(sizes) => cursor.event2(sizes)?,
            None => cursor.event12()?,
        };
        log.events.push(event);
        *used = cursor.at;
    }
    Ok(())
}

enum Header {
    Absent,
    Tcg12,
    CryptoAgile(BTreeMap<u16, usize>),
}

/// TCG_EfiSpecIDEvent (PFP). The digest sizes in it must be the algorithms' own.
fn spec_id(data: &[u8], offset: usize) -> Result<Header, EventLogError> {
    // The header event's fixed part is 32 bytes; errors point into its data.
    let base = offset.saturating_add(32);
    let mut cursor = Cursor { bytes: data, at: 0 };
    let shifted = |error: EventLogError| EventLogError { at: error.at.saturating_add(base), ..error };
    let signature = cursor.take(16).map_err(shifted)?;
    if signature == SIGNATURE_00 || signature == SIGNATURE_02 {
        return Ok(Header::Tcg12);
    }
    if signature != SIGNATURE_03 {
        return Err(EventLogError { at: base, why: "the header is not a Spec ID event of a known version" });
    }
    let sizes = algorithm_sizes(&mut cursor).map_err(shifted)?;
    Ok(Header::CryptoAgile(sizes))
}

fn algorithm_sizes(cursor: &mut Cursor<'_>) -> Result<BTreeMap<u16, usize>, EventLogError> {
    // platformClass, minor, major, errata, uintnSize.
    cursor.take(8)?;
    let count = cursor.u32()?;
    if count == 0 || count > MAX_BANKS {
        return Err(cursor.error("the header names no bank, or more than eight"));
    }
    let mut sizes = BTreeMap::new();
    for _ in 0..count {
        let algorithm = cursor.u16()?;
        let size = usize::from(cursor.u16()?);
        if alg::digest_len(algorithm).is_some_and(|known| known != size) || size == 0 || size > 64 {
            return Err(cursor.error("the header gives an algorithm a digest size that it does not have"));
        }
        if sizes.insert(algorithm, size).is_some() {
            return Err(cursor.error("the header names a bank twice"));
        }
    }
    let vendor = usize::from(cursor.u8()?);
    cursor.take(vendor)?;
    if cursor.at != cursor.bytes.len() {
        return Err(cursor.error("the header is longer than its fields"));
    }
    Ok(sizes)
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn error(&self, why: &'static str) -> EventLogError {
        EventLogError { at: self.at, why }
    }

    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Whether another event follows.
    fn more(&self, events: &[Event]) -> Result<bool, EventLogError> {
        let unused = |fill: u8| self.rest().iter().all(|byte| *byte == fill);
        if unused(0) || unused(0xff) {
            return Ok(false);
        }
        if events.len() >= MAX_EVENTS {
            return Err(self.error("the log has more than 8192 events"));
        }
        Ok(true)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], EventLogError> {
        let taken = self.rest().get(..len).ok_or_else(|| self.error("the log is cut short"))?;
        self.at = self.at.saturating_add(len);
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], EventLogError> {
        let at = self.at;
        self.take(N)?.try_into().map_err(|_| EventLogError { at, why: "field length" })
    }

    fn u8(&mut self) -> Result<u8, EventLogError> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Result<u16, EventLogError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, EventLogError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Register and type. Only an event that extends nothing may name the register of all ones, as Windows does.
    fn head(&mut self) -> Result<(u32, EventKind), EventLogError> {
        let at = self.at;
        let (pcr, kind) = (self.u32()?, EventKind(self.u32()?));
        if pcr < PCR_COUNT || (pcr == u32::MAX && kind == EventKind::NO_ACTION) {
            Ok((pcr, kind))
        } else {
            Err(EventLogError { at, why: "there is no such register" })
        }
    }

    fn data(&mut self) -> Result<Vec<u8>, EventLogError> {
        let at = self.at;
        let size = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        if size > MAX_EVENT_BYTES {
            return Err(EventLogError { at, why: "an event has more than 256 KiB of data" });
        }
        Ok(self.take(size)?.to_vec())
    }

    fn event12(&mut self) -> Result<Event, EventLogError> {
        let offset = self.at;
        let (pcr, kind) = self.head()?;
        let digests = BTreeMap::from([(alg::SHA1, self.take(20)?.to_vec())]);
        Ok(Event { offset, pcr, kind, digests, data: self.data()? })
    }

    /// TCG_PCR_EVENT2: exactly one digest for each bank of the header.
    fn event2(&mut self, sizes: &BTreeMap<u16, usize>) -> Result<Event, EventLogError> {
        let offset = self.at;
        let (pcr, kind) = self.head()?;
        let count = self.u32()?;
        if usize::try_from(count) != Ok(sizes.len()) {
            return Err(self.error("an event does not carry one digest for each bank"));
        }
        let mut digests = BTreeMap::new();
        for _ in 0..count {
            let algorithm = self.u16()?;
            let size = *sizes.get(&algorithm).ok_or_else(|| self.error("a digest is of a bank the header lacks"))?;
            if digests.insert(algorithm, self.take(size)?.to_vec()).is_some() {
                return Err(self.error("an event carries two digests of one bank"));
            }
        }
        Ok(Event { offset, pcr, kind, digests, data: self.data()? })
    }
}
