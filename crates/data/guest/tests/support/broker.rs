//! The customer's side: releases to whoever activates its credential, and reaches the guest over SSH.
//!
//! It does not judge evidence; that is `lambda-attest`'s to do and to test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lambda_attest::{Binding, Evidence, activation_proof, report_data};
use lambda_crypto::{Acknowledge, BrokerReportKeys, InstanceSecrets, ReleaseContext, Report, release};
use lambda_tpm::{Public, make_credential};
use lambda_types::guest::{FromGuest, GuestPhase, ToGuest};
use lambda_types::session::{self, Challenge, Credential, Hello};
use zeroize::Zeroizing;

use super::{BOUND, Machine};

const NONCE: [u8; 32] = [7; 32];
const CREDENTIAL: [u8; 32] = [9; 32];
const POLICY: [u8; 32] = [8; 32];

/// A customer with one instance.
pub struct Broker {
    folder: tempfile::TempDir,
    /// What it releases; the pin is stored here.
    pub secrets: InstanceSecrets,
    /// The latest hello.
    pub hello: Option<Hello>,
    seq: u64,
}

impl Broker {
    /// A customer with a fresh instance and a fresh SSH key.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(folder.path().join("key"))
            .status()
            .unwrap();
        assert!(made.success());
        let mut secrets = InstanceSecrets::new("web").unwrap();
        let key = fs::read_to_string(folder.path().join("key.pub")).unwrap();
        secrets.authorized_keys.push(Zeroizing::new(key.trim().to_owned()));
        Self { folder, secrets, hello: None, seq: 0 }
    }

    /// Sends the guest a message under the next number.
    pub fn say(&mut self, machine: &mut Machine, message: &session::ToGuest) {
        self.seq += 1;
        let body = serde_json::to_vec(message).unwrap().into();
        machine.send(&ToGuest::FromBroker { seq: self.seq, body });
    }

    /// A challenge with a credential for the guest that said `hello`.
    pub fn challenge(hello: &Hello) -> Challenge {
        let tpm = hello.tpm.as_ref().expect("a vTPM");
        let ek = Public::parse(tpm.ek_public.as_slice()).unwrap();
        let ak = Public::parse(tpm.ak_public.as_slice()).unwrap();
        let mut entropy = [0u8; 32];
        getrandom::fill(&mut entropy).unwrap();
        let credential = make_credential(&ek, &ak.name().unwrap(), &CREDENTIAL, &entropy).unwrap();
        let credential = Credential { blob: credential.blob.into(), secret: credential.secret.into() };
        Challenge { nonce: NONCE.to_vec().into(), credential: Some(credential) }
    }

    /// The release that answers [`Self::challenge`].
    pub fn release(&self, hello: &Hello) -> (session::ToGuest, BrokerReportKeys) {
        let context = ReleaseContext { policy_hash: POLICY, instance: hello.instance, boot: hello.boot, nonce: NONCE };
        let sealed = release::seal(hello.hpke_public.as_slice(), &context, &self.secrets).unwrap();
        let message = session::ToGuest::Release {
            encapsulated_key: sealed.encapsulated_key.into(),
            ciphertext: sealed.ciphertext.into(),
            policy_hash: POLICY.to_vec().into(),
            nonce: NONCE.to_vec().into(),
        };
        (message, sealed.reports)
    }

    /// The guest's next message; reports of phases before it are noted by the machine.
    pub fn listen(&mut self, machine: &mut Machine) -> session::FromGuest {
        loop {
            match machine.receive(BOUND) {
                FromGuest::ToBroker { body, .. } => return serde_json::from_slice(body.as_slice()).unwrap(),
                FromGuest::Report { phase: GuestPhase::Failed, reason, .. } => panic!("the guest failed: {reason:?}"),
                FromGuest::Report { .. } | FromGuest::Health { .. } => {}
            }
        }
    }

    /// Waits for the hello and answers it with a challenge.
    pub fn meet(&mut self, machine: &mut Machine) -> Hello {
        let session::FromGuest::Hello(hello) = self.listen(machine) else { panic!("expected a hello") };
        self.seq = 0;
        self.hello = Some(hello.clone());
        self.say(machine, &session::ToGuest::Challenge(Self::challenge(&hello)));
        hello
    }

    /// Waits for evidence that repeats `hello`.
    pub fn await_evidence(&mut self, machine: &mut Machine, hello: &Hello) -> Evidence {
        loop {
            match self.listen(machine) {
                session::FromGuest::Evidence { hello: repeated, evidence } => {
                    assert_eq!(&repeated, hello);
                    let evidence = Evidence::from_json(evidence.as_slice()).unwrap();
                    let lambda_attest::Report::Tpm(report) = &evidence.report else { panic!("not evidence of a TPM") };
                    let data = report_data(&NONCE, &Binding::from(hello));
                    assert_eq!(report.activation_proof.as_slice(), activation_proof(&CREDENTIAL, &data));
                    return evidence;
                }
                session::FromGuest::Hello(again) => assert_eq!(&again, hello),
                session::FromGuest::Report { .. } => {}
            }
        }
    }

    /// The whole exchange up to the release.
    pub fn admit(&mut self, machine: &mut Machine) -> BrokerReportKeys {
        let hello = self.meet(machine);
        self.await_evidence(machine, &hello);
        let (message, reports) = self.release(&hello);
        self.say(machine, &message);
        reports
    }

    /// The whole exchange up to a ready guest.
    pub fn bring_up(&mut self, machine: &mut Machine) {
        let mut reports = self.admit(machine);
        loop {
            match machine.receive(BOUND) {
                FromGuest::Report { phase: GuestPhase::Ready, .. } => return,
                FromGuest::Report { phase: GuestPhase::Failed, reason, .. } => panic!("the guest failed: {reason:?}"),
                FromGuest::Report { .. } | FromGuest::Health { .. } => {}
                FromGuest::ToBroker { body, .. } => {
                    if let session::FromGuest::Report { sealed } = serde_json::from_slice(body.as_slice()).unwrap() {
                        let Report::Initialised { header_pin } = reports.open_report(sealed.as_slice()).unwrap();
                        self.secrets.pin(header_pin);
                        let reserved = reports.reserve().unwrap();
                        let sealed = reports.seal_acknowledge(reserved, Acknowledge { header_pin }).unwrap();
                        self.say(machine, &session::ToGuest::Acknowledge { sealed: sealed.into() });
                    }
                }
            }
        }
    }

    /// Runs a command over SSH, trusting the host key of the hello only; returns what it prints.
    pub fn ssh(&self, machine: &Machine, command: &str) -> String {
        let known = self.known_hosts(machine);
        let output = Command::new("ssh")
            .args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=60"])
            .args(["-o", &format!("UserKnownHostsFile={}", known.display()), "-i"])
            .arg(self.folder.path().join("key"))
            .args(["-p", &machine.ssh_port.to_string(), "lambda@127.0.0.1", command])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "ssh {command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn known_hosts(&self, machine: &Machine) -> PathBuf {
        let hello = self.hello.as_ref().expect("a hello");
        let key = ssh_key::PublicKey::from_bytes(hello.ssh_host_key.as_slice()).unwrap().to_openssh().unwrap();
        let path: &Path = self.folder.path();
        let path = path.join("known_hosts");
        fs::write(&path, format!("[127.0.0.1]:{} {key}\n", machine.ssh_port)).unwrap();
        path
    }
}
