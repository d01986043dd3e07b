//! QEMU's models of AMD processors.

/// Name and signature (CPUID leaf 1, EAX) of a model. A guest's processor has the signature in RDX when it starts, so the
/// model is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    name: &'static str,
    signature: u32,
}

/// Family, model and stepping of the models that QEMU versions share.
const NAPLES: u32 = signature(23, 1, 2);
const ROME: u32 = signature(23, 49, 0);
const MILAN: u32 = signature(25, 1, 1);
const GENOA: u32 = signature(25, 17, 0);
const TURIN: u32 = signature(26, 0, 0);

impl Cpu {
    /// The model that SNP guests get unless somebody chooses: every processor with SNP can run it.
    pub const USUAL: Self = Self { name: "EPYC-v4", signature: NAPLES };

    /// Every model whose signature is known.
    pub const ALL: [Self; 18] = [
        Self { name: "EPYC", signature: NAPLES },
        Self { name: "EPYC-v1", signature: NAPLES },
        Self { name: "EPYC-v2", signature: NAPLES },
        Self { name: "EPYC-IBPB", signature: NAPLES },
        Self { name: "EPYC-v3", signature: NAPLES },
        Self::USUAL,
        Self { name: "EPYC-Rome", signature: ROME },
        Self { name: "EPYC-Rome-v1", signature: ROME },
        Self { name: "EPYC-Rome-v2", signature: ROME },
        Self { name: "EPYC-Rome-v3", signature: ROME },
        Self { name: "EPYC-Milan", signature: MILAN },
        Self { name: "EPYC-Milan-v1", signature: MILAN },
        Self { name: "EPYC-Milan-v2", signature: MILAN },
        Self { name: "EPYC-Genoa", signature: GENOA },
        Self { name: "EPYC-Genoa-v1", signature: GENOA },
        Self { name: "EPYC-Turin", signature: TURIN },
        Self { name: "EPYC-Turin-v1", signature: TURIN },
        Self { name: "EPYC-Turin-v2", signature: TURIN },
    ];

    /// As in QEMU's `-cpu`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// CPUID leaf 1, EAX.
    #[must_use]
    pub const fn signature(self) -> u32 {
        self.signature
    }
}

impl std::str::FromStr for Cpu {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|model| model.name == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|model| model.name).collect();
            format!("the signature of processor model `{name}` is not known; one of {}", known.join(", "))
        })
    }
}

/// Family, model and stepping as CPUID packs them (AMD publication 25481).
const fn signature(family: u32, model: u32, stepping: u32) -> u32 {
    (family - 15) << 20 | (model >> 4) << 16 | 15 << 8 | (model & 15) << 4 | stepping
}
