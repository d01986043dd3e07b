//! What AMD's certificate of a VCEK or VLEK says about the chip and its TCB (KDS specification, certificate extensions).
//!
//! Each value is read from its own extension; one that is missing, stands twice or is of another type is an error,
//! never a zero.

use der::asn1::{Ia5StringRef, ObjectIdentifier, OctetStringRef};
use der::{Decode, DecodeOwned};

use crate::anchors::AmdLine;
use crate::hexbytes::Hex;
use crate::pki::ParsedCertificate;

use super::policy::SigningKey;
use super::tcb::TcbParts;

const STRUCTURE_VERSION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.1");
const PRODUCT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.2");
const BL_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const TEE_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SNP_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const UCODE_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
const FMC_SPL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
/// Parts that no product line uses yet.
const UNUSED_SPLS: [ObjectIdentifier; 4] = [
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.4"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.5"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.6"),
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.7"),
];
const HW_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");
const CSP_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.5");

/// What the certificate of a VCEK or VLEK says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeafFacts {
    /// As AMD writes it, with the stepping where it is there: `Milan-B0`.
    pub(super) product_name: String,
    pub(super) line: AmdLine,
    pub(super) tcb: TcbParts,
    pub(super) owner: Owner,
}

/// Whose key it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// One chip's, as its CHIP_ID stands in reports: shorter ids are followed by zeros.
    Chip(Hex<64>),
    /// A cloud provider's.
    Provider(String),
}

/// Whether this is an endorsement key's certificate rather than an authority's. Which kind of key it is, a certificate
/// says by whom it names, not by its common name.
pub(super) fn is_endorsement_key(certificate: &ParsedCertificate) -> bool {
    [STRUCTURE_VERSION, PRODUCT_NAME, HW_ID, CSP_ID].iter().any(|oid| has(certificate, oid))
}

/// The kind of key; `None` when the certificate names both a chip and a provider, or neither.
pub(super) fn kind(certificate: &ParsedCertificate) -> Option<SigningKey> {
    match (has(certificate, &HW_ID), has(certificate, &CSP_ID)) {
        (true, false) => Some(SigningKey::Vcek),
        (false, true) => Some(SigningKey::Vlek),
        _ => None,
    }
}

fn has(certificate: &ParsedCertificate, oid: &ObjectIdentifier) -> bool {
    !matches!(certificate.extension_value(oid), Ok(None))
}

/// The line of a product name such as `Genoa` or `Milan-B0`.
fn line_of(product_name: &str) -> Option<AmdLine> {
    let line = product_name.split('-').next()?;
    [AmdLine::Milan, AmdLine::Genoa, AmdLine::Turin].into_iter().find(|known| known.name() == line)
}

impl LeafFacts {
    /// Reads every extension.
    pub(super) fn read(certificate: &ParsedCertificate) -> Result<Self, String> {
        let reader = Extensions { certificate };
        reader.integer(&STRUCTURE_VERSION, "structVersion")?;
        let product_name = text(reader.needed(&PRODUCT_NAME, "productName")?, "productName")?;
        let line = line_of(&product_name).ok_or_else(|| format!("the product `{product_name}` is not known here"))?;
        let tcb = TcbParts {
            fmc: reader.fmc(line)?,
            bl: reader.integer(&BL_SPL, "blSPL")?,
            tee: reader.integer(&TEE_SPL, "teeSPL")?,
            snp: reader.integer(&SNP_SPL, "snpSPL")?,
            ucode: reader.integer(&UCODE_SPL, "ucodeSPL")?,
        };
        for oid in &UNUSED_SPLS {
            if certificate.extension_value(oid)?.is_some() && reader.integer(oid, "an unused SPL")? != 0 {
                return Err(format!("the extension {oid} is not zero: the TCB has a part that is not known here"));
            }
        }
        Ok(Self { product_name, line, tcb, owner: reader.owner()? })
    }
}

struct Extensions<'a> {
    certificate: &'a ParsedCertificate,
}

impl<'a> Extensions<'a> {
    fn needed(&self, oid: &ObjectIdentifier, name: &str) -> Result<&'a [u8], String> {
        let value = self.certificate.extension_value(oid)?;
        value.map(|(_, bytes)| bytes).ok_or_else(|| format!("the certificate lacks the extension {name} ({oid})"))
    }

    fn integer(&self, oid: &ObjectIdentifier, name: &str) -> Result<u8, String> {
        decode(self.needed(oid, name)?)
            .ok_or_else(|| format!("the extension {name} ({oid}) is not an INTEGER of 0 to 255"))
    }

    /// Turin's certificates have it, earlier ones must not.
    fn fmc(&self, line: AmdLine) -> Result<Option<u8>, String> {
        match (line, self.certificate.extension_value(&FMC_SPL)?) {
            (AmdLine::Turin, _) => self.integer(&FMC_SPL, "fmcSPL").map(Some),
            (AmdLine::Milan | AmdLine::Genoa, None) => Ok(None),
            (AmdLine::Milan | AmdLine::Genoa, Some(_)) => {
                Err(format!("the extension fmcSPL ({FMC_SPL}) does not belong to this product line"))
            }
        }
    }

    fn owner(&self) -> Result<Owner, String> {
        let chip = self.certificate.extension_value(&HW_ID)?;
        let provider = self.certificate.extension_value(&CSP_ID)?;
        match (chip, provider) {
            (Some((_, bytes)), None) => chip_id(bytes)
                .map(Owner::Chip)
                .ok_or_else(|| format!("the extension hwID ({HW_ID}) has {} bytes: neither 64 nor 8", bytes.len())),
            (None, Some((_, bytes))) => text(bytes, "cspID").map(Owner::Provider),
            (None, None) => Err("the certificate names neither a chip (hwID) nor a provider (cspID)".into()),
            (Some(_), Some(_)) => Err("the certificate names both a chip (hwID) and a provider (cspID)".into()),
        }
    }
}

/// 64 bytes, or Turin's 8; bare, or as an OCTET STRING, as some of AMD's certificates have it.
fn chip_id(bytes: &[u8]) -> Option<Hex<64>> {
    let bare = match bytes.len() {
        64 | 8 => bytes,
        66 | 10 => <&OctetStringRef>::from_der(bytes).ok()?.as_bytes(),
        _ => return None,
    };
    let mut id = [0; 64];
    id.iter_mut().zip(bare).for_each(|(to, from)| *to = *from);
    Some(Hex(id))
}

fn text(bytes: &[u8], name: &str) -> Result<String, String> {
    let text = Ia5StringRef::from_der(bytes).map_err(|_| format!("the extension {name} is not an IA5String"))?;
    Ok(text.as_str().to_owned())
}

fn decode<T: DecodeOwned>(bytes: &[u8]) -> Option<T> {
    T::from_der(bytes).ok()
}
