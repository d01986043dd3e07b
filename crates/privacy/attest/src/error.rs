/// Why bytes are not a piece of evidence at all, and where reading them ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be read{}: {reason}", at(.offset))]
pub struct ParseError {
    /// Which structure or field.
    pub what: &'static str,
    /// Byte within the file, where there is one.
    pub offset: Option<usize>,
    /// What was found and what was expected.
    pub reason: String,
}

impl ParseError {
    /// At a byte.
    pub(crate) fn at(what: &'static str, offset: usize, reason: impl Into<String>) -> Self {
        Self { what, offset: Some(offset), reason: reason.into() }
    }

    /// As a whole.
    pub(crate) fn whole(what: &'static str, reason: impl Into<String>) -> Self {
        Self { what, offset: None, reason: reason.into() }
    }
}

fn at(offset: &Option<usize>) -> String {
    offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default()
}
