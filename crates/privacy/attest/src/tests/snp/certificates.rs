//! Negatives about certificates: chain, revocation, and what the leaf says.

use super::der::*;
use super::forge::*;
use super::negatives::Case;
use super::scene::*;
use crate::policy::Rule;
use crate::snp::*;
use crate::{AmdLine, Hex};

/// What cannot be checked without a certificate of the signing key.
const NO_LEAF: &[&str] = &[
    "snp.report.signature",
    "snp.chain.structure",
    "snp.chain.ark-pinned",
    "snp.chain.leaf-signature",
    "snp.chain.names",
    "snp.chain.algorithms",
    "snp.chain.dates",
    "snp.chain.authorities",
    "snp.chain.key-usage",
    "snp.chain.critical-extensions",
    "snp.crl.given",
    "snp.crl.signature",
    "snp.crl.dates",
    "snp.crl.revoked",
    "snp.leaf.kind",
    "snp.leaf.extensions",
    "snp.leaf.chip-id",
    "snp.leaf.tcb",
    "snp.leaf.provider",
    "snp.product.line",
    "snp.chip.allowed",
];

/// What cannot be checked without an intermediate.
pub(super) const NO_INTERMEDIATE: &[&str] = &[
    "snp.chain.structure",
    "snp.chain.ark-pinned",
    "snp.chain.leaf-signature",
    "snp.chain.names",
    "snp.chain.algorithms",
    "snp.chain.dates",
    "snp.chain.authorities",
    "snp.chain.key-usage",
    "snp.chain.critical-extensions",
    "snp.crl.given",
    "snp.crl.signature",
    "snp.crl.dates",
    "snp.crl.revoked",
];

/// What cannot be checked without a pinned root.
const NO_ROOT: &[&str] = &[
    "snp.chain.ark-pinned",
    "snp.chain.names",
    "snp.chain.algorithms",
    "snp.chain.dates",
    "snp.chain.authorities",
    "snp.chain.key-usage",
    "snp.chain.critical-extensions",
    "snp.crl.given",
    "snp.crl.signature",
    "snp.crl.dates",
    "snp.crl.revoked",
];

/// What cannot be checked without a readable revocation list.
const NO_CRL: &[&str] = &["snp.crl.given", "snp.crl.signature", "snp.crl.dates", "snp.crl.revoked"];

/// What a certificate without its extensions does not say.
const NO_FACTS: &[&str] = &[
    "snp.leaf.extensions",
    "snp.leaf.chip-id",
    "snp.leaf.tcb",
    "snp.leaf.provider",
    "snp.product.line",
    "snp.chip.allowed",
];

/// The same when it does not say whose key it is either.
const NO_OWNER: &[&str] = &[
    "snp.leaf.kind",
    "snp.leaf.extensions",
    "snp.leaf.chip-id",
    "snp.leaf.tcb",
    "snp.leaf.provider",
    "snp.product.line",
    "snp.chip.allowed",
];

fn crl(scene: &mut Scene) -> &mut Crl {
    scene.crl.as_mut().unwrap()
}

