use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use super::document::{self, Bytes};
use super::status::TcbStatus;
use crate::time::UnixTime;

/// TCB info, version 2 (SGX only) or 3 (*Intel SGX and TDX PCS API*, Get TCB Info).
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct TcbInfo<'a> {
    /// Absent in version 2.
    #[serde(borrow)]
    pub(super) id: Option<&'a str>,
    pub(super) version: u32,
    #[serde(deserialize_with = "document::time")]
    pub(super) issue_date: UnixTime,
    #[serde(deserialize_with = "document::time")]
    pub(super) next_update: UnixTime,
    pub(super) fmspc: Bytes<6>,
    pub(super) pce_id: Bytes<2>,
    tcb_type: u32,
    pub(super) tcb_evaluation_data_number: u32,
    pub(super) tdx_module: Option<Module>,
    #[serde(borrow, default)]
    pub(super) tdx_module_identities: Vec<ModuleIdentity<'a>>,
    pub(super) tcb_levels: Vec<Level<'a>>,
}

/// What a TDX module of version 0 is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Module {
    pub(super) mrsigner: Bytes<48>,
    pub(super) attributes: Bytes<8>,
    pub(super) attributes_mask: Bytes<8>,
}

/// What a TDX module of a later version is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ModuleIdentity<'a> {
    pub(super) id: &'a str,
    pub(super) mrsigner: Bytes<48>,
    pub(super) attributes: Bytes<8>,
    pub(super) attributes_mask: Bytes<8>,
    #[serde(borrow)]
    pub(super) tcb_levels: Vec<IsvLevel<'a>>,
}

/// A level of an enclave or module, by its ISVSVN.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct IsvLevel<'a> {
    tcb: IsvTcb,
    #[serde(deserialize_with = "document::time", rename = "tcbDate")]
    _date: UnixTime,
    #[serde(deserialize_with = "document::status", rename = "tcbStatus")]
    pub(super) status: TcbStatus,
    #[serde(borrow, default, rename = "advisoryIDs")]
    pub(super) advisories: Vec<&'a str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IsvTcb {
    isvsvn: u16,
}

/// A level of the platform.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Level<'a> {
    tcb: Tcb,
    #[serde(deserialize_with = "document::time", rename = "tcbDate")]
    _date: UnixTime,
    #[serde(deserialize_with = "document::status", rename = "tcbStatus")]
    pub(super) status: TcbStatus,
    #[serde(borrow, default, rename = "advisoryIDs")]
    pub(super) advisories: Vec<&'a str>,
}

/// What a platform must reach for a level.
struct Tcb {
    sgx: [u8; 16],
    tdx: Option<[u8; 16]>,
    pcesvn: u16,
}

/// What the platform has.
pub(super) struct PlatformTcb<'a> {
    pub(super) components: &'a [u8; 16],
    pub(super) pcesvn: u16,
    /// TEE_TCB_SVN of a trust domain.
    pub(super) tee_tcb_svn: Option<&'a [u8; 16]>,
}

impl<'a> TcbInfo<'a> {
    /// Reads the signed text.
    pub(super) fn parse(text: &'a str) -> Result<Self, String> {
        let info: Self = document::parse(text)?;
        if info.tcb_type != 0 {
            return Err(format!("its TCB type is {}, read is 0", info.tcb_type));
        }
        if info.tcb_levels.is_empty() {
            return Err("it lists no TCB level".into());
        }
        let mut ids: Vec<_> = info.tdx_module_identities.iter().map(|identity| identity.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
            return Err("it lists a TDX module twice".into());
        }
        let is_tdx = info.id == Some("TDX");
        if is_tdx && (info.tdx_module.is_none() || info.tcb_levels.iter().any(|level| level.tcb.tdx.is_none())) {
            return Err("it is of TDX, but lacks the TDX module or TDX components".into());
        }
        Ok(info)
    }

