//! `lambda-guest`. PID 1 in the initramfs; the agent when started as one.

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some(lambda_guest::agent::SUPERVISOR) => lambda_guest::agent::supervise(),
        Some(lambda_guest::agent::WORKER) => lambda_guest::agent::work(),
        _ if std::process::id() == 1 => lambda_guest::init::run(),
        _ => {
            eprintln!("lambda-guest is the init of a Lambda image's initramfs; it does nothing elsewhere");
            std::process::exit(2);
        }
    }
}
