use serde::Deserialize;

use super::body::{EnclaveReport, flag};
use super::document::{self, Bytes};
use super::tcb_info::IsvLevel;
use crate::time::UnixTime;

/// Identity of a quoting enclave (*Intel SGX and TDX PCS API*, Get Quoting Enclave Identity).
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct QeIdentity<'a> {
    pub(super) id: &'a str,
    pub(super) version: u32,
    #[serde(deserialize_with = "document::time")]
    pub(super) issue_date: UnixTime,
    #[serde(deserialize_with = "document::time")]
    pub(super) next_update: UnixTime,
    pub(super) tcb_evaluation_data_number: u32,
    miscselect: Bytes<4>,
    miscselect_mask: Bytes<4>,
    attributes: Bytes<16>,
    attributes_mask: Bytes<16>,
    mrsigner: Bytes<32>,
    isvprodid: u16,
    #[serde(borrow)]
    pub(super) tcb_levels: Vec<IsvLevel<'a>>,
}

impl<'a> QeIdentity<'a> {
    /// Reads the signed text.
    pub(super) fn parse(text: &'a str) -> Result<Self, String> {
        let identity: Self = document::parse(text)?;
        if identity.tcb_levels.is_empty() {
            return Err("it lists no TCB level".into());
        }
        Ok(identity)
    }

    pub(super) fn has_signer_of(&self, report: &EnclaveReport) -> bool {
        report.mrsigner == self.mrsigner.0
    }

    pub(super) fn has_product_of(&self, report: &EnclaveReport) -> bool {
        report.isv_prod_id == self.isvprodid
    }

    pub(super) fn allows_miscselect_of(&self, report: &EnclaveReport) -> bool {
        masked_equal(&report.miscselect, &self.miscselect.0, &self.miscselect_mask.0)
    }

    /// The masked attributes; whether it is a debug enclave is a check of its own.
    pub(super) fn allows_attributes_of(&self, report: &EnclaveReport) -> bool {
        let mut mask = self.attributes_mask.0;
        let [first, ..] = &mut mask;
        *first &= !DEBUG_BYTE;
        masked_equal(&report.attributes, &self.attributes.0, &mask)
    }
}

/// The debug bit within the first byte of ATTRIBUTES.
#[allow(clippy::cast_possible_truncation, reason = "the bit lies in the lowest byte")]
const DEBUG_BYTE: u8 = flag::DEBUG as u8;

/// Equal where the mask has ones. The slices are arrays of one length each.
pub(super) fn masked_equal<const N: usize>(actual: &[u8; N], expected: &[u8; N], mask: &[u8; N]) -> bool {
    actual.iter().zip(expected).zip(mask).all(|((actual, expected), mask)| actual & mask == expected & mask)
}
