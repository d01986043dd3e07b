//! `lambda broker run`: unattended release under one policy.

use std::path::Path;

use lambda_sdk::broker::Event;
use lambda_sdk::broker::daemon::{self, Notice};
use tokio::signal::unix::{SignalKind, signal};

use crate::commands::attest::{policy, summary};
use crate::commands::customer;
use crate::exit::Failure;
use crate::output;

/// Runs until SIGTERM or SIGINT. One line an event, on standard output.
pub(crate) async fn run(path: &Path) -> Result<(), Failure> {
    let customer = customer()?;
    let policy = policy::accepted(path)?;
    customer.check_platform().await?;
    let broker = customer.broker(Some(policy));
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::other)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::other)?;
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    output::line("watching; stop with Ctrl-C")?;
    let mut closed = None;
    daemon::run(&broker, shutdown, &mut |notice| {
        if let Some(text) = describe(&notice)
            && let Err(failure) = output::line(&text)
        {
            closed = Some(failure);
        }
    })
    .await;
    closed.map_or(Ok(()), Err)
}

fn describe(notice: &Notice) -> Option<String> {
    Some(match notice {
        Notice::Event(id, Event::Challenged) => format!("{id} challenged"),
        Notice::Event(id, Event::Attested(verdict)) => format!("{id} attested: {}", summary(verdict)),
        Notice::Event(id, Event::Released) => format!("{id} released"),
        Notice::Event(id, Event::Refused(verdict)) => format!("{id} refused: {}", summary(verdict)),
        Notice::Event(id, Event::PinStored) => format!("{id} pinned its volume's header"),
        Notice::Event(_, _) => return None,
        Notice::Failed(id, error) => format!("{id} cannot be served: {error}"),
        Notice::Away(error) => format!("waiting for the cloud: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use lambda_attest::{Assurance, Check, Claims, Decision, Outcome, Tee, Verdict};
    use lambda_types::InstanceId;

    use super::*;

    #[test]
    fn a_refusal_is_printed_with_the_checks_that_failed() {
        let check = |id: &str, outcome, detail: &str| Check { id: id.into(), outcome, detail: detail.into() };
        let verdict = Verdict {
            verdict: Decision::Rejected,
            tier: Assurance::Platform,
            tee: Tee::Tpm,
            product: "test".into(),
            claims: Claims::new(),
            checks: vec![
                check("tpm.measured.kernel", Outcome::Fail, "another kernel"),
                check("binding.boot", Outcome::Pass, "the boot"),
            ],
        };
        let id = InstanceId::from_bits(1);
        let line = describe(&Notice::Event(id, Event::Refused(Box::new(verdict)))).unwrap();
        assert_eq!(line, format!("{id} refused: rejected, tier platform: tpm.measured.kernel (another kernel)"));
    }
}
