//! `lambda-guest`. PID 1 in the initramfs, and once more at the end; the agent when started as one.

fn main() {
    let mut arguments = std::env::args();
    let name = arguments.next();
    match arguments.next().as_deref() {
        Some(lambda_guest::agent::SUPERVISOR) => lambda_guest::agent::supervise(),
        Some(lambda_guest::agent::WORKER) => lambda_guest::agent::work(),
        verb if std::process::id() == 1 && name.as_deref() == Some(lambda_guest::shutdown::NAME) => {
            lambda_guest::shutdown::run(verb.unwrap_or_default())
        }
        _ if std::process::id() == 1 => lambda_guest::init::run(),
        _ => {
            eprintln!("lambda-guest is the init of a Lambda image's initramfs; it does nothing elsewhere");
            std::process::exit(2);
        }
    }
}
