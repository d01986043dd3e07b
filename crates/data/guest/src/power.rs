//! Ends of the guest's life.

use std::time::Duration;

use rustix::system::{RebootCommand, reboot};

/// Writes everything out and powers the machine off.
pub fn off() -> ! {
    end(RebootCommand::PowerOff)
}

/// Writes everything out and ends the machine.
pub fn end(how: RebootCommand) -> ! {
    rustix::fs::sync();
    loop {
        // The kernel only returns from this on failure, and then there is nothing left but to try again.
        reboot(how).ok();
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Powers off when `bound` has passed, whatever else this process is doing.
pub fn off_after(bound: Duration) {
    end_after(bound, RebootCommand::PowerOff);
}

/// Ends the machine when `bound` has passed, whatever else this process is doing.
pub fn end_after(bound: Duration, how: RebootCommand) {
    std::thread::spawn(move || {
        std::thread::sleep(bound);
        end(how)
    });
}
