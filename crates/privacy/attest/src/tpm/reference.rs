//! Comparing what was measured with what the policy's images measure to.

use lambda_types::image::TpmExpected;
use lambda_types::shape::Shape;

use super::Pcrs;
use super::log::Measured;
use crate::checks::{self, CheckInfo, Recorder};
use crate::policy::{AllowedImage, Matched, Policy, digest, malformed_field};

struct Candidate<'a> {
    allowed: &'a AllowedImage,
    shape: Shape,
    expected: &'a TpmExpected,
}

/// Compares with the reference that agrees in most parts, so that a difference names the part that was changed.
pub(super) fn check(
    policy: &Policy,
    measured: Option<&Measured>,
    pcrs: Option<&Pcrs>,
    recorder: &mut Recorder,
) -> Option<Matched> {
    let candidates: Vec<Candidate<'_>> = policy
        .images()
        .flat_map(|allowed| {
            allowed.shapes.iter().map(move |(shape, expected)| Candidate { allowed, shape: *shape, expected })
        })
        .filter(|candidate| malformed_field(candidate.expected).is_none())
        .collect();
    let best = candidates.iter().max_by_key(|candidate| {
        outcomes(candidate, measured, pcrs).iter().filter(|(_, result)| result.is_ok()).count()
    });
    let Some(best) = best else {
        recorder.record(
            &checks::POLICY_REFERENCE,
            Err("the policy allows no image with complete reference values: add one to `tpm.images`".into()),
        );
        return None;
    };
    // Shapes that differ only in what the firmware does not measure (memory from 2 GiB up) have the same reference values.
    let shapes: Vec<Shape> = candidates
        .iter()
        .filter(|candidate| candidate.allowed.image == best.allowed.image && candidate.expected == best.expected)
        .map(|candidate| candidate.shape)
        .collect();
    let named = shapes.iter().map(Shape::to_string).collect::<Vec<_>>().join(" or ");
    recorder.record(&checks::POLICY_REFERENCE, Ok(format!("compared with {}, shape {named}", title(best.allowed))));
    for (info, result) in outcomes(best, measured, pcrs) {
        recorder.record(info, result);
    }
    Some(Matched { image: best.allowed.image, shapes })
}

fn title(allowed: &AllowedImage) -> String {
    format!("{} {} ({})", allowed.name, allowed.version, allowed.image)
}

type Outcomes = Vec<(&'static CheckInfo, Result<String, String>)>;

fn outcomes(candidate: &Candidate<'_>, measured: Option<&Measured>, pcrs: Option<&Pcrs>) -> Outcomes {
    let mut outcomes = Outcomes::new();
    if let Some(measured) = measured {
        let Measured { firmware, kernels, command_lines, initramfs } = measured;
        let TpmExpected { pcrs: _, firmware_volumes, kernel, initramfs: initramfs_wanted, command_line } =
            candidate.expected;
        let one = std::slice::from_ref;
        for (info, what, seen, wanted) in [
            (&checks::MEASURED_FIRMWARE, "the firmware", firmware, firmware_volumes.as_slice()),
            (&checks::MEASURED_KERNEL, "the kernel", kernels, one(kernel)),
            (&checks::MEASURED_COMMAND_LINE, "the kernel command line", command_lines, one(command_line)),
            (&checks::MEASURED_INITRAMFS, "the initramfs", initramfs, one(initramfs_wanted)),
        ] {
            outcomes.push((info, compare(candidate, what, seen, wanted)));
        }
    }
    if let Some(pcrs) = pcrs {
        for (index, info) in checks::PCRS {
            let seen: Vec<Vec<u8>> = pcrs.get(&index).map(|value| value.to_vec()).into_iter().collect();
            let wanted: Vec<String> = candidate.expected.pcrs.get(&index).cloned().into_iter().collect();
            outcomes.push((info, compare(candidate, &format!("PCR {index}"), &seen, &wanted)));
        }
    }
    outcomes
}

/// Equal as lists: as many, each the same.
fn compare(candidate: &Candidate<'_>, what: &str, seen: &[Vec<u8>], wanted: &[String]) -> Result<String, String> {
    let wanted_digests: Option<Vec<Vec<u8>>> =
        wanted.iter().map(|text| digest(text).map(|value| value.to_vec())).collect();
    if wanted_digests.is_some_and(|wanted| !wanted.is_empty() && wanted == seen) {
        return Ok(format!("{what} is the image's"));
    }
    let list = |digests: Vec<String>| if digests.is_empty() { "nothing".to_owned() } else { digests.join(" then ") };
    Err(format!(
        "{what} is not that of {}, shape {}: measured {}, expected {}",
        title(candidate.allowed),
        candidate.shape,
        list(seen.iter().map(hex::encode).collect()),
        list(wanted.to_vec()),
    ))
}
