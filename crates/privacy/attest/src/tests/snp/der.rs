//! DER by hand: what is wrong on purpose, no library would write.

pub(super) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..=127 => out.push(length.try_into().unwrap()),
        128..=255 => out.extend([0x81, length.try_into().unwrap()]),
        _ => {
            out.push(0x82);
            out.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    out.extend_from_slice(content);
    out
}

pub(super) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(0x30, &parts.concat())
}

pub(super) fn integer(value: u64) -> Vec<u8> {
    let bytes = value.to_be_bytes();
    let mut bytes = &bytes[bytes.iter().position(|byte| *byte != 0).unwrap_or(7)..];
    let padded = [&[0][..], bytes].concat();
    if bytes[0] >= 0x80 {
        bytes = &padded;
    }
    tlv(2, bytes)
}

pub(super) fn bit_string(content: &[u8]) -> Vec<u8> {
    tlv(3, &[&[0][..], content].concat())
}

pub(super) fn octet_string(content: &[u8]) -> Vec<u8> {
    tlv(4, content)
}

pub(super) fn ia5(text: &str) -> Vec<u8> {
    tlv(0x16, text.as_bytes())
}

pub(super) fn oid(dotted: &str) -> Vec<u8> {
    use ::der::Encode as _;
    ::der::asn1::ObjectIdentifier::new(dotted).unwrap().to_der().unwrap()
}

/// `YYMMDDHHMMSSZ`.
pub(super) fn time(text: &str) -> Vec<u8> {
    tlv(0x17, text.as_bytes())
}

/// A name with one common name.
pub(super) fn name(common_name: &str) -> Vec<u8> {
    let attribute = sequence(&[oid("2.5.4.3"), tlv(0x0C, common_name.as_bytes())]);
    sequence(&[tlv(0x31, &attribute)])
}

/// RSASSA-PSS with SHA-384 and this length of salt.
pub(super) fn pss(salt_bytes: u64) -> Vec<u8> {
    let sha384 = sequence(&[oid("2.16.840.1.101.3.4.2.2"), tlv(5, &[])]);
    let mgf = sequence(&[oid("1.2.840.113549.1.1.8"), sha384.clone()]);
    let parameters = sequence(&[tlv(0xA0, &sha384), tlv(0xA1, &mgf), tlv(0xA2, &integer(salt_bytes))]);
    sequence(&[oid("1.2.840.113549.1.1.10"), parameters])
}
