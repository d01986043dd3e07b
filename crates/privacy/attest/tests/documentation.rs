//! The list of checks that people read and the list that the verifier runs are one list.

use lambda_attest::checks;

#[test]
fn the_documented_checks_are_the_checks_in_order() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/attestation-checks.md");
    let text = std::fs::read_to_string(page).unwrap();
    let documented: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    let known: Vec<String> =
        checks::every().iter().map(|info| format!("| `{}` | {} | {} |", info.id, info.asks, info.standard)).collect();
    assert_eq!(documented, known, "docs/attestation-checks.md is stale");
}
