//! Reports, quotes and event logs, byte by byte.

use sha2::{Digest as _, Sha256, Sha384};

use super::forge::{point, raw_signature};

pub(super) const INTEL_VENDOR: [u8; 16] = *b"\x93\x9a\x72\x33\xf7\x9c\x4c\xa9\x94\x0a\x0d\xb3\x95\x7f\x06\x07";

/// An enclave's report.
#[derive(Clone)]
pub(super) struct Enclave {
    pub(super) cpusvn: [u8; 16],
    pub(super) miscselect: [u8; 4],
    pub(super) ext_product: [u8; 16],
    pub(super) flags: u64,
    pub(super) xfrm: u64,
    pub(super) mrenclave: [u8; 32],
    pub(super) mrsigner: [u8; 32],
    pub(super) config_id: [u8; 64],
    pub(super) product: u16,
    pub(super) svn: u16,
    pub(super) config_svn: u16,
    pub(super) family: [u8; 16],
    pub(super) report_data: [u8; 64],
    pub(super) reserved: u8,
}

impl Enclave {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let bytes = [
            &self.cpusvn[..],
            &self.miscselect,
            &[0; 12],
            &self.ext_product,
            &self.flags.to_le_bytes(),
            &self.xfrm.to_le_bytes(),
            &self.mrenclave,
            &[0; 32],
            &self.mrsigner,
            &[self.reserved; 32],
            &self.config_id,
            &self.product.to_le_bytes(),
            &self.svn.to_le_bytes(),
            &self.config_svn.to_le_bytes(),
            &[0; 42],
            &self.family,
            &self.report_data,
        ]
        .concat();
        assert_eq!(bytes.len(), 384);
        bytes
    }
}

/// A trust domain's report.
#[derive(Clone)]
pub(super) struct Td {
    pub(super) svn: [u8; 16],
    pub(super) mrseam: [u8; 48],
    pub(super) mrsignerseam: [u8; 48],
    pub(super) seam_attributes: u64,
    pub(super) attributes: u64,
    pub(super) xfam: u64,
    pub(super) mrtd: [u8; 48],
    pub(super) mrconfigid: [u8; 48],
    pub(super) mrowner: [u8; 48],
    pub(super) mrownerconfig: [u8; 48],
    pub(super) rtmrs: [[u8; 48]; 4],
    pub(super) report_data: [u8; 64],
    /// TEE_TCB_SVN2 and MR_SERVICETD of TD 1.5.
    pub(super) later: Option<([u8; 16], [u8; 48])>,
}

impl Td {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = [
            &self.svn[..],
            &self.mrseam,
            &self.mrsignerseam,
            &self.seam_attributes.to_le_bytes(),
            &self.attributes.to_le_bytes(),
            &self.xfam.to_le_bytes(),
            &self.mrtd,
            &self.mrconfigid,
            &self.mrowner,
            &self.mrownerconfig,
            &self.rtmrs.concat(),
            &self.report_data,
        ]
        .concat();
        if let Some((svn, service)) = &self.later {
            bytes.extend([&svn[..], service].concat());
        }
        bytes
    }
}

/// What a quote is made of beside its report.
#[derive(Clone)]
pub(super) struct QuoteSpec {
    pub(super) version: u16,
    pub(super) key_type: u16,
    pub(super) tee: u32,
    pub(super) vendor: [u8; 16],
    /// Type of a version 5 body, when it is not what it should be.
    pub(super) body_type: Option<u16>,
    pub(super) attestation_key: u8,
    pub(super) signed_by: u8,
    pub(super) qe: Enclave,
    /// What the QE report covers beside the attestation key.
    pub(super) authentication: Vec<u8>,
    /// What it carries of that.
    pub(super) carried: Option<Vec<u8>>,
    /// The second half of the QE's report data.
    pub(super) padding: u8,
    pub(super) qe_signed_by: u8,
    pub(super) certification_type: u16,
    pub(super) trailing: Vec<u8>,
}

impl QuoteSpec {
    pub(super) fn bytes(&self, body: &[u8], chain: &str) -> Vec<u8> {
        let mut signed = [
            &self.version.to_le_bytes()[..],
            &self.key_type.to_le_bytes(),
            &self.tee.to_le_bytes(),
            &[0; 4],
            &self.vendor,
            &[7; 20],
        ]
        .concat();
        if self.version == 5 {
            let known = [(384, 1), (584, 2), (648, 3)].into_iter().find(|(length, _)| *length == body.len());
            let kind = self.body_type.or(known.map(|(_, kind)| kind)).unwrap();
            signed.extend(kind.to_le_bytes());
            signed.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        }
        signed.extend(body);
        let mut qe = self.qe.clone();
        let hash =
            Sha256::new().chain_update(point(self.attestation_key)).chain_update(&self.authentication).finalize();
        qe.report_data[..32].copy_from_slice(&hash);
        qe.report_data[32..].fill(self.padding);
        let qe = qe.bytes();
        let carried = self.carried.as_ref().unwrap_or(&self.authentication);
        let certified = [
            &qe[..],
            &raw_signature(self.qe_signed_by, &qe),
            &u16::try_from(carried.len()).unwrap().to_le_bytes(),
            carried,
            &self.certification_type.to_le_bytes(),
            &u32::try_from(chain.len()).unwrap().to_le_bytes(),
            chain.as_bytes(),
        ]
        .concat();
        let mut data = [raw_signature(self.signed_by, &signed), point(self.attestation_key)].concat();
        if self.version > 3 {
            data.extend(6u16.to_le_bytes());
            data.extend(u32::try_from(certified.len()).unwrap().to_le_bytes());
        }
        data.extend(certified);
        [&signed[..], &u32::try_from(data.len()).unwrap().to_le_bytes(), &data, &self.trailing].concat()
    }
}

/// One event: register, type, what is hashed, and the data that it carries.
pub(super) type LogEvent = (u32, u32, Vec<u8>, Vec<u8>);

/// A CC event log with a SHA-384 bank.
pub(super) fn event_log(events: &[LogEvent]) -> Vec<u8> {
    let spec = [
        &b"Spec ID Event03\0"[..],
        &0u32.to_le_bytes(),
        &[0, 2, 0, 2],
        &1u32.to_le_bytes(),
        &0x0cu16.to_le_bytes(),
        &48u16.to_le_bytes(),
        &[0],
    ]
    .concat();
    let mut log = [&1u32.to_le_bytes()[..], &3u32.to_le_bytes(), &[0; 20]].concat();
    log.extend(u32::try_from(spec.len()).unwrap().to_le_bytes());
    log.extend(spec);
    for (register, kind, hashed, data) in events {
        log.extend(register.to_le_bytes());
        log.extend(kind.to_le_bytes());
        log.extend(1u32.to_le_bytes());
        log.extend(0x0cu16.to_le_bytes());
        log.extend(Sha384::digest(hashed));
        log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
        log.extend(data);
    }
    log
}

/// What the events extend RTMR0 to RTMR3 to.
pub(super) fn replayed(events: &[LogEvent]) -> [[u8; 48]; 4] {
    let mut rtmrs = [[0; 48]; 4];
    for (register, _, hashed, _) in events {
        if let Some(rtmr) = rtmrs.get_mut(usize::try_from(*register).unwrap().wrapping_sub(1)) {
            *rtmr = Sha384::new().chain_update(*rtmr).chain_update(Sha384::digest(hashed)).finalize().into();
        }
    }
    rtmrs
}
