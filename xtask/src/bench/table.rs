//! What was measured, what was wanted, and whether the one is the other.

/// A greatest value, with its unit: `≤ 1.25 ×`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct AtMost(pub(crate) f64, pub(crate) &'static str);

/// One line of the table.
#[derive(Debug, PartialEq)]
pub(crate) struct Row {
    what: String,
    measured: String,
    target: String,
    /// Whether the target is met, where there is one.
    met: Option<bool>,
}

impl Row {
    /// A measurement that nothing is held against.
    pub(crate) fn told(what: impl Into<String>, measured: impl Into<String>) -> Self {
        Self { what: what.into(), measured: measured.into(), target: String::new(), met: None }
    }

    /// A measurement whose `value` has a bound; `of` says which number it is when several are shown (`p99`).
    pub(crate) fn held(
        what: impl Into<String>,
        measured: impl Into<String>,
        value: f64,
        of: &str,
        AtMost(bound, unit): AtMost,
    ) -> Self {
        let target = format!("{of} ≤ {bound} {unit}").trim_start().to_owned();
        Self { what: what.into(), measured: measured.into(), target, met: Some(value <= bound) }
    }

    /// A line that another program printed: the greatest of the numbers before its target's unit counts, or the one after the
    /// name that the target starts with. `None` when there is no such number.
    pub(crate) fn read(what: &str, measured: &str, target: &str) -> Option<Self> {
        let met = if target.is_empty() {
            None
        } else {
            let (of, bound) = target.split_once('≤')?;
            let (bound, unit) = bound.trim().split_once(' ')?;
            let bound: f64 = bound.parse().ok()?;
            let shown = match of.trim() {
                "" => measured.split_once('(').map_or(measured, |(before, _)| before),
                of => measured.split_once(of)?.1.split(',').next()?,
            };
            if !shown.contains(unit) {
                return None;
            }
            let numbers = shown.split([' ', ',']).filter_map(|word| word.parse::<f64>().ok());
            Some(numbers.reduce(f64::max)? <= bound)
        };
        Some(Self { what: what.into(), measured: measured.into(), target: target.into(), met })
    }

    fn verdict(&self) -> &'static str {
        match self.met {
            Some(true) => "met",
            Some(false) => "missed",
            None => "",
        }
    }
}

/// The table, as a page holds it.
pub(crate) fn shown(rows: &[Row]) -> String {
    let cells = |row: &Row| [row.what.clone(), row.measured.clone(), row.target.clone(), row.verdict().to_owned()];
    let titles = ["what", "measured", "target", "verdict"].map(str::to_owned);
    let lines: Vec<[String; 4]> = std::iter::once(titles).chain(rows.iter().map(cells)).collect();
    let widths: [usize; 4] = std::array::from_fn(|column| {
        lines.iter().filter_map(|line| Some(line.get(column)?.chars().count())).max().unwrap_or(0)
    });
    let line = |cells: &[String; 4]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("| {} |\n", padded.collect::<Vec<_>>().join(" | "))
    };
    let mut text = String::new();
    for (index, cells) in lines.iter().enumerate() {
        text.push_str(&line(cells));
        if index == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
            text.push_str(&format!("|{}|\n", rule.join("|")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{AtMost, Row, shown};

    #[test]
    fn a_target_is_met_or_missed_by_the_number_and_not_by_what_is_printed_of_it() {
        let ratio = AtMost(1.25, "×");
        assert_eq!(Row::held("boot", "1.25 ×", 1.25, "", ratio).met, Some(true));
        assert_eq!(Row::held("boot", "1.25 ×", 1.2501, "", ratio).met, Some(false));
        assert_eq!(Row::held("share", "p50 1 ms, p99 9 ms", 9.0, "p99", AtMost(50.0, "ms")).target, "p99 ≤ 50 ms");
        assert_eq!(Row::told("boot", "7 s").met, None);
    }

    #[test]
    fn the_number_that_counts_is_found_in_another_programs_line() {
        let met = |measured, target| Row::read("x", measured, target).unwrap().met;
        assert_eq!(met("p50 1.13 ms, p99 1.77 ms", "p99 ≤ 1.5 ms"), Some(false));
        assert_eq!(met("p50 9.13 ms, p99 1.5 ms", "p99 ≤ 1.5 ms"), Some(true));
        assert_eq!(met("0.42 to 0.49 ×", "≤ 1.0 ×"), Some(true));
        assert_eq!(met("0.99 to 1.01 ×", "≤ 1.0 ×"), Some(false));
        assert_eq!(met("38 MiB (control 115 MiB)", "≤ 100 MiB"), Some(true));
        assert_eq!(met("anything", ""), None);
        for (measured, target) in
            [("1.0 s", "≤ 1.0 ×"), ("fast ×", "≤ 1.0 ×"), ("p50 1 ms", "p99 ≤ 2 ms"), ("1 ms", "fast")]
        {
            assert_eq!(Row::read("x", measured, target), None, "{measured} {target}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_in_characters() {
        let rows = [Row::held("… ratio", "1 ×", 1.0, "", AtMost(1.25, "×")), Row::told("boot", "12.5 s")];
        assert_eq!(
            shown(&rows),
            "| what    | measured | target   | verdict |\n|---------|----------|----------|---------|\n\
             | … ratio | 1 ×      | ≤ 1.25 × | met     |\n| boot    | 12.5 s   |          |         |\n"
        );
    }
}
