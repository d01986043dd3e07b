//! Commands to a TPM (Part 3), over a transport that the caller brings.
//!
//! Only password sessions with empty auth values and one unsalted policy session are used: the TPM's hierarchies carry
//! no auth in a Lambda guest, and what protects the attestation is the EK's policy and the AK's attributes, not a
//! secret. Parameters travel in the clear between a guest and its own TPM; the verifier trusts none of them unsigned.

mod message;

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::pcr::{Bank, PcrSelection};
use crate::public::Public;
use crate::wire::{Reader, Writer};
use crate::{Error, alg};

pub use message::MAX_MESSAGE_BYTES;
use message::{Reply, auth_area, exchange};

/// TPM_RH_OWNER.
pub const OWNER: u32 = 0x4000_0001;
/// TPM_RH_NULL.
pub const NULL: u32 = 0x4000_0007;
/// TPM_RS_PW: the password session.
pub const PASSWORD: u32 = 0x4000_0009;
/// TPM_RH_ENDORSEMENT.
pub const ENDORSEMENT: u32 = 0x4000_000b;
/// TPM_RH_PLATFORM.
pub const PLATFORM: u32 = 0x4000_000c;

/// TPM_RC_INITIALIZE: the TPM was started before.
const RC_INITIALIZE: u32 = 0x100;

/// Moves one whole command to a TPM and its whole response back.
pub trait Transport {
    /// Sends `command` and returns the response, at most [`MAX_MESSAGE_BYTES`].
    ///
    /// # Errors
    /// [`Error::Transport`] when the TPM cannot be reached.
    fn transmit(&mut self, command: &[u8]) -> Result<Vec<u8>, Error>;
}

impl<T: Transport + ?Sized> Transport for &mut T {
    fn transmit(&mut self, command: &[u8]) -> Result<Vec<u8>, Error> {
        (**self).transmit(command)
    }
}

/// A loaded key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Transient handle; give it to [`Tpm::flush`] when done.
    pub handle: u32,
    /// Its public area.
    pub public: Public,
}

/// Output of TPM2_Quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted {
    /// TPMS_ATTEST, the bytes that were signed.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
}

/// A TPM behind a transport.
#[derive(Debug)]
pub struct Tpm<T> {
    transport: T,
}

impl<T: Transport> Tpm<T> {
    /// Speaks to the TPM behind `transport`.
    pub fn new(transport: T) -> Self {
        Self { transport }
    }

