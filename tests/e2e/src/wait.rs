//! Waiting for a condition, with a bound and the last thing seen.

use std::time::{Duration, Instant};

/// Calls `probe` until it gives `Ok`, at most for `bound`.
///
/// # Panics
/// When the bound passes: the message carries what was awaited and what `probe` saw last.
pub fn wait_for<T>(what: &str, bound: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(seen) if start.elapsed() > bound => panic!("waited {bound:?} for {what}; last seen: {seen}"),
            Err(_) => std::thread::park_timeout(Duration::from_millis(50)),
        }
    }
}
