//! What a launch puts into a guest, measured as the processor measures it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lambda_image::measure::{snp, trust_domain};
use serde::{Deserialize, Serialize};

use crate::arguments::Arguments;
use crate::id_block::{self, Identity};
use crate::setup::Operator;
use crate::{Outcome, events};

/// Bit of the guest policy (SNP) that lets the host debug the guest.
const SNP_DEBUG: u64 = 1 << 19;

/// Bits of the attributes of a trust domain.
const TDX_DEBUG: u64 = 1;
const SEPT_VE_DISABLE: u64 = 1 << 28;

/// A launched guest, as its processor knows it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Guest {
    Snp(SnpGuest),
    Tdx(TdxGuest),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SnpGuest {
    pub(crate) policy: u64,
    pub(crate) measurement: Vec<u8>,
    pub(crate) host_data: Vec<u8>,
    pub(crate) identity: Identity,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TdxGuest {
    pub(crate) attributes: u64,
    pub(crate) mrtd: Vec<u8>,
    pub(crate) rtmrs: Vec<Vec<u8>>,
    pub(crate) mrconfigid: Vec<u8>,
    pub(crate) event_log: Vec<u8>,
}

/// The files and the text that the guest is started from.
struct Given {
    firmware: Vec<u8>,
    kernel: Vec<u8>,
    initramfs: Vec<u8>,
    command_line: String,
}

impl Given {
    fn read(arguments: &Arguments) -> Outcome<Self> {
        let file = |flag: &str| -> Outcome<Vec<u8>> {
            let path = arguments.need(flag)?;
            Ok(std::fs::read(path).map_err(|error| format!("{flag} {path}: {error}"))?)
        };
        let command_line = arguments.need("-append")?.to_owned();
        Ok(Self { firmware: file("-bios")?, kernel: file("-kernel")?, initramfs: file("-initrd")?, command_line })
    }

    fn boot(&self) -> snp::Boot<'_> {
        snp::Boot { kernel: &self.kernel, initramfs: &self.initramfs, command_line: &self.command_line }
    }
}

/// Launches what the arguments say: an error where the processor would refuse. Nothing when they ask for no confidential
/// guest.
pub(crate) fn launch(arguments: &mut Arguments, operator: &Operator) -> Outcome<Option<Guest>> {
    let objects = arguments.objects();
    let snp = objects.iter().find(|object| object.starts_with("sev-snp-guest,"));
    let tdx = objects.iter().filter(|object| object.starts_with('{'));
    let tdx = tdx.filter_map(|object| serde_json::from_str::<serde_json::Value>(object).ok());
    let tdx = { tdx }.find(|object| object["qom-type"] == "tdx-guest");
    if snp.is_none() && tdx.is_none() {
        return Ok(None);
    }
    if let Some(more) = &operator.command_line {
        arguments.append(more)?;
    }
    let given = Given::read(arguments)?;
    Ok(Some(match (snp, tdx) {
        (Some(object), _) => Guest::Snp(secure_nested_paging(object, arguments, &given, operator)?),
        (None, object) => Guest::Tdx(domain(&object.unwrap_or_default(), &given, operator)?),
    }))
}

/// The options of an object in QEMU's short form.
fn option<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    object.split(',').filter_map(|option| option.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn secure_nested_paging(object: &str, arguments: &Arguments, given: &Given, operator: &Operator) -> Outcome<SnpGuest> {
    let need = |name: &str| option(object, name).ok_or_else(|| format!("sev-snp-guest without {name}"));
    let mut policy = u64::from_str_radix(need("policy")?.trim_start_matches("0x"), 16)?;
    if operator.debug {
        policy |= SNP_DEBUG;
    }
    let boot = (option(object, "kernel-hashes") == Some("on")).then(|| given.boot());
    let launch = snp::Launch {
        firmware: &given.firmware,
        boot,
        vcpus: arguments.need("-smp")?.parse()?,
        cpu: arguments.need("-cpu")?.parse()?,
        features: snp::USUAL_FEATURES,
    };
    let measurement = snp::launch_digest(&launch)?;
    let blocks = [option(object, "id-block"), option(object, "id-auth")].map(|it| it.filter(|_| !operator.no_id_block));
    let identity = match blocks {
        [Some(block), Some(auth)] => {
            let author = option(object, "author-key-enabled") == Some("on");
            let mut block = STANDARD.decode(block)?;
            if let (true, Some(number)) = (operator.changed_id_block, block.get_mut(id_block::GUEST_SVN)) {
                *number ^= 1;
            }
            id_block::accept(&block, &STANDARD.decode(auth)?, author, &measurement, policy)?
        }
        [None, None] => Identity::none(),
        _ => return Err("id-block and id-auth come together".into()),
    };
    let host_data = match &operator.host_data {
        Some(other) => other.clone(),
        None => STANDARD.decode(need("host-data")?)?,
    };
    if host_data.len() != 32 {
        return Err(format!("host-data of {} bytes", host_data.len()).into());
    }
    Ok(SnpGuest { policy, measurement: measurement.to_vec(), host_data, identity })
}

fn domain(object: &serde_json::Value, given: &Given, operator: &Operator) -> Outcome<TdxGuest> {
    let expected = trust_domain(&given.firmware, &given.boot())?;
    let (rtmrs, event_log) = events::of_boot(&expected)?;
    let mut mrconfigid = match object["mrconfigid"].as_str() {
        Some(text) => STANDARD.decode(text)?,
        None => vec![0; 48],
    };
    if mrconfigid.len() != 48 {
        return Err(format!("mrconfigid of {} bytes", mrconfigid.len()).into());
    }
    if let Some(other) = &operator.host_data {
        mrconfigid.splice(..other.len(), other.iter().copied());
    }
    Ok(TdxGuest {
        attributes: SEPT_VE_DISABLE | if operator.debug { TDX_DEBUG } else { 0 },
        mrtd: hex::decode(&expected.mrtd).map_err(|error| error.to_string())?,
        rtmrs: rtmrs.map(|register| register.to_vec()).to_vec(),
        mrconfigid,
        event_log,
    })
}
