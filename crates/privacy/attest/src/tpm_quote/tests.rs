use std::collections::BTreeMap;
use std::sync::LazyLock;

use lambda_tpm::quote::MAGIC;
use lambda_tpm::{Signature, alg};
use p256::ecdsa::signature::Signer as _;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};
use sha2::{Digest as _, Sha256};

use super::checks::TPM_QUOTE;
use crate::anchors::Anchors;
use crate::appraise::{Context, Demand, Endorsements, Given};
use crate::checks::Recorder;
use crate::collateral::Collateral;
use crate::cose::testing::Key;
use crate::eventlog::EventKind;
use crate::evidence::{Registers, TpmQuoteEvidence};
use crate::time::UnixTime;
use crate::verdict::{Assurance, Outcome};

const NONCE: &[u8] = b"nonce";
/// 2026-01-01.
const NOW: UnixTime = UnixTime(1_767_225_600);

/// A key pair, with a private key that everybody can know.
struct Pair {
    signing: p256::ecdsa::SigningKey,
    spki: Vec<u8>,
    rcgen: KeyPair,
}

fn pair(seed: u8) -> Pair {
    let key = Key::p256(seed);
    let private = [
        hex::decode("308187020100301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420").unwrap(),
        vec![seed; 32],
        hex::decode("a144034200").unwrap(),
        key.point(),
    ]
    .concat();
    Pair {
        signing: p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap(),
        spki: key.spki(),
        rcgen: KeyPair::try_from(private.as_slice()).unwrap(),
    }
}

fn params(name: &str, usages: &[KeyUsagePurpose]) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params.key_usages = usages.to_vec();
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name, &[KeyUsagePurpose::KeyCertSign]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// A log with one event in each of PCRs 0 and 4, and a StartupLocality-free header; `says` is what PCR 4's event tells.
fn event_log(says: &[u8]) -> Vec<u8> {
    let mut spec = b"Spec ID Event03\0".to_vec();
    spec.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 0x0b, 0, 32, 0, 0]);
    let mut log = [0u32.to_le_bytes(), EventKind::NO_ACTION.0.to_le_bytes()].concat();
    log.extend([0; 20]);
    log.extend((spec.len() as u32).to_le_bytes());
    log.extend(spec);
    for (pcr, data) in [(0u32, b"firmware".as_slice()), (4, says)] {
        let measured = if pcr == 4 { b"kernel".as_slice() } else { data };
        log.extend([pcr.to_le_bytes(), EventKind::EFI_ACTION.0.to_le_bytes(), 1u32.to_le_bytes()].concat());
        log.extend([0x0b, 0]);
        log.extend(Sha256::digest(measured));
        log.extend((data.len() as u32).to_le_bytes());
        log.extend(data);
    }
    log
}

fn extended(data: &[u8]) -> Vec<u8> {
    Sha256::digest([&[0u8; 32][..], &Sha256::digest(data)].concat()).to_vec()
}

/// PCRs 0, 1 and 4.
fn registers() -> BTreeMap<u8, Vec<u8>> {
    BTreeMap::from([(0, extended(b"firmware")), (1, vec![0; 32]), (4, extended(b"kernel"))])
}

/// Everything that a quote and its chain are made of, good as it stands.
struct Scene {
    magic: u32,
    kind: u16,
    extra_data: Vec<u8>,
    /// Selection bitmap of the SHA-256 bank.
    selected: [u8; 3],
    quoted: BTreeMap<u8, Vec<u8>>,
    given_registers: BTreeMap<u8, Vec<u8>>,
    event_log: Option<Vec<u8>>,
    signer: Pair,
    signature_hash: u16,
    leaf: CertificateParams,
    intermediate: CertificateParams,
    intermediate_signs: Pair,
    root_signs: Pair,
    with_chain: bool,
    given_root: bool,
    bare_key: Option<Vec<u8>>,
    now: UnixTime,
    nonce: Option<Vec<u8>>,
}

fn scene() -> Scene {
    Scene {
        magic: MAGIC,
        kind: lambda_tpm::quote::TYPE_QUOTE,
        extra_data: NONCE.to_vec(),
        selected: [0b1_0011, 0, 0],
        quoted: registers(),
        given_registers: registers(),
        event_log: Some(event_log(b"kernel")),
        signer: pair(1),
        signature_hash: alg::SHA256,
        leaf: params("AK", &[KeyUsagePurpose::DigitalSignature]),
        intermediate: authority("intermediate"),
        intermediate_signs: pair(2),
        root_signs: pair(3),
        with_chain: true,
        given_root: true,
        bare_key: None,
        now: NOW,
        nonce: Some(NONCE.to_vec()),
    }
}

