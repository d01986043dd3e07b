use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use lambda_attest::{AmdCollateral, Collateral, UnixTime};
use serde::{Deserialize, Serialize};

use crate::{amd, intel};

/// A made-up AMD and Intel. There are two, so that one can be trusted and the other not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vendor {
    /// One.
    First,
    /// Another, with other keys under the same names.
    Second,
}

impl Vendor {
    /// The seed of a key.
    pub(crate) const fn seed(self, key: u8) -> u8 {
        match self {
            Self::First => key,
            Self::Second => key + 0x40,
        }
    }

    /// Writes the roots into a folder, as programs with the feature `simulated-tee` read them: `amd-genoa.der` and
    /// `intel.der`.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn write_roots(self, folder: &Path) {
        std::fs::create_dir_all(folder).expect("a writable folder");
        std::fs::write(folder.join("amd-genoa.der"), amd::root(self)).expect("writable");
        std::fs::write(folder.join("intel.der"), intel::root(self)).expect("writable");
    }

    /// Writes what both publish as a signed bundle, and the key to check it with.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn write_collateral(self, bundle: &Path, key: &Path) {
        crate::bundle::write(&self.collateral(), bundle, key).expect("writable");
    }

    /// What both publish, as verdicts take it: current since an hour, and for 30 days to come.
    ///
    /// # Panics
    /// When the clock is before 1970.
    #[must_use]
    pub fn collateral(self) -> Collateral {
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        let now = now.expect("a clock of this age");
        let dates = [UnixTime(now - 3600), UnixTime(now + 30 * 86_400)];
        let amd = AmdCollateral { certificates: Vec::new(), crls: vec![amd::revocations(self, dates).into()] };
        Collateral {
            as_of: Some(UnixTime(now)),
            amd: Some(amd),
            intel: vec![intel::collateral(self, dates)],
            ..Collateral::none()
        }
    }
}

/// `YYMMDDHHMMSSZ`.
pub(crate) fn utc(time: UnixTime) -> String {
    let text: String = time.to_string().chars().filter(char::is_ascii_digit).collect();
    format!("{}Z", &text[2..14])
}
