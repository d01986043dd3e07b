use der::Decode as _;
use x509_cert::crl::CertificateList;

use super::certificate::ParsedCertificate;
use super::key::{SignatureAlgorithm, verify};
use super::{MAX_CRL_BYTES, PkiError, seconds, signed_part};
use crate::facts::Facts;
use crate::time::UnixTime;

/// A parsed certificate revocation list (RFC 5280 §5) with the bytes that its issuer signed.
pub(crate) struct ParsedCrl {
    list: CertificateList,
    signed: Vec<u8>,
    algorithm: Option<SignatureAlgorithm>,
}

impl ParsedCrl {
    /// Parses DER.
    ///
    /// # Errors
    /// When it is not exactly one certificate revocation list.
    pub(crate) fn from_der(bytes: &[u8]) -> Result<Self, PkiError> {
        if bytes.len() > MAX_CRL_BYTES {
            return Err(PkiError::CrlTooLong);
        }
        let malformed = |error: der::Error| PkiError::MalformedCrl(error.to_string());
        let list = CertificateList::from_der(bytes).map_err(malformed)?;
        let signed = signed_part(bytes).map_err(malformed)?.to_vec();
        let algorithm = (list.signature_algorithm == list.tbs_cert_list.signature)
            .then(|| SignatureAlgorithm::named(&list.signature_algorithm))
            .flatten();
        Ok(Self { list, signed, algorithm })
    }

    /// The issuer, as RFC 4514 text.
    pub(crate) fn issuer(&self) -> String {
        self.list.tbs_cert_list.issuer.to_string()
    }

    /// Whether it names this certificate's subject as its issuer.
    pub(crate) fn issued_by_name_of(&self, issuer: &ParsedCertificate) -> bool {
        let name = &self.list.tbs_cert_list.issuer;
        !name.is_empty() && name == issuer.subject_name()
    }

    /// Verifies the signature over the bytes as they came.
    pub(crate) fn signed_by(&self, issuer: &ParsedCertificate) -> bool {
        let (Some(key), Some(algorithm), Some(signature)) =
            (issuer.public_key(), self.algorithm, self.list.signature.as_bytes())
        else {
            return false;
        };
        verify(key, algorithm, &self.signed, signature)
    }

    /// As [`Self::signed_by`], computed once for the same bytes.
    pub(crate) fn known_signed_by(&self, issuer: &ParsedCertificate, facts: &Facts) -> bool {
        let signature = self.list.signature.as_bytes().unwrap_or_default();
        // What is remembered is of the algorithm within the signed part; there is none if the other one differs.
        self.algorithm.is_some() && facts.holds(issuer.spki(), signature, &self.signed, || self.signed_by(issuer))
    }

    /// Between thisUpdate and nextUpdate, which must be there: a list without an end is never stale.
    pub(crate) fn current_at(&self, now: UnixTime) -> Result<(), String> {
        let list = &self.list.tbs_cert_list;
        if now.0 < seconds(list.this_update) {
            return Err(format!("the revocation list of `{}` is not valid before {}", self.issuer(), list.this_update));
        }
        match list.next_update {
            None => Err(format!("the revocation list of `{}` does not say when the next one is due", self.issuer())),
            Some(next) if now.0 > seconds(next) => {
                Err(format!("the revocation list of `{}` was valid until {next}", self.issuer()))
            }
            Some(_) => Ok(()),
        }
    }

    /// thisUpdate, and nextUpdate where there is one.
    pub(crate) fn updates(&self) -> (UnixTime, Option<UnixTime>) {
        let list = &self.list.tbs_cert_list;
        (UnixTime(seconds(list.this_update)), list.next_update.map(|next| UnixTime(seconds(next))))
    }

    /// Whether the certificate with this serial number is revoked.
    pub(crate) fn revokes(&self, serial: &[u8]) -> bool {
        let revoked = self.list.tbs_cert_list.revoked_certificates.as_deref().unwrap_or_default();
        revoked.iter().any(|entry| entry.serial_number.as_bytes() == serial)
    }

    /// A critical extension of the list or of one of its entries makes it mean something else (RFC 5280 §5.2, §5.3).
    pub(crate) fn understands_critical_extensions(&self) -> Result<(), String> {
        let list = &self.list.tbs_cert_list;
        let own = list.crl_extensions.iter().flatten();
        let entries = list.revoked_certificates.iter().flatten();
        let each = entries.flat_map(|entry| entry.crl_entry_extensions.iter().flatten());
        match own.chain(each).find(|extension| extension.critical) {
            None => Ok(()),
            Some(unknown) => Err(format!(
                "the revocation list of `{}` carries the critical extension {}, unknown here",
                self.issuer(),
                unknown.extn_id
            )),
        }
    }
}
