//! The checks of an Arm PSA attestation token.

use crate::checks::checks;

checks! {
    /// Every check of an Arm PSA attestation token, in the order in which a verdict lists them.
    PSA;
    PSA_STRUCTURE = "psa.token.structure", "RFC 9783 §5.1.1; RFC 8949 §4.1", "The token is one COSE_Sign1 in strict CBOR: definite lengths, shortest forms, no key twice, nothing after it.";
    PSA_PROFILE = "psa.profile", "RFC 9783 §4.5.2", "The token is of a known profile.";
    PSA_CLAIMS = "psa.claims", "RFC 9783 §4", "The token has every claim that its profile demands, of the right type and size.";
    PSA_ALGORITHM = "psa.algorithm", "RFC 9052 §3.1, §8.1; RFC 9053 §2.1", "The token is signed with the ECDSA of its key's curve, says so where the signature covers it, and has no header that is critical and not understood.";
    PSA_ENDORSEMENT = "psa.endorsement", "RFC 9783 §4.2.1, §4.2.2", "The policy endorses an initial attestation key for this implementation and instance.";
    PSA_SIGNATURE = "psa.signature", "RFC 9052 §4.4", "That key signed the token.";
    PSA_NONCE = "psa.nonce", "RFC 9783 §4.1.1", "The token's nonce is just what was asked.";
    PSA_DEBUG = "psa.debug", "RFC 9783 §4.3.1", "The device cannot be debugged.";
    PSA_LIFECYCLE = "psa.lifecycle", "RFC 9783 §4.3.1", "The policy allows the device's state of life.";
    PSA_CLIENT = "psa.client-id", "RFC 9783 §4.1.2", "The policy allows the caller that asked for the token; without this, code of the other world could speak for it.";
    PSA_HASHES = "psa.hash-algorithms", "RFC 9783 §4.4.1", "The measurements are of SHA-2 hashes and have their length.";
    PSA_SOFTWARE = "psa.software", "RFC 9783 §4.4.1", "The policy allows each software component: role, measurement, signer, version.";
    PSA_COMPLETE = "psa.software-complete", "RFC 9783 §4.4.1", "Every component that the policy names is there, once.";
    PSA_CERTIFICATION = "psa.certification", "RFC 9783 §4.2.3", "The policy allows the device's certification reference.";
}