pub(super) const CHAIN: &[Case] = &[
    ("no certificates", NO_LEAF, |scene| scene.given = Some(Vec::new())),
    ("certificates of which one cannot be read", NO_LEAF, |scene| {
        scene.given = Some(vec![scene.leaf.der(), scene.intermediate.der(), vec![0x30, 0]]);
    }),
    ("more certificates than anybody needs", NO_LEAF, |scene| {
        let mut given = vec![scene.leaf.der(), scene.intermediate.der()];
        given.resize(17, scene.intermediate.der());
        scene.given = Some(given);
    }),
    ("no certificate of the signing key", NO_LEAF, |scene| scene.given = Some(vec![scene.intermediate.der()])),
    ("no certificate of the issuer", NO_INTERMEDIATE, |scene| scene.given = Some(vec![scene.leaf.der()])),
    ("an intermediate under a self-made root that comes along", &["snp.chain.ark-pinned"], |scene| {
        let mut root = scene.root.clone();
        (root.spki, root.signer) = (Authority::Intermediate.spki(), Authority::Intermediate);
        scene.intermediate.signer = Authority::Intermediate;
        scene.given = Some(vec![scene.leaf.der(), scene.intermediate.der(), root.der()]);
    }),
    ("a product line without a pinned root", NO_ROOT, |scene| scene.pinned_as = AmdLine::Milan),
    ("a leaf that the intermediate did not sign", &["snp.chain.leaf-signature"], |scene| {
        scene.leaf.signer = Authority::Root
    }),
    ("a leaf that names another issuer", &["snp.chain.names"], |scene| scene.leaf.issuer = "SEV-Milan".into()),
    ("an intermediate that names another issuer", &["snp.chain.names"], |scene| {
        scene.intermediate.issuer = "ARK-Milan".into()
    }),
    ("a VCEK that is called a VLEK", &["snp.chain.names"], |scene| scene.leaf.subject = "SEV-VLEK".into()),
    ("a VCEK under the intermediate of VLEKs", &["snp.chain.names"], |scene| {
        scene.intermediate.subject = "SEV-VLEK-Genoa".into();
        scene.leaf.issuer = "SEV-VLEK-Genoa".into();
    }),
    ("a VLEK under the intermediate of VCEKs", &["snp.chain.names"], |scene| {
        *scene = Scene::under_vlek();
        scene.intermediate.subject = "SEV-Genoa".into();
        scene.leaf.issuer = "SEV-Genoa".into();
    }),
    ("a root of another name", &["snp.chain.names"], |scene| {
        (scene.root.subject, scene.root.issuer) = ("ARK-Milan".into(), "ARK-Milan".into());
        scene.intermediate.issuer = "ARK-Milan".into();
        crl(scene).issuer = "ARK-Milan".into();
    }),
    ("a leaf of X.509 version 1", &["snp.chain.algorithms"], |scene| scene.leaf.version = 1),
    ("a leaf signed with a shorter salt", &["snp.chain.leaf-signature", "snp.chain.algorithms"], |scene| {
        scene.leaf.salt_bytes = 32;
    }),
    ("an intermediate signed with a shorter salt", &["snp.chain.ark-pinned", "snp.chain.algorithms"], |scene| {
        scene.intermediate.salt_bytes = 32;
    }),
    ("a leaf that names two signature algorithms", &["snp.chain.algorithms"], |scene| {
        scene.leaf.inner_salt_bytes = Some(32);
    }),
    ("an intermediate with an RSA-2048 key", &["snp.chain.algorithms"], |scene| {
        scene.intermediate.spki = Authority::Small.spki();
        scene.leaf.signer = Authority::Small;
    }),
    ("a root with an RSA-2048 key", &["snp.chain.algorithms"], |scene| {
        (scene.root.spki, scene.root.signer) = (Authority::Small.spki(), Authority::Small);
        scene.intermediate.signer = Authority::Small;
        crl(scene).signer = Authority::Small;
    }),
    ("a leaf with a P-256 key", &["snp.report.signature", "snp.chain.algorithms"], |scene| {
        let key = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let point = key.verifying_key().to_sec1_point(false);
        scene.leaf.spki = ec_spki("1.2.840.10045.3.1.7", point.as_bytes());
    }),
    ("a leaf that has expired", &["snp.chain.dates"], |scene| scene.leaf.until = "250601115959Z".into()),
    ("a leaf that is not valid yet", &["snp.chain.dates"], |scene| scene.leaf.from = "250601120001Z".into()),
    ("an intermediate that has expired", &["snp.chain.dates"], |scene| {
        scene.intermediate.until = "250601115959Z".into()
    }),
    ("an intermediate that is not valid yet", &["snp.chain.dates"], |scene| {
        scene.intermediate.from = "250601120001Z".into()
    }),
    ("a root that has expired", &["snp.chain.dates"], |scene| scene.root.until = "250601115959Z".into()),
    ("a root that is not valid yet", &["snp.chain.dates"], |scene| scene.root.from = "250601120001Z".into()),
    ("a leaf that is a CA", &["snp.chain.authorities"], |scene| scene.leaf.extensions.push(ca(None))),
    ("an intermediate that is not a CA", &["snp.chain.authorities"], |scene| scene.intermediate.remove("2.5.29.19")),
    ("an intermediate whose CA flag is not critical", &["snp.chain.authorities"], |scene| {
        scene.intermediate.extension("2.5.29.19").critical = false;
    }),
    ("a root that allows no intermediate", &["snp.chain.authorities"], |scene| {
        *scene.root.extension("2.5.29.19") = ca(Some(0))
    }),
    ("a root that is not a CA", &["snp.chain.authorities"], |scene| scene.root.remove("2.5.29.19")),
    ("an intermediate that may not sign certificates", &["snp.chain.key-usage"], |scene| {
        *scene.intermediate.extension("2.5.29.15") = usage(false, true);
    }),
    ("an intermediate whose key usage is missing", &["snp.chain.key-usage"], |scene| {
        scene.intermediate.remove("2.5.29.15")
    }),
    ("a root that may not sign certificates", &["snp.chain.key-usage"], |scene| {
        *scene.root.extension("2.5.29.15") = usage(false, true);
    }),
    ("a leaf with an unknown critical extension", &["snp.chain.critical-extensions"], |scene| {
        scene.leaf.extensions.push(extension("1.2.3.4", true, integer(0)));
    }),
    ("an intermediate with an unknown critical extension", &["snp.chain.critical-extensions"], |scene| {
        scene.intermediate.extensions.push(extension("1.2.3.4", true, integer(0)));
    }),
];

