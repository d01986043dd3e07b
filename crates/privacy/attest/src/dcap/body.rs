//! What quotes carry: the report of a trust domain or of an enclave, and that of the quoting enclave.

use super::reader::Reader;
use crate::error::ParseError;

/// Bytes of an enclave report (*Intel SDM*, REPORT).
pub(super) const ENCLAVE_REPORT_BYTES: usize = 384;

/// Bytes of a TD 1.0 report body.
pub(super) const TD_10_BYTES: usize = 584;

/// Bytes of a TD 1.5 report body.
pub(super) const TD_15_BYTES: usize = 648;

/// Bit of an enclave's ATTRIBUTES.FLAGS.
pub(super) mod flag {
    pub(in crate::dcap) const INIT: u64 = 1;
    pub(in crate::dcap) const DEBUG: u64 = 1 << 1;
    pub(in crate::dcap) const KSS: u64 = 1 << 7;
    /// Defined: INIT, DEBUG, MODE64BIT, PROVISIONKEY, EINITTOKENKEY, CET, KSS, AEXNOTIFY.
    pub(in crate::dcap) const DEFINED: u64 = 0x4f7;
}

/// The report that a quote is about.
#[allow(clippy::large_enum_variant, reason = "one of them lives on the stack for one verdict")]
pub(super) enum Body {
    Enclave(EnclaveReport),
    Td(TdReport),
}

/// Report of an SGX enclave.
pub(super) struct EnclaveReport {
    pub(super) cpu_svn: [u8; 16],
    pub(super) miscselect: [u8; 4],
    pub(super) isv_ext_prod_id: [u8; 16],
    /// FLAGS and XFRM.
    pub(super) attributes: [u8; 16],
    pub(super) mrenclave: [u8; 32],
    pub(super) mrsigner: [u8; 32],
    pub(super) config_id: [u8; 64],
    pub(super) isv_prod_id: u16,
    pub(super) isv_svn: u16,
    pub(super) config_svn: u16,
    pub(super) isv_family_id: [u8; 16],
    pub(super) report_data: [u8; 64],
    /// Whether every reserved byte is zero.
    pub(super) reserved_is_zero: bool,
}

impl EnclaveReport {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(bytes, "enclave report");
        let cpu_svn = reader.array()?;
        let miscselect = reader.array()?;
        let mut reserved = is_zero(reader.take(12)?);
        let isv_ext_prod_id = reader.array()?;
        let attributes = reader.array()?;
        let mrenclave = reader.array()?;
        reserved &= is_zero(reader.take(32)?);
        let mrsigner = reader.array()?;
        reserved &= is_zero(reader.take(32)?);
        let config_id = reader.array()?;
        let (isv_prod_id, isv_svn, config_svn) = (reader.u16()?, reader.u16()?, reader.u16()?);
        reserved &= is_zero(reader.take(42)?);
        let isv_family_id = reader.array()?;
        let report_data = reader.array()?;
        reader.end()?;
        Ok(Self {
            cpu_svn,
            miscselect,
            isv_ext_prod_id,
            attributes,
            mrenclave,
            mrsigner,
            config_id,
            isv_prod_id,
            isv_svn,
            config_svn,
            isv_family_id,
            report_data,
            reserved_is_zero: reserved,
        })
    }

    /// ATTRIBUTES.FLAGS.
    pub(super) fn flags(&self) -> u64 {
        let (flags, _) = halves(&self.attributes);
        u64::from_le_bytes(flags)
    }

    /// ATTRIBUTES.XFRM.
    pub(super) fn xfrm(&self) -> [u8; 8] {
        halves(&self.attributes).1
    }
}

/// FLAGS and XFRM as two fields.
pub(super) fn halves(attributes: &[u8; 16]) -> ([u8; 8], [u8; 8]) {
    let (mut flags, mut xfrm) = ([0; 8], [0; 8]);
    for (to, from) in flags.iter_mut().chain(xfrm.iter_mut()).zip(attributes) {
        *to = *from;
    }
    (flags, xfrm)
}

/// Report of a trust domain.
pub(super) struct TdReport {
    pub(super) tee_tcb_svn: [u8; 16],
    pub(super) mrseam: [u8; 48],
    pub(super) mrsignerseam: [u8; 48],
    pub(super) seam_attributes: [u8; 8],
    pub(super) td_attributes: [u8; 8],
    pub(super) xfam: [u8; 8],
    pub(super) mrtd: [u8; 48],
    pub(super) mrconfigid: [u8; 48],
    pub(super) mrowner: [u8; 48],
    pub(super) mrownerconfig: [u8; 48],
    pub(super) rtmrs: [[u8; 48]; 4],
    pub(super) report_data: [u8; 64],
    /// What TD 1.5 reports besides.
    pub(super) later: Option<TdReport15>,
}

/// What TD 1.5 reports besides.
pub(super) struct TdReport15 {
    /// The TCB that runs now; it differs from the one at launch after a TD-preserving update.
    pub(super) tee_tcb_svn2: [u8; 16],
    pub(super) mrservicetd: [u8; 48],
}

impl TdReport {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut reader = Reader::new(bytes, "TD report");
        Ok(Self {
            tee_tcb_svn: reader.array()?,
            mrseam: reader.array()?,
            mrsignerseam: reader.array()?,
            seam_attributes: reader.array()?,
            td_attributes: reader.array()?,
            xfam: reader.array()?,
            mrtd: reader.array()?,
            mrconfigid: reader.array()?,
            mrowner: reader.array()?,
            mrownerconfig: reader.array()?,
            rtmrs: [reader.array()?, reader.array()?, reader.array()?, reader.array()?],
            report_data: reader.array()?,
            later: if reader.rest().is_empty() {
                None
            } else {
                let later = TdReport15 { tee_tcb_svn2: reader.array()?, mrservicetd: reader.array()? };
                reader.end()?;
                Some(later)
            },
        })
    }
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