impl Scene {
    fn attest(&self) -> Vec<u8> {
        let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
        let digest = Sha256::digest(self.quoted.values().flatten().copied().collect::<Vec<u8>>());
        [
            self.magic.to_be_bytes().to_vec(),
            self.kind.to_be_bytes().to_vec(),
            sized(&[0x0b; 34]),
            sized(&self.extra_data),
            7u64.to_be_bytes().to_vec(),
            2u32.to_be_bytes().to_vec(),
            0u32.to_be_bytes().to_vec(),
            vec![1],
            3u64.to_be_bytes().to_vec(),
            1u32.to_be_bytes().to_vec(),
            alg::SHA256.to_be_bytes().to_vec(),
            vec![3],
            self.selected.to_vec(),
            sized(&digest),
        ]
        .concat()
    }

    fn chain(&self) -> (Vec<Vec<u8>>, Vec<u8>) {
        let (root_key, intermediate_key) = (pair(3), pair(2));
        let root = authority("root").self_signed(&root_key.rcgen).unwrap();
        let root_issuer = Issuer::new(authority("root"), &self.root_signs.rcgen);
        let intermediate = self.intermediate.signed_by(&intermediate_key.rcgen, &root_issuer).unwrap();
        let intermediate_issuer = Issuer::new(self.intermediate.clone(), &self.intermediate_signs.rcgen);
        let leaf = self.leaf.signed_by(&pair(1).rcgen, &intermediate_issuer).unwrap();
        (vec![leaf.der().to_vec(), intermediate.der().to_vec()], root.der().to_vec())
    }

    fn evidence(&self) -> (TpmQuoteEvidence, Given) {
        let attest = self.attest();
        let signature: p256::ecdsa::Signature = self.signer.signing.sign(&attest);
        let (r, s) = signature.split_bytes();
        let signature = Signature::EcdsaP256 { hash: self.signature_hash, r: r.into(), s: s.into() };
        let (certificates, root) = if self.with_chain { self.chain() } else { (Vec::new(), Vec::new()) };
        let named = self.given_registers.iter().map(|(index, value)| (*index, hex::encode(value))).collect();
        let evidence = TpmQuoteEvidence {
            attest: attest.into(),
            signature: signature.encode().unwrap().into(),
            pcrs: Registers::from([("sha256".to_owned(), named)]),
            event_log: self.event_log.clone().map(Into::into),
            ak: self.bare_key.clone().map(Into::into),
            certificates: certificates.into_iter().map(Into::into).collect(),
            paravisor: None,
        };
        let roots = if self.with_chain && self.given_root { vec![root] } else { Vec::new() };
        (evidence, Given { nonce: self.nonce.clone(), roots, ..Given::default() })
    }

    fn judge(&self) -> (Vec<String>, Assurance) {
        let (evidence, given) = self.evidence();
        judge(&evidence, Some(&given), self.now)
    }

    fn fails(&self, expected: &[&str]) {
        let expected: Vec<String> = expected.iter().map(|id| format!("tpm-quote.{id}")).collect();
        assert_eq!(self.judge().0, expected);
    }
}

fn judge(evidence: &TpmQuoteEvidence, given: Option<&Given>, now: UnixTime) -> (Vec<String>, Assurance) {
    static ANCHORS: LazyLock<Anchors> = LazyLock::new(|| Anchors::vendor().unwrap());
    let endorsements = Endorsements { anchors: &ANCHORS, collateral: &Collateral::none() };
    let demand = given.map_or(Demand::Nothing, |given| crate::inspect::demand(crate::Tee::Tpm, given));
    let context = Context { demand, endorsements: &endorsements, given, instance: None, now };
    let mut recorder = Recorder::default();
    let appraised = super::check(evidence, &context, &mut recorder);
    let list = crate::checks::listed(&[&[&crate::checks::POLICY_TEE], TPM_QUOTE]);
    let checks = recorder.finish(if given.is_some() { TPM_QUOTE } else { &list });
    let failed = checks.into_iter().filter(|check| check.outcome == Outcome::Fail).map(|check| check.id);
    (failed.collect(), appraised.tier)
}

