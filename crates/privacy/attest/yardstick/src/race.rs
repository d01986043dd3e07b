//! Several ways of doing the same, timed in turns.

use std::time::Duration;

use anyhow::Result;

/// One way of doing it.
pub struct Contender<'a> {
    /// Whose.
    pub name: &'static str,
    /// Does it once, and says how long the part that counts took.
    pub run: Box<dyn FnMut() -> Result<Duration> + 'a>,
}

impl<'a> Contender<'a> {
    /// Of a closure.
    pub fn new(name: &'static str, run: impl FnMut() -> Result<Duration> + 'a) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// How long one contender took.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Half took no longer.
    pub median: Duration,
    /// 99 of 100 took no longer.
    pub p99: Duration,
}

/// Lets each run once in every round, starting with another one each time; a tenth of the rounds comes before and does
/// not count.
///
/// # Errors
/// When one fails.
pub fn race(contenders: &mut [Contender<'_>], rounds: usize) -> Result<Vec<Times>> {
    let mut taken = vec![Vec::with_capacity(rounds); contenders.len()];
    let warm_up = rounds / 10;
    for round in 0..warm_up + rounds {
        for turn in 0..contenders.len() {
            let index = (round + turn) % contenders.len();
            let took = (contenders[index].run)()?;
            if round >= warm_up {
                taken[index].push(took);
            }
        }
    }
    Ok(taken.into_iter().map(times).collect())
}

fn times(mut taken: Vec<Duration>) -> Times {
    taken.sort_unstable();
    let rank = |percent: usize| taken[(taken.len() * percent).div_ceil(100).max(1) - 1];
    Times { median: rank(50), p99: rank(99) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_nearest() {
        let times = times((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!((times.median, times.p99), (Duration::from_millis(50), Duration::from_millis(99)));
    }

    #[test]
    fn warm_up_rounds_do_not_count() {
        let mut calls = 0;
        let mut contenders = [Contender::new("slow at first", || {
            calls += 1;
            Ok(Duration::from_millis(if calls == 1 { 1000 } else { 1 }))
        })];
        let times = race(&mut contenders, 10).unwrap();
        assert_eq!(times[0].p99, Duration::from_millis(1));
    }
}
