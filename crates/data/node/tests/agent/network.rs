//! The segment: what gets through a tap, and what does not.