/// Everything about the quote that is not reached without a structure.
const UNREACHED: [&str; 10] = [
    "structure",
    "magic",
    "key",
    "signature",
    "nonce",
    "selection",
    "pcr-digest",
    "log.structure",
    "log.replay",
    "log.digests",
];

#[test]
fn a_quote_under_a_given_root_is_of_the_platform() {
    assert_eq!(scene().judge(), (vec![], Assurance::Platform));
}

#[test]
fn a_quote_under_a_bare_key_is_of_nobody() {
    let mut bare = scene();
    bare.with_chain = false;
    bare.bare_key = Some(pair(1).spki);
    assert_eq!(bare.judge(), (vec![], Assurance::Unanchored));
}

#[test]
fn no_policy_accepts_a_quote_by_itself() {
    let (evidence, _) = scene().evidence();
    // Without what lies beside it, there is no root either.
    assert_eq!(judge(&evidence, None, NOW).0, [vec!["policy.tee".to_owned()], chain_from(1)].concat());
}

#[test]
fn certificates_alone_are_judged_as_a_chain() {
    let (whole, given) = scene().evidence();
    let given = Given { certificates_only: true, ..given };
    let TpmQuoteEvidence { certificates, .. } = whole.clone();
    let mut alone = TpmQuoteEvidence { certificates, ..TpmQuoteEvidence::default() };
    assert_eq!(judge(&alone, Some(&given), NOW), (vec![], Assurance::Platform));
    let endorsements = Endorsements { anchors: &Anchors::vendor().unwrap(), collateral: &Collateral::none() };
    let inspect = |evidence: &TpmQuoteEvidence, given: &Given| {
        crate::inspect(&crate::Report::TpmQuote(evidence.clone()), given, &endorsements, NOW)
            .map(|inspection| inspection.accepted())
    };
    assert!(inspect(&alone, &given).unwrap());
    // What came with a quote that is missing would be judged by nobody; and an empty quote is none.
    let signature = TpmQuoteEvidence { signature: whole.signature.clone(), ..alone.clone() };
    let registers = TpmQuoteEvidence { pcrs: whole.pcrs.clone(), ..alone.clone() };
    for more in [&whole, &signature, &registers] {
        inspect(more, &given).unwrap_err();
    }
    let quoted = Given { certificates_only: false, ..given.clone() };
    inspect(&TpmQuoteEvidence { attest: Vec::new().into(), ..whole }, &quoted).unwrap_err();
    alone.certificates.clear();
    inspect(&alone, &given).unwrap_err();
}

#[test]
fn an_attestation_of_another_type_is_refused() {
    let mut other = scene();
    other.kind = 0x8017;
    other.fails(&UNREACHED);
    super::readable(&other.evidence().0).unwrap();
}

#[test]
fn what_no_tpm_made_is_refused() {
    let mut other = scene();
    other.magic = 0xff54_4348;
    other.fails(&["magic"]);
}

#[test]
fn a_certificate_for_another_key_is_refused() {
    let mut other = scene();
    other.bare_key = Some(pair(9).spki);
    other.fails(&["key", "signature"]);
    let mut none = scene();
    none.with_chain = false;
    none.fails(&["key", "signature"]);
    let mut curve = scene();
    curve.with_chain = false;
    curve.bare_key = Some(Key::p384(1).spki());
    curve.fails(&["key", "signature"]);
}

#[test]
fn a_quote_by_another_key_is_refused() {
    let mut other = scene();
    other.signer = pair(9);
    other.fails(&["signature"]);
}

#[test]
fn a_signature_over_sha_1_is_refused() {
    let mut weak = scene();
    weak.signature_hash = alg::SHA1;
    weak.fails(&["signature", "pcr-digest"]);
}

#[test]
fn another_nonce_is_refused() {
    let mut replayed = scene();
    replayed.nonce = Some(b"other".to_vec());
    replayed.fails(&["nonce"]);
    let mut longer = scene();
    longer.nonce = Some([NONCE, b"\0"].concat());
    longer.fails(&["nonce"]);
}

