use super::checks;
use super::ledger::Ledger;
use crate::checks::CheckInfo;
use crate::facts::Facts;
use crate::pki::{ParsedCertificate, ParsedCrl};
use crate::time::UnixTime;

/// The checks of one revocation list.
pub(super) struct Kind {
    issuer: &'static CheckInfo,
    signature: &'static CheckInfo,
    dates: &'static CheckInfo,
    critical: &'static CheckInfo,
}

pub(super) static PCK: Kind = Kind {
    issuer: &checks::PCK_CRL_ISSUER,
    signature: &checks::PCK_CRL_SIGNATURE,
    dates: &checks::PCK_CRL_DATES,
    critical: &checks::PCK_CRL_CRITICAL,
};

pub(super) static ROOT: Kind = Kind {
    issuer: &checks::ROOT_CRL_ISSUER,
    signature: &checks::ROOT_CRL_SIGNATURE,
    dates: &checks::ROOT_CRL_DATES,
    critical: &checks::ROOT_CRL_CRITICAL,
};

/// Parses and judges a revocation list of `issuer`.
pub(super) fn check(
    der: &[u8],
    issuer: &ParsedCertificate,
    kind: &'static Kind,
    now: UnixTime,
    facts: &Facts,
    ledger: &mut Ledger<'_>,
) -> Option<ParsedCrl> {
    let list = match ParsedCrl::from_der(der) {
        Ok(list) => list,
        Err(error) => {
            ledger.record(kind.issuer, Err(error.to_string()));
            return None;
        }
    };
    ledger.record(
        kind.issuer,
        if list.issued_by_name_of(issuer) {
            Ok("the revocation list is of the issuer".into())
        } else {
            Err(format!("the revocation list is of `{}`, not of `{}`", list.issuer(), issuer.subject()))
        },
    );
    let signature = issuer.may_sign_crls().and_then(|()| {
        if list.known_signed_by(issuer, facts) {
            Ok("the issuer's key signed the revocation list".into())
        } else {
            Err(format!("the signature of `{}` on the revocation list does not hold", list.issuer()))
        }
    });
    ledger.record(kind.signature, signature);
    ledger.record(kind.dates, list.current_at(now).map(|()| "the revocation list is current".into()));
    ledger.record(
        kind.critical,
        list.understands_critical_extensions().map(|()| "every critical extension is understood".into()),
    );
    Some(list)
}

/// None of these certificates is on the list.
pub(super) fn check_absent<'a>(
    info: &'static CheckInfo,
    list: &ParsedCrl,
    mut certificates: impl Iterator<Item = &'a ParsedCertificate>,
    ledger: &mut Ledger<'_>,
) {
    ledger.record(
        info,
        match certificates.find(|certificate| list.revokes(certificate.serial())) {
            None => Ok("not on the revocation list".into()),
            Some(revoked) => Err(format!("`{}` is revoked", revoked.subject())),
        },
    );
}