    /// TPM2_Startup(CLEAR). A TPM that was started before is left as it is.
    ///
    /// # Errors
    /// When the TPM cannot be reached or refuses.
    pub fn startup_clear(&mut self) -> Result<(), Error> {
        match self.run("TPM2_Startup", 0x0144, &[], &[], &Writer::new().u16(0).done(), 0) {
            Ok(reply) => reply.empty(),
            Err(Error::Refused { code: RC_INITIALIZE, .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// TPM2_Shutdown(CLEAR): the next power-off is then orderly.
    ///
    /// # Errors
    /// When the TPM cannot be reached or refuses.
    pub fn shutdown_clear(&mut self) -> Result<(), Error> {
        self.run("TPM2_Shutdown", 0x0145, &[], &[], &Writer::new().u16(0).done(), 0)?.empty()
    }

    /// TPM2_PCR_Allocate: after the next _TPM_Init, all PCRs in the SHA-256 bank and none in any other.
    ///
    /// # Errors
    /// When the TPM cannot be reached, refuses, or has no room for the bank.
    pub fn allocate_sha256_only(&mut self) -> Result<(), Error> {
        let all: Vec<u8> = (0..24).collect();
        let banks = self
            .pcr_banks()?
            .into_iter()
            .map(|bank| Bank { pcrs: if bank.hash == alg::SHA256 { all.clone() } else { Vec::new() }, hash: bank.hash })
            .collect();
        let parameters = PcrSelection::new(banks)?.write(Writer::new()).done();
        let mut reply = self.run("TPM2_PCR_Allocate", 0x012b, &[PLATFORM], &[PASSWORD], &parameters, 0)?;
        let mut reader = reply.reader()?;
        let success = reader.u8()?;
        let _max_pcr = reader.u32()?;
        let _size_needed = reader.u32()?;
        let _size_available = reader.u32()?;
        reader.finish()?;
        if success == 1 {
            Ok(())
        } else {
            Err(Error::Malformed {
                what: "TPM2_PCR_Allocate",
                why: "the TPM has no room for a SHA-256 bank of 24 PCRs",
            })
        }
    }

    /// Hash algorithms of the banks that hold at least one PCR.
    ///
    /// # Errors
    /// When the TPM cannot be reached or refuses.
    pub fn active_banks(&mut self) -> Result<Vec<u16>, Error> {
        Ok(self.pcr_banks()?.into_iter().filter(|bank| !bank.pcrs.is_empty()).map(|bank| bank.hash).collect())
    }

    /// TPM2_GetCapability(TPM_CAP_PCRS).
    fn pcr_banks(&mut self) -> Result<Vec<Bank>, Error> {
        const CAP_PCRS: u32 = 5;
        let parameters = Writer::new().u32(CAP_PCRS).u32(0).u32(1).done();
        let mut reply = self.run("TPM2_GetCapability", 0x017a, &[], &[], &parameters, 0)?;
        let mut reader = reply.reader()?;
        let _more = reader.u8()?;
        if reader.u32()? != CAP_PCRS {
            return Err(Error::Malformed { what: "TPM2_GetCapability", why: "the TPM answered another capability" });
        }
        let selection = PcrSelection::read(&mut reader)?;
        reader.finish()?;
        Ok(selection.banks().to_vec())
    }

    /// The endorsement key: a primary from [`Public::ek_template`]. The same key for the life of the TPM.
    ///
    /// # Errors
    /// When the TPM cannot be reached or refuses.
    pub fn create_ek(&mut self) -> Result<Key, Error> {
        self.create_primary(ENDORSEMENT, &Public::ek_template())
    }

    /// The attestation key: a primary from [`Public::ak_template`] in the endorsement hierarchy, so that the counters
    /// in its quotes are not obfuscated (Part 1, Privacy Aspects of Clock).
    ///
    /// # Errors
    /// When the TPM cannot be reached or refuses.
    pub fn create_ak(&mut self) -> Result<Key, Error> {
        self.create_primary(ENDORSEMENT, &Public::ak_template())
    }

    /// TPM2_CreatePrimary without auth value, data or creation PCRs.
    ///
    /// # Errors
    /// When the TPM cannot be reached, refuses, or makes a key other than the template asks for.
    pub fn create_primary(&mut self, hierarchy: u32, template: &Public) -> Result<Key, Error> {
        let what = "TPM2_CreatePrimary";
        let sensitive = Writer::new().u16(0).u16(0).done();
        let parameters = Writer::new().sized(what, &sensitive)?.sized(what, &template.encode()?)?.u16(0).u32(0).done();
        let mut reply = self.run(what, 0x0131, &[hierarchy], &[PASSWORD], &parameters, 1)?;
        let handle = reply.handle()?;
        let public = reply.reader().and_then(|mut reader| Public::parse(reader.sized(MAX_MESSAGE_BYTES)?))?;
        if public.matches_template(template) {
            Ok(Key { handle, public })
        } else {
            Err(Error::Malformed { what, why: "the TPM made a key that differs from the template" })
        }
    }

    /// TPM2_ReadPublic.
    ///
    /// # Errors
    /// When the TPM cannot be reached or has no such object.
    pub fn read_public(&mut self, handle: u32) -> Result<Public, Error> {
        let mut reply = self.run("TPM2_ReadPublic", 0x0173, &[handle], &[], &[], 0)?;
        let mut reader = reply.reader()?;
        let public = Public::parse(reader.sized(MAX_MESSAGE_BYTES)?)?;
        let _name = reader.sized(66)?;
        let _qualified_name = reader.sized(66)?;
        reader.finish()?;
        Ok(public)
    }

    /// TPM2_FlushContext: frees a transient object or a session.
    ///
    /// # Errors
    /// When the TPM cannot be reached or has no such object.
    pub fn flush(&mut self, handle: u32) -> Result<(), Error> {
        self.run("TPM2_FlushContext", 0x0165, &[], &[], &Writer::new().u32(handle).done(), 0)?.empty()
    }

    /// TPM2_ActivateCredential: proves that `ak` lives in the TPM that `ek` names. The EK's policy is satisfied here.
    ///
    /// # Errors
    /// When the TPM cannot be reached, or the credential was not made for this EK and this AK.
    pub fn activate_credential(
        &mut self,
        ak: &Key,
        ek: &Key,
        blob: &[u8],
        secret: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let session = self.start_policy_session()?;
        let activated = self
            .policy_secret_endorsement(session)
            .and_then(|()| self.activate_in_session(ak.handle, ek.handle, session, blob, secret));
        if activated.is_err() {
            // The session ends with its use; after a failure it is still there. The first error is the one that tells.
            let _ = self.flush(session);
        }
        activated
    }

    fn activate_in_session(
        &mut self,
        ak: u32,
        ek: u32,
        session: u32,
        blob: &[u8],
        secret: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let parameters = Writer::new().raw(blob).raw(secret).done();
        let sessions = [PASSWORD, session];
        let mut reply = self.run("TPM2_ActivateCredential", 0x0147, &[ak, ek], &sessions, &parameters, 0)?;
        let mut reader = reply.reader()?;
        let activated = Zeroizing::new(reader.sized(64)?.to_vec());
        reader.finish()?;
        Ok(activated)
    }

    /// TPM2_StartAuthSession: unbound, unsalted, SHA-256, type policy.
    fn start_policy_session(&mut self) -> Result<u32, Error> {
        const TYPE_POLICY: u8 = 1;
        let what = "TPM2_StartAuthSession";
        // Nothing is encrypted or authenticated with this session's key, so its nonce needs no secrecy and no freshness.
        let parameters =
            Writer::new().sized(what, &[0; 16])?.u16(0).u8(TYPE_POLICY).u16(alg::NULL).u16(alg::SHA256).done();
        let mut reply = self.run(what, 0x0176, &[NULL, NULL], &[], &parameters, 1)?;
        reply.handle()
    }

    /// TPM2_PolicySecret(TPM_RH_ENDORSEMENT) with its empty auth.
    fn policy_secret_endorsement(&mut self, session: u32) -> Result<(), Error> {
        let parameters = Writer::new().u16(0).u16(0).u16(0).u32(0).done();
        self.run("TPM2_PolicySecret", 0x0151, &[ENDORSEMENT, session], &[PASSWORD], &parameters, 0).map(drop)
    }

    /// TPM2_PCR_Read of PCRs in the SHA-256 bank, as often as it takes.
    ///
    /// # Errors
    /// When the TPM cannot be reached, or does not hold all of them in that bank.
    pub fn read_pcrs(&mut self, selection: &PcrSelection) -> Result<BTreeMap<u8, [u8; 32]>, Error> {
        let what = "TPM2_PCR_Read";
        let [Bank { hash: alg::SHA256, pcrs }] = selection.banks() else {
            return Err(Error::Malformed { what, why: "the selection is not one SHA-256 bank" });
        };
        let mut values = BTreeMap::new();
        // One reply holds at most eight digests.
        for wanted in pcrs.chunks(8) {
            let wanted = PcrSelection::sha256(wanted)?;
            let parameters = wanted.write(Writer::new()).done();
            let mut reply = self.run(what, 0x017e, &[], &[], &parameters, 0)?;
            let mut reader = reply.reader()?;
            let _update_counter = reader.u32()?;
            if PcrSelection::read(&mut reader)? != wanted {
                return Err(Error::Malformed { what, why: "the TPM does not hold these PCRs in a SHA-256 bank" });
            }
            let indices = wanted.banks().iter().flat_map(|bank| bank.pcrs.iter().copied()).collect::<Vec<_>>();
            if usize::try_from(reader.u32()?) != Ok(indices.len()) {
                return Err(Error::Malformed { what, why: "the TPM returned another number of digests" });
            }
            for index in indices {
                let digest = reader.sized(32)?;
                let digest =
                    digest.try_into().map_err(|_| Error::Malformed { what, why: "a digest is not 32 bytes" })?;
                values.insert(index, digest);
            }
            reader.finish()?;
        }
        Ok(values)
    }

    /// TPM2_Quote in the key's own scheme.
    ///
    /// # Errors
    /// When the TPM cannot be reached or refuses.
    pub fn quote(&mut self, ak: &Key, qualifying: &[u8], selection: &PcrSelection) -> Result<Quoted, Error> {
        let what = "TPM2_Quote";
        let parameters = selection.write(Writer::new().sized(what, qualifying)?.u16(alg::NULL)).done();
        let mut reply = self.run(what, 0x0158, &[ak.handle], &[PASSWORD], &parameters, 0)?;
        let mut reader = reply.reader()?;
        let attest = reader.sized(crate::quote::MAX_ATTEST_BYTES)?.to_vec();
        let signature = reader.rest().to_vec();
        Ok(Quoted { attest, signature })
    }

    fn run(
        &mut self,
        name: &'static str,
        code: u32,
        handles: &[u32],
        sessions: &[u32],
        parameters: &[u8],
        reply_handles: usize,
    ) -> Result<Reply, Error> {
        let mut body = handles.iter().fold(Writer::new(), |writer, handle| writer.u32(*handle));
        if !sessions.is_empty() {
            body = body.raw(&auth_area(sessions));
        }
        let body = body.raw(parameters).done();
        exchange(&mut self.transport, name, code, !sessions.is_empty(), &body, reply_handles)
    }
}

impl Reply {
    fn empty(mut self) -> Result<(), Error> {
        self.reader().and_then(Reader::finish)
    }
}
