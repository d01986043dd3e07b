//! Ends of the guest's life.

use std::time::Duration;

use rustix::system::{RebootCommand, reboot};

/// Writes everything out and powers the machine off.
pub fn off() -> ! {
    rustix::fs::sync();
    loop {
        // The kernel only returns from this on failure, and then there is nothing left but to try again.
        reboot(RebootCommand::PowerOff).ok();
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Powers off when `bound` has passed, whatever else this process is doing.
pub fn off_after(bound: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(bound);
        off()
    });
}