    /// The first level that the platform reaches; Intel lists them from the newest down.
    pub(super) fn level(&self, platform: &PlatformTcb<'_>) -> Option<&Level<'a>> {
        self.tcb_levels.iter().find(|level| level.tcb.is_reached_by(platform))
    }

    /// The identity of a TDX module by its version, TEE_TCB_SVN[1].
    pub(super) fn module(&self, version: u8) -> Option<&ModuleIdentity<'a>> {
        let id = format!("TDX_{version:02X}");
        self.tdx_module_identities.iter().find(|identity| identity.id == id)
    }
}

/// The first level whose ISVSVN is reached.
pub(super) fn isv_level<'l, 'a>(levels: &'l [IsvLevel<'a>], isvsvn: u16) -> Option<&'l IsvLevel<'a>> {
    levels.iter().find(|level| isvsvn >= level.tcb.isvsvn)
}

impl Tcb {
    /// Every component is at least the level's. Arrays of sixteen: a list of another length was refused when it was read.
    fn is_reached_by(&self, platform: &PlatformTcb<'_>) -> bool {
        let sgx = platform.components.iter().zip(&self.sgx).all(|(have, need)| have >= need);
        let tdx = match (platform.tee_tcb_svn, &self.tdx) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(have), Some(need)) => {
                // From module version 1 on, the first two components are the module's own, which its identity judges.
                let [_, version, ..] = *have;
                let skipped = if version > 0 { 2 } else { 0 };
                have.iter().zip(need).skip(skipped).all(|(have, need)| have >= need)
            }
        };
        sgx && tdx && platform.pcesvn >= self.pcesvn
    }
}

impl<'de> Deserialize<'de> for Tcb {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TcbVisitor)
    }
}

struct TcbVisitor;

impl<'de> Visitor<'de> for TcbVisitor {
    type Value = Tcb;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the components of a TCB level")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tcb, A::Error> {
        let (mut listed, mut tdx, mut pcesvn) = (None, None, None);
        let mut numbered: [Option<u8>; 16] = [None; 16];
        while let Some(key) = map.next_key::<&str>()? {
            let again = match key {
                "sgxtcbcomponents" => listed.replace(map.next_value::<Components>()?.0).is_some(),
                "tdxtcbcomponents" => tdx.replace(map.next_value::<Components>()?.0).is_some(),
                "pcesvn" => pcesvn.replace(map.next_value::<u16>()?).is_some(),
                _ => {
                    let slot = component_number(key).and_then(|number| numbered.get_mut(number));
                    let slot = slot.ok_or_else(|| A::Error::custom(format_args!("unknown field `{key}`")))?;
                    slot.replace(map.next_value()?).is_some()
                }
            };
            if again {
                return Err(A::Error::custom(format_args!("duplicate field `{key}`")));
            }
        }
        let pcesvn = pcesvn.ok_or_else(|| A::Error::missing_field("pcesvn"))?;
        let counted = numbered.iter().flatten().count();
        let sgx = match (listed, counted) {
            (Some(components), 0) => components,
            (None, 16) => numbered.map(Option::unwrap_or_default),
            _ => return Err(A::Error::custom("expected sixteen SGX components, listed or numbered")),
        };
        Ok(Tcb { sgx, tdx, pcesvn })
    }
}

/// Zero-based number of `sgxtcbcomp01svn` to `sgxtcbcomp16svn`, as version 2 has them.
fn component_number(key: &str) -> Option<usize> {
    let digits = key.strip_prefix("sgxtcbcomp")?.strip_suffix("svn")?;
    let number: usize = digits.parse().ok().filter(|_| digits.len() == 2)?;
    number.checked_sub(1)
}

/// Exactly sixteen components.
struct Components([u8; 16]);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Component {
    svn: u8,
    #[serde(default, rename = "category")]
    _category: IgnoredAny,
    #[serde(default, rename = "type")]
    _kind: IgnoredAny,
}

impl<'de> Deserialize<'de> for Components {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let components = Vec::<Component>::deserialize(deserializer)?;
        let svns: Vec<u8> = components.into_iter().map(|component| component.svn).collect();
        <[u8; 16]>::try_from(svns)
            .map(Self)
            .map_err(|svns| D::Error::custom(format_args!("{} components where sixteen are expected", svns.len())))
    }
}
