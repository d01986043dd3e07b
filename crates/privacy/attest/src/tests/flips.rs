//! Damage: no flipped byte and no truncation of anything signed is ever accepted, and nothing ever panics.

use lambda_types::Binary;

use super::scene::Scene;
use crate::*;

/// Everything that a signature, a name or a MAC covers.
fn part(evidence: &mut Evidence, index: usize) -> &mut Binary {
    let Report::Tpm(report) = &mut evidence.report else { unreachable!("evidence of a TPM") };
    match index {
        0 => &mut report.attest,
        1 => &mut report.signature,
        2 => &mut report.identity.ek_public,
        3 => &mut report.identity.ak_public,
        4 => &mut report.activation_proof,
        _ => &mut report.identity.ek_chain[index - 5],
    }
}

#[test]
fn no_flipped_byte_of_anything_signed_is_accepted() {
    let scene = Scene::good();
    let good = scene.evidence();
    assert!(scene.judge_evidence(&good).attested.is_some());
    for index in 0..7 {
        let length = part(&mut good.clone(), index).0.len();
        for position in 0..length {
            for mask in [0x01, 0x80] {
                let mut bent = good.clone();
                part(&mut bent, index).0[position] ^= mask;
                let judged = scene.judge_evidence(&bent);
                assert!(judged.attested.is_none(), "part {index}, byte {position}, mask {mask:#x} was accepted");
            }
        }
    }
}

#[test]
fn no_truncation_or_extension_of_anything_signed_is_accepted() {
    let scene = Scene::good();
    let good = scene.evidence();
    for index in 0..7 {
        let length = part(&mut good.clone(), index).0.len();
        for cut in 0..length {
            let mut bent = good.clone();
            part(&mut bent, index).0.truncate(cut);
            assert!(scene.judge_evidence(&bent).attested.is_none(), "part {index} cut to {cut} was accepted");
        }
        let mut bent = good.clone();
        part(&mut bent, index).0.push(0);
        assert!(scene.judge_evidence(&bent).attested.is_none(), "part {index} with a byte more was accepted");
    }
}

#[test]
fn a_bent_event_log_is_accepted_only_where_it_merely_describes() {
    let scene = Scene::good();
    let good = scene.evidence();
    let Report::Tpm(report) = &good.report else { unreachable!("evidence of a TPM") };
    let log = report.event_log.0.clone();
    let mut accepted = 0;
    for position in 0..log.len() {
        let mut bent = good.clone();
        let Report::Tpm(report) = &mut bent.report else { unreachable!("evidence of a TPM") };
        report.event_log.0[position] ^= 0x10;
        if let Some(attested) = scene.judge_evidence(&bent).attested {
            accepted += 1;
            assert_eq!(attested.image, lambda_types::ImageId::from_bits(3));
        }
    }
    // Addresses of firmware volumes and of the kernel, tag ids, and the header's own fields.
    assert!(accepted < 160, "{accepted} of {} bytes can be bent", log.len());
    for cut in 0..log.len() {
        let mut bent = good.clone();
        let Report::Tpm(report) = &mut bent.report else { unreachable!("evidence of a TPM") };
        report.event_log.0.truncate(cut);
        assert!(scene.judge_evidence(&bent).attested.is_none(), "the log cut to {cut} was accepted");
    }
}

#[test]
fn a_document_that_is_damaged_anywhere_is_refused_or_judged_without_a_panic() {
    let scene = Scene::good();
    let document = scene.evidence().to_json();
    for position in (0..document.len()).step_by(7) {
        let mut bent = document.clone();
        bent[position] ^= 0x04;
        if let Ok(evidence) = Evidence::from_json(&bent) {
            scene.judge_evidence(&evidence);
        }
        assert!(Evidence::from_json(&document[..position]).is_err());
    }
}