#[test]
fn a_quote_over_nothing_is_refused() {
    let mut nothing = scene();
    nothing.selected = [0; 3];
    nothing.quoted.clear();
    nothing.fails(&["selection", "pcr-digest", "log.replay"]);
    let mut missing = scene();
    missing.given_registers.remove(&1);
    missing.fails(&["selection", "pcr-digest"]);
}

#[test]
fn other_registers_than_the_quoted_are_refused() {
    let mut other = scene();
    other.quoted.insert(1, vec![1; 32]);
    other.fails(&["pcr-digest"]);
}

#[test]
fn a_log_that_cannot_be_read_is_refused() {
    let mut cut = scene();
    cut.event_log.as_mut().unwrap().pop();
    cut.fails(&["log.structure", "log.replay", "log.digests"]);
    let mut none = scene();
    none.event_log = None;
    none.fails(&[]);
}

#[test]
fn a_register_that_the_log_does_not_explain_is_refused() {
    let mut other = scene();
    other.quoted.insert(4, vec![4; 32]);
    other.given_registers.insert(4, vec![4; 32]);
    other.fails(&["log.replay"]);
    let mut silent = scene();
    silent.quoted.insert(1, vec![1; 32]);
    silent.given_registers.insert(1, vec![1; 32]);
    silent.fails(&["log.replay"]);
}

#[test]
fn a_log_whose_words_are_not_what_was_measured_is_refused() {
    let mut lying = scene();
    lying.event_log = Some(event_log(b"another kernel"));
    lying.fails(&["log.digests"]);
}

/// The checks of the chain from this one on, unreached.
fn chain_from(first: usize) -> Vec<String> {
    super::checks::OF_THE_CHAIN.iter().skip(first).map(|info| info.id.to_owned()).collect()
}

#[test]
fn certificates_that_are_none_are_refused() {
    let (mut evidence, given) = scene().evidence();
    evidence.ak = Some(pair(1).spki.into());
    evidence.certificates[1].0.truncate(20);
    assert_eq!(judge(&evidence, Some(&given), NOW).0, chain_from(0));
    let (mut many, given) = scene().evidence();
    many.ak = Some(pair(1).spki.into());
    many.certificates = vec![many.certificates[0].clone(); 9];
    assert_eq!(judge(&many, Some(&given), NOW).0, chain_from(0));
}

#[test]
fn a_chain_to_a_root_that_was_not_given_is_refused() {
    let mut unknown = scene();
    unknown.given_root = false;
    assert_eq!(unknown.judge(), (chain_from(1), Assurance::Unanchored));
    let (mut gap, given) = scene().evidence();
    gap.certificates.truncate(1);
    assert_eq!(judge(&gap, Some(&given), NOW), (chain_from(1), Assurance::Unanchored));
}

#[test]
fn a_certificate_by_another_key_is_refused() {
    let mut forged = scene();
    forged.intermediate_signs = pair(9);
    forged.fails(&["chain.signatures"]);
    assert_eq!(forged.judge().1, Assurance::Unanchored);
    let mut self_made = scene();
    self_made.root_signs = pair(9);
    self_made.fails(&["chain.signatures"]);
}

#[test]
fn a_certificate_of_another_version_is_refused() {
    let (mut evidence, given) = scene().evidence();
    // [0] EXPLICIT INTEGER 2, the version, made version 2.
    let leaf = &mut evidence.certificates[0].0;
    let version = leaf.windows(5).position(|bytes| bytes == [0xa0, 3, 2, 1, 2]).unwrap();
    leaf[version + 4] = 1;
    let failed = judge(&evidence, Some(&given), NOW).0;
    assert_eq!(failed, ["tpm-quote.chain.algorithms", "tpm-quote.chain.signatures"]);
}

#[test]
fn a_certificate_out_of_date_is_refused() {
    for now in [1_700_000_000, 1_900_000_000] {
        let mut other = scene();
        other.now = UnixTime(now);
        other.fails(&["chain.dates"]);
    }
}

#[test]
fn an_issuer_that_is_no_authority_is_refused() {
    let mut plain = scene();
    plain.intermediate.is_ca = IsCa::ExplicitNoCa;
    plain.fails(&["chain.authorities"]);
    let mut leaf = scene();
    leaf.leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    leaf.fails(&["chain.authorities"]);
}

