//! What decides whether the host can look into a guest: machine options, processor, firmware and trust devices of each
//! launch profile. Pure, like the rest of the command line.
//!
//! QEMU ≥ 9.1 and a kernel ≥ 6.11 for SNP; QEMU ≥ 10.1 for TDX. A host that runs SNP guests runs no SEV or SEV-ES guest:
//! nothing here can ask for one.

use std::ffi::{OsStr, OsString};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lambda_types::InstanceId;
use lambda_types::image::file as part;
use lambda_types::launch::{SnpLaunch, host_data};
use lambda_types::node::Acceleration;

use super::arguments::processor;
use crate::layout::file;

/// Where the host's TDX quote generation service listens: vsock to the host itself, the port of Intel's service.
const QUOTE_GENERATION: (&str, &str) = ("2", "4050");

/// Enclave memory of a guest of profile `sgx`, MiB.
pub(crate) const EPC_MIB: u32 = 64;

/// The processor of SNP guests. Its signature stands in the measured VMSA, so it is one that every line can show.
const SNP_PROCESSOR: &str = "EPYC-v4";

/// How a guest is launched.
#[derive(Debug, Clone)]
pub(crate) enum Launch {
    /// Firmware in flash, a vTPM beside it.
    Tpm,
    /// The same, with enclave memory.
    Sgx,
    /// AMD SEV-SNP.
    Snp(SnpHost, Box<SnpLaunch>),
    /// Intel TDX.
    Tdx,
    /// Arm CCA.
    Cca,
}

/// What QEMU has to be told of an SNP host's processor, as QMP's `query-sev-capabilities` reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SnpHost {
    /// Position of the C-bit in a page table entry.
    pub(crate) cbitpos: u8,
    /// By how many bits physical addresses shrink.
    pub(crate) reduced_phys_bits: u8,
}

impl Launch {
    /// `-machine`.
    pub(crate) fn machine(&self) -> OsString {
        match self {
            Self::Tpm => "q35,smm=off,dump-guest-core=off".into(),
            Self::Sgx => "q35,smm=off,dump-guest-core=off,sgx-epc.0.memdev=epc0,sgx-epc.0.node=0".into(),
            Self::Snp(..) => {
                "q35,smm=off,dump-guest-core=off,vmport=off,confidential-guest-support=sev0,memory-backend=ram0".into()
            }
            Self::Tdx => "q35,smm=off,dump-guest-core=off,vmport=off,hpet=off,kernel-irqchip=split,\
                          confidential-guest-support=tdx0,memory-backend=ram0"
                .into(),
            Self::Cca => {
                "virt,gic-version=3,dump-guest-core=off,confidential-guest-support=rme0,memory-backend=ram0".into()
            }
        }
    }

    /// `-accel` and `-cpu`.
    pub(crate) fn processor(&self, acceleration: Acceleration) -> Vec<OsString> {
        match self {
            Self::Tpm | Self::Sgx => processor(acceleration).into(),
            Self::Snp(..) => ["-accel", "kvm", "-cpu", SNP_PROCESSOR].map(OsString::from).into(),
            Self::Tdx | Self::Cca => ["-accel", "kvm", "-cpu", "host"].map(OsString::from).into(),
        }
    }

    /// The firmware, read-only and without a variable store.
    pub(crate) fn firmware(&self, path: &OsStr) -> [OsString; 2] {
        match self {
            Self::Tpm | Self::Sgx => {
                let mut drive = OsString::from("if=pflash,format=raw,unit=0,readonly=on,file=");
                drive.push(path);
                ["-drive".into(), drive]
            }
            Self::Snp(..) | Self::Tdx | Self::Cca => ["-bios".into(), path.to_owned()],
        }
    }

    /// The image's file that holds it.
    pub(crate) const fn firmware_part(&self) -> &'static str {
        match self {
            Self::Tpm | Self::Sgx | Self::Cca => part::FIRMWARE,
            Self::Snp(..) => part::FIRMWARE_SNP,
            Self::Tdx => part::FIRMWARE_TDX,
        }
    }

    /// What vouches for the guest.
    pub(crate) fn trust(&self, instance: InstanceId, memory_mib: u64) -> Vec<OsString> {
        match self {
            Self::Tpm => vtpm().into(),
            Self::Sgx => {
                let epc = format!("memory-backend-epc,id=epc0,size={EPC_MIB}M,prealloc=on");
                [&["-object".into(), epc.into()][..], &vtpm()].concat()
            }
            Self::Snp(host, launch) => {
                [private_memory(memory_mib), ["-object".into(), snp(*host, launch, instance)]].concat()
            }
            Self::Tdx => [private_memory(memory_mib), ["-object".into(), tdx(instance)]].concat(),
            Self::Cca => [private_memory(memory_mib), ["-object".into(), cca(instance)]].concat(),
        }
    }

    /// What a virtio device is told: a guest with private memory shares only the pages it chooses to.
    pub(crate) const fn virtio(&self) -> &'static str {
        match self {
            Self::Tpm | Self::Sgx => "",
            Self::Snp(..) | Self::Tdx | Self::Cca => ",disable-legacy=on,iommu_platform=on",
        }
    }
}

fn vtpm() -> [OsString; 6] {
    [
        "-chardev".into(),
        format!("socket,id=tpm,path={}", file::TPM_SOCKET).into(),
        "-tpmdev".into(),
        "emulator,id=tpm0,chardev=tpm".into(),
        "-device".into(),
        "tpm-crb,tpmdev=tpm0".into(),
    ]
}

fn private_memory(memory_mib: u64) -> [OsString; 2] {
    ["-object".into(), format!("memory-backend-memfd,id=ram0,size={memory_mib}M,share=on,prealloc=off").into()]
}

/// The measured kernel, initramfs and command line are the hashes that `kernel-hashes` puts into the launch.
fn snp(host: SnpHost, launch: &SnpLaunch, instance: InstanceId) -> OsString {
    let mut object = format!(
        "sev-snp-guest,id=sev0,cbitpos={},reduced-phys-bits={},policy={:#x},kernel-hashes=on,host-data={}",
        host.cbitpos,
        host.reduced_phys_bits,
        launch.policy,
        STANDARD.encode(host_data(instance)),
    );
    if let (Some(block), Some(auth)) = (&launch.id_block, &launch.id_auth) {
        let (block, auth) = (STANDARD.encode(block.as_slice()), STANDARD.encode(auth.as_slice()));
        object.push_str(&format!(",author-key-enabled=on,id-block={block},id-auth={auth}"));
    }
    object.into()
}

/// MRCONFIGID names the instance, as host data does elsewhere.
fn tdx(instance: InstanceId) -> OsString {
    let (cid, port) = QUOTE_GENERATION;
    let object = serde_json::json!({
        "qom-type": "tdx-guest",
        "id": "tdx0",
        "mrconfigid": STANDARD.encode(padded::<48>(instance)),
        "quote-generation-socket": { "type": "vsock", "cid": cid, "port": port },
    });
    object.to_string().into()
}

/// The personalisation value names the instance.
fn cca(instance: InstanceId) -> OsString {
    let value = STANDARD.encode(padded::<64>(instance));
    format!("rme-guest,id=rme0,measurement-algorithm=sha512,personalization-value={value}").into()
}

fn padded<const N: usize>(instance: InstanceId) -> [u8; N] {
    let mut padded = [0; N];
    for (slot, byte) in padded.iter_mut().zip(host_data(instance)) {
        *slot = byte;
    }
    padded
}
