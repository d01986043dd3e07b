//! One module a command; each parses nothing and prints one result.

pub(crate) mod attest;
pub(crate) mod broker;
pub(crate) mod connect;
pub(crate) mod create;
pub(crate) mod image;
pub(crate) mod instance;
pub(crate) mod key;
pub(crate) mod ssh;
pub(crate) mod tunnel;

use lambda_sdk::Customer;
use lambda_sdk::config::Folder;

use crate::exit::Failure;

/// The connected customer of this machine's configuration folder.
pub(crate) fn customer() -> Result<Customer, Failure> {
    Ok(Customer::open(&Folder::from_environment()?)?)
}
