use serde::{Deserialize, Serialize};

/// What Intel says of a TCB level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TcbStatus {
    /// Nothing is known against it.
    UpToDate,
    /// The software that runs in it has to be hardened.
    SWHardeningNeeded,
    /// The platform's configuration may need a change.
    ConfigurationNeeded,
    /// Both.
    ConfigurationAndSWHardeningNeeded,
    /// Updates are missing.
    OutOfDate,
    /// Updates are missing and the configuration may need a change.
    OutOfDateConfigurationNeeded,
    /// What runs is good, but the TD was launched before it was updated.
    TDRelaunchAdvised,
    /// The same, and the configuration may need a change.
    TDRelaunchAdvisedConfigurationNeeded,
    /// Its keys are no longer trusted.
    Revoked,
    /// Intel lists no level that the platform reaches.
    NotFound,
}

/// A status as the set of what it complains of: merging is union, so the worst of everything remains.
#[derive(Clone, Copy, Default)]
struct Complaints {
    hardening: bool,
    configuration: bool,
    out_of_date: bool,
    relaunch: bool,
    revoked: bool,
    not_found: bool,
}

impl TcbStatus {
    /// As written in the documents that Intel signs. `None` for what is not known here, and for what only a verdict says.
    pub(super) fn of_document(text: &str) -> Option<Self> {
        match text {
            "UpToDate" => Some(Self::UpToDate),
            "SWHardeningNeeded" => Some(Self::SWHardeningNeeded),
            "ConfigurationNeeded" => Some(Self::ConfigurationNeeded),
            "ConfigurationAndSWHardeningNeeded" => Some(Self::ConfigurationAndSWHardeningNeeded),
            "OutOfDate" => Some(Self::OutOfDate),
            "OutOfDateConfigurationNeeded" => Some(Self::OutOfDateConfigurationNeeded),
            "Revoked" => Some(Self::Revoked),
            _ => None,
        }
    }

    /// As Intel writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UpToDate => "UpToDate",
            Self::SWHardeningNeeded => "SWHardeningNeeded",
            Self::ConfigurationNeeded => "ConfigurationNeeded",
            Self::ConfigurationAndSWHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            Self::OutOfDate => "OutOfDate",
            Self::OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
            Self::TDRelaunchAdvised => "TDRelaunchAdvised",
            Self::TDRelaunchAdvisedConfigurationNeeded => "TDRelaunchAdvisedConfigurationNeeded",
            Self::Revoked => "Revoked",
            Self::NotFound => "NotFound",
        }
    }

    /// The worst of both.
    pub(super) fn merge(self, other: Self) -> Self {
        let (a, b) = (self.complaints(), other.complaints());
        Complaints {
            hardening: a.hardening || b.hardening,
            configuration: a.configuration || b.configuration,
            out_of_date: a.out_of_date || b.out_of_date,
            relaunch: a.relaunch || b.relaunch,
            revoked: a.revoked || b.revoked,
            not_found: a.not_found || b.not_found,
        }
        .status()
    }

    /// The status of a TD 1.5 that was launched under `self` and runs under `running`. A TD that was launched out of date
    /// and runs in date should be launched again; one that runs worse than it was launched has the worst of both.
    pub(super) fn since_launch(self, running: Self) -> Self {
        let (launched, now) = (self.complaints(), running.complaints());
        let gone = now.out_of_date || now.revoked || now.not_found;
        if !launched.out_of_date || launched.revoked || launched.not_found || gone {
            return self.merge(running);
        }
        if launched.configuration || now.configuration {
            Self::TDRelaunchAdvisedConfigurationNeeded
        } else {
            Self::TDRelaunchAdvised
        }
    }

    fn complaints(self) -> Complaints {
        let none = Complaints::default();
        match self {
            Self::UpToDate => none,
            Self::SWHardeningNeeded => Complaints { hardening: true, ..none },
            Self::ConfigurationNeeded => Complaints { configuration: true, ..none },
            Self::ConfigurationAndSWHardeningNeeded => Complaints { hardening: true, configuration: true, ..none },
            Self::OutOfDate => Complaints { out_of_date: true, ..none },
            Self::OutOfDateConfigurationNeeded => Complaints { out_of_date: true, configuration: true, ..none },
            Self::TDRelaunchAdvised => Complaints { relaunch: true, ..none },
            Self::TDRelaunchAdvisedConfigurationNeeded => Complaints { relaunch: true, configuration: true, ..none },
            Self::Revoked => Complaints { revoked: true, ..none },
            Self::NotFound => Complaints { not_found: true, ..none },
        }
    }
}

impl Complaints {
    fn status(self) -> TcbStatus {
        if self.revoked {
            TcbStatus::Revoked
        } else if self.not_found {
            TcbStatus::NotFound
        } else if self.out_of_date {
            if self.configuration { TcbStatus::OutOfDateConfigurationNeeded } else { TcbStatus::OutOfDate }
        } else if self.relaunch {
            if self.configuration {
                TcbStatus::TDRelaunchAdvisedConfigurationNeeded
            } else {
                TcbStatus::TDRelaunchAdvised
            }
        } else {
            match (self.configuration, self.hardening) {
                (true, true) => TcbStatus::ConfigurationAndSWHardeningNeeded,
                (true, false) => TcbStatus::ConfigurationNeeded,
                (false, true) => TcbStatus::SWHardeningNeeded,
                (false, false) => TcbStatus::UpToDate,
            }
        }
    }
}

impl std::fmt::Display for TcbStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
