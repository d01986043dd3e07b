//! Every byte bent and every length cut: never accepted, never a panic.

use std::ops::RangeInclusive;

use super::fixtures::{Fixture, fixtures};
use super::scene::*;
use crate::Anchors;
use crate::error::ParseError;
use crate::snp::{certificates_of_table, readable};

/// Each good fixture with a report of one of these versions, in a thread of its own: a signature is verified for
/// every byte.
fn for_each_good(versions: RangeInclusive<u64>, check: impl Fn(Fixture, &Anchors) + Sync) {
    let anchors = Anchors::vendor().unwrap();
    let of_version = |fixture: &Fixture| versions.contains(&fixture.manifest["report_version"].as_u64().unwrap());
    std::thread::scope(|scope| {
        for fixture in fixtures().into_iter().filter(Fixture::is_good).filter(of_version) {
            let (check, anchors) = (&check, &anchors);
            scope.spawn(move || check(fixture, anchors));
        }
    });
}

fn no_bent_report_is_accepted(versions: RangeInclusive<u64>) {
    for_each_good(versions, |fixture, anchors| {
        let mut evidence = fixture.evidence.clone();
        // All that is signed, R and S; of the zeros after them, every sixteenth.
        for position in (0..0x330).chain((0x330..0x4A0).step_by(16)) {
            let bit = 1 << (position % 7);
            evidence.report.0[position] ^= bit;
            let failed = failing(&fixture.judge(&evidence, anchors).1);
            assert!(!failed.is_empty(), "{}: byte {position:#x}", fixture.name);
            evidence.report.0[position] ^= bit;
        }
    });
}

#[test]
fn no_real_report_of_version_2_with_a_bent_byte_is_accepted() {
    no_bent_report_is_accepted(0..=2);
}

#[test]
fn no_real_report_of_version_3_or_4_with_a_bent_byte_is_accepted() {
    no_bent_report_is_accepted(3..=4);
}

#[test]
fn no_real_report_of_version_5_with_a_bent_byte_is_accepted() {
    no_bent_report_is_accepted(5..=u64::MAX);
}

#[test]
fn no_real_report_of_another_length_is_read() {
    for_each_good(0..=u64::MAX, |fixture, anchors| {
        let mut evidence = fixture.evidence.clone();
        evidence.report.0.push(0);
        readable(&evidence).unwrap_err();
        evidence.report.0.pop();
        while evidence.report.0.pop().is_some() {
            let ParseError { offset, .. } = readable(&evidence).unwrap_err();
            assert_eq!(offset, Some(evidence.report.0.len()));
            assert!(!failing(&fixture.judge(&evidence, anchors).1).is_empty());
        }
    });
}

#[test]
fn no_real_certificate_with_a_bent_byte_is_accepted() {
    for_each_good(0..=u64::MAX, |fixture, anchors| {
        let mut evidence = fixture.evidence.clone();
        // The root that comes along is not looked at: what cannot be parsed is refused, the rest does not matter.
        evidence.certificates.retain(|der| anchors.amd().iter().all(|anchor| anchor.ark.der() != der.as_slice()));
        assert_eq!(evidence.certificates.len(), 2, "{}", fixture.name);
        for certificate in 0..2 {
            for position in (0..evidence.certificates[certificate].0.len()).step_by(11) {
                let bit = 1 << (position % 7);
                evidence.certificates[certificate].0[position] ^= bit;
                let failed = failing(&fixture.judge(&evidence, anchors).1);
                assert!(!failed.is_empty(), "{}: certificate {certificate}, byte {position:#x}", fixture.name);
                evidence.certificates[certificate].0[position] ^= bit;
            }
        }
    });
}

#[test]
fn no_made_up_report_with_a_bent_or_missing_byte_is_accepted() {
    let scene = Scene::good();
    let evidence = scene.evidence();
    for position in 0..evidence.report.0.len() {
        let mut bent = evidence.clone();
        bent.report.0[position] ^= 0x80 >> (position % 8);
        assert!(!failing(&scene.judge_that(&bent).1).is_empty(), "byte {position:#x}");
        let mut cut = evidence.clone();
        cut.report.0.truncate(position);
        assert!(readable(&cut).is_err(), "length {position:#x}");
        assert!(failing(&scene.judge_that(&cut).1).len() > 60, "length {position:#x}");
    }
}

#[test]
fn no_bent_revocation_list_is_accepted() {
    let mut scene = Scene::good();
    let list = scene.crl.take().unwrap().der();
    for position in 0..list.len() {
        let mut bent = list.clone();
        bent[position] ^= 0x80 >> (position % 8);
        scene.more_crls = vec![bent];
        assert!(!scene.failing().is_empty(), "byte {position:#x}");
        if position % 8 == 0 {
            scene.more_crls = vec![list[..position].to_vec()];
            assert!(!scene.failing().is_empty(), "length {position:#x}");
        }
    }
    scene.more_crls = vec![list];
    assert_eq!(scene.failing(), [""; 0]);
}

#[test]
fn no_bent_certificate_table_panics() {
    let guid = b"\x63\xda\x75\x8d\xe6\x64\x45\x64\xad\xc5\xf4\xb9\x3b\xe8\xac\xcd";
    let leaf = Scene::good().leaf.der();
    let length = u32::try_from(leaf.len()).unwrap().to_le_bytes();
    let table = [guid, &48u32.to_le_bytes()[..], &length, &[0; 24], &leaf].concat();
    assert_eq!(certificates_of_table(&table).unwrap()[0].0, leaf);
    for position in 0..table.len() {
        for bit in 0..8 {
            let mut bent = table.clone();
            bent[position] ^= 1 << bit;
            let _ = certificates_of_table(&bent);
        }
    }
}
