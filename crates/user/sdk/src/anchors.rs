//! Which roots vouch for hardware: the vendors', and nobody else's.

use lambda_attest::Anchors;
use lambda_attest::pki::PkiError;

/// The roots that every verdict of this program goes by.
///
/// # Errors
/// Never in a program whose tests ran: the roots are part of it.
#[cfg(not(feature = "simulated-tee"))]
pub fn anchors() -> Result<Anchors, PkiError> {
    Anchors::vendor()
}

/// The roots that every verdict of this program goes by: a simulated vendor's, from `amd-genoa.der` and `intel.der` in the
/// folder that `LAMBDA_SIMULATED_ROOTS` names. Without it, the real ones.
///
/// # Errors
/// When a file is no certificate; one that is not there is none.
#[cfg(feature = "simulated-tee")]
pub fn anchors() -> Result<Anchors, PkiError> {
    use lambda_attest::pki::ParsedCertificate;
    use lambda_attest::{AmdAnchor, AmdLine};

    let Some(folder) = std::env::var_os("LAMBDA_SIMULATED_ROOTS").map(std::path::PathBuf::from) else {
        return Anchors::vendor();
    };
    let root = |name: &str| ParsedCertificate::from_der(&std::fs::read(folder.join(name)).unwrap_or_default());
    let amd = AmdAnchor { line: AmdLine::Genoa, ark: root("amd-genoa.der")? };
    Ok(Anchors::simulated(vec![amd], vec![root("intel.der")?]))
}

#[cfg(all(feature = "simulated-tee", not(debug_assertions)))]
compile_error!("the feature `simulated-tee` trusts made-up hardware and does not belong in a release build");
