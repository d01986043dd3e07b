//! A whole cloud in a temporary folder, for the end-to-end tests: the real daemons, a real guest, and the customer's
//! real CLI. It starts on ports that the kernel picks, and everything it made is gone when it is dropped.
//!
//! The programs and the guest image are built beforehand by `./x test`, which says where they are:
//!
//! | variable | meaning |
//! |---|---|
//! | `LAMBDA_BIN_DIR` | folder with `lambda` and `lambdad` |
//! | `LAMBDA_IMAGE_DIR` | a built image folder (`image.json`, `kernel`, …) |
//! | `LAMBDA_SIMULATED_DIR` | folder with `lambda` and `lambdad` that believe a simulated TEE, the simulator, and `image` for its guests |

pub mod canary;
pub mod capture;
pub mod cloud;
pub mod customer;
pub mod disk;
pub mod hostile;
pub mod node;
pub mod wait;

pub use cloud::Cloud;
pub use customer::{Customer, Output};
pub use wait::wait_for;

/// How long one boot of an emulated guest may take. Two cores share it with the rest of the suite.
pub const BOOT: std::time::Duration = std::time::Duration::from_secs(240);
