//! When a call is repeated, and after which pause.

use std::time::{Duration, Instant};

use lambda_types::Code;

use super::{Answer, Failure};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// What to do with an attempt's outcome.
pub(super) enum Verdict {
    /// It is the answer.
    Stands,
    /// Try again, not before this.
    Repeat { not_before: Duration },
}

pub(super) fn judge(outcome: &Result<Answer, Failure>) -> Verdict {
    match outcome {
        Ok(_) | Err(Failure::Unexpected(..)) => Verdict::Stands,
        Err(Failure::Connection(_)) => Verdict::Repeat { not_before: Duration::ZERO },
        Err(Failure::Problem(problem, retry_after)) => match problem.code {
            Code::RateLimited | Code::Unavailable | Code::Timeout | Code::IdempotencyInProgress => {
                Verdict::Repeat { not_before: retry_after.unwrap_or_default().min(Duration::from_secs(60)) }
            }
            Code::InvalidRequest
            | Code::Unauthenticated
            | Code::Forbidden
            | Code::NotFound
            | Code::MethodNotAllowed
            | Code::Conflict
            | Code::VersionMismatch
            | Code::TooLarge
            | Code::IdempotencyMismatch
            | Code::VersionRequired
            | Code::HeadersTooLarge
            | Code::CapacityExhausted
            | Code::Internal => Verdict::Stands,
        },
    }
}

/// Exponential pauses with jitter, until a bound.
pub(super) struct Backoff {
    started: Instant,
    bound: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(bound: Duration) -> Self {
        Self { started: Instant::now(), bound, next: FIRST }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Pauses; false when the bound would pass.
    pub(super) async fn pause(&mut self, not_before: Duration) -> bool {
        let pause = jitter(self.next).max(not_before);
        self.next = self.next.saturating_mul(2).min(LONGEST);
        if self.elapsed().saturating_add(pause) > self.bound {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }
}

/// Between half and all of it, so that many clients do not come back at once.
fn jitter(pause: Duration) -> Duration {
    let mut byte = [0u8; 1];
    // Without randomness the full pause is as good.
    let share = if getrandom::fill(&mut byte).is_ok() { u32::from(byte[0]) } else { 255 };
    pause / 2 + pause / 2 * share / 255
}

#[cfg(test)]
mod tests {
    use lambda_types::Problem;

    use super::*;

    fn repeats(code: Code) -> bool {
        let failure = Failure::Problem(Box::new(Problem::new(code, "")), None);
        matches!(judge(&Err(failure)), Verdict::Repeat { .. })
    }

    #[test]
    fn only_answers_that_time_can_change_are_repeated() {
        for code in [Code::RateLimited, Code::Unavailable, Code::Timeout, Code::IdempotencyInProgress] {
            assert!(repeats(code), "{code:?}");
        }
        for code in [Code::Conflict, Code::NotFound, Code::CapacityExhausted, Code::Unauthenticated, Code::Internal] {
            assert!(!repeats(code), "{code:?}");
        }
    }

    #[test]
    fn a_pause_is_between_half_and_all_of_what_was_asked() {
        for _ in 0..100 {
            let pause = jitter(Duration::from_secs(2));
            assert!((Duration::from_secs(1)..=Duration::from_secs(2)).contains(&pause), "{pause:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_end_at_the_bound() {
        let mut backoff = Backoff::new(Duration::from_millis(1));
        assert!(!backoff.pause(Duration::from_secs(1)).await);
    }
}