pub(super) const REVOCATION: &[Case] = &[
    ("no revocation list", NO_CRL, |scene| scene.crl = None),
    ("a revocation list of another root", NO_CRL, |scene| crl(scene).issuer = "ARK-Milan".into()),
    ("a revocation list that cannot be read", NO_CRL, |scene| scene.more_crls.push(vec![0x30, 0])),
    ("more revocation lists than anybody needs", NO_CRL, |scene| {
        scene.more_crls = vec![crl(scene).der(); 16];
    }),
    ("a revocation list that the root did not sign", &["snp.crl.signature"], |scene| {
        crl(scene).signer = Authority::Intermediate
    }),
    ("a second revocation list that the root did not sign", &["snp.crl.signature"], |scene| {
        let mut other = crl(scene).clone();
        other.signer = Authority::Intermediate;
        scene.more_crls.push(other.der());
    }),
    ("a root that may not sign revocation lists", &["snp.crl.signature"], |scene| {
        *scene.root.extension("2.5.29.15") = usage(true, false);
    }),
    ("a revocation list with an unknown critical extension", &["snp.crl.signature"], |scene| {
        crl(scene).extensions.push(extension("2.5.29.28", true, sequence(&[])));
    }),
    ("a stale revocation list", &["snp.crl.dates"], |scene| crl(scene).until = Some("250601115959Z".into())),
    ("a revocation list of the future", &["snp.crl.dates"], |scene| crl(scene).from = "250601120001Z".into()),
    ("a revocation list without an end", &["snp.crl.dates"], |scene| crl(scene).until = None),
    ("a revoked intermediate", &["snp.crl.revoked"], |scene| crl(scene).revoked.push(2)),
    ("a revoked root", &["snp.crl.revoked"], |scene| crl(scene).revoked.push(1)),
    ("a revoked intermediate when no list is needed", &["snp.crl.revoked"], |scene| {
        scene.policy.revocation = Some(Revocation::IfGiven);
        crl(scene).revoked = vec![2];
    }),
];

