use crate::checks::{CheckInfo, Recorder};

/// A recorder that remembers whether the evidence is authentic: everything cryptographic and dated holds.
pub(super) struct Ledger<'r> {
    recorder: &'r mut Recorder,
    authentic: bool,
}

impl<'r> Ledger<'r> {
    pub(super) fn new(recorder: &'r mut Recorder) -> Self {
        Self { recorder, authentic: true }
    }

    /// Whether every step so far was made and held.
    pub(super) fn authentic(&self) -> bool {
        self.authentic
    }

    /// A step could not be made.
    pub(super) fn unreached(&mut self) {
        self.authentic = false;
    }

    pub(super) fn record(&mut self, info: &'static CheckInfo, result: Result<String, String>) -> bool {
        let holds = self.recorder.record(info, result);
        self.authentic &= holds;
        holds
    }

    pub(super) fn require(&mut self, info: &'static CheckInfo, holds: bool, pass: &str, fail: &str) -> bool {
        self.record(info, if holds { Ok(pass.into()) } else { Err(fail.into()) })
    }

    /// For what is no question of authenticity.
    pub(super) fn recorder(&mut self) -> &mut Recorder {
        self.recorder
    }
}
