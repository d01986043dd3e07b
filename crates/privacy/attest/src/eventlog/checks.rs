//! The checks of an event log by itself.

use crate::checks::checks;

checks! {
    /// Checks of an event log by itself, in an inspection.
    EVENTLOG;
    EVENTLOG_STRUCTURE = "eventlog.structure", "TCG PFP, Event Log Entries; UEFI, EFI_CC_EVENT", "The log can be read to its end: every length fits, and every event carries one digest for each bank of the header.";
    EVENTLOG_EVENTS = "eventlog.events", "TCG PFP, Event Log Entries", "At least one event extends a register.";
    EVENTLOG_DIGESTS = "eventlog.digests", "TCG PFP, Event Types", "Where an event's type defines it, its digest is the hash of its data.";
    EVENTLOG_REGISTERS = "eventlog.registers", "TPM 2.0 Part 1, PCR Operations; Intel TDX Module, TDG.MR.RTMR.EXTEND", "The registers that were given with the log follow from it.";
}
