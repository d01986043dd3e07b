//! What a PCK certificate says of its platform (*Intel SGX PCK Certificate and CRL Profile*, §1.3.5).

use der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef};
use der::{Decode as _, Reader as _, SliceReader, Tag, Tagged as _};

/// The extension; its parts are numbered below it.
pub(super) const SGX_EXTENSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1");

const PPID: u32 = 1;
const TCB: u32 = 2;
const PCE_ID: u32 = 3;
const FMSPC: u32 = 4;
const SGX_TYPE: u32 = 5;
const INSTANCE: u32 = 6;
const CONFIGURATION: u32 = 7;

const TCB_PCESVN: u32 = 17;
const TCB_CPUSVN: u32 = 18;

/// Most entries on one level of the extension.
const MAX_ENTRIES: usize = 32;

/// What the PCK certificate says of its platform.
pub(super) struct Platform {
    pub(super) ppid: [u8; 16],
    /// The sixteen components of CPUSVN.
    pub(super) components: [u8; 16],
    pub(super) pcesvn: u16,
    pub(super) pce_id: [u8; 2],
    pub(super) fmspc: [u8; 6],
    /// 0: standard, 1: scalable, 2: scalable with integrity.
    pub(super) sgx_type: u8,
    pub(super) instance: Option<[u8; 16]>,
    /// Of platforms with more than one package: dynamic platform, cached keys, SMT.
    pub(super) dynamic: Option<bool>,
    pub(super) cached_keys: Option<bool>,
    pub(super) smt: Option<bool>,
}

/// Entries of one level by the last arc of their OID.
struct Entries<'a> {
    entries: Vec<(u32, AnyRef<'a>)>,
    /// What is wrong with the level, when it could be read all the same.
    problem: Option<&'static str>,
}

impl Platform {
    /// Parses the extension's value. The second part is what is wrong with it when it could be read all the same: such a
    /// platform is described, and refused.
    pub(super) fn parse(extension: &[u8]) -> Result<(Self, Result<(), String>), String> {
        let entries = Entries::parse(extension, &[1, 2, 840, 113_741, 1, 13, 1])?;
        let tcb = Entries::of(entries.required(TCB)?, &[1, 2, 840, 113_741, 1, 13, 1, 2])?;
        let configuration = match entries.get(CONFIGURATION) {
            Some(value) => Entries::of(value, &[1, 2, 840, 113_741, 1, 13, 1, 7])?,
            None => Entries { entries: Vec::new(), problem: None },
        };
        let components = tcb.octets::<16>(TCB_CPUSVN)?;
        let platform = Self {
            ppid: entries.octets(PPID)?,
            components,
            pcesvn: tcb.integer(TCB_PCESVN)?,
            pce_id: entries.octets(PCE_ID)?,
            fmspc: entries.octets(FMSPC)?,
            sgx_type: entries.enumerated(SGX_TYPE)?,
            instance: entries.get(INSTANCE).map(|_| entries.octets(INSTANCE)).transpose()?,
            dynamic: configuration.boolean(1)?,
            cached_keys: configuration.boolean(2)?,
            smt: configuration.boolean(3)?,
        };
        let problem = [entries.problem, tcb.problem, configuration.problem].into_iter().flatten().next();
        let sound = problem.map_or(Ok(()), |problem| Err(problem.to_owned())).and_then(|()| {
            let stated = |(component, number): (&u8, u32)| Ok(tcb.integer(number)? == u16::from(*component));
            let all: Vec<bool> = components.iter().zip(1..).map(stated).collect::<Result<_, String>>()?;
            let made_of_them = all.iter().all(|same| *same);
            if made_of_them { Ok(()) } else { Err("its CPUSVN is not made of its sixteen components".into()) }
        });
        Ok((platform, sound))
    }
}

impl<'a> Entries<'a> {
    /// SEQUENCE OF SEQUENCE { OBJECT IDENTIFIER, ANY }, every identifier one arc below `parent`.
    fn parse(bytes: &'a [u8], parent: &[u32]) -> Result<Self, String> {
        Self::of(&AnyRef::from_der(bytes).map_err(|error| format!("it cannot be read: {error}"))?, parent)
    }

    /// Those outside `parent` are not Intel's and mean nothing here.
    fn of(value: &AnyRef<'a>, parent: &[u32]) -> Result<Self, String> {
        let malformed = |error: der::Error| format!("it cannot be read: {error}");
        if value.tag() != Tag::Sequence {
            return Err("an entry that is a sequence is something else".into());
        }
        let mut reader = SliceReader::new(value.value()).map_err(malformed)?;
        let mut found = Self { entries: Vec::new(), problem: None };
        while !reader.is_finished() {
            let entry: AnyRef<'a> = reader.decode().map_err(malformed)?;
            match read_entry(&entry, parent) {
                Ok(Some((arc, _))) if found.get(arc).is_some() => found.problem = Some("an entry stands twice"),
                Ok(Some(_)) if found.entries.len() >= MAX_ENTRIES => return Err("it has too many entries".into()),
                Ok(Some(entry)) => found.entries.push(entry),
                Ok(None) => {}
                Err(_) => found.problem = Some("an entry is not an identifier and a value"),
            }
        }
        Ok(found)
    }

    fn get(&self, arc: u32) -> Option<&AnyRef<'a>> {
        self.entries.iter().find(|(entry, _)| *entry == arc).map(|(_, value)| value)
    }

    fn required(&self, arc: u32) -> Result<&AnyRef<'a>, String> {
        self.get(arc).ok_or_else(|| format!("it has no entry {arc}"))
    }

    fn octets<const N: usize>(&self, arc: u32) -> Result<[u8; N], String> {
        let octets = self.required(arc)?.decode_as::<&OctetStringRef>().ok();
        octets
            .and_then(|octets| octets.as_bytes().try_into().ok())
            .ok_or_else(|| format!("its entry {arc} is not a string of {N} bytes"))
    }

    fn integer(&self, arc: u32) -> Result<u16, String> {
        self.required(arc)?.decode_as::<u16>().map_err(|_| format!("its entry {arc} is not a number below 65536"))
    }

    fn enumerated(&self, arc: u32) -> Result<u8, String> {
        let value = self.required(arc)?;
        match (value.tag(), value.value()) {
            (Tag::Enumerated, [number]) if *number < 128 => Ok(*number),
            _ => Err(format!("its entry {arc} is not a small enumerated value")),
        }
    }

    fn boolean(&self, arc: u32) -> Result<Option<bool>, String> {
        let Some(value) = self.get(arc) else { return Ok(None) };
        value.decode_as::<bool>().map(Some).map_err(|_| format!("its configuration entry {arc} is not a boolean"))
    }
}

/// One entry, when its identifier is one arc below `parent`.
fn read_entry<'a>(entry: &AnyRef<'a>, parent: &[u32]) -> der::Result<Option<(u32, AnyRef<'a>)>> {
    entry.tag().assert_eq(Tag::Sequence)?;
    let mut reader = SliceReader::new(entry.value())?;
    let (oid, value): (ObjectIdentifier, AnyRef<'a>) = (reader.decode()?, reader.decode()?);
    reader.finish()?;
    let mut arcs = oid.arcs();
    let below = arcs.by_ref().take(parent.len()).eq(parent.iter().copied());
    Ok(match (below, arcs.next(), arcs.next()) {
        (true, Some(arc), None) => Some((arc, value)),
        _ => None,
    })
}
