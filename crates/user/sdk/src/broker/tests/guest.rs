//! A guest as far as the broker can tell, and a judge that needs no TPM.

use lambda_attest::{Assurance, Claims, Collateral, Decision, Policy, Tee, TpmClock, Verdict};
use lambda_crypto::{Acknowledge, GuestReportKeys, InstanceSecrets, ReleaseContext, ReleaseKey, Report, release};
use lambda_types::session::{Challenge, FromGuest, Hello, PROTOCOL, ToGuest};
use lambda_types::shape::Shape;
use lambda_types::{ImageId, InstanceId};

use super::fake::BOOT;
use crate::broker::judge::{Accepted, Judge, Judged};
use crate::{Error, files};

/// Evidence is the nonce, or `bad`.
pub(super) struct FakeJudge;

pub(super) fn verdict(decision: Decision) -> Verdict {
    Verdict {
        verdict: decision,
        tier: Assurance::Platform,
        tee: Tee::Tpm,
        product: "test".into(),
        claims: Claims::new(),
        checks: vec![],
    }
}

impl Judge for FakeJudge {
    type Outstanding = [u8; 32];

    fn challenge(&self, _: &Hello, _: &Policy) -> Result<(Challenge, [u8; 32]), Error> {
        let nonce = files::random::<32>()?;
        Ok((Challenge { nonce: nonce.to_vec().into(), credential: None }, nonce))
    }

    fn collateral(&self) -> Result<Collateral, Error> {
        Ok(Collateral::none())
    }

    fn judge(
        &self,
        hello: &Hello,
        evidence: &[u8],
        outstanding: &[u8; 32],
        _: Option<&TpmClock>,
        _: &Policy,
        _: &Collateral,
    ) -> Judged {
        match evidence {
            b"bad" => Judged::Rejected(Box::new(verdict(Decision::Rejected))),
            nonce if nonce == outstanding => Judged::Accepted(
                Box::new(verdict(Decision::Accepted)),
                Box::new(Accepted {
                    hpke_public: hello.hpke_public.as_slice().try_into().unwrap(),
                    ssh_host_key: hello.ssh_host_key.0.clone(),
                    nonce: *outstanding,
                    policy_hash: [9; 32],
                    clock: Some(TpmClock {
                        ak_name: String::new(),
                        boot: BOOT,
                        reset_count: 1,
                        restart_count: 0,
                        clock: 1,
                    }),
                    image: ImageId::from_bits(1),
                    shapes: vec![Shape::Nano],
                }),
            ),
            _ => Judged::OtherChallenge(Box::new(verdict(Decision::Rejected))),
        }
    }
}

pub(super) struct Guest {
    pub(super) instance: InstanceId,
    key: Option<ReleaseKey>,
    hello: Hello,
    reports: Option<GuestReportKeys>,
}

impl Guest {
    pub(super) fn new(instance: InstanceId) -> Self {
        let key = ReleaseKey::generate().unwrap();
        let hello = Hello {
            protocol: PROTOCOL,
            instance,
            boot: BOOT,
            hpke_public: key.public().to_vec().into(),
            ssh_host_key: vec![1].into(),
            tpm: None,
        };
        Self { instance, key: Some(key), hello, reports: None }
    }

    pub(super) fn hello(&self) -> FromGuest {
        FromGuest::Hello(self.hello.clone())
    }

    pub(super) fn evidence(&self, bytes: &[u8]) -> FromGuest {
        FromGuest::Evidence { hello: self.hello.clone(), evidence: bytes.to_vec().into() }
    }

    /// Evidence for a challenge.
    pub(super) fn answer(&self, message: &ToGuest) -> FromGuest {
        let ToGuest::Challenge(challenge) = message else { panic!("no challenge: {message:?}") };
        self.evidence(challenge.nonce.as_slice())
    }

    /// Opens a release, once.
    pub(super) fn open(&mut self, message: &ToGuest) -> InstanceSecrets {
        let ToGuest::Release { encapsulated_key, ciphertext, policy_hash, nonce } = message else {
            panic!("no release: {message:?}")
        };
        let context = ReleaseContext {
            policy_hash: policy_hash.as_slice().try_into().unwrap(),
            instance: self.instance,
            boot: BOOT,
            nonce: nonce.as_slice().try_into().unwrap(),
        };
        let key = self.key.take().expect("one release");
        let (secrets, reports) =
            release::open(key, encapsulated_key.as_slice(), ciphertext.as_slice(), &context).expect("opens");
        self.reports = Some(reports);
        secrets
    }

    pub(super) fn report(&mut self, header_pin: [u8; 32]) -> FromGuest {
        let sealed = self.reports.as_mut().unwrap().seal_report(Report::Initialised { header_pin }).unwrap();
        FromGuest::Report { sealed: sealed.into() }
    }

    pub(super) fn acknowledged(&mut self, message: &ToGuest) -> [u8; 32] {
        let ToGuest::Acknowledge { sealed } = message else { panic!("no acknowledgement: {message:?}") };
        let Acknowledge { header_pin } =
            self.reports.as_mut().unwrap().open_acknowledge(sealed.as_slice()).expect("opens");
        header_pin
    }
}