pub(super) const LEAF: &[Case] = &[
    ("a VCEK where the policy wants a VLEK", &["snp.leaf.kind"], |scene| {
        scene.policy.signing_keys = Some(vec![SigningKey::Vlek])
    }),
    ("a VLEK where the policy wants a VCEK", &["snp.leaf.kind"], |scene| {
        *scene = Scene::under_vlek();
        scene.policy.signing_keys = Some(vec![SigningKey::Vcek]);
    }),
    ("a provider's certificate for a report under a VCEK", &["snp.leaf.kind"], |scene| {
        scene.leaf.remove(HW_ID);
        scene.leaf.extensions.push(extension(CSP_ID, false, ia5(PROVIDER)));
    }),
    ("a chip's certificate for a report under a VLEK", &["snp.leaf.kind", "snp.leaf.chip-id"], |scene| {
        *scene = Scene::under_vlek();
        scene.leaf.remove(CSP_ID);
        scene.leaf.extensions.push(extension(HW_ID, false, CHIP.to_vec()));
    }),
    ("a certificate without structVersion", NO_FACTS, |scene| scene.leaf.remove(STRUCTURE_VERSION)),
    ("a certificate without productName", NO_FACTS, |scene| scene.leaf.remove(PRODUCT_NAME)),
    ("a certificate of an unknown product", NO_FACTS, |scene| scene.leaf.extension(PRODUCT_NAME).value = ia5("Genoan")),
    ("a product name that is not an IA5String", NO_FACTS, |scene| {
        scene.leaf.extension(PRODUCT_NAME).value = tlv(0x0C, b"Genoa")
    }),
    ("a certificate without blSPL", NO_FACTS, |scene| scene.leaf.remove(&spl(1))),
    ("a certificate without teeSPL", NO_FACTS, |scene| scene.leaf.remove(&spl(2))),
    ("a certificate without snpSPL", NO_FACTS, |scene| scene.leaf.remove(&spl(3))),
    ("a certificate without ucodeSPL", NO_FACTS, |scene| scene.leaf.remove(&spl(8))),
    ("a certificate with snpSPL twice", NO_FACTS, |scene| {
        scene.leaf.extensions.push(extension(&spl(3), false, integer(23)))
    }),
    ("an snpSPL whose last byte alone is right", NO_FACTS, |scene| {
        scene.leaf.extension(&spl(3)).value = integer(256 + 23)
    }),
    ("an snpSPL that is not an INTEGER", NO_FACTS, |scene| scene.leaf.extension(&spl(3)).value = tlv(4, &[23])),
    ("an snpSPL with something after it", NO_FACTS, |scene| scene.leaf.extension(&spl(3)).value.push(0)),
    ("a negative snpSPL", NO_FACTS, |scene| scene.leaf.extension(&spl(3)).value = tlv(2, &[0x97])),
    ("an unused SPL in use", NO_FACTS, |scene| scene.leaf.extension(&spl(5)).value = integer(1)),
    ("a certificate of Genoa with fmcSPL", NO_FACTS, |scene| {
        scene.leaf.extensions.push(extension(&spl(9), false, integer(0)))
    }),
    ("a certificate of Turin without fmcSPL", NO_FACTS, |scene| {
        *scene = Scene::on_turin();
        scene.leaf.remove(&spl(9));
    }),
    ("a hardware id of 32 bytes", NO_FACTS, |scene| scene.leaf.extension(HW_ID).value.truncate(32)),
    ("a hardware id in a string of another type", NO_FACTS, |scene| scene.leaf.extension(HW_ID).value = tlv(3, &CHIP)),
    ("a provider that is not an IA5String", NO_FACTS, |scene| {
        *scene = Scene::under_vlek();
        scene.leaf.extension(CSP_ID).value = PROVIDER.into();
    }),
    ("a certificate of neither chip nor provider", NO_OWNER, |scene| scene.leaf.remove(HW_ID)),
    ("a certificate of both chip and provider", NO_OWNER, |scene| {
        scene.leaf.extensions.push(extension(CSP_ID, false, ia5(PROVIDER)));
    }),
    ("the certificate of another chip", &["snp.leaf.chip-id"], |scene| scene.leaf.extension(HW_ID).value[63] ^= 1),
    ("a report that masks its chip under a VCEK", &["snp.leaf.chip-id", "snp.chip.allowed"], |scene| {
        scene.report.put(at::CHIP_ID, &[0; 64]);
        scene.policy.masked_chip_id = Some(true);
    }),
    ("a chip of which only the first 8 bytes are certified", &["snp.leaf.chip-id"], |scene| {
        scene.leaf.extension(HW_ID).value.truncate(8)
    }),
    ("a masked chip that the policy does not allow", &["snp.leaf.chip-id"], |scene| {
        *scene = Scene::under_vlek();
        scene.policy.masked_chip_id = Some(false);
    }),
    ("a masked chip where the policy names chips", &["snp.chip.allowed"], |scene| {
        *scene = Scene::under_vlek();
        scene.policy.chip_ids = Some(Rule::OneOf(vec![Hex(CHIP)]));
    }),
    ("another provider's VLEK", &["snp.leaf.provider"], |scene| {
        *scene = Scene::under_vlek();
        scene.leaf.extension(CSP_ID).value = ia5("CN=cloud.example.net");
    }),
    ("a certificate for another boot loader", &["snp.leaf.tcb"], |scene| {
        scene.leaf.extension(&spl(1)).value = integer(11)
    }),
    ("a certificate for another tee", &["snp.leaf.tcb"], |scene| scene.leaf.extension(&spl(2)).value = integer(0)),
    ("a certificate for another SNP firmware", &["snp.leaf.tcb"], |scene| {
        scene.leaf.extension(&spl(3)).value = integer(24)
    }),
    ("a certificate for another microcode", &["snp.leaf.tcb"], |scene| {
        scene.leaf.extension(&spl(8)).value = integer(83)
    }),
    ("a certificate for another FMC", &["snp.leaf.tcb"], |scene| {
        *scene = Scene::on_turin();
        scene.leaf.extension(&spl(9)).value = integer(3);
    }),
    ("a processor of no line that is known", &["snp.product.line"], |scene| {
        scene.report.put(at::CPUID, &[0x19, 0x50, 0])
    }),
    ("a line that the policy does not name", &["snp.product.allowed"], |scene| {
        scene.policy.lines = Some(vec![AmdLine::Milan, AmdLine::Turin]);
    }),
    ("a chip that the policy does not name", &["snp.chip.allowed"], |scene| {
        scene.policy.chip_ids = Some(Rule::OneOf(vec![Hex([0xC2; 64])]));
    }),
    (
        "a Genoa certificate for a processor that says it is a Milan, under Genoa's root",
        &["snp.chain.names", "snp.product.line", "snp.product.allowed", "snp.tcb.minimum", "snp.tcb.minimum-launch"],
        |scene| {
            scene.report.put(at::CPUID, &[0x19, 0x01, 1]);
            scene.pinned_as = AmdLine::Milan;
        },
    ),
];
