//! Results on standard output: tables for people, JSON and YAML for programs. Colour only on a terminal without NO_COLOR.

use std::io::{IsTerminal as _, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::args::Format;
use crate::exit::Failure;

/// Something that can be shown in every format.
pub(crate) trait Show: Serialize {
    /// What a person reads.
    fn text(&self) -> String;
}

/// Prints a result.
///
/// # Errors
/// When standard output is closed or the value cannot be encoded.
pub(crate) fn print<T: Show>(format: Format, value: &T) -> Result<(), Failure> {
    let text = match format {
        Format::Table => value.text(),
        Format::Json => serde_json::to_string_pretty(value).map_err(Failure::other)?,
        Format::Yaml => serde_saphyr::to_string(value).map_err(Failure::other)?,
    };
    line(text.trim_end())
}

/// Prints one line or block.
///
/// # Errors
/// When standard output is closed.
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout().lock(), "{text}").map_err(Failure::other)
}

/// A table with a header, as wide as the terminal.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// True when progress may be drawn.
pub(crate) fn is_interactive() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() && std::env::var_os("CI").is_none()
}

/// Milliseconds since 1970 as an age, for example `3m 12s`.
pub(crate) fn age(since_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(since_ms) / 1000;
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_naturally() {
        assert_eq!(age(0, 59_999), "59s");
        assert_eq!(age(0, 192_000), "3m 12s");
        assert_eq!(age(0, 90_000_000), "1d 1h");
        assert_eq!(age(5, 0), "0s");
    }

    #[test]
    fn tables_have_no_trailing_blanks() {
        let text = table(["ID", "NAME"], [["a".into(), "b".into()]]);
        assert!(text.lines().all(|line| line == line.trim_end()), "{text:?}");
        assert!(text.contains("ID") && text.contains('b'));
    }
}
