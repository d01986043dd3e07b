//! Not part of the verifier: lets a test run disable one check, to see whether a test notices.

#[cfg(not(debug_assertions))]
compile_error!("the feature `mutation` disables checks and does not belong in a release build");

/// Whether this check is made to pass: `LAMBDA_DISABLED_CHECK` names it.
pub(crate) fn disabled(id: &str) -> bool {
    static DISABLED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    DISABLED.get_or_init(|| std::env::var("LAMBDA_DISABLED_CHECK").ok()).as_deref() == Some(id)
}