#[test]
fn a_key_that_may_not_do_what_it_did_is_refused() {
    let mut leaf = scene();
    leaf.leaf.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    leaf.fails(&["chain.key-usage"]);
    let mut issuer = scene();
    issuer.intermediate.key_usages = vec![KeyUsagePurpose::CrlSign];
    issuer.fails(&["chain.key-usage"]);
    // An endorsement key does not quote, and need not sign.
    let mut endorsement = scene();
    endorsement.leaf.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    let (evidence, given) = endorsement.evidence();
    let alone = Given { certificates_only: true, ..given };
    assert_eq!(judge(&evidence, Some(&alone), NOW).0, [""; 0]);
}

#[test]
fn a_critical_extension_that_is_not_understood_is_refused() {
    let mut unknown = scene();
    let mut extension = rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(true);
    unknown.leaf.custom_extensions.push(extension);
    unknown.fails(&["chain.critical-extensions"]);
}

#[test]
fn every_byte_of_a_quote_decides() {
    let mut bare = scene();
    bare.with_chain = false;
    bare.bare_key = Some(pair(1).spki);
    let (good, given) = bare.evidence();
    for byte in 0..good.attest.0.len() {
        let mut bent = good.clone();
        bent.attest.0[byte] ^= 1 << (byte % 8);
        assert!(!judge(&bent, Some(&given), NOW).0.is_empty(), "byte {byte}");
        let mut cut = good.clone();
        cut.attest.0.truncate(byte);
        assert!(super::readable(&cut).is_err() || !judge(&cut, Some(&given), NOW).0.is_empty(), "{byte} bytes");
    }
}

#[test]
fn rsa_signatures_are_verified_in_either_padding_and_never_over_sha_1() {
    let attest = include_bytes!("../../tests/data/rsa/attest.bin");
    let key = include_bytes!("../../tests/data/rsa/key.der");
    let mut quote = scene();
    quote.with_chain = false;
    let (mut evidence, given) = quote.evidence();
    assert_eq!(evidence.attest.as_slice(), attest);
    evidence.ak = Some(key.to_vec().into());
    // What openssl signed, and how.
    let signed: [(u16, u16, &[u8], &[&str]); 6] = [
        (alg::RSASSA, alg::SHA256, include_bytes!("../../tests/data/rsa/pkcs1-sha256.sig"), &[]),
        // The PCR digest is in the hash of the scheme, which here it is not.
        (alg::RSASSA, alg::SHA384, include_bytes!("../../tests/data/rsa/pkcs1-sha384.sig"), &["pcr-digest"]),
        (alg::RSASSA, alg::SHA512, include_bytes!("../../tests/data/rsa/pkcs1-sha512.sig"), &["pcr-digest"]),
        (alg::RSAPSS, alg::SHA256, include_bytes!("../../tests/data/rsa/pss-digest-salt.sig"), &[]),
        (alg::RSAPSS, alg::SHA256, include_bytes!("../../tests/data/rsa/pss-longest-salt.sig"), &[]),
        (alg::RSASSA, alg::SHA1, include_bytes!("../../tests/data/rsa/pkcs1-sha1.sig"), &["signature", "pcr-digest"]),
    ];
    for (scheme, hash, signature, expected) in signed {
        let right = Signature::Rsa { scheme, hash, signature: signature.to_vec() };
        evidence.signature = right.encode().unwrap().into();
        let expected: Vec<String> = expected.iter().map(|id| format!("tpm-quote.{id}")).collect();
        assert_eq!(judge(&evidence, Some(&given), NOW).0, expected, "{right:?}");
        // The other padding.
        let other = if scheme == alg::RSAPSS { alg::RSASSA } else { alg::RSAPSS };
        let wrong = Signature::Rsa { scheme: other, hash, signature: signature.to_vec() };
        evidence.signature = wrong.encode().unwrap().into();
        assert!(judge(&evidence, Some(&given), NOW).0.contains(&"tpm-quote.signature".to_owned()));
    }
}

#[test]
fn every_check_has_a_negative_here() {
    let own = concat!(include_str!("tests.rs"), include_str!("../tests/snp/paravisor.rs"));
    for info in TPM_QUOTE {
        let id = info.id.strip_prefix("tpm-quote.").unwrap();
        assert!(own.contains(&format!("{id}\"")) || id == "chain.structure" || id == "chain.anchor", "{id}");
    }
}
