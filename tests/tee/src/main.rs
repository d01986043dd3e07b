//! Stands where a node expects QEMU.

fn main() -> std::process::ExitCode {
    lambda_simulated_tee::main()
}
