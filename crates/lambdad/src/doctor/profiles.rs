//! Which launch profiles this machine can run, how many guests of each, and why not.

use std::path::{Path, PathBuf};

use lambda_attest::Collateral;
use lambda_node::{KvmProbe, Support, Tees};
use lambda_types::shape::{LaunchProfile, Tier};
use serde::Serialize;

use super::probe::Probe;

const QEMU: &str = "qemu-system-x86_64";

/// One profile. That a machine lacks a processor is no fault: only what `findings` lists has to be mended.
#[derive(Serialize)]
pub(super) struct Profile {
    profile: LaunchProfile,
    tier: Tier,
    possible: bool,
    /// How many guests its processor has keys for; nothing where only memory limits them.
    #[serde(skip_serializing_if = "Option::is_none")]
    guests: Option<u32>,
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<&'static str>,
    /// Where the processor could: whether a guest really ran, and what its evidence is worth.
    #[serde(skip_serializing_if = "Option::is_none")]
    probe: Option<Probe>,
}

impl Profile {
    fn new(support: &Support, probe: impl FnOnce(LaunchProfile) -> Option<Probe>) -> Self {
        let profile = support.profile;
        let tier = profile.tier();
        match &support.outcome {
            Ok(guests) => {
                let what = format!("up to {guests} guests of profile {profile}, tier {tier}");
                let probe = probe(profile);
                let possible = probe.as_ref().is_none_or(Probe::possible);
                Self { profile, tier, possible, guests: Some(*guests), what, fix: None, probe }
            }
            Err(lack) => {
                let what = format!("profile {profile}: {}", lack.what);
                Self { profile, tier, possible: false, guests: None, what, fix: Some(lack.fix), probe: None }
            }
        }
    }

    /// Measured boot runs wherever QEMU and swtpm do; how fast, a probe guest tells.
    fn measured(kvm: &KvmProbe) -> Self {
        let profile = LaunchProfile::Tpm;
        let (what, fix) = match kvm {
            KvmProbe::Works => ("guests of profile tpm, tier platform; a probe guest ran under KVM".to_owned(), None),
            KvmProbe::Fails(why) => (
                format!("guests of profile tpm, tier platform, in software emulation (slow): {why}"),
                Some("enable virtualisation in the firmware, and load kvm_amd or kvm_intel"),
            ),
            KvmProbe::Untried(why) => (
                format!("guests of profile tpm, tier platform; whether KVM works is not known: {why}"),
                Some("lambdad doctor --data DIR, with an image in it"),
            ),
        };
        Self { profile, tier: profile.tier(), possible: true, guests: None, what, fix, probe: None }
    }

    pub(super) fn print(&self) {
        println!("{}  {}", if self.possible { "can " } else { "no  " }, self.what);
        self.fix.iter().for_each(|fix| println!("      needs: {fix}"));
        self.probe.iter().for_each(Probe::print);
    }
}

/// Every profile. Probe guests are started: where there is KVM, and where the processor could hide one from the host.
pub(super) fn all(images: &[PathBuf], collateral: &Collateral) -> Vec<Profile> {
    let qemu = program(QEMU);
    let kvm = KvmProbe::run(&qemu, images);
    let tees = Tees::detect(&qemu);
    // A guest with enclave memory has a vTPM, and is started as any other.
    let probe =
        |profile| (profile != LaunchProfile::Sgx).then(|| Probe::run(&qemu, images, &tees, profile, collateral));
    let confidential = tees.support().iter().map(|support| Profile::new(support, probe));
    std::iter::once(Profile::measured(&kvm)).chain(confidential).collect()
}

/// Where a program is found; its bare name when nowhere, so that the error names it.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|it| it.exists())
        .unwrap_or_else(|| Path::new(name).into())
}
