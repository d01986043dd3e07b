//! The checks of an Arm CCA token.

use crate::checks::checks;

checks! {
    /// Every check of an Arm CCA token, in the order in which a verdict lists them.
    CCA;
    CCA_STRUCTURE = "cca.token.structure", "Arm RMM, Attestation token format; RFC 8949 §4.1", "The token is one collection of a platform's and a realm's COSE_Sign1, in strict CBOR: definite lengths, shortest forms, no key twice, nothing after it.";
    CCA_PROFILES = "cca.token.profiles", "Arm RMM, CCA platform profile claim and Realm profile claim", "Both tokens are of one known profile.";
    CCA_PLATFORM_CLAIMS = "cca.platform.claims", "Arm RMM, CCA platform claims", "The platform's token has every claim that it must have, of the right type and size.";
    CCA_PLATFORM_ALGORITHM = "cca.platform.algorithm", "RFC 9052 §3.1, §8.1; RFC 9053 §2.1", "The platform's token is signed with the ECDSA of its key's curve, says so where the signature covers it, and has no header that is critical and not understood.";
    CCA_PLATFORM_ENDORSEMENT = "cca.platform.endorsement", "Arm RMM, CCA platform Implementation ID claim and Instance ID claim", "The policy endorses a key for the platform's implementation and instance.";
    CCA_PLATFORM_SIGNATURE = "cca.platform.signature", "RFC 9052 §4.4", "That key signed the platform's token.";
    CCA_PLATFORM_DEBUG = "cca.platform.debug", "Arm RMM, CCA platform lifecycle claim", "The platform cannot be debugged.";
    CCA_PLATFORM_LIFECYCLE = "cca.platform.lifecycle", "Arm RMM, CCA platform lifecycle claim", "The policy allows the platform's state of life.";
    CCA_PLATFORM_HASHES = "cca.platform.hash-algorithms", "Arm RMM, CCA platform hash algorithm ID claim and software components claim", "The platform's measurements are of SHA-2 hashes and have their length.";
    CCA_PLATFORM_SOFTWARE = "cca.platform.software", "Arm RMM, CCA platform software components claim", "The policy allows each software component: role, measurement, signer, version.";
    CCA_PLATFORM_COMPLETE = "cca.platform.software-complete", "Arm RMM, CCA platform software components claim", "Every component that the policy names is there, once.";
    CCA_PLATFORM_CONFIGURATION = "cca.platform.configuration", "Arm RMM, CCA platform config claim", "The policy allows the platform's configuration.";
    CCA_REALM_CLAIMS = "cca.realm.claims", "Arm RMM, Realm claims", "The realm's token has every claim that it must have, of the right type and size.";
    CCA_REALM_KEY = "cca.realm.key", "Arm RMM, Realm public key claim; RFC 9053 §7.1.1", "The realm's attestation key is a point on P-256 or P-384, bare or as a COSE_Key.";
    CCA_REALM_ALGORITHM = "cca.realm.algorithm", "RFC 9052 §3.1, §8.1; RFC 9053 §2.1", "The realm's token is signed with the ECDSA of its key's curve, says so where the signature covers it, and has no header that is critical and not understood.";
    CCA_REALM_SIGNATURE = "cca.realm.signature", "RFC 9052 §4.4", "The realm's attestation key signed the realm's token.";
    CCA_REALM_BINDING = "cca.realm.binding", "Arm RMM, CCA platform challenge claim and Realm public key hash algorithm identifier claim", "The platform's challenge is the hash of the realm's attestation key, with the hash that the realm's token names.";
    CCA_REALM_CHALLENGE = "cca.realm.challenge", "Arm RMM, Realm challenge claim", "The realm's challenge is just what was asked.";
    CCA_REALM_HASH = "cca.realm.hash-algorithm", "Arm RMM, Realm hash algorithm ID claim", "The realm's measurements are of the SHA-2 hash that the token names, and have its length.";
    CCA_REALM_INITIAL = "cca.realm.initial-measurement", "Arm RMM, Realm Initial Measurement claim", "The policy allows the realm's initial measurement.";
    CCA_REALM_EXTENSIBLE = "cca.realm.extensible-measurements", "Arm RMM, Realm Extensible Measurements claim", "The policy allows the realm's four extensible measurements.";
    CCA_REALM_PERSONALIZATION = "cca.realm.personalization", "Arm RMM, Realm Personalization Value claim", "The policy allows the realm's personalization value.";
    CCA_REALM_MEMORY = "cca.realm.memory-encryption", "draft-ffm-rats-cca-token, Realm MEC policy claim", "Where the profile says how the realm's memory is encrypted, the key is the realm's own.";
    CCA_LOG = "cca.log.replay", "UEFI, EFI_CC_MEASUREMENT_PROTOCOL; Arm RMM, RSI_MEASUREMENT_EXTEND command", "The event log, replayed, gives the extensible measurements; it is there when the policy demands it.";
    CCA_LOG_DIGESTS = "cca.log.digests", "TCG PFP, Event Types", "Where an event's type defines it, its digest is the hash of its data.";
}
